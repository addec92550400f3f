"""Any SpatialData store with an H&E image, cell shapes and counts, as sopa writes them for many assays."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from past_core.errors import PastError
from past_core.ingest.assays import assay_token, known_assays
from past_core.ingest.checks import SlideDataError, whole_counts
from past_core.ingest.genes import gene_table
from past_core.ingest.write import SlideData

logger = logging.getLogger(__name__)

MICRON_FRAMES = ("microns", "micron", "um", "µm")
HE_NAMES = ("he", "h&e", "h_e", "hne")
COUNT_LAYERS = ("counts", "raw_counts")


class SpatialDataError(PastError, ValueError):
    """A SpatialData store lacks what a slide needs, or its parts do not fit together."""


class SpatialDataNotFoundError(PastError, FileNotFoundError):
    """There is no SpatialData store at the path."""


def read_spatialdata(
    store: Path,
    *,
    image: str | None = None,
    shapes: str | None = None,
    table: str | None = None,
    coordinate_system: str | None = None,
    mpp: float | None = None,
    assay: str | None = None,
    organism: str | None = None,
) -> SlideData:
    """Reads the H&E, the cells' outlines and the counts of a SpatialData store.

    Outlines are carried from their own coordinates to the H&E's pixels through a coordinate system that both
    have a transformation to. Rows of the table are joined to outlines by the table's own region and instance
    keys.

    Args:
        store: The `.zarr` folder.
        image: Name of the H&E; None takes the only RGB image, or the only one that is named like an H&E.
        shapes: Name of the cells' outlines (polygons or circles); None takes what the table annotates.
        table: Name of the table; None takes the only one.
        coordinate_system: The common one; None takes `global` or the only one in common.
        mpp: um per pixel of the H&E; None reads it off a coordinate system called `microns`.
        assay: Name of the assay, such as `cosmx` or `merscope`; None reads `attrs["assay"]`
            of the store or `uns["assay"]` of the table.
        organism: `human` or `mouse`; None guesses from the genes.

    Raises:
        SpatialDataNotFoundError: If nothing is there.
        SpatialDataError: If the store is damaged, an element is missing or ambiguous, ids do not match, or
            the pixel size or the assay is not known.
        SlideDataError: If counts are not whole numbers from 0.
        GeneTableError: If no gene is known.
    """
    from past_core.ingest import frames

    slide = _open(store)
    table_name = _choose(store, "table", table, list(slide.tables))
    cells = slide.tables[table_name]
    picture_name = _choose(store, "image", image, list(slide.images) if image else _images(slide))
    picture = frames.level_zero(slide.images[picture_name])
    pixels = frames.rgb(picture, f"{store.name}: image {picture_name!r}")
    shapes_name, instances, rows = _annotated(store, slide, cells, table_name, shapes)
    outlines = slide.shapes[shapes_name]
    wanted = pd.Index(instances.astype(str))
    outlines = outlines.set_axis(outlines.index.astype(str), axis=0)
    absent = wanted[~wanted.isin(outlines.index)]
    if len(absent):
        raise SpatialDataError(
            f"{store}: {len(absent)} of {len(wanted)} rows of table {table_name!r} have no outline in "
            f"{shapes_name!r}, first {absent[0]!r}; name the right ones with --shapes and --table"
        )
    if wanted.has_duplicates or outlines.index.has_duplicates:
        raise SpatialDataError(f"{store}: an id occurs more than once in {shapes_name!r} or {table_name!r}")
    outlines = outlines.loc[wanted]

    system = frames.common_system(store, picture, slide.shapes[shapes_name], coordinate_system)
    to_pixels = frames.matrix_between(slide.shapes[shapes_name], picture, system)
    pixel_size = mpp if mpp is not None else frames.stated_mpp(picture, MICRON_FRAMES)
    if pixel_size is None:
        raise SpatialDataError(
            f"{store}: image {picture_name!r} has no transformation to a coordinate system called "
            f"{' or '.join(MICRON_FRAMES[:2])}; give --mpp, um per pixel of the H&E"
        )
    cell_shapes, centroids, areas = frames.to_pixels(outlines, to_pixels)

    cells = cells[rows]
    stated = assay or slide.attrs.get("assay") or cells.uns.get("assay")
    if stated is None:
        raise SpatialDataError(
            f"{store} does not state its assay; give --assay, one of {', '.join(known_assays())}"
        )
    genes, keep, report = gene_table(cells.var, f"{store.name}/{table_name}", organism=organism)
    counts = whole_counts(_counts(cells), f"{store.name}/{table_name}", cells.obs_names, cells.var_names)
    obs = cells.obs.copy()
    obs.index = wanted
    obs["cell_area_um2"] = areas * pixel_size**2
    return SlideData(
        name=store.stem,
        image=pixels,
        mpp=float(pixel_size),
        table=AnnData(X=counts[:, keep], obs=obs, var=genes, obsm={"spatial": centroids}),
        cell_boundaries=cell_shapes,
        assay=assay_token(str(stated)),
        organism=str(report["organism"]),
        sources={store.name: store},
        registration={
            "from": f"coordinate system {system!r}",
            "shapes_to_image": to_pixels,
        },
        report={
            "reader": "spatialdata",
            "genes": report,
            "elements": {"image": picture_name, "shapes": shapes_name, "table": table_name},
        },
    )


def _open(store: Path) -> Any:
    if not store.exists():
        raise SpatialDataNotFoundError(f"no SpatialData store at {store}")
    import spatialdata

    try:
        return spatialdata.read_zarr(store)
    except Exception as error:
        raise SpatialDataError(f"{store} cannot be read as SpatialData ({error})") from error


def _choose(store: Path, kind: str, name: str | None, candidates: list[str]) -> str:
    if name is not None:
        if name not in candidates:
            found = ", ".join(candidates) or "none"
            raise SpatialDataError(f"{store} has no {kind} {name!r}; found {found}")
        return name
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        raise SpatialDataError(f"{store} has no {kind} that could be the slide's")
    raise SpatialDataError(f"{store} has several: {', '.join(candidates)}; choose one with --{kind}")


def _images(slide: Any) -> list[str]:
    """Names of RGB(A) images; only those named like an H&E, where there are any."""
    from past_core.ingest import frames

    coloured = [name for name, image in slide.images.items() if frames.is_rgb(frames.level_zero(image))]
    named = [name for name in coloured if any(part in HE_NAMES for part in name.lower().split("_"))]
    return named or coloured


def _annotated(
    store: Path, slide: Any, cells: AnnData, table_name: str, shapes: str | None
) -> tuple[str, pd.Series, np.ndarray]:
    """Which shapes the table's rows belong to, and the id of the shape of each row."""
    keys = cells.uns.get("spatialdata_attrs", {})
    region_key, instance_key = keys.get("region_key"), keys.get("instance_key")
    if instance_key not in cells.obs or region_key not in cells.obs:
        raise SpatialDataError(
            f"{store}: table {table_name!r} annotates no shapes (no region and instance keys); "
            "link it first with spatialdata.models.TableModel.parse"
        )
    regions = cells.obs[region_key].astype(str)
    annotated = [name for name in pd.unique(regions) if name in slide.shapes]
    name = _choose(store, "shapes", shapes, annotated if shapes is None else list(slide.shapes))
    rows = (regions == name).to_numpy()
    if not rows.any():
        # The same cells under another name, as when a table annotates labels and the outlines were made from
        # them.
        rows = np.ones(cells.n_obs, dtype=bool)
    return name, cells.obs.loc[rows, instance_key], np.flatnonzero(rows)


def _counts(cells: AnnData) -> Any:
    for layer in COUNT_LAYERS:
        if layer in cells.layers:
            return cells.layers[layer]
    if cells.X is None:
        raise SlideDataError("the table has neither a matrix X nor a layer of counts")
    return cells.X
