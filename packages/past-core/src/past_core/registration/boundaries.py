"""Outlines of cells and nuclei inside a few boxes, without reading a bundle's tables into memory."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from past_core.ingest.xenium_files import AGAIN, BundleError

ROWS = 2**18
"""Rows that are held at a time."""
MARGIN_UM = 40.0
"""Taken around a box, so that a polygon on its border is whole inside it."""

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in morphology µm."""


def outlines_in(path: Path, boxes: Sequence[Box]) -> list[list[np.ndarray]]:
    """Reads the outlines around some boxes.

    Args:
        path: cell_boundaries or nucleus_boundaries, .parquet, .csv or .csv.gz.
        boxes: in morphology µm.

    Returns:
        for each box a list of (k, 2) vertices in morphology µm. Polygons that reach far beyond a box are cut.

    Raises:
        BundleError: The table is damaged or lacks its columns.
    """
    kept: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in boxes]
    last, polygon = None, -1
    for owner, points in _batches(path):
        # Rows of a polygon are contiguous; a polygon may go on in the next batch.
        first = np.concatenate([[last is None or owner[0] != last], owner[1:] != owner[:-1]])
        number = polygon + np.cumsum(first)
        last, polygon = owner[-1], int(number[-1])
        for box, parts in zip(boxes, kept, strict=True):
            x0, y0, x1, y1 = box
            inside = (
                (points[:, 0] > x0 - MARGIN_UM)
                & (points[:, 0] < x1 + MARGIN_UM)
                & (points[:, 1] > y0 - MARGIN_UM)
                & (points[:, 1] < y1 + MARGIN_UM)
            )
            if inside.any():
                parts.append((number[inside], points[inside]))
    return [_split(parts) for parts in kept]


def _split(parts: list[tuple[np.ndarray, np.ndarray]]) -> list[np.ndarray]:
    if not parts:
        return []
    number, points = np.concatenate([n for n, _ in parts]), np.concatenate([p for _, p in parts])
    rings = np.split(points, np.flatnonzero(np.diff(number)) + 1)
    return [ring for ring in rings if len(ring) >= 3]


def _batches(path: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(owners, (n, 2) vertices) by and by."""
    try:
        if path.suffix == ".parquet":
            with pq.ParquetFile(path) as file:
                names = file.schema_arrow.names
                owner = "label_id" if "label_id" in names else "cell_id"
                for batch in file.iter_batches(ROWS, columns=[owner, "vertex_x", "vertex_y"]):
                    if batch.num_rows:
                        table = batch.to_pandas()
                        yield table[owner].to_numpy(), table[["vertex_x", "vertex_y"]].to_numpy(np.float64)
            return
        import pandas as pd

        for table in pd.read_csv(path, chunksize=ROWS):
            owner = "label_id" if "label_id" in table else "cell_id"
            yield table[owner].to_numpy(), table[["vertex_x", "vertex_y"]].to_numpy(np.float64)
    except Exception as error:  # whatever pyarrow, pandas and zlib raise on damage
        raise BundleError(f"{path} is not a whole table of outlines ({error}); {AGAIN}") from error
