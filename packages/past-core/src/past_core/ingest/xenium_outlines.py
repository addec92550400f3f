"""Outlines of cells and nuclei from the boundary tables of a Xenium bundle."""

import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from past_core.ingest.xenium_columns import UNASSIGNED, numbers, read_table, strings
from past_core.ingest.xenium_files import BundleError

logger = logging.getLogger(__name__)

VERTICES_OF_A_CELL = 5000
"""More vertices than these a cell, on average, are taken for a damaged file."""


MAX_OPEN = 0.01
"""Share of outlines that may not end where they begin."""


class Outlines(NamedTuple):
    """Vertices of a boundary table.

    Attributes:
        vertices: One row a vertex, polygons contiguous: polygon (int), cell (row of the table of cells), x, y
            in µm.
        without_cell: Polygons that belong to no cell and were left out.
    """

    vertices: pd.DataFrame
    without_cell: int


def read_outlines(
    path: Path, cell_ids: pd.Index, *, orphans: bool = False, aliases: pd.Index | None = None
) -> Outlines:
    """Reads the vertices of cell_boundaries or nucleus_boundaries.

    Polygons are told apart by `label_id` (a cell may have several nuclei), which versions from 2.0 write; in
    its absence by `cell_id`, and the rings of a cell's several nuclei by where each closes.

    Args:
        path: The parquet or CSV file.
        cell_ids: (N,) ids of the table of cells.
        orphans: Polygons marked as those of no cell are left out rather than refused.
        aliases: (N,) other ids of the same cells.

    Returns:
        The outlines. Polygons of fewer than four vertices (the last repeats the first) are left out.

    Raises:
        BundleNotFoundError: The file is not there.
        BundleError: Damaged, a column is missing, an id is unknown, a vertex is not a finite number, outlines
            are not closed, or a polygon belongs to two cells.
    """
    table = read_table(
        path,
        "a table of outlines",
        required=("cell_id", "vertex_x", "vertex_y"),
        optional=("label_id",),
        max_rows=max(len(cell_ids), 1000) * VERTICES_OF_A_CELL,
    )
    ids = strings(table["cell_id"], path)
    # Far fewer ids than rows: each is looked up once.
    codes = pc.dictionary_encode(ids)
    names = codes.dictionary.to_numpy(zero_copy_only=False)
    found = cell_ids.get_indexer(names) if len(names) else np.zeros(0, dtype=np.int64)
    if aliases is not None:
        found = np.where(found < 0, aliases.get_indexer(names), found)
    code = codes.indices.fill_null(len(names)).to_numpy(zero_copy_only=False)
    del codes
    owner = np.append(found, -1)[code]
    nobody = np.append(np.isin(names.astype(str), UNASSIGNED), True)[code] & (owner < 0)
    unknown = np.flatnonzero((owner < 0) & ~(nobody if orphans else np.zeros_like(nobody)))
    if unknown.size:
        row = int(unknown[0])
        raise BundleError(
            f"{path}: column cell_id holds {ids[row].as_py()!r} in row {row}, which the table of cells does "
            "not have; both must come from the same segmentation"
        )
    frame = pd.DataFrame({"polygon": owner, "cell": owner})
    for axis in ("x", "y"):
        values = numbers(table[f"vertex_{axis}"], f"vertex_{axis}", path)
        bad = np.flatnonzero(~np.isfinite(values))
        if bad.size:
            raise BundleError(
                f"{path}: column vertex_{axis} is {values[bad[0]]} in row {bad[0]}, expected µm"
            )
        frame[axis] = values
    labelled = "label_id" in table.column_names
    if labelled:
        frame["polygon"] = _labels(numbers(table["label_id"], "label_id", path), path)
    del table, ids, code, owner  # a million cells have tens of millions of vertices
    pa.default_memory_pool().release_unused()
    without = frame["polygon"][nobody].nunique() if labelled else int(nobody.any())
    if nobody.any():
        frame = frame[~nobody].reset_index(drop=True)
    if not frame["polygon"].is_monotonic_increasing:
        frame = frame.sort_values("polygon", kind="stable", ignore_index=True)
    if not labelled:
        frame["polygon"] = _rings(frame)
    boundary = np.diff(frame["polygon"]) == 0
    shared = np.flatnonzero(boundary & (np.diff(frame["cell"]) != 0))
    if shared.size:
        row = frame.iloc[int(shared[0])]
        raise BundleError(
            f"{path}: polygon {int(row['polygon'])} belongs to {cell_ids[int(row['cell'])]!r} and to "
            "another cell"
        )
    _closed(frame, path)
    size = frame.groupby("polygon", sort=False)["x"].transform("size")
    few = (size < 4).to_numpy()
    return Outlines(frame[~few].reset_index(drop=True) if few.any() else frame, int(without))


def _closed(frame: pd.DataFrame, path: Path) -> None:
    """Refuses a table of which more than `MAX_OPEN` of the outlines lack their end."""
    ends = frame.groupby("polygon", sort=False).agg(
        x=("x", "first"), y=("y", "first"), last_x=("x", "last"), last_y=("y", "last")
    )
    still_open = (ends["x"] != ends["last_x"]) | (ends["y"] != ends["last_y"])
    if still_open.sum() > MAX_OPEN * len(ends):
        raise BundleError(
            f"{path}: {int(still_open.sum())} of {len(ends)} outlines are not closed, first polygon "
            f"{int(still_open.idxmax())}; rows lack or are in another order"
        )


def _labels(values: np.ndarray, path: Path) -> np.ndarray:
    bad = np.flatnonzero(~(values == np.rint(values)) | (np.abs(values) > 2**53))
    if bad.size:
        raise BundleError(
            f"{path}: column label_id is {values[bad[0]]} in row {bad[0]}, expected a whole number"
        )
    return values.astype(np.int64)


def _rings(frame: pd.DataFrame) -> np.ndarray:
    """(V,) ring of each vertex, where one cell's rows may hold several rings, each of which closes.

    Args:
        frame: polygon (one value a cell, contiguous), x, y.
    """
    polygon, x, y = (frame[name].to_numpy() for name in ("polygon", "x", "y"))
    if not len(polygon):
        return polygon
    first = np.concatenate([[True], polygon[1:] != polygon[:-1]])
    start = np.flatnonzero(first)
    last = np.append(start[1:], len(polygon)) - 1
    group = np.cumsum(first) - 1
    closes = (x == x[start][group]) & (y == y[start][group]) & (np.arange(len(x)) > start[group])
    # A cell whose first ring closes before its last vertex has another ring behind it.
    early = np.flatnonzero(
        np.bincount(group[closes & (np.arange(len(x)) < last[group])], minlength=len(start))
    )
    begins = first.copy()
    for cell in early:
        at, stop = start[cell], last[cell] + 1
        while at < stop:
            begins[at] = True
            back = np.flatnonzero((x[at + 1 : stop] == x[at]) & (y[at + 1 : stop] == y[at]))
            at = at + 1 + int(back[0]) + 1 if back.size else stop
    return np.cumsum(begins) - 1
