"""An image as a slide, whatever it comes as, and its tiles around cells: bounded memory at any size."""

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np

from past_core.slides import Slide, View
from past_core.slides.arrays import ArraySlide

TILE = 1024
"""Side of a tile in pixels of the view."""

Result = TypeVar("Result")


def as_slide(image: Any, *, mpp: float, name: str = "image") -> Slide:
    """The image as a slide of resolution `mpp`; an open slide that states it is taken as it is."""
    if isinstance(image, Slide) and image.mpp is not None and abs(image.mpp / mpp - 1) < 1e-9:
        return image
    if isinstance(image, Slide):
        return _Restated(image, mpp)
    return ArraySlide(image, mpp=mpp, name=name)


class _Restated(Slide):
    """A slide of which another resolution is known than its file states."""

    def __init__(self, slide: Slide, mpp: float) -> None:
        super().__init__(slide.path, [(level.height, level.width) for level in slide.levels], mpp)
        self._slide = slide

    def _read(self, level: int, y: int, x: int, height: int, width: int) -> np.ndarray:
        return self._slide.read(level, y, x, height, width)


class Tile(NamedTuple):
    """One square of a view and the points in it.

    Attributes:
        index: (n,) which points.
        x: (n,) their x in pixels of the window.
        y: (n,) likewise.
        left: the window's left column in pixels of the view; may lie outside it.
        top: the window's top row.
        height: rows of the window, halo included.
        width: columns.
        number: (row, column) of the tile.
    """

    index: np.ndarray  # type: ignore[assignment]  # in place of tuple.index
    x: np.ndarray
    y: np.ndarray
    left: int
    top: int
    height: int
    width: int
    number: tuple[int, int]


def tiles(view: View, points: np.ndarray, *, halo: int, side: int = TILE) -> list[Tile]:
    """The tiles that hold points, with a halo.

    Args:
        view: the slide at some resolution.
        points: (N, 2) x, y in level-0 pixels; those outside the image are in no tile.
        halo: pixels of the view around each tile.
        side: of a tile in pixels of the view.
    """
    at = np.asarray(points, np.float64) / view.downsample
    inside = np.flatnonzero(((points >= 0) & (points < (view.slide.width, view.slide.height))).all(axis=1))
    row, column = (at[inside, axis].astype(np.int64) // side for axis in (1, 0))
    # By place within a tile, so that the order of cells does not matter anywhere.
    order = np.lexsort((at[inside, 0], at[inside, 1], column, row))
    inside, row, column = inside[order], row[order], column[order]
    starts = np.flatnonzero((np.diff(row, prepend=-1) != 0) | (np.diff(column, prepend=-1) != 0))
    found = []
    for index, first in zip(np.split(inside, starts[1:]), starts, strict=False):
        r, c = int(row[first]), int(column[first])
        left, top = c * side - halo, r * side - halo
        width = min(side, max(view.width - c * side, 1)) + 2 * halo
        height = min(side, max(view.height - r * side, 1)) + 2 * halo
        found.append(Tile(index, at[index, 0] - left, at[index, 1] - top, left, top, height, width, (r, c)))
    return found if len(inside) else []


def over_tiles(
    view: View, found: list[Tile], work: Callable[[Tile, np.ndarray], Result]
) -> Iterator[tuple[Tile, Result]]:
    """Reads the tiles and works on them in threads; few are held at a time. In order.

    Args:
        view: what is read.
        found: of `tiles`.
        work: takes a tile and its pixels (3, height, width) uint8.
    """
    threads = min(4, os.cpu_count() or 1)

    def one(tile: Tile) -> Result:
        return work(tile, view.read(tile.top, tile.left, tile.height, tile.width))

    with ThreadPoolExecutor(threads) as pool:
        pending: deque[tuple[Tile, Future[Result]]] = deque()
        for tile in found:
            pending.append((tile, pool.submit(one, tile)))
            if len(pending) > 2 * threads:
                first, future = pending.popleft()
                yield first, future.result()
        while pending:
            first, future = pending.popleft()
            yield first, future.result()
