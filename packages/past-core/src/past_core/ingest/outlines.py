"""Outlines of cells and nuclei as SpatialData shapes."""

import logging
from collections.abc import Mapping
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
from anndata import AnnData
from spatialdata.models import ShapesModel

from past_core.ingest.rings import Rings, RingShapes

logger = logging.getLogger(__name__)


def cell_shapes(
    boundaries: gpd.GeoDataFrame | Rings | None,
    table: AnnData,
    frames: Mapping[str, Any],
    *,
    mpp: float,
    radius_um: float,
) -> gpd.GeoDataFrame | RingShapes:
    """Shapes that the table annotates, in the table's row order and indexed by cell id.

    Args:
        boundaries: Polygons indexed by cell id in level-0 pixels, or rings, or None.
        table: The slide's table.
        frames: Transformations to the coordinate systems.
        mpp: um per pixel.
        radius_um: Radius of a circle where the cell's area is not known.

    Returns:
        The polygons, or circles of each cell's area around its centroid; of rings the order to write them.
    """
    if boundaries is None or len(boundaries) == 0:
        radius = np.full(table.n_obs, radius_um)
        if "cell_area_um2" in table.obs:
            area = table.obs["cell_area_um2"].to_numpy(float)
            radius = np.where(area > 0, np.sqrt(np.where(area > 0, area, 0) / np.pi), radius)
        return ShapesModel.parse(
            np.asarray(table.obsm["spatial"]),
            geometry=0,
            radius=radius / mpp,
            index=pd.Index(table.obs_names),
            transformations=dict(frames),
        )
    if isinstance(boundaries, Rings):
        ids = pd.Index(boundaries.cell_id)
        first = np.flatnonzero(~ids.duplicated())
        found = ids[first].get_indexer(table.obs_names)
        _warn_of_missing(found >= 0)
        return RingShapes(boundaries, first[found[found >= 0]], by_id=True)
    outlines = boundaries[["geometry"]].copy()
    outlines.index = outlines.index.astype(str)
    outlines = outlines[~outlines.index.duplicated()]
    known = table.obs_names.isin(outlines.index)
    _warn_of_missing(known)
    outlines = outlines.loc[table.obs_names[known]]
    outlines.index.name = None
    return ShapesModel.parse(outlines, transformations=dict(frames))


def _warn_of_missing(known: np.ndarray) -> None:
    if not known.all():
        logger.warning("%d of %d cells have no outline", int((~known).sum()), len(known))


def nucleus_shapes(
    boundaries: gpd.GeoDataFrame | Rings, table: AnnData, frames: Mapping[str, Any]
) -> gpd.GeoDataFrame | RingShapes:
    """Nuclei of the table's cells in row order, with `cell_id`; a cell may have several or none."""
    if isinstance(boundaries, Rings):
        row = table.obs_names.get_indexer(boundaries.cell_id)
        order = np.argsort(row, kind="stable")[(row < 0).sum() :]
        return RingShapes(boundaries, order, by_id=False)
    outlines = boundaries.copy()
    if "cell_id" not in outlines:
        outlines["cell_id"] = outlines.index
    outlines["cell_id"] = outlines["cell_id"].astype(str)
    row = table.obs_names.get_indexer(outlines["cell_id"])
    outlines = outlines.iloc[np.argsort(row, kind="stable")[(row < 0).sum() :]]
    return ShapesModel.parse(
        outlines[["cell_id", "geometry"]].reset_index(drop=True), transformations=dict(frames)
    )
