"""`past embed`: embeddings of cells or tiles."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from past_core.formats import IMAGES

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.progress import Progress, TaskID

    from past_core.remote import Location


class SpaceChoice(StrEnum):
    """Which vectors."""

    features = "features"
    joint = "joint"


class PrecisionChoice(StrEnum):
    """In which type the image encoder works."""

    float32 = "32"
    bf16 = "bf16"
    fp16 = "fp16"


class SideChoice(StrEnum):
    """Which side of the cells."""

    auto = "auto"
    image = "image"
    cell = "cell"
    both = "both"


HELP_PANELS = {
    "The encoder": ("space", "cells", "weights", "download"),
    "Tiles of an image": ("mpp", "tile_um", "min_tissue"),
}
EXAMPLES = {
    "past embed P1.zarr -e demo -o cells.h5ad": "every cell of a slide store",
    "past embed SLIDE.svs -e uni -o tiles.h5ad": "every tissue tile of an image",
    "past embed SHEET.csv -e runs/pretrain -o vectors/": "many slides, by an encoder of your own",
}
FORMER_NAMES = {"--checkpoint": "--encoder", "-c": "-e"}


def embed(
    source: Annotated[
        Path,
        typer.Argument(help=f"A slide store, an image ({IMAGES}), or a sheet (CSV)."),
    ],
    encoder: Annotated[
        str,
        typer.Option(
            "--encoder", "-e", help="An encoder's name (past encoders lists them), or a checkpoint."
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="X.h5ad or X.zarr; for a sheet, the folder of its outputs.")
    ],
    *,
    space: Annotated[
        SpaceChoice,
        typer.Option(help="The encoder's own features, or the space that images and cells share."),
    ] = SpaceChoice.features,
    cells: Annotated[
        SideChoice,
        typer.Option(help="Sides of a slide store's cells; auto: the image, and the counts where they fit."),
    ] = SideChoice.auto,
    mpp: Annotated[
        float | None, typer.Option(help="µm per pixel of an image that does not state it.")
    ] = None,
    tile_um: Annotated[
        float | None,
        typer.Option(help="Distance between tiles of an image in µm. [default: the encoder's field]"),
    ] = None,
    min_tissue: Annotated[float, typer.Option(help="Least share of tissue in a tile.", min=0, max=1)] = 0.25,
    batch_size: Annotated[int, typer.Option(help="Patches at a time.", min=1)] = 64,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    precision: Annotated[
        PrecisionChoice,
        typer.Option(help="Of the image encoder: bf16 and fp16 are faster on accelerators, and less exact."),
    ] = PrecisionChoice.float32,
    weights: Annotated[
        Path | None, typer.Option(help="File with the weights of an encoder given by name.")
    ] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Download an encoder's weights where they are not here.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.")] = False,
) -> None:
    """Turns a slide's cells or tiles into an encoder's vectors.

    Every cell of a slide store, or every tissue tile of an image. Writes an AnnData: `obsm["past_image"]`,
    for cells with counts `obsm["past_cell"]`, their places in `obsm["spatial"]` (pixels of the full image),
    and in `uns["past"]` which encoder made it. A run that is interrupted goes on where it stopped when the
    same command is given again.

    A sheet is a CSV with the column `path`, optionally `name`, `mpp` and `output`; slides that are complete
    are skipped, a row that fails is reported and the rest goes on.
    """
    from past_core.slides import open_slide

    # What is wrong with the input is said before the seconds that the imports below take.
    is_sheet = source.suffix.lower() == ".csv"
    if not is_sheet:
        with open_slide(source, mpp=mpp) as slide:
            slide.require_mpp()

    from past_core.commands.claim import claim
    from past_core.embed import check_output, embed_slide, write_embeddings
    from past_core.embed.sheet import Outcome, SheetRow, read_sheet, run_sheet

    rows = read_sheet(source, output) if is_sheet else []
    if not is_sheet:
        claim(output)
        check_output(output, overwrite=overwrite)

    from past_core.encoders import load_encoders, resolve_device

    target = resolve_device(device)
    image, cell = load_encoders(encoder, space.value, weights=weights, download=download)
    image.to(target, precision.value)
    if cell is not None:
        cell.to(target)
    if image.demo:
        typer.secho(
            "The demo encoder was trained on synthetic tissue: for trying out only.", err=True, fg="yellow"
        )

    from past_core.commands.progress import progress_bar

    with progress_bar() as bar:

        def one(path: "Location", destination: Path, slide_mpp: float | None) -> None:
            task = bar.add_task(path.name, total=None)
            try:
                table = embed_slide(
                    path,
                    image,
                    cell,
                    sides=cells.value,
                    mpp=slide_mpp,
                    tile_um=tile_um,
                    min_tissue=min_tissue,
                    batch_size=batch_size,
                    progress=_advance(bar, task),
                    output=destination,
                )
            finally:
                bar.remove_task(task)
            write_embeddings(table, destination, overwrite=overwrite)
            sides = [f"{key} {value.shape[1]}" for key, value in table.obsm.items() if key != "spatial"]
            kind = table.uns["past"]["kind"]
            bar.console.print(f"{destination}: {table.n_obs} {kind}, {', '.join(sides)}")

        if not is_sheet:
            one(source, output, mpp)
            return
        slides = bar.add_task("slides", total=len(rows))

        def work(row: SheetRow) -> None:
            one(row.path, row.output, mpp if row.mpp is None else row.mpp)

        def report(outcome: Outcome) -> None:
            bar.advance(slides)
            if outcome.status == "skipped":
                bar.console.print(f"{outcome.row.output}: complete, skipped")
            elif outcome.status == "failed":
                bar.console.print(
                    f"Error: row {outcome.row.line}: {outcome.message}", style="red", markup=False
                )

        key: dict[str, Any] = {"fingerprint": image.fingerprint, "space": space.value, "sides": cells.value}
        key |= {"precision": image.precision}
        key |= {"tile_um": image.field_um if tile_um is None else tile_um, "min_tissue": min_tissue}
        key |= {"cell_fingerprint": cell.fingerprint} if cell is not None else {}
        outcomes = run_sheet(rows, work, key, overwrite=overwrite, report=report)
        count = {
            status: sum(o.status == status for o in outcomes) for status in ("done", "skipped", "failed")
        }
    typer.echo(", ".join(f"{number} {status}" for status, number in count.items()))
    if count["failed"]:
        raise typer.Exit(1)


def _advance(bar: "Progress", task: "TaskID") -> "Callable[[int, int], None]":
    def advance(done: int, total: int) -> None:
        bar.update(task, advance=done, total=total)

    return advance
