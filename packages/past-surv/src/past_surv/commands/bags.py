"""`past bags`: the patches of many slides, as an encoder sees them."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class PatchChoice(StrEnum):
    """Where patches are."""

    grid = "grid"
    cells = "cells"


class PrecisionChoice(StrEnum):
    """In which type the encoder works."""

    float32 = "32"
    bf16 = "bf16"
    fp16 = "fp16"


class SpaceChoice(StrEnum):
    """Which vectors."""

    features = "features"
    joint = "joint"


class TypeChoice(StrEnum):
    """Of the features in the file."""

    float16 = "float16"
    float32 = "float32"


HELP_PANELS = {
    "The encoder": ("weights", "download", "space", "dtype"),
    "Patches": ("patches", "patch_um", "mpp", "min_tissue", "max_patches"),
}
EXAMPLES = {
    "past bags SLIDES/ -e uni -o bags/uni": "all slides of a folder",
    "past bags SHEET.csv -e demo -o bags/demo --jobs 2": "those of a sheet, two at a time",
}


def bags(
    slides: Annotated[
        list[Path],
        typer.Argument(
            help="A sheet (CSV with the column slide, optionally mpp), folders of slides, or slides."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the bags: one X.h5 a slide.")],
    *,
    encoder: Annotated[
        str,
        typer.Option(
            "--encoder", "-e", help="An encoder's name (past encoders lists them), or a checkpoint."
        ),
    ],
    weights: Annotated[
        Path | None, typer.Option(help="File with the weights of an encoder given by name.")
    ] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Download an encoder's weights where they are not here.")
    ] = False,
    space: Annotated[
        SpaceChoice, typer.Option(help="The encoder's own features, or PAST's space of images and cells.")
    ] = SpaceChoice.features,
    patches: Annotated[
        PatchChoice, typer.Option(help="Tiles of tissue side by side, or a patch around each cell.")
    ] = PatchChoice.grid,
    patch_um: Annotated[
        float | None,
        typer.Option(help="Distance between tiles in µm. [default: the encoder's field]"),
    ] = None,
    mpp: Annotated[float | None, typer.Option(help="µm per pixel of slides that do not state it.")] = None,
    min_tissue: Annotated[float, typer.Option(help="Least share of tissue in a tile.", min=0, max=1)] = 0.25,
    max_patches: Annotated[
        int | None, typer.Option(help="Most patches of a slide; more are thinned out at random.", min=1)
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Patches at a time.", min=1)] = 64,
    dtype: Annotated[TypeChoice, typer.Option(help="Of the features in the file.")] = TypeChoice.float16,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    precision: Annotated[
        PrecisionChoice, typer.Option(help="bf16 and fp16 are faster on accelerators, and less exact.")
    ] = PrecisionChoice.float32,
    jobs: Annotated[int, typer.Option("--jobs", "-j", help="Slides at the same time.", min=1)] = 1,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Make bags again that exist.")] = False,
) -> None:
    """Embeds the tissue of many slides for survival models.

    A bag a slide: an HDF5 file with `features` (M, D), `coords` (M, 2; centres of the patches in pixels of
    the full image) and how it was made. Bags that are complete are skipped, a slide that was interrupted goes
    on where it stopped, one that fails is reported and the rest goes on.
    """
    from past_surv.data.bag_making import BagSettings
    from past_surv.data.bag_runs import BagOutcome, EncoderSource, SlideJob, list_slides, make_bags

    # What is wrong with the input is said before the seconds that an encoder takes.
    listed = list_slides(slides, output)
    settings = BagSettings(
        patches=patches.value,
        patch_um=patch_um,
        min_tissue=min_tissue,
        max_patches=max_patches,
        batch_size=batch_size,
        dtype=dtype.value,
    )
    source = EncoderSource(
        name=encoder,
        weights=None if weights is None else str(weights),
        space=space.value,
        device=device,
        precision=precision.value,
        download=download,
    )
    loaded = source.load()
    if loaded.demo:
        typer.secho(
            "The demo encoder was trained on synthetic tissue: for trying out only.", err=True, fg="yellow"
        )
    from rich.progress import TaskID

    from past_core.commands.progress import progress_bar

    outcomes: list[BagOutcome] = []
    with progress_bar() as bar:
        total = bar.add_task("slides", total=len(listed))
        tasks: dict[Path, TaskID] = {}

        def progress(job: SlideJob, done: int, of: int) -> None:
            if job.output not in tasks:
                tasks[job.output] = bar.add_task(job.slide.name, total=of)
            bar.update(tasks[job.output], advance=done)

        for outcome in make_bags(
            listed,
            source,
            settings,
            mpp=mpp,
            processes=min(jobs, len(listed)),
            overwrite=overwrite,
            encoder=loaded,
            progress=progress,
        ):
            outcomes.append(outcome)
            bar.advance(total)
            if outcome.job.output in tasks:
                bar.remove_task(tasks.pop(outcome.job.output))
    typer.echo(_table(sorted(outcomes, key=lambda outcome: outcome.job.output)))
    count = {status: sum(o.status == status for o in outcomes) for status in ("done", "skipped", "failed")}
    typer.echo(", ".join(f"{number} {status}" for status, number in count.items()))
    if count["failed"]:
        raise typer.Exit(1)


def _table(outcomes: list) -> str:
    """One line a slide, for people and for `grep`: nothing is cut to the width of a terminal."""
    rows = [("slide", "status", "patches", "")]
    rows += [
        (o.job.slide.name, o.status, f"{o.patches:,}" if o.patches else "-", o.message) for o in outcomes
    ]
    widths = [max(len(row[k]) for row in rows) for k in range(3)]
    return "\n".join(
        f"{name:<{widths[0]}}  {status:<{widths[1]}}  {patches:>{widths[2]}}  {message}".rstrip()
        for name, status, patches, message in rows
    )
