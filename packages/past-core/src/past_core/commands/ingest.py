"""`past ingest`: a slide store from a Xenium bundle, an AnnData with its image, or a SpatialData store."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from past_core.ingest.run import IngestRequest


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
    target_mpp: Annotated[
        float | None,
        typer.Option(help="Resample to so many um per pixel, such as 0.25. Default: as scanned."),
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
    from past_core.ingest.run import IngestRequest, one_source, options_of

    source, path = one_source(given)
    request = IngestRequest(
        output=output,
        source=source,
        path=path,
        options=options_of(source, options),
        name=name,
        patient=patient,
        cancer_type=cancer_type,
        annotations=annotations,
        target_mpp=target_mpp,
        k=k,
        max_outside=max_outside,
        overwrite=overwrite,
    )
    _run(request)
    _summary(output)


def _run(request: "IngestRequest") -> None:
    from rich.console import Console
    from rich.progress import Progress

    from past_core.ingest.run import ingest_slide

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"reading {request.path.name}", total=None)
        ingest_slide(
            request,
            progress=lambda done, total: bar.update(
                task, completed=done, total=total, description=f"writing {request.output.name}"
            ),
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
