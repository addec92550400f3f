"""`past predict`: expression of every cell of an H&E slide."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from past_core.formats import IMAGES

if TYPE_CHECKING:
    from past_core.frozen import FrozenEncoder
    from past_genex.probe.files import Probe


HELP_PANELS = {
    "The encoder": ("encoder", "weights"),
    "Cells and genes": ("centroids", "genes", "min_r", "mpp"),
}
EXAMPLES = {
    "past predict SLIDE.svs --probe PROBE.safetensors -o predicted.zarr": (
        "every nucleus that is found on an H&E image"
    ),
    "past predict P1.zarr --probe demo -o predicted.zarr --genes ESR1,ERBB2": (
        "two genes of every cell of a store"
    ),
}


def predict(
    source: Annotated[
        Path,
        typer.Argument(metavar="SLIDE|IMAGE", help=f"A slide store, or an H&E image: {IMAGES}."),
    ],
    *,
    probe: Annotated[str, typer.Option("--probe", "-p", help='A probe that `past probe` fitted, or "demo".')],
    output: Annotated[Path, typer.Option("--output", "-o", help="PRED.zarr")],
    encoder: Annotated[
        str | None,
        typer.Option("--encoder", "-e", help="Where the probe's encoder is, if not under its own name."),
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Weights of an encoder given by name.")] = None,
    centroids: Annotated[
        Path | None,
        typer.Option(
            help="Cells to predict: .csv, .tsv or .parquet with x, y (pixels) or x_um, y_um and perhaps "
            "cell_id, or .geojson of polygons. [default: a store's cells, or nuclei found on the image]"
        ),
    ] = None,
    genes: Annotated[
        str | None, typer.Option(help="Ids or symbols, with commas between. [default: all of the probe's]")
    ] = None,
    min_r: Annotated[
        float, typer.Option(help="Held-out r below which a gene is flagged.", min=-1, max=1)
    ] = 0.1,
    mpp: Annotated[float | None, typer.Option(help="µm per pixel of an image that does not say.")] = None,
    batch_size: Annotated[int, typer.Option(help="Patches at a time.", min=1)] = 64,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a prediction that is there.")
    ] = False,
) -> None:
    """Predicts each cell's expression from H&E. Research use only.

    Writes a SpatialData store: predicted expression, with what each gene's predictions were worth on held-out
    patients, and the cells. A run that is interrupted goes on where it stopped.
    """
    from past_core.slides import open_slide

    with open_slide(source, mpp=mpp) as slide:
        slide.require_mpp()
        from past_core.commands.claim import claim
        from past_genex.predict.run import predict_slide
        from past_genex.predict.writing import check_output
        from past_genex.probe.files import load_probe

        claim(output)
        check_output(output, overwrite=overwrite)
        fitted = load_probe(probe)
        frozen = _encoder(fitted, encoder, weights, device)
        if fitted.demo or frozen.demo:
            typer.secho(
                "The probe or its encoder was trained on synthetic tissue: for trying out only.",
                err=True,
                fg="yellow",
            )
        wanted = None if genes is None else [gene.strip() for gene in genes.split(",") if gene.strip()]
        from rich.progress import TaskID

        from past_core.commands.progress import progress_bar

        with progress_bar() as bar:
            tasks: dict[str, TaskID] = {}

            def report(what: str, done: int, total: int) -> None:
                if what not in tasks:
                    tasks[what] = bar.add_task(what, total=total)
                bar.update(tasks[what], completed=done, total=total)

            made = predict_slide(
                slide,
                fitted,
                frozen,
                output,
                centroids=centroids,
                genes=wanted or None,
                min_r=min_r,
                batch_size=batch_size,
                overwrite=overwrite,
                progress=report,
            )
    if made.manifest["training_slide"]:
        typer.secho(
            f"{made.manifest['slide']} is one of the slides that the probe was fitted on: its held-out r "
            "says nothing about these predictions.",
            err=True,
            fg="yellow",
        )
    flagged = int((~made.genes["trusted"]).sum())
    typer.echo(f"{output}: {made.n_cells} cells ({made.manifest['segmenter']}), {len(made.genes)} genes")
    typer.echo(
        f"{flagged} genes flagged: held-out r below {min_r:g}, or never validated; "
        f"{made.manifest['scale']}; {made.manifest['use']}"
    )


def _encoder(probe: "Probe", encoder: str | None, weights: Path | None, device: str) -> "FrozenEncoder":
    from past_core.encoders import EncoderError, EncoderNotFoundError, load_image_encoder, resolve_device
    from past_core.frozen import check_space
    from past_genex.predict.reading import PredictionError

    target = resolve_device(device)
    try:
        frozen = load_image_encoder(encoder or probe.encoder, check_space(probe.space), weights=weights)
    except (EncoderError, EncoderNotFoundError) as error:
        if encoder is not None:
            raise
        raise PredictionError(
            f"the probe's encoder {probe.encoder!r} is not found under that name ({error}); say where it is "
            "with --encoder"
        ) from error
    probe.check(frozen)
    return frozen.to(target)
