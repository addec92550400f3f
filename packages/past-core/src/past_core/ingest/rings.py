"""Polygons without holes as arrays: what a slide's outlines are held as until they are written."""

import json
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import shapely

PART = 2**14
"""Polygons that are turned into shapes, and written, at a time."""


@dataclass(frozen=True)
class Rings:
    """Closed outlines of cells or nuclei; as shapely's objects they take three times the memory.

    Attributes:
        points: (V, 2) vertices, x and y in level-0 pixels; those of a ring contiguous, its last the first.
        start: (P + 1,) where each ring's vertices start; at least four a ring.
        cell_id: (P,) ids of the cells that they belong to.
    """

    points: np.ndarray
    start: np.ndarray
    cell_id: np.ndarray

    def __len__(self) -> int:
        return len(self.cell_id)

    def divided(self, factor: float) -> "Rings":
        """The same in pixels that are `factor` times as large."""
        return Rings(self.points / factor, self.start, self.cell_id)

    def taken(self, rings: np.ndarray) -> "Rings":
        """Some rings, in the order given."""
        length = self.start[rings + 1] - self.start[rings]
        start = np.concatenate([[0], np.cumsum(length)])
        place = np.repeat(self.start[rings] - start[:-1], length) + np.arange(start[-1])
        return Rings(self.points[place], start, self.cell_id[rings])

    def to_geodataframe(self) -> gpd.GeoDataFrame:
        """Polygons with the column `cell_id`."""
        return gpd.GeoDataFrame({"cell_id": self.cell_id, "geometry": self.polygons()})

    def polygons(self) -> np.ndarray:
        """(P,) shapely polygons."""
        rings = np.arange(len(self) + 1)
        return shapely.from_ragged_array(shapely.GeometryType.POLYGON, self.points, (self.start, rings))


@dataclass(frozen=True)
class RingShapes:
    """Rings in the order in which a store holds them, made into shapes part by part.

    Attributes:
        rings: The outlines.
        order: (R,) which of them, in which order.
        by_id: Rows are indexed by cell id; otherwise they are numbered, and `cell_id` is a column.
    """

    rings: Rings
    order: np.ndarray
    by_id: bool

    def __len__(self) -> int:
        return len(self.order)

    def frame(self, start: int, stop: int) -> gpd.GeoDataFrame:
        """The shapes of some rows."""
        part = self.rings.taken(self.order[start:stop]).to_geodataframe()
        if self.by_id:
            return part.set_index("cell_id").rename_axis(None)
        return part.set_axis(pd.RangeIndex(start, start + len(part)), axis=0)

    def write(self, path: Path) -> None:
        """Writes all of them as GeoParquet, a group of rows a part.

        The file is what `GeoDataFrame.to_parquet` makes of all rows at once, but for its groups of rows.
        """
        writer: pq.ParquetWriter | None = None
        schema: pa.Schema | None = None
        try:
            for start in range(0, len(self), PART):
                table = _as_table(self.frame(start, start + PART))
                if schema is None or writer is None:
                    schema = table.schema.with_metadata(self._whole(table.schema.metadata))
                    writer = pq.ParquetWriter(path, schema, compression="snappy")
                writer.write_table(table.cast(schema))
        finally:
            if writer is not None:
                writer.close()

    def _whole(self, described: dict[bytes, bytes]) -> dict[bytes, bytes]:
        """What the first part's file says of itself, of all parts."""
        first = self.rings.start[:-1]
        low = np.minimum.reduceat(self.rings.points, first, axis=0)[self.order].min(axis=0)
        high = np.maximum.reduceat(self.rings.points, first, axis=0)[self.order].max(axis=0)
        geo = json.loads(described[b"geo"])
        geo["columns"]["geometry"]["bbox"] = [*low.tolist(), *high.tolist()]
        columns = json.loads(described[b"pandas"])
        for index in columns["index_columns"]:
            if isinstance(index, dict):
                index["stop"] = len(self)
        return described | {b"geo": json.dumps(geo).encode(), b"pandas": json.dumps(columns).encode()}


def _as_table(frame: gpd.GeoDataFrame) -> pa.Table:
    """As geopandas would write it."""
    buffer = BytesIO()
    frame.to_parquet(buffer)
    buffer.seek(0)
    return pq.read_table(buffer)
