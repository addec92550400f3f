"""Reading the windows of a slide, ahead of the network."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from past_vihc.wsi.grid import Grid

if TYPE_CHECKING:
    from past_core.slides import View

Item = TypeVar("Item")
Result = TypeVar("Result")

GAP = 4
"""Windows without tissue between two with it, from which on the two are read apart."""


def batches(active: np.ndarray, row: int, batch_size: int) -> list[np.ndarray]:
    """Columns of the windows of one row that are stained together.

    A batch never mixes rows: which windows are computed together, and with it the last bit of their values,
    is then the same wherever a run starts.

    Args:
        active: `(rows, columns)` bool.
        row: which.
        batch_size: most windows at a time.
    """
    columns = np.flatnonzero(active[row])
    return [columns[start : start + batch_size] for start in range(0, len(columns), batch_size)]


def read_windows(view: "View", grid: Grid, row: int, columns: np.ndarray) -> np.ndarray:
    """Reads windows of one row; past the slide's right and lower border they are mirrored.

    Args:
        view: the slide at the generator's resolution.
        grid: windows over the view.
        row: which row.
        columns: `(B,)` ascending.

    Returns:
        `(B, 3, tile, tile)` uint8.

    Raises:
        SlideError: damaged data.
    """
    tile, stride = grid.tile, grid.stride
    out = np.empty((len(columns), 3, tile, tile), np.uint8)
    runs = np.split(np.arange(len(columns)), np.flatnonzero(np.diff(columns) > GAP) + 1)
    for run in runs:
        x0 = int(columns[run[0]]) * stride
        image = _read_mirrored(view, row * stride, x0, tile, int(columns[run[-1]]) * stride + tile - x0)
        for place in run.tolist():
            left = int(columns[place]) * stride - x0
            out[place] = image[:, :, left : left + tile]
    return out


def _read_mirrored(view: "View", y: int, x: int, height: int, width: int) -> np.ndarray:
    if y + height <= view.height and x + width <= view.width:
        return view.read(y, x, height, width)
    rows, columns = (
        _folded(np.arange(first, first + n), size)
        for first, n, size in ((y, height, view.height), (x, width, view.width))
    )
    top, left = int(rows.min()), int(columns.min())
    image = view.read(top, left, int(rows.max()) + 1 - top, int(columns.max()) + 1 - left)
    return image[:, (rows - top)[:, None], columns - left]


def _folded(index: np.ndarray, size: int) -> np.ndarray:
    """Indices past the end are counted back from it: n - 2, n - 1, n - 1, n - 2."""
    folded = index % (2 * size)
    return np.where(folded < size, folded, 2 * size - 1 - folded)


def ahead(
    work: Callable[[Item], Result], items: Iterable[Item], *, depth: int = 2
) -> Iterator[tuple[Item, Result]]:
    """Pairs items with their results, which a thread makes up to `depth` items ahead, in order."""
    waiting: deque = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as pool:
        try:
            for item in items:
                waiting.append((item, pool.submit(work, item)))
                if len(waiting) > depth:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            for _, future in waiting:
                future.cancel()
