"""Cutting square patches around points: one convention, one helper for training, embedding and staining."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from past_core.slides.errors import SlideError

if TYPE_CHECKING:
    from past_core.slides.slide import Slide, View

BLOCK = 2048
"""Side, in pixels of the view, of the squares in which neighbouring patches are read together."""
MAX_GROUP = 512
"""Most patches cut from one reading, which bounds the memory of crowded blocks."""


def patch_origin(x: ArrayLike, y: ArrayLike, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Left column and top row of the `size`-pixel square centred on each point.

    Points are in pixels of the level that is cut, counted from the image's top-left corner (pixel i spans
    [i, i + 1)). The square's centre lies within half a pixel of the point, with ties going right and down:
    left = floor(x - size / 2 + 1 / 2). An odd square has the point's own pixel in its middle. The result
    may be negative or run over the border: what is outside is white, and the point stays in the centre.

    Returns:
        (left, top), int64, of the points' shape.
    """
    left, top = (np.floor(np.asarray(v, np.float64) - size / 2 + 0.5).astype(np.int64) for v in (x, y))
    return left, top


def cut(
    image: np.ndarray,
    left: np.ndarray,
    top: np.ndarray,
    size: int,
    out: np.ndarray | None = None,
    at: np.ndarray | None = None,
) -> np.ndarray:
    """Cuts squares that lie inside an image in memory.

    Args:
        image: `(3, H, W)`.
        left: `(N,)` left columns, counted in `image`.
        top: `(N,)` top rows.
        size: side in pixels.
        out: `(M, 3, size, size)` to write into instead of new memory.
        at: `(N,)` places of `out`; all in order without.

    Returns:
        `out`, or `(N, 3, size, size)`.
    """
    if out is None:
        out = np.empty((len(left), 3, size, size), image.dtype)
    places = range(len(left)) if at is None else at.tolist()
    # One assignment a patch is several times faster than fancy indexing of all windows.
    for place, x, y in zip(places, left.tolist(), top.tolist(), strict=True):
        out[place] = image[:, y : y + size, x : x + size]
    return out


class _Group(NamedTuple):
    index: np.ndarray  # type: ignore[assignment]  # in place of tuple.index: which points
    left: np.ndarray
    top: np.ndarray


def patches(
    slide: "Slide", centres: ArrayLike, *, mpp: float | None, size: int, block: int = BLOCK
) -> np.ndarray:
    """Reads the patch around each point, each block of the slide once.

    Where a level has the wanted resolution the patches are that level's pixels, untouched.

    Args:
        slide: an open slide.
        centres: `(N, 2)` x, y in level-0 pixels.
        mpp: µm per pixel of the patches; None takes level 0 as it is.
        size: side of a patch in pixels.
        block: side of the squares that are read together, in pixels of the patches' resolution.

    Returns:
        `(N, 3, size, size)` uint8, in the order of `centres`.

    Raises:
        SlideError: the slide's resolution is unknown, or its data is damaged.
    """
    view = slide.at(mpp)
    points = _points(centres)
    out = np.empty((len(points), 3, size, size), np.uint8)
    for group in _groups(points / view.downsample, size, block):
        image, left, top = _read_region(view, group, size)
        cut(image, group.left - left, group.top - top, size, out, group.index)
    return out


def iter_patches(
    slide: "Slide",
    centres: ArrayLike,
    *,
    mpp: float | None,
    size: int,
    batch_size: int,
    block: int = BLOCK,
    threads: int = 2,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """`patches` as a stream: batches in reading order, the next blocks read ahead by `threads` threads.

    Yields:
        (index, images): which points, `(B,)` int64, and their patches `(B, 3, size, size)`; every batch but
        the last holds `batch_size`.
    """
    view = slide.at(mpp)
    points = _points(centres)
    groups = _groups(points / view.downsample, size, block)
    index = np.concatenate([group.index for group in groups]) if groups else np.empty(0, np.int64)
    done, filled = 0, 0
    out = np.empty((min(batch_size, len(index)), 3, size, size), np.uint8)
    with ThreadPoolExecutor(threads) as pool:
        ahead = deque(pool.submit(_read_region, view, group, size) for group in groups[: threads + 1])
        try:
            for number, group in enumerate(groups):
                image, left, top = ahead.popleft().result()
                if number + threads + 1 < len(groups):
                    ahead.append(pool.submit(_read_region, view, groups[number + threads + 1], size))
                start = 0
                while start < len(group.index):
                    stop = min(len(group.index), start + len(out) - filled)
                    at = np.arange(filled, filled + stop - start)
                    cut(image, group.left[start:stop] - left, group.top[start:stop] - top, size, out, at)
                    start, filled = stop, filled + stop - start
                    if filled == len(out):
                        yield index[done : done + filled], out
                        done, filled = done + filled, 0
                        # Fresh memory: the consumer may keep what it was given.
                        out = np.empty((min(batch_size, len(index) - done), 3, size, size), np.uint8)
        finally:
            for future in ahead:
                future.cancel()


def _points(centres: ArrayLike) -> np.ndarray:
    points = np.asarray(centres, np.float64).reshape(-1, 2)
    if not np.isfinite(points).all():
        row = int(np.flatnonzero(~np.isfinite(points).all(axis=1))[0])
        raise SlideError(f"point {row} is {tuple(points[row])}; expected finite x, y in level-0 pixels")
    return points


def _groups(points: np.ndarray, size: int, block: int) -> list[_Group]:
    """Points (in the view's pixels) by block, blocks in row order; at most `MAX_GROUP` points a group."""
    left, top = patch_origin(points[:, 0], points[:, 1], size)
    key = np.stack([left // block, top // block])
    order = np.lexsort((left, top, key[0], key[1]))
    edges = np.flatnonzero((np.diff(key[:, order], axis=1) != 0).any(axis=0)) + 1
    groups = []
    for members in np.split(order, edges):
        for start in range(0, len(members), MAX_GROUP):
            part = members[start : start + MAX_GROUP]
            groups.append(_Group(part, left[part], top[part]))
    return groups


def _read_region(view: "View", group: _Group, size: int) -> tuple[np.ndarray, int, int]:
    """The pixels that a group's patches need, `(3, h, w)`, with their left column and top row."""
    x, y = int(group.left.min()), int(group.top.min())
    width, height = int(group.left.max()) - x + size, int(group.top.max()) - y + size
    return view.read(y, x, height, width), x, y
