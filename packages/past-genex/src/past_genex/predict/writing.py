"""Writes predictions as a SpatialData store: a few thousand cells at a time, whole or not at all."""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import zarr

from past_core.atomic import replacing
from past_core.errors import PastError
from past_core.ingest.write import DEFAULT_RADIUS_UM, StoreWriteError
from past_core.remote import require_local
from past_genex.predict.cells import Cells
from past_genex.predict.reading import CELLS, ROWS, TABLE, PredictionError, is_prediction


class PredictionExistsError(PastError, FileExistsError):
    """Something is at the output path already."""


def check_output(path: str | Path, *, overwrite: bool) -> Path:
    """Refuses an output before any work is done.

    Raises:
        PredictionError: another suffix than `.zarr`.
        PredictionExistsError: it exists and is not to be replaced, or is no prediction.
        RemoteError: a URL.
    """
    path = Path(require_local(path))
    if path.suffix != ".zarr":
        raise PredictionError(f"{path}: predictions are written as .zarr; give the output that suffix")
    if path.exists() or path.is_symlink():
        if not overwrite:
            raise PredictionExistsError(
                f"{path} exists; pass --overwrite to replace it, or choose another name"
            )
        if path.is_symlink() or not is_prediction(path):
            raise PredictionExistsError(f"{path} exists and is no prediction; only predictions are replaced")
    return path


def write_prediction(
    path: Path,
    cells: Cells,
    genes: pd.DataFrame,
    values: Callable[[slice], np.ndarray],
    manifest: Mapping[str, Any],
    *,
    mpp: float,
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """Writes predictions.

    Args:
        path: the store to make, `.zarr`.
        cells: N cells.
        genes: G rows by gene id, as `Probe.trust` gives them.
        values: gives the `(n, G)` float32 of a slice of cells.
        manifest: plain JSON values.
        mpp: µm per level-0 pixel.
        overwrite: replace a prediction that is there, once the new one is complete.
        progress: called with the number of cells written since the last call.

    Raises:
        PredictionError, PredictionExistsError: see `check_output`; values that are not finite.
        StoreWriteError: the disk is full, or the folder cannot be written to.
    """
    path = check_output(path, overwrite=overwrite)
    try:
        with replacing(path) as temporary:
            with warnings.catch_warnings(action="ignore"):
                _write_frame(temporary, cells, genes, manifest, mpp)
                _write_values(temporary, cells.obs.index, genes.index, values, progress)
                zarr.consolidate_metadata(temporary)
            check_output(path, overwrite=overwrite)
    except OSError as error:
        if isinstance(error, PastError):
            raise
        raise StoreWriteError(f"{path} cannot be written ({error}); nothing was left there") from error
    return path


def _write_frame(
    folder: Path, cells: Cells, genes: pd.DataFrame, manifest: Mapping[str, Any], mpp: float
) -> None:
    """All but the values."""
    from anndata import AnnData
    from spatialdata import SpatialData
    from spatialdata.models import ShapesModel, TableModel
    from spatialdata.transformations import Identity, Scale

    frames = {"global": Identity(), "microns": Scale([mpp, mpp], axes=("x", "y"))}
    obs = cells.obs.copy()
    obs["cell_id"] = obs.index.to_numpy(str)
    obs["region"] = pd.Categorical([CELLS] * len(obs))
    table = AnnData(
        obs=obs, var=genes.rename_axis(None), obsm={"spatial": np.asarray(cells.centroids, float)}
    )
    table.uns["past"] = {
        name: manifest[name] for name in ("slide", "normalisation", "scale", "use") if manifest.get(name)
    }
    if cells.outlines is None:
        area = obs["area_um2"].to_numpy(np.float64)
        radius = np.where(area > 0, np.sqrt(np.where(area > 0, area, 0) / np.pi), DEFAULT_RADIUS_UM)
        shapes = ShapesModel.parse(
            cells.centroids, geometry=0, radius=radius / mpp, index=obs.index, transformations=frames
        )
    else:
        shapes = ShapesModel.parse(_all_outlines(cells, mpp), transformations=frames)
    SpatialData(
        shapes={CELLS: shapes},
        tables={TABLE: TableModel.parse(table, region=CELLS, region_key="region", instance_key="cell_id")},
        attrs={"past": dict(manifest)},
    ).write(folder, consolidate_metadata=False)


def _all_outlines(cells: Cells, mpp: float) -> Any:
    """A polygon for every cell, in order; a circle where none is known."""
    import geopandas as gpd
    import shapely

    geometry = cells.outlines.geometry.reindex(cells.obs.index).to_numpy().copy()
    missing = shapely.is_missing(geometry) | shapely.is_empty(geometry)
    points = shapely.points(cells.centroids[missing])
    geometry[missing] = shapely.buffer(points, DEFAULT_RADIUS_UM / mpp)
    return gpd.GeoDataFrame(geometry=list(geometry), index=cells.obs.index)


def _write_values(
    folder: Path,
    ids: pd.Index,
    genes: pd.Index,
    values: Callable[[slice], np.ndarray],
    progress: Callable[[int], None] | None,
) -> None:
    n = len(ids)
    group = zarr.open_group(folder / "tables" / TABLE, mode="r+")
    if "X" in group:
        del group["X"]
    array = group.create_array(
        "X",
        shape=(n, len(genes)),
        chunks=(min(ROWS, n), min(512, len(genes))),
        dtype="float32",
        config={"write_empty_chunks": True},  # to a reader, a chunk that is not there is a lost one
        attributes={"encoding-type": "array", "encoding-version": "0.2.0"},
    )
    for start in range(0, n, ROWS):
        part = slice(start, min(start + ROWS, n))
        made = values(part)
        if not np.isfinite(made).all():
            row, column = np.argwhere(~np.isfinite(made))[0]
            raise PredictionError(
                f"the value of {genes[column]} for cell {ids[start + row]} is not finite: check the probe"
            )
        array[part] = made
        if progress is not None:
            progress(len(made))
