"""`past ingest`: slide stores from Xenium bundles, AnnData, SpatialData stores, or a sheet of them."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from past_core.ingest.quality import QualityOptions
    from past_core.ingest.run import IngestRequest

SHEETS = (".csv", ".tsv")
"""Endings that tell a sheet from a bundle's folder."""


class MissingChoice(StrEnum):
    """What becomes of a slide whose files are not there."""

    fail = "fail"
    skip = "skip"


HELP_PANELS = {
    "The H&E": ("he", "alignment", "registration", "keypoints", "mpp", "target_mpp"),
    "Other sources": ("hest", "swap_xy", "spatialdata", "image", "shapes", "table", "coordinate_system"),
    "The slide": ("name", "patient", "cancer_type", "organism", "assay", "annotations"),
    "Quality control": ("qc", "qc_report", "max_outside", "k"),
    "Many slides": ("jobs", "dask", "missing"),
}
EXAMPLES = {
    "past ingest BUNDLE --he HE.ome.tif -o P1.zarr --patient P1": "a Xenium bundle and its H&E",
    "past ingest BUNDLE --he HE.ome.tif --keypoints 'region*.csv' -o P1.zarr": "registered first",
    "past ingest --hest CELLS.h5ad --he HE.tif -o P1.zarr": "AnnData and image, as HEST-1k has them",
    "past ingest --spatialdata STORE.zarr -o P1.zarr": "CosMx, MERSCOPE, ... as sopa writes them",
    "past ingest SHEET.csv -o FOLDER --jobs 4": "a slide a row, FOLDER/SLIDE.zarr each",
}


def ingest(
    bundle: Annotated[
        Path | None, typer.Argument(help="Folder of a Xenium bundle, or a sheet (.csv, .tsv) of slides.")
    ] = None,
    *,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Slide store to make, NAME.zarr; of a sheet, their folder.")
    ],
    hest: Annotated[Path | None, typer.Option(help="AnnData (.h5ad) of cells, as HEST-1k has them.")] = None,
    spatialdata: Annotated[Path | None, typer.Option(help="SpatialData store (.zarr) with H&E.")] = None,
    he: Annotated[Path | None, typer.Option(help="The H&E image of BUNDLE or --hest.")] = None,
    alignment: Annotated[
        Path | None, typer.Option(help="BUNDLE: H&E alignment matrix. [default: beside the image]")
    ] = None,
    registration: Annotated[
        Path | None, typer.Option(help="BUNDLE: what `past register` made, instead of a matrix.")
    ] = None,
    keypoints: Annotated[
        list[str] | None,
        typer.Option(
            help="BUNDLE: register first, by this file of keypoints or all that a quoted pattern fits "
            "('region*.csv'); repeatable. The registration lies beside the store, in registrations/NAME."
        ),
    ] = None,
    mpp: Annotated[float | None, typer.Option(help="µm per pixel of the H&E, where no file says.")] = None,
    swap_xy: Annotated[
        bool | None,
        typer.Option(
            "--swap-xy/--no-swap-xy", help="--hest: the first coordinate is the row. [default: find out]"
        ),
    ] = None,
    image: Annotated[str | None, typer.Option(help="--spatialdata: name of the H&E.")] = None,
    shapes: Annotated[str | None, typer.Option(help="--spatialdata: name of the outlines.")] = None,
    table: Annotated[str | None, typer.Option(help="--spatialdata: name of the table.")] = None,
    coordinate_system: Annotated[
        str | None, typer.Option(help="--spatialdata: the system that H&E and outlines share.")
    ] = None,
    assay: Annotated[
        str | None, typer.Option(help="xenium, cosmx, merfish, merscope, ... [default: xenium, or as stated]")
    ] = None,
    organism: Annotated[str | None, typer.Option(help="human or mouse. [default: from the genes]")] = None,
    name: Annotated[str | None, typer.Option(help="The slide's name. [default: the output's]")] = None,
    patient: Annotated[
        str | None, typer.Option(help="Whose slide it is; a patient's slides are never split apart.")
    ] = None,
    cancer_type: Annotated[str | None, typer.Option(help="Such as breast.")] = None,
    annotations: Annotated[
        Path | None,
        typer.Option(help="Table (.csv, .tsv, .parquet) of cell ids and reference annotations."),
    ] = None,
    target_mpp: Annotated[
        float | None,
        typer.Option(help="Resample to so many µm per pixel, such as 0.25. [default: as scanned]"),
    ] = None,
    qc: Annotated[
        list[str] | None,
        typer.Option(
            help="Quality control: xenium, minimal, or KEY=VALUE (changes to xenium), such as min_counts=20, "
            "focus=on; repeatable. Keys: past qc --keys. [default: xenium of a BUNDLE, else minimal]"
        ),
    ] = None,
    qc_report: Annotated[
        Path | None, typer.Option(help="Report of quality control to write, .html or .png.")
    ] = None,
    k: Annotated[int, typer.Option(min=1, help="Neighbours of each cell.")] = 8,
    max_outside: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Share of cells that may lie outside the image. [default: 0.01 of a BUNDLE, else 0.1]",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the store that is there.")] = False,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=1, help="Of a sheet: slides at the same time.")
    ] = 1,
    dask: Annotated[
        str | None,
        typer.Option(help="Of a sheet: run on this Dask cluster (HOST:PORT, or the scheduler's file)."),
    ] = None,
    missing: Annotated[
        MissingChoice, typer.Option(help="Of a sheet: whether a slide without files fails or is skipped.")
    ] = MissingChoice.fail,
) -> None:
    """Makes slide stores of Xenium bundles, AnnData or SpatialData.

    One slide from one source, or every slide of a sheet. A slide store (a SpatialData .zarr) holds the H&E,
    the cells with their counts and outlines, and which of them fail the quality control and why. It is there
    whole or not at all.

    A sheet has the column `slide` (the name), one or more of `bundle`, `hest` and `spatialdata`, and any
    option as a column, such as `he`, `alignment`, `mpp`, `patient`, `cancer`, `organism`; a cell that is
    filled wins over the option. Paths count from the sheet's folder; one with `*` stands for the one file
    that fits. Slides that are complete are skipped, one that fails stops nothing else; the outcomes are in
    FOLDER/outcomes.csv.

    Keypoints (in a sheet's column files separated by `;`, or a pattern) register the slide as `past register`
    does, with the image; a registration made of the same files is used again. The verdict `reject` fails the
    slide and names the report to look at; `check` is said in the outcome and kept in the store.
    """
    given = {"BUNDLE": bundle, "--hest": hest, "--spatialdata": spatialdata}
    options = {
        "he": he,
        "alignment": alignment,
        "registration": registration,
        "keypoints": _keypoints(keypoints),
        "mpp": mpp,
        "swap_xy": swap_xy,
        "assay": assay,
        "organism": organism,
        "image": image,
        "shapes": shapes,
        "table": table,
        "coordinate_system": coordinate_system,
    }
    # Fields of every slide's request, beside its source's options.
    common: dict[str, Any] = {
        "name": name,
        "patient": patient,
        "cancer_type": cancer_type,
        "annotations": annotations,
        "target_mpp": target_mpp,
        "quality": _quality(qc),
        "k": k,
        "max_outside": max_outside,
        "overwrite": overwrite,
    }
    if bundle is not None and bundle.suffix.lower() in SHEETS and not bundle.is_dir():
        from past_core.commands.ingest_sheet import ingest_sheet
        from past_core.ingest.run import IngestError

        if qc_report is not None:
            raise IngestError("--qc-report is for a single slide; `past qc STORE -o REPORT` makes one later")
        others = {source: value for source, value in given.items() if source != "BUNDLE"}
        ingest_sheet(
            bundle, output, others, options, common, jobs=jobs, dask=dask, skip_missing=missing == "skip"
        )
        return
    from past_core.ingest.run import IngestError, IngestRequest, one_source, options_of

    if jobs != 1 or dask is not None or missing != "fail":
        raise IngestError("--jobs, --dask and --missing are for a sheet: past ingest SHEET.csv -o FOLDER")
    source, path = one_source(given)
    request = IngestRequest(
        output=output,
        source=source,
        path=path,
        options=options_of(source, options),
        quality_report=qc_report,
        **common,
    )
    _run(request)
    _summary(output)


def _keypoints(texts: list[str] | None) -> tuple[Path, ...] | None:
    if not texts:
        return None
    from past_core.ingest.sheet import keypoint_files

    return keypoint_files(texts)


def _quality(words: list[str] | None) -> "QualityOptions | None":
    """Options of quality control, None where nothing was said: then the source's default holds."""
    if not words:
        return None
    from past_core.ingest.quality import parse_quality

    return parse_quality(words)


def _run(request: "IngestRequest") -> None:
    from rich.console import Console
    from rich.progress import Progress

    from past_core.ingest.run import ingest_slide

    with Progress(console=Console(stderr=True), transient=True) as bar:
        what = "registering" if request.options.get("keypoints") else "reading"
        task = bar.add_task(f"{what} {request.path.name}", total=None)
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
