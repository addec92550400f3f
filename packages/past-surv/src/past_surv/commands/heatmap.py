"""`past heatmap`: where on a slide a survival network looks, by group of genes."""

from pathlib import Path
from typing import Annotated

import typer

HELP_PANELS = {
    "The patient": ("cohort", "case", "vectors"),
    "Pictures": ("top", "mpp", "out_mpp", "patch_um", "opacity"),
}
EXAMPLES = {
    "past heatmap SLIDE.svs --bag bags/uni -m model.safetensors --cohort luad.csv -o slide.ome.tif": (
        "a network on slides and genes"
    ),
}


def heatmap(
    slide: Annotated[Path, typer.Argument(help="The H&E slide that the bag was made of.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="OUT.ome.tif")],
    *,
    model: Annotated[
        Path, typer.Option("--model", "-m", help="model.safetensors of `lightning fit -c recipes/surv.yaml`.")
    ],
    bag: Annotated[
        Path, typer.Option(help="The slide's bag, or the folder with the bags of all the patient's slides.")
    ],
    cohort: Annotated[
        Path | None, typer.Option(help="Cohort table with the patient's genes; MCAT needs it.")
    ] = None,
    case: Annotated[
        str | None, typer.Option(help="case_id of the patient. [default: whose slide it is in the table]")
    ] = None,
    vectors: Annotated[
        Path | None, typer.Option(help="File of `past vectors`, for a network of PAST-multi.")
    ] = None,
    top: Annotated[int, typer.Option(help="Patches of each group that are cut out.", min=1, max=50)] = 6,
    mpp: Annotated[float | None, typer.Option(help="µm per pixel of a slide that does not state it.")] = None,
    out_mpp: Annotated[
        float | None,
        typer.Option(help="Of the images, µm per pixel. [default: 2, coarser on large slides]"),
    ] = None,
    patch_um: Annotated[
        float | None, typer.Option(help="Side in µm of a patch, where the bag does not say it.")
    ] = None,
    opacity: Annotated[float, typer.Option(help="Of the colours over the H&E.", min=0, max=1)] = 0.5,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace outputs that are there.")] = False,
) -> None:
    """Paints on a slide where a survival network looks.

    One image for each group of genes. Weights are the softmax over all patches of the patient's slides;
    colours are their ranks. Beside OUT.ome.tif: OUT.png, a contact sheet; OUT-patches/, the patches with the
    most attention; and OUT.csv, where they are.
    """
    from past_surv.commands.heatmap_run import HeatmapRequest, make_heatmaps

    request = HeatmapRequest(
        slide=slide, output=output, model=model, bag=bag, cohort=cohort, case=case, vectors=vectors, top=top,
        mpp=mpp, out_mpp=out_mpp, patch_um=patch_um, opacity=opacity, device=device, overwrite=overwrite,
    )  # fmt: skip
    from past_core.commands.claim import claim
    from past_core.commands.progress import progress_bar

    claim(output)
    with progress_bar() as bar:
        task = bar.add_task("groups", total=None)
        made = make_heatmaps(request, progress=lambda done, of: bar.update(task, completed=done, total=of))
    if made.demo:
        typer.secho(f"The patches were {made.demo}.", err=True, fg="yellow")
    for note in made.notes:
        typer.secho(note, err=True, fg="yellow")
    typer.echo(f"{made.heading}: risk {made.risk:.4f}, {made.patches:,} patches in {made.slides} bags")
    for line in made.lines:
        typer.echo(line)
    typer.echo(", ".join(str(path) for path in made.files))
