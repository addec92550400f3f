"""The outlines of a store's cells or nuclei, as arrays that a tile reads a small part of."""

import io
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from past_core.ingest.store import SlideStore
from past_core.view.wkb import OutlineError, exterior_rings, is_point, points

logger = logging.getLogger(__name__)

CELLS, NUCLEI = "cell_boundaries", "nucleus_boundaries"
"""Names of a store's outlines."""
BATCH = 65_536
"""Outlines decoded at once."""
CIRCLE = 24
"""Corners of the polygon that is drawn for a circle."""


class Outlines:
    """Closed polygons with an index over the plane, in level-0 pixels.

    Args:
        owner: (N,) the cell's row in the table.
        offsets: (N + 1,) where each polygon's vertices begin.
        vertices: (V, 2) x, y.

    Attributes:
        boxes: (N, 4) float32 left, top, right, bottom.
        extent: the median of the polygons' longer sides.
    """

    def __init__(self, owner: np.ndarray, offsets: np.ndarray, vertices: np.ndarray) -> None:
        self.owner, self.offsets, self.vertices = owner, offsets, vertices
        starts = offsets[:-1]
        if len(owner):
            low, high = (np.minimum.reduceat(vertices, starts), np.maximum.reduceat(vertices, starts))
            self.boxes = np.concatenate([low, high], axis=1)
        else:
            self.boxes = np.zeros((0, 4), np.float32)
        sides = (self.boxes[:, 2:] - self.boxes[:, :2]).max(axis=1, initial=0)
        self.extent = float(np.median(sides)) if len(owner) else 0.0
        # Bins of a few cells. What is much larger than most is kept apart: it would widen each search.
        self._bin = max(4 * self.extent, 1.0)
        self._large = np.flatnonzero(sides > self._bin)
        usual = np.flatnonzero(sides <= self._bin)
        middle = np.floor((self.boxes[usual, :2] + self.boxes[usual, 2:]) / 2 / self._bin).astype(np.int64)
        order = np.lexsort((middle[:, 0], middle[:, 1]))
        self._usual, self._columns = usual[order], middle[order, 0]
        self._rows, self._begin = np.unique(middle[order, 1], return_index=True)
        self._end = np.append(self._begin[1:], len(order))

    def __len__(self) -> int:
        return len(self.owner)

    def polygon(self, number: int) -> np.ndarray:
        """(n, 2) vertices of one polygon."""
        return self.vertices[self.offsets[number] : self.offsets[number + 1]]

    def touching(self, left: float, top: float, right: float, bottom: float) -> np.ndarray:
        """Numbers of the polygons whose boxes touch a box, ascending."""
        found = [self._large]
        margin = self._bin / 2
        columns = np.floor((np.array([left - margin, right + margin])) / self._bin)
        rows = np.floor(np.array([top - margin, bottom + margin]) / self._bin)
        first, last = np.searchsorted(self._rows, rows[0]), np.searchsorted(self._rows, rows[1], "right")
        for k in range(first, last):
            begin, end = self._begin[k], self._end[k]
            low, high = np.searchsorted(self._columns[begin:end], [columns[0], columns[1] + 1])
            found.append(self._usual[begin + low : begin + high])
        candidates = np.concatenate(found)
        boxes = self.boxes[candidates]
        touch = (boxes[:, 0] <= right) & (boxes[:, 2] >= left)
        touch &= (boxes[:, 1] <= bottom) & (boxes[:, 3] >= top)
        return np.sort(candidates[touch])

    def containing(self, x: float, y: float) -> np.ndarray:
        """Numbers of the polygons that contain a point, by the parity of crossings."""
        return np.array(
            [number for number in self.touching(x, y, x, y) if _contains(self.polygon(number), x, y)],
            np.int64,
        )


def _contains(polygon: np.ndarray, x: float, y: float) -> bool:
    a, b = polygon.astype(np.float64), np.roll(polygon, -1, axis=0).astype(np.float64)
    crosses = (a[:, 1] > y) != (b[:, 1] > y)
    a, b = a[crosses], b[crosses]
    at = a[:, 0] + (y - a[:, 1]) * (b[:, 0] - a[:, 0]) / (b[:, 1] - a[:, 1])
    return bool(np.count_nonzero(at > x) % 2)


def read_outlines(store: SlideStore, element: str) -> Outlines | None:
    """The outlines in `shapes/ELEMENT`; None where the store has none.

    Circles become polygons. Outlines of cells that the table lacks are left out.

    Raises:
        OutlineError: The file is damaged, or holds something else than outlines.
    """
    file = store.path / "shapes" / element / "shapes.parquet"
    if not file.is_file():
        return None
    rows = pd.Index(store.cell_ids)
    owners, lengths, vertices = [], [], []
    try:
        # A URL's bytes are read as a file's are.
        source = str(file) if isinstance(file, Path) else io.BytesIO(file.read_bytes())
        with pq.ParquetFile(source, memory_map=isinstance(file, Path)) as parquet:
            for ids, owner, length, xy in _batches(parquet):
                cell = rows.get_indexer(ids)[owner]
                keep = (cell >= 0) & (length >= 3)
                keep &= np.isfinite(np.add.reduceat(xy.sum(axis=1), np.cumsum(length) - length))
                owners.append(cell[keep])
                lengths.append(length[keep])
                vertices.append(xy[np.repeat(keep, length)].astype(np.float32))
    except OutlineError as error:
        raise OutlineError(f"{file}: {error}") from error
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise OutlineError(f"{file} cannot be read ({error}); make the store again") from error
    if not owners:
        return Outlines(np.zeros(0, np.int64), np.zeros(1, np.int64), np.zeros((0, 2), np.float32))
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
    outlines = Outlines(np.concatenate(owners), offsets, np.concatenate(vertices))
    logger.debug("%s: %d outlines of %d vertices", file, len(outlines), len(outlines.vertices))
    return outlines


def _batches(parquet: pq.ParquetFile) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Cell ids of the rows of a batch; of each ring its row and length; all points."""
    names = parquet.schema_arrow.names
    ids = _id_column(parquet)
    radius = "radius" if "radius" in names else None
    wanted = [name for name in ("geometry", ids, radius) if name]
    if "geometry" not in names:
        raise OutlineError(f"no column `geometry` (found {', '.join(names)})")
    for batch in parquet.iter_batches(BATCH, columns=wanted):
        cells = np.array([str(value) for value in batch.column(ids).to_pylist()], dtype=object)
        geometry = batch.column("geometry")
        if radius and len(geometry) and is_point(geometry[0].as_py() or b""):
            owner, length, xy = _circles(points(geometry), np.asarray(batch.column(radius), np.float64))
        else:
            owner, length, xy = exterior_rings(geometry)
        if len(owner):
            yield cells, owner, length, xy


def _id_column(parquet: pq.ParquetFile) -> str:
    """`cell_id`, or the column that was the frame's index."""
    schema = parquet.schema_arrow
    if "cell_id" in schema.names:
        return "cell_id"
    index = (schema.pandas_metadata or {}).get("index_columns", [])
    named = [name for name in index if isinstance(name, str) and name in schema.names]
    if not named:
        raise OutlineError("the outlines do not say which cells they belong to (no `cell_id`, no index)")
    return named[0]


def _circles(middle: np.ndarray, radius: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    angle = np.linspace(0, 2 * np.pi, CIRCLE, endpoint=False)
    unit = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    xy = middle[:, None] + radius[:, None, None] * unit
    return np.arange(len(middle)), np.full(len(middle), CIRCLE), xy.reshape(-1, 2)
