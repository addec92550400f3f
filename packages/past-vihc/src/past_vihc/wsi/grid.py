"""Where the windows of a slide lie, and which pixels of each count."""

import math
from dataclasses import dataclass

import numpy as np

from past_core.errors import PastError

LEAST_OVERLAP, MOST_OVERLAP = 0.25, 0.5
"""Shares of a window that its neighbour may share: above one half, three windows would meet in a row."""
ONE = 256
"""Weights are whole numbers that add up to this along each axis, so that sums are exact in any order."""


class GridError(PastError, ValueError):
    """Windows that cannot be laid out as asked."""


@dataclass(frozen=True)
class Axis:
    """Windows along one axis of an image: [i·stride, i·stride + tile) for i in 0 … count - 1.

    Two neighbours share `tile - stride` pixels: of these the outer `margin` on each side, where a network
    sees past the window's border, are taken from the other window, and over the `ramp` in between one fades
    into the other. The last window may run over the image's end.

    Attributes:
        size: pixels of the image along the axis.
        tile: of a window.
        stride: from one window to the next.
        margin: discarded at each end of a window that has a neighbour there.
        ramp: over which neighbours are blended; 0 cuts hard.
    """

    size: int
    tile: int
    stride: int
    margin: int
    ramp: int

    def __post_init__(self) -> None:
        if self.size < 1 or not 0 < self.stride <= self.tile or min(self.margin, self.ramp) < 0:
            raise GridError(f"windows of {self.tile} px every {self.stride} px on {self.size} px")
        if 2 * self.margin + self.ramp != self.tile - self.stride or 2 * self.stride < self.tile:
            raise GridError(
                f"margin {self.margin} and ramp {self.ramp} do not fill the {self.tile - self.stride} px "
                f"that windows of {self.tile} px share, or more than half is shared"
            )

    @property
    def count(self) -> int:
        """How many windows cover the image."""
        return max(1, math.ceil((self.size - (self.tile - self.stride)) / self.stride))

    def first(self, index: int) -> int:
        """First pixel of the image that window `index` finishes; the image's end for `count`."""
        if index <= 0:
            return 0
        return self.size if index >= self.count else index * self.stride + self.margin

    def support(self, index: int) -> tuple[int, int]:
        """Pixels [first, stop) in which window `index` has any weight."""
        last = index == self.count - 1
        stop = self.size if last else (index + 1) * self.stride + self.margin + self.ramp
        return self.first(index), stop

    def weights(self) -> np.ndarray:
        """`(ramp,)` uint16: a window's weight over the ramp at its start, a raised cosine in 1/256.

        The neighbour that ends there has 256 minus it.
        """
        place = (np.arange(self.ramp) + 0.5) / max(self.ramp, 1)
        return np.rint(ONE * np.sin(np.pi / 2 * place) ** 2).astype(np.uint16)

    def lines(self) -> np.ndarray:
        """First pixel after each line at which hard stitching changes from one window to the next."""
        return np.arange(1, self.count) * self.stride + (self.tile - self.stride) // 2

    def borders(self) -> np.ndarray:
        """First pixel after each end of a window, or of what counts of it, within the image."""
        start = np.arange(1, self.count) * self.stride
        shared = self.tile - self.stride
        places = [start, start + self.margin, start + shared - self.margin, start + shared]
        found = np.unique(np.concatenate([*places, self.lines()]))
        return found[(found > 0) & (found < self.size)]


@dataclass(frozen=True)
class Grid:
    """Windows over an image, row by row."""

    rows: Axis
    columns: Axis

    @property
    def tile(self) -> int:
        """Side of a window in pixels."""
        return self.rows.tile

    @property
    def stride(self) -> int:
        """From one window to the next, in pixels."""
        return self.rows.stride


def make_grid(
    height: int,
    width: int,
    *,
    tile: int,
    overlap: float = LEAST_OVERLAP,
    receptive_field: int = 0,
    step: int = 1,
    hard: bool = False,
) -> Grid:
    """Lays windows over an image.

    Args:
        height: of the image in pixels.
        width: likewise.
        tile: side of a window in pixels.
        overlap: least share of a window that each neighbour shares, 0.25 to 0.5.
        receptive_field: pixels at a window's border that depend on what lies beyond it. As much of them is
            discarded as leaves three quarters of what is shared for blending, whose weights rise slowly.
        step: the stride is a multiple of this many pixels, such as the pitch of a grid of embeddings.
        hard: no blending, each window up to the middle of what is shared: to see what blending does.

    Raises:
        GridError: an overlap out of range, or no stride fits it.
    """
    if not LEAST_OVERLAP <= overlap <= MOST_OVERLAP:
        raise GridError(f"overlap {overlap:g}; expected {LEAST_OVERLAP} to {MOST_OVERLAP} of a window")
    stride = int(tile * (1 - overlap) + 1e-9) // step * step
    if 2 * stride < tile:
        raise GridError(
            f"windows of {tile} px that share at least {overlap:g} have no stride in steps of {step} px; "
            "ask for a smaller overlap"
        )
    shared = tile - stride
    margin = shared // 2 if hard else min(max(receptive_field, 0), shared // 8)
    if hard and shared % 2:
        raise GridError(f"an odd number of shared pixels ({shared}) has no middle")
    ramp = shared - 2 * margin
    return Grid(Axis(height, tile, stride, margin, ramp), Axis(width, tile, stride, margin, ramp))


def windows_with_tissue(grid: Grid, mask: np.ndarray, scale: float) -> np.ndarray:
    """Which windows are stained: those that would put any weight on tissue.

    The mask is coarse, so one of its pixels is added around each window; tissue is then never blended with
    the background.

    Args:
        grid: the windows.
        mask: `(h, w)` bool.
        scale: pixels of the image per pixel of the mask.

    Returns:
        `(rows, columns)` bool.
    """
    table = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), np.int64)
    table[1:, 1:] = mask.cumsum(axis=0, dtype=np.int64).cumsum(axis=1)
    spans = []
    for axis, length in zip((grid.rows, grid.columns), mask.shape, strict=True):
        ends = np.array([axis.support(i) for i in range(axis.count)], np.float64) / scale
        low = np.clip(np.floor(ends[:, 0]).astype(np.int64) - 1, 0, length)
        spans.append((low, np.clip(np.ceil(ends[:, 1]).astype(np.int64) + 1, 0, length)))
    (top, bottom), (left, right) = spans
    inside = (table[np.ix_(bottom, right)] - table[np.ix_(top, right)] - table[np.ix_(bottom, left)]) + table[
        np.ix_(top, left)
    ]
    return inside > 0
