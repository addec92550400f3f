"""Writes one slide as a SpatialData store: whole, or not at all."""

import logging
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr
from anndata import AnnData
from scipy.sparse import csr_matrix

from past_core.atomic import exchange, sweep, writer
from past_core.errors import PastError
from past_core.ingest.blocks import BLOCK_SIZE, block_order
from past_core.ingest.checks import SlideDataError, cell_totals, check_table
from past_core.ingest.hashing import sha256
from past_core.ingest.layout import FORMAT, IMAGE, TABLE, is_store
from past_core.ingest.neighbors import set_neighbors
from past_core.ingest.pyramid import PixelReader, Progress, SlideImage, level_shapes, write_pyramid
from past_core.ingest.quality import (
    OUTSIDE_IMAGE,
    Assessment,
    QualityOptions,
    assess,
    nuclei_of,
    quality_flags,
    quality_report,
)
from past_core.remote import require_local

logger = logging.getLogger(__name__)

CELLS = "cell_boundaries"
NUCLEI = "nucleus_boundaries"
ROWS = 2**16
"""Cells whose counts are put in order at a time."""
DEFAULT_RADIUS_UM = 5.0
"""Radius of the circle that stands for a cell of which neither outline nor area is known."""

MAX_OUTSIDE = 0.1
"""Share of cells outside the image above which a slide is refused as misaligned."""


class StoreExistsError(PastError, FileExistsError):
    """Something is at the output path already."""


class StoreWriteError(PastError, OSError):
    """The store cannot be written where it was to go."""


@dataclass(kw_only=True)
class SlideData:
    """One slide in memory, as every reader hands it to `write_store`.

    Coordinates are level-0 H&E pixels (x right, y down) with the image's top-left corner at (0, 0), so that
    the centre of the first pixel is (0.5, 0.5).

    Attributes:
        name: The slide's name.
        image: (3, H, W) uint8 H&E: numpy, dask, zarr or anything whose slices `[:, y0:y1, x0:x1]` become
            arrays, or an open slide with `levels` and `read(level, y, x, height, width)`. Read tile by tile.
        mpp: um per level-0 pixel.
        table: X raw counts (N, G); obs indexed by unique cell ids; var indexed by Ensembl id with `symbol`;
            obsm["spatial"] (N, 2) x, y. Known obs columns: cell_area_um2, nucleus_area_um2; others are kept.
        cell_boundaries: GeoDataFrame of polygons indexed by cell id, or `Rings`, or None: then circles stand
            for the cells, of the area in `cell_area_um2`, else of 5 um radius.
        nucleus_boundaries: GeoDataFrame of polygons with the column `cell_id`, or indexed by it; or `Rings`;
            or None.
        patient: The patient, if known: slides of one patient never stand on both sides of a split.
        cancer_type: The cancer type, if known.
        assay: The assay's context token.
        organism: The organism's context token.
        modality: The modality's context token.
        sources: Label to file or folder: hashed into the manifest (never its location).
        registration: How H&E and assay were aligned: {matrix (H&E px -> morphology px, 3 x 3), ...}.
        report: What the reader wants on record, such as counts of dropped controls.
    """

    name: str
    image: Any
    mpp: float
    table: AnnData
    cell_boundaries: Any = None
    nucleus_boundaries: Any = None
    patient: str | None = None
    cancer_type: str | None = None
    assay: str = "xenium"
    organism: str = "human"
    modality: str = "spatial"
    sources: Mapping[str, Path] = field(default_factory=dict)
    registration: Mapping[str, Any] | None = None
    report: Mapping[str, Any] = field(default_factory=dict)


def write_store(
    data: SlideData,
    path: str | Path,
    *,
    overwrite: bool = False,
    k: int = 8,
    block_size: int = BLOCK_SIZE,
    max_outside: float = MAX_OUTSIDE,
    quality: QualityOptions | None = None,
    consume: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Writes a slide store.

    The store is made under a temporary name in the same folder and renamed when complete. Rows are put in
    block order, cells are flagged (never deleted), and the neighbour graphs join the cells that pass.

    Args:
        data: The slide.
        path: The store to make, usually `NAME.zarr`; its folder is made if need be.
        overwrite: Replace a slide store that is there, once the new one is complete.
        k: Neighbours a cell.
        block_size: Side of a block in level-0 pixels.
        max_outside: Largest share of cells outside the image.
        quality: Tests of quality control; by default those that are never off.
        consume: `data` is not used again: its table and outlines are let go as soon as they are written, so
            that they are not held beside the pixels.
        progress: Called with image tiles written and tiles in all.

    Returns:
        The path.

    Raises:
        StoreExistsError: If `path` exists and is not to be, or cannot safely be, replaced.
        SlideDataError: If the parts do not fit together, counts are not whole numbers from 0, there are no
            cells, more than `max_outside` of them lie outside the image, or the image breaks off.
        StoreWriteError: If the disk is full, or the folder cannot be written to.
        RemoteError: If `path` is a URL: stores are written to local disk, and uploaded.
    """
    path = require_local(path)
    check_output(path, overwrite=overwrite)
    image = SlideImage(data.image) if isinstance(data.image, PixelReader) else data.image
    if len(image.shape) != 3 or image.shape[0] != 3 or image.dtype != np.uint8 or min(image.shape) < 1:
        raise SlideDataError(
            f"the image has shape {image.shape} and type {image.dtype}, expected (3, H, W) uint8"
        )
    size = (int(image.shape[1]), int(image.shape[2]))
    if not np.isfinite(data.mpp) or data.mpp <= 0:
        raise SlideDataError(f"{data.name}: the pixel size is {data.mpp} um, expected a positive number")
    counts = check_table(data.table, data.name)
    found, flags = _flags(data, counts, size, quality=quality, max_outside=max_outside)
    table, order, blocks = _prepare_table(data, counts, size, flags, block_size=block_size)
    median = set_neighbors(table, mpp=data.mpp, k=k)
    manifest = {
        "format": FORMAT,
        "software": f"past-core {version('past-core')}",
        "name": data.name,
        "patient": data.patient,
        "cancer_type": data.cancer_type,
        "assay": data.assay,
        "organism": data.organism,
        "modality": data.modality,
        "mpp": float(data.mpp),
        "block_size": block_size,
        "blocks": blocks.tolist(),
        "neighbors": {"k": k, "median_um": None if np.isnan(median) else median},
        "counts": {"stored": int(counts.nnz), "total": int(table.obs["n_counts"].sum())},
        "sources": {label: sha256(Path(source)) for label, source in data.sources.items()},
        "registration": plain(data.registration),
        "qc": quality_report(table.obs) if found is None else plain(found.report(table.obs)),
        "report": plain(dict(data.report)),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Every chunk is stored, even one of nothing but zeros: to the reader an absent chunk is a lost one.
        with (
            renamed_when_complete(path, overwrite=overwrite) as partial,
            zarr.config.set({"array.write_empty_chunks": True}),
        ):
            _write_elements(data, table, image, partial, manifest)
            _write_counts(counts, order, partial / "tables" / TABLE)
            if consume:
                del counts
                data.table, data.cell_boundaries, data.nucleus_boundaries = table, None, None
            write_pyramid(image, partial / "images" / IMAGE, progress=progress)
            _consolidate(partial)
    except OSError as error:
        if isinstance(error, PastError):
            raise
        raise StoreWriteError(f"{path} cannot be written ({error}); nothing was left there") from error
    logger.info("wrote %s: %d cells, %d genes", path, table.n_obs, table.n_vars)
    return path


def check_output(path: Path, *, overwrite: bool) -> None:
    """Refuses an output path before any work is done.

    Raises:
        StoreExistsError: If it exists and `overwrite` is not set, or it is something else than a slide store.
        RemoteError: If it is a URL.
    """
    path = require_local(path)
    if not (path.exists() or path.is_symlink()):
        return
    if not overwrite:
        raise StoreExistsError(f"{path} exists; pass --overwrite to replace it, or choose another output")
    if path.is_symlink() or not is_store(path):
        raise StoreExistsError(f"{path} exists and is not a slide store; only slide stores are ever replaced")


def _flags(
    data: SlideData,
    counts: csr_matrix,
    size: tuple[int, int],
    *,
    quality: QualityOptions | None,
    max_outside: float,
) -> tuple[Assessment | None, pd.DataFrame]:
    """Flags every cell; what quality control found beside the flags, where it was asked for more."""
    centroids = np.asarray(data.table.obsm["spatial"], dtype=np.float64)
    flags, found = quality_flags(counts, centroids, size), None
    outside = flags["qc_reason"].astype(str).str.contains(OUTSIDE_IMAGE).to_numpy()
    if outside.mean() > max_outside:
        low, high = centroids.min(axis=0), centroids.max(axis=0)
        raise SlideDataError(
            f"{data.name}: {outside.sum()} of {len(outside)} cells lie outside the image "
            f"({size[1]} x {size[0]} px; cells span x {low[0]:.0f} to {high[0]:.0f}, "
            f"y {low[1]:.0f} to {high[1]:.0f}); at most {max_outside:.0%} may: check the alignment, "
            "the pixel size and the order of x and y"
        )
    if quality is not None:
        found = assess(
            quality,
            counts=counts,
            xy=centroids,
            size=size,
            mpp=data.mpp,
            obs=data.table.obs,
            image=data.image,
            nuclei=nuclei_of(data.nucleus_boundaries, data.table.obs_names.astype(str)),
            name=data.name,
        )
        flags = found.flags()
    if not flags["qc_pass"].any():
        hint = "" if quality is None else "; --qc changes the tests, --qc minimal turns most of them off"
        raise SlideDataError(
            f"{data.name}: none of {len(flags)} cells passes QC ({quality_report(flags)['reasons']}){hint}"
        )
    return found, flags


def _prepare_table(
    data: SlideData, counts: csr_matrix, size: tuple[int, int], flags: pd.DataFrame, *, block_size: int
) -> tuple[AnnData, np.ndarray, np.ndarray]:
    """The store's table, its rows in block order, and that order; blocks.

    It has flags, sums and the keys that tie it to the outlines, but no counts: these are put in order as they
    are written, and so are there only once.
    """
    centroids = np.asarray(data.table.obsm["spatial"], dtype=np.float64)
    order, blocks = block_order(centroids, size, block_size=block_size)
    obs = data.table.obs.copy()
    obs.index = obs.index.astype(str)
    obs.index.name = None
    for column in obs.select_dtypes(object):
        obs[column] = obs[column].astype(str)
    obs["cell_id"] = obs.index.to_numpy()
    obs["region"] = pd.Categorical([CELLS] * len(obs))
    obs["n_counts"], obs["n_genes"] = cell_totals(counts)
    for column in flags:
        obs[column] = pd.Categorical(flags[column]) if column == "qc_reason" else flags[column].to_numpy()
    var = data.table.var.copy()
    var.index = var.index.astype(str)
    var.index.name = None
    if "symbol" not in var:
        var["symbol"] = var.index.to_numpy()
    nothing = csr_matrix(counts.shape, dtype=counts.dtype)
    table = AnnData(X=nothing, obs=obs.iloc[order], var=var, obsm={"spatial": centroids[order]})
    if "protein" in data.table.obsm:
        table.obsm["protein"] = data.table.obsm["protein"].iloc[order]
    return table, order, blocks


def _write_elements(
    data: SlideData, table: AnnData, image: Any, folder: Path, manifest: Mapping[str, Any]
) -> None:
    """The store but for its counts and its pixels."""
    import dask.array as da
    from spatialdata import SpatialData
    from spatialdata.models import Image2DModel, ShapesModel, TableModel
    from spatialdata.transformations import Identity, Scale

    from past_core.ingest.outlines import cell_shapes, nucleus_shapes
    from past_core.ingest.rings import RingShapes

    frames = {"global": Identity(), "microns": Scale([data.mpp, data.mpp], axes=("x", "y"))}
    shapes: dict[str, Any] = {
        CELLS: cell_shapes(data.cell_boundaries, table, frames, mpp=data.mpp, radius_um=DEFAULT_RADIUS_UM)
    }
    if data.nucleus_boundaries is not None and len(data.nucleus_boundaries):
        shapes[NUCLEI] = nucleus_shapes(data.nucleus_boundaries, table, frames)

    # Outlines of millions of cells are written part by part: their first row stands in for all.
    streamed = {name: shape for name, shape in shapes.items() if isinstance(shape, RingShapes) and len(shape)}
    shapes |= {
        name: ShapesModel.parse(shape.frame(0, 1), transformations=dict(frames))
        for name, shape in shapes.items()
        if isinstance(shape, RingShapes)
    }
    # SpatialData writes the image group with all its metadata around an empty stand-in, a pyramid of the same
    # depth whose levels halve exactly; the pixels are then streamed into it. Its own pyramids interpolate and
    # hold a graph of the whole image.
    depth = len(level_shapes(*image.shape[1:])) - 1
    stand_in = Image2DModel.parse(
        da.zeros((3, 2**depth, 2**depth), dtype=np.uint8),
        dims=("c", "y", "x"),
        c_coords=["r", "g", "b"],
        scale_factors=[2] * depth,
        transformations=dict(frames),
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*autosharding.*")
        slide = SpatialData(
            images={IMAGE: stand_in},
            shapes=shapes,
            tables={
                TABLE: TableModel.parse(table, region=CELLS, region_key="region", instance_key="cell_id")
            },
            attrs={"past": dict(manifest)},
        )
        slide.write(folder, consolidate_metadata=False)
    while streamed:
        name, rings = streamed.popitem()
        rings.write(folder / "shapes" / name / "shapes.parquet")
        del rings


def _write_counts(counts: csr_matrix, order: np.ndarray, folder: Path) -> None:
    """Writes the rows of the table's counts in an order, some at a time."""
    from anndata.io import sparse_dataset, write_elem

    group = zarr.open_group(folder, mode="r+", use_consolidated=False)
    del group["X"]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*autosharding.*")
        for start in range(0, counts.shape[0], ROWS):
            part = counts[order[start : start + ROWS]]
            if start:
                sparse_dataset(group["X"]).append(part)
                continue
            if counts.nnz > np.iinfo(np.int32).max:
                part.indptr = part.indptr.astype(np.int64)  # of which later parts need it
            write_elem(group, "X", part)


def _consolidate(folder: Path) -> None:
    """Writes all metadata into one file, for readers behind a network."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
        warnings.filterwarnings("ignore", message="Object at .* is not recognized as a component")
        zarr.consolidate_metadata(str(folder))


@contextmanager
def renamed_when_complete(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Gives a temporary name beside `path`; on success it takes `path`'s place, on failure it is removed.

    What killed writers of the same store left behind is removed; an old store that one had set aside only
    once the new one stands.
    """
    token = writer()
    partial = path.with_name(f".{path.name}.{token}.partial")
    retired = path.with_name(f".{path.name}.{token}.old")
    for left in sweep(path.parent, f".{path.name}.", ".partial"):
        logger.info("removed %s, which a killed writer left", left)
    try:
        yield partial
        check_output(path, overwrite=overwrite)
        if path.exists():
            if exchange(partial, path):
                return
            path.rename(retired)  # where the two cannot be swapped in one step
        try:
            partial.rename(path)
        except OSError:
            if retired.exists():
                retired.rename(path)
            raise
        sweep(path.parent, f".{path.name}.", ".old")
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(retired, ignore_errors=True)


def plain(value: Any) -> Any:
    """The same value in JSON's types."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value if isinstance(value, (str, int, float, bool)) or value is None else str(value)
