"""Outlines of cells and nuclei from the boundary tables of a Xenium bundle."""

import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from past_core.ingest.xenium_columns import UNASSIGNED, numbers, read_batches, strings
from past_core.ingest.xenium_files import BundleError

logger = logging.getLogger(__name__)

VERTICES_OF_A_CELL = 5000
"""More vertices than these a cell, on average, are taken for a damaged file."""


MAX_OPEN = 0.01
"""Share of outlines that may not end where they begin."""


class Outlines(NamedTuple):
    """The polygons of a boundary table, a ring each.

    Attributes:
        points: (V, 2) x, y in µm; those of a ring contiguous. float32 where the file has no more.
        start: (P + 1,) where each ring's vertices start.
        label: (P,) what tells the polygons apart, ascending; the ring's number where nothing does.
        cell: (P,) row of the table of cells.
        without_cell: Polygons that belong to no cell and were left out.
    """

    points: np.ndarray
    start: np.ndarray
    label: np.ndarray
    cell: np.ndarray
    without_cell: int

    def __len__(self) -> int:
        return len(self.cell)


class _Vertices(NamedTuple):
    """Rows of the table: owner (the row of the cell or -1), label (or None), points."""

    owner: np.ndarray
    label: np.ndarray | None
    points: np.ndarray

    def taken(self, rows: np.ndarray) -> "_Vertices":
        label = None if self.label is None else self.label[rows]
        return _Vertices(self.owner[rows], label, self.points[rows])


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
    vertices = _read(path, cell_ids, orphans, aliases)
    nobody = vertices.owner < 0
    without = int(nobody.any())
    if without:
        if vertices.label is not None:
            without = len(np.unique(vertices.label[nobody]))
        vertices = vertices.taken(np.flatnonzero(~nobody))
    key = vertices.owner if vertices.label is None else vertices.label
    if (key[1:] < key[:-1]).any():
        vertices = vertices.taken(np.argsort(key, kind="stable"))
        key = vertices.owner if vertices.label is None else vertices.label
    begins = _changes(key)
    if vertices.label is None:
        _split_rings(begins, vertices.points)
    shared = np.flatnonzero(~begins & _changes(vertices.owner))
    if shared.size:
        row = int(shared[0]) - 1
        raise BundleError(
            f"{path}: polygon {int(key[row])} belongs to {cell_ids[int(vertices.owner[row])]!r} and to "
            "another cell"
        )
    start = np.append(np.flatnonzero(begins), len(begins))
    first = start[:-1]
    label = np.arange(len(first)) if vertices.label is None else vertices.label[first]
    _closed(vertices.points, start, label, path)
    found = Outlines(vertices.points, start, label, vertices.owner[first], without)
    few = np.diff(start) < 4
    return _without(found, few) if few.any() else found


def _read(path: Path, cell_ids: pd.Index, orphans: bool, aliases: pd.Index | None) -> _Vertices:
    """All rows, batch by batch: of a million cells there are tens of millions, each with its cell's id."""
    schema, batches = read_batches(
        path,
        "a table of outlines",
        required=("cell_id", "vertex_x", "vertex_y"),
        optional=("label_id",),
        max_rows=max(len(cell_ids), 1000) * VERTICES_OF_A_CELL,
    )
    labelled = "label_id" in schema.names
    single = all(pa.types.is_float32(schema.field(f"vertex_{axis}").type) for axis in "xy")
    owners, labels, points, before = [], [], [], 0
    for batch in batches:
        table = pa.Table.from_batches([batch])
        owners.append(_owners(table, cell_ids, orphans, aliases, path, before))
        xy = np.empty((len(table), 2), np.float32 if single else np.float64)
        for column, axis in enumerate("xy"):
            values = numbers(table[f"vertex_{axis}"], f"vertex_{axis}", path)
            bad = np.flatnonzero(~np.isfinite(values))
            if bad.size:
                raise BundleError(
                    f"{path}: column vertex_{axis} is {values[bad[0]]} in row {before + bad[0]}, expected µm"
                )
            xy[:, column] = values
        points.append(xy)
        if labelled:
            labels.append(_labels(numbers(table["label_id"], "label_id", path), path, before))
        before += len(table)
    owner = _joined(owners, np.zeros(0, np.int32))
    label = _joined(labels, np.zeros(0, np.int64)) if labelled else None
    return _Vertices(owner, label, _joined(points, np.zeros((0, 2))))


def _joined(parts: list[np.ndarray], empty: np.ndarray) -> np.ndarray:
    """One array of them all; the list is emptied, so that no more than this column is there twice."""
    joined = np.concatenate(parts) if parts else empty
    parts.clear()
    return joined


def _owners(
    table: pa.Table, cell_ids: pd.Index, orphans: bool, aliases: pd.Index | None, path: Path, before: int
) -> np.ndarray:
    """(rows,) int32 row of the table of cells, -1 for no cell."""
    ids = strings(table["cell_id"], path)
    # Far fewer ids than rows: each is looked up once.
    codes = pc.dictionary_encode(ids)
    names = codes.dictionary.to_numpy(zero_copy_only=False)
    found = cell_ids.get_indexer(names) if len(names) else np.zeros(0, dtype=np.int64)
    if aliases is not None:
        found = np.where(found < 0, aliases.get_indexer(names), found)
    code = codes.indices.fill_null(len(names)).to_numpy(zero_copy_only=False)
    owner = np.append(found, -1).astype(np.int32)[code]
    if orphans:
        unknown = np.flatnonzero((owner < 0) & ~np.append(np.isin(names.astype(str), UNASSIGNED), True)[code])
    else:
        unknown = np.flatnonzero(owner < 0)
    if unknown.size:
        row = int(unknown[0])
        raise BundleError(
            f"{path}: column cell_id holds {ids[row].as_py()!r} in row {before + row}, which the table of "
            "cells does not have; both must come from the same segmentation"
        )
    return owner


def _changes(values: np.ndarray) -> np.ndarray:
    """(V,) whether each value differs from the one before; the first does."""
    changes = np.ones(len(values), dtype=bool)
    np.not_equal(values[1:], values[:-1], out=changes[1:])
    return changes


def _without(outlines: Outlines, dropped: np.ndarray) -> Outlines:
    """The outlines that are not `dropped`."""
    length = np.diff(outlines.start)
    return Outlines(
        outlines.points[np.repeat(~dropped, length)],
        np.concatenate([[0], np.cumsum(length[~dropped])]),
        outlines.label[~dropped],
        outlines.cell[~dropped],
        outlines.without_cell,
    )


def _closed(points: np.ndarray, start: np.ndarray, label: np.ndarray, path: Path) -> None:
    """Refuses a table of which more than `MAX_OPEN` of the outlines lack their end."""
    still_open = (points[start[:-1]] != points[start[1:] - 1]).any(axis=1)
    if still_open.sum() > MAX_OPEN * len(still_open):
        raise BundleError(
            f"{path}: {int(still_open.sum())} of {len(still_open)} outlines are not closed, first polygon "
            f"{int(label[np.argmax(still_open)])}; rows lack or are in another order"
        )


def _labels(values: np.ndarray, path: Path, before: int) -> np.ndarray:
    bad = np.flatnonzero(~(values == np.rint(values)) | (np.abs(values) > 2**53))
    if bad.size:
        raise BundleError(
            f"{path}: column label_id is {values[bad[0]]} in row {before + bad[0]}, expected a whole number"
        )
    return values.astype(np.int64)


def _split_rings(begins: np.ndarray, points: np.ndarray) -> None:
    """Marks where further rings begin among one cell's vertices, each of which closes.

    Args:
        begins: (V,) where each cell's vertices begin; where each ring does, afterwards.
        points: (V, 2) vertices.
    """
    start = np.flatnonzero(begins)
    if not len(start):
        return
    stop = np.append(start[1:], len(begins))
    closes = np.ones(len(begins), dtype=bool)
    for column in range(2):
        closes &= points[:, column] == np.repeat(points[start, column], stop - start)
    closes[start] = False
    closes[stop - 1] = False
    # A cell whose first ring closes before its last vertex has another ring behind it.
    for cell in np.flatnonzero(np.add.reduceat(closes, start, dtype=np.int64)):
        at, end = start[cell], stop[cell]
        while at < end:
            begins[at] = True
            back = np.flatnonzero((points[at + 1 : end] == points[at]).all(axis=1))
            at = at + 1 + int(back[0]) + 1 if back.size else end
