"""`past ingest`: a slide store from a Xenium bundle, an AnnData with its image, or a SpatialData store."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from past_core.errors import PastError

if TYPE_CHECKING:
    from past_core.ingest.write import SlideData

SOURCES = {
    "BUNDLE": {"he", "alignment", "mpp", "organism"},
    "--hest": {"he", "mpp", "swap_xy", "assay", "organism"},
    "--spatialdata": {"mpp", "assay", "organism", "image", "shapes", "table", "coordinate_system"},
}
"""The options that each source takes, beside those of every source."""


class IngestError(PastError, ValueError):
    """`past ingest` was given sources or options that do not go together."""


def ingest(
    bundle: Annotated[Path | None, typer.Argument(help="Folder of a Xenium bundle.")] = None,
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="Slide store to make, NAME.zarr.")],
    hest: Annotated[Path | None, typer.Option(help="AnnData (.h5ad) of cells, as HEST-1k has them.")] = None,
    spatialdata: Annotated[Path | None, typer.Option(help="SpatialData store (.zarr) with H&E.")] = None,
    he: Annotated[Path | None, typer.Option(help="The H&E image of BUNDLE or --hest.")] = None,
    alignment: Annotated[
        Path | None, typer.Option(help="BUNDLE: H&E alignment matrix; default: beside the image.")
    ] = None,
    mpp: Annotated[float | None, typer.Option(help="um per pixel of the H&E, where no file says.")] = None,
    swap_xy: Annotated[
        bool | None,
        typer.Option(
            "--swap-xy/--no-swap-xy", help="--hest: the first coordinate is the row. Default: find out."
        ),
    ] = None,
    image: Annotated[str | None, typer.Option(help="--spatialdata: name of the H&E.")] = None,
    shapes: Annotated[str | None, typer.Option(help="--spatialdata: name of the outlines.")] = None,
    table: Annotated[str | None, typer.Option(help="--spatialdata: name of the table.")] = None,
    coordinate_system: Annotated[
        str | None, typer.Option(help="--spatialdata: the system that H&E and outlines share.")
    ] = None,
    assay: Annotated[
        str | None, typer.Option(help="xenium, cosmx, merfish, merscope, ... Default: xenium, or as stated.")
    ] = None,
    organism: Annotated[str | None, typer.Option(help="human or mouse. Default: from the genes.")] = None,
    name: Annotated[str | None, typer.Option(help="The slide's name. Default: the output's.")] = None,
    patient: Annotated[str | None, typer.Option(help="Slides of one patient are never split apart.")] = None,
    cancer_type: Annotated[str | None, typer.Option(help="Such as breast.")] = None,
    annotations: Annotated[
        Path | None,
        typer.Option(help="Table (.csv, .tsv, .parquet) of cell ids and reference annotations."),
    ] = None,
    k: Annotated[int, typer.Option(min=1, help="Neighbours of each cell.")] = 8,
    max_outside: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Share of cells that may lie outside the image. Default: 0.01 of a BUNDLE, else 0.1.",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the store that is there.")] = False,
) -> None:
    """Turns one slide into a slide store, from exactly one source.

    * `past ingest BUNDLE --he IMAGE -o SLIDE.zarr`: a Xenium bundle and its H&E
    * `past ingest --hest CELLS.h5ad --he IMAGE -o SLIDE.zarr`: AnnData and image
    * `past ingest --spatialdata STORE.zarr -o SLIDE.zarr`: CosMx, MERSCOPE, ... as sopa writes them
    """
    given = {"BUNDLE": bundle, "--hest": hest, "--spatialdata": spatialdata}
    options = {
        "he": he,
        "alignment": alignment,
        "mpp": mpp,
        "swap_xy": swap_xy,
        "assay": assay,
        "organism": organism,
        "image": image,
        "shapes": shapes,
        "table": table,
        "coordinate_system": coordinate_system,
    }
    source, path = _one_source(given)
    options = _options_of(source, options)

    from past_core.ingest.write import check_output

    check_output(output, overwrite=overwrite)
    limit = {} if max_outside is None else {"max_outside": max_outside}
    data = _read(source, path, options | (limit if source == "BUNDLE" else {}))
    data.name = name or output.stem
    data.patient = patient
    data.cancer_type = cancer_type
    if annotations is not None:
        from past_core.ingest.annotations import add_annotations

        add_annotations(data, annotations)
    _write(data, output, overwrite=overwrite, k=k, **limit)
    _summary(output)


def _one_source(given: dict[str, Path | None]) -> tuple[str, Path]:
    named = [(source, path) for source, path in given.items() if path is not None]
    if len(named) != 1:
        found = ", ".join(source for source, _ in named) or "none"
        raise IngestError(f"expected exactly one source of {', '.join(given)}; found {found}")
    return named[0]


def _options_of(source: str, options: dict[str, Any]) -> dict[str, Any]:
    taken = SOURCES[source]
    for option, value in options.items():
        if value is not None and option not in taken:
            where = " or ".join(other for other, names in SOURCES.items() if option in names)
            raise IngestError(f"--{option.replace('_', '-')} does not go with {source}, only with {where}")
    if "he" in taken and options["he"] is None:
        raise IngestError(f"{source} needs its H&E: give --he IMAGE")
    return {option: value for option, value in options.items() if option in taken and value is not None}


def _read(source: str, path: Path, options: dict[str, Any]) -> "SlideData":
    from rich.console import Console

    with Console(stderr=True).status(f"reading {path.name}"):
        if source == "BUNDLE":
            from past_core.ingest.xenium import read_bundle

            data = read_bundle(path, options.pop("he"), **options)
        elif source == "--hest":
            from past_core.ingest.hest import read_hest

            data = read_hest(path, options.pop("he"), **options)
        else:
            from past_core.ingest.spatialdata import read_spatialdata

            data = read_spatialdata(path, **options)
    if data.organism == "mouse":
        from past_core.ingest.orthologs import to_vocabulary

        data.table.var, orthologs = to_vocabulary(data.table.var)
        data.report = {**data.report, "orthologs": orthologs}
    return data


def _write(data: "SlideData", output: Path, *, overwrite: bool, k: int, **limit: float) -> None:
    from rich.console import Console
    from rich.progress import Progress

    from past_core.ingest.write import write_store

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"writing {output.name}", total=None)
        write_store(
            data,
            output,
            overwrite=overwrite,
            k=k,
            **limit,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )


def _summary(output: Path) -> None:
    from rich.console import Console

    from past_core.ingest.describe import describe_store, store_table
    from past_core.ingest.store import SlideStore

    description = describe_store(SlideStore(output))
    Console().print(store_table(description))
    orthologs = description["report"].get("orthologs")
    if orthologs:
        typer.echo(
            f"{orthologs['mapped']} of {orthologs['mouse']} mouse genes have a one-to-one human ortholog; "
            f"{orthologs['unmapped']} keep their mouse id"
        )
    annotations = description["report"].get("annotations")
    if annotations:
        columns = (
            f"{name} ({found['categories']} kinds, {found['unannotated']:,} cells without)"
            for name, found in annotations["columns"].items()
        )
        typer.echo(
            f"Annotations of {annotations['matched']:,} of {description['cells']:,} cells: "
            + ", ".join(columns)
            + (f"; {annotations['unknown_ids']:,} ids are no cell's" if annotations["unknown_ids"] else "")
        )
    typer.echo(f"Next: lightning fit -c recipes/pretrain.yaml --data.slides '[{output}]'")
