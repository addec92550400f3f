"""Outlines of a slide store read by batches in the order of its rows: memory does not grow with cells."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import shapely

from past_core.ingest.store import SlideStore, StoreError
from past_core.remote import require_local

CELLS = "cell_boundaries"
NUCLEI = "nucleus_boundaries"
BATCH = 4096


def cell_batches(store: SlideStore) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Cells with an outline: (rows, polygons, nuclei), ascending; None where a cell has no nucleus.

    Coordinates are level-0 pixels of the store. Circles that stand for cells become polygons; several nuclei
    of a cell one multipolygon.

    Raises:
        StoreError: Outlines are missing or damaged, or not in the order of the table.
    """
    index = store.obs.index
    nuclei = _Nuclei(store, index)
    last = -1
    for rows, shapes in _batches(store, CELLS, index):
        # Outlines of cells that the table lacks are no cell's.
        known = rows >= 0
        rows, shapes = rows[known], shapes[known]
        if not len(rows):
            continue
        if rows[0] <= last or (np.diff(rows) <= 0).any():
            raise _disordered(store, CELLS)
        last = int(rows[-1])
        yield rows, shapes, nuclei.of(rows)


class _Nuclei:
    """Walks through the nuclei in step with the cells."""

    def __init__(self, store: SlideStore, index: pd.Index) -> None:
        self._store = store
        present = (require_local(store.path) / "shapes" / NUCLEI).is_dir()
        self._source = _batches(store, NUCLEI, index) if present else iter(())
        self._rows, self._shapes = np.zeros(0, np.int64), np.zeros(0, object)
        self._last = -1

    def of(self, rows: np.ndarray) -> np.ndarray:
        """(len(rows),) polygon, multipolygon or None."""
        held = [(self._rows, self._shapes)]
        while self._last <= rows[-1]:
            batch = next(self._source, None)
            if batch is None:
                break
            known = batch[0] >= 0
            found, shapes = batch[0][known], batch[1][known]
            if len(found):
                if found[0] < self._last or (np.diff(found) < 0).any():
                    raise _disordered(self._store, NUCLEI)
                self._last = int(found[-1])
                held.append((found, shapes))
        owner, shapes = (np.concatenate(parts) for parts in zip(*held, strict=True))
        now = owner <= rows[-1]
        self._rows, self._shapes = owner[~now], shapes[~now]
        owner, shapes = owner[now], shapes[now]
        out = np.full(len(rows), None, object)
        place = np.searchsorted(rows, owner)
        mine = rows[np.minimum(place, len(rows) - 1)] == owner
        place, shapes = place[mine], shapes[mine]
        number = np.bincount(place, minlength=len(rows))
        single = number[place] == 1
        out[place[single]] = shapes[single]
        for cell in np.flatnonzero(number > 1):
            parts = shapely.get_parts(shapes[place == cell])
            out[cell] = shapely.multipolygons(parts)
        return out


def _batches(store: SlideStore, element: str, index: pd.Index) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(row of the table or -1, geometry) of the shapes of an element."""
    path = require_local(store.path) / "shapes" / element / "shapes.parquet"
    try:
        with pq.ParquetFile(path) as file:
            ids = _id_column(file, path)
            columns = [name for name in (ids, "geometry", "radius") if name in file.schema_arrow.names]
            for batch in file.iter_batches(BATCH, columns=columns):
                owner = batch.column(ids).to_numpy(zero_copy_only=False).astype(str)
                wkb = batch.column("geometry").cast(pa.binary()).to_numpy(zero_copy_only=False)
                shapes = shapely.from_wkb(wkb)
                points = shapely.get_type_id(shapes) == shapely.GeometryType.POINT
                if points.any():
                    radius = batch.column("radius").to_numpy(zero_copy_only=False)
                    shapes[points] = shapely.buffer(shapes[points], radius[points], quad_segs=6)
                yield index.get_indexer(owner), shapes
    except FileNotFoundError as error:
        raise StoreError(f"{path} is missing; make the store again with `past ingest`") from error
    except (pa.ArrowException, shapely.errors.GEOSException, KeyError) as error:
        raise StoreError(
            f"{path} cannot be read ({error}); the store is damaged, make it again with `past ingest`"
        ) from error


def _id_column(file: pq.ParquetFile, path: Path) -> str:
    names = file.schema_arrow.names
    for name in ("cell_id", "__index_level_0__"):
        if name in names:
            return name
    raise StoreError(f"{path} has no column of cell ids ({', '.join(names)}); make the store again")


def _disordered(store: SlideStore, element: str) -> StoreError:
    return StoreError(
        f"{store.path}: shapes/{element} are not in the order of the table of cells; another program changed "
        "the store, make it again with `past ingest`"
    )
