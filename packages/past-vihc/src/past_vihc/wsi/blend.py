"""Windows put together into one image, window row by window row, without the image in memory."""

from collections.abc import Callable, Mapping

import numpy as np

from past_vihc.wsi.grid import ONE, Grid

Sink = Callable[[int, int, np.ndarray], None]
"""Takes finished pixels: top row, left column, `(3, h, w)` uint8."""

SEGMENT = 2048
"""Columns of the image that are blended together: few enough to stay in the processor's cache."""


def segment_windows(grid: Grid) -> int:
    """How many windows side by side are blended together."""
    return max(1, SEGMENT // grid.columns.stride)


def block_edges(grid: Grid) -> tuple[list[int], list[int]]:
    """First row and first column of the blocks that a sink is given, and the image's height and width."""
    rows, columns = grid.rows, grid.columns
    firsts = [*range(0, columns.count, segment_windows(grid)), columns.count]
    return [rows.first(r) for r in range(rows.count + 1)], [columns.first(c) for c in firsts]


class Blender:
    """Blends overlapping windows and hands finished pixels on.

    A pixel is sum(wy · wx · window) / 256², rounded half up, over the one to four windows with weight there;
    weights are whole 256ths that add up to one along each axis (see `Axis`), and a window that is missing
    counts as background. Sums are exact whole numbers, so a pixel does not depend on the order or the
    portions in which windows come. Where a single window counts its pixels are copied.

    Memory: a segment of one window row, and the bottom ramp of the row before, over the image's width.

    Args:
        grid: the windows.
        active: `(rows, columns)` bool: the windows that will be given.
        sink: takes finished pixels. What no given window touches is background, and not handed on.
        background: grey value of what is missing.
    """

    def __init__(self, grid: Grid, active: np.ndarray, sink: Sink, *, background: int = 255) -> None:
        self.grid, self.active, self.sink, self.background = grid, active, sink, background
        rows, columns = grid.rows, grid.columns
        self.per_segment = segment_windows(grid)
        self._blank = np.full((3, rows.tile, columns.tile), background, np.uint8)
        self._below = np.full((3, rows.ramp, columns.size), background * ONE, np.uint16)
        self._left = self._blank[:, :, : columns.ramp]
        self._wx = columns.weights()
        self._wy = rows.weights()[:, None].astype(np.uint32)

    def restart(self) -> None:
        """Forgets the rows that came, to go on at another one."""
        self._below[...] = self.background * ONE

    def segments(self) -> list[tuple[int, int]]:
        """Columns [first, stop) that each call of `segment` takes, from left to right."""
        n = self.grid.columns.count
        return [(c, min(c + self.per_segment, n)) for c in range(0, n, self.per_segment)]

    def segment(
        self, row: int, columns: tuple[int, int], tiles: Mapping[int, np.ndarray], *, emit: bool = True
    ) -> None:
        """Takes some windows of a row; rows come from top to bottom, their segments from left to right.

        Args:
            row: which window row.
            columns: one of `segments()`.
            tiles: column to window, `(3, tile, tile)` uint8, of those that are active.
            emit: hand pixels on; otherwise the row only prepares for the one below.
        """
        first, stop = columns
        axis = self.grid.columns
        if self._untouched(row, first, stop):
            self._left = self._blank[:, :, : axis.ramp]
            return
        x0, x1 = axis.first(first), axis.first(stop)
        rows = self.grid.rows
        y0, y1 = rows.first(row), rows.first(row + 1)
        top = 0 if row == 0 else rows.ramp  # rows of the output that the window above has a part in
        inner = y0 - row * rows.stride + top, y1 - row * rows.stride  # rows of a window that count alone
        out = np.empty((3, y1 - y0, x1 - x0), np.uint8)
        upper = np.empty((3, rows.ramp, x1 - x0), np.uint16)
        lower = np.empty((3, rows.ramp, x1 - x0), np.uint16)
        # Where ramps lie in a window: at its start, and at its end.
        start, end = slice(rows.margin, rows.margin + rows.ramp), slice(0, 0)
        if row + 1 < rows.count:
            end = slice(rows.stride + rows.margin, rows.stride + rows.margin + rows.ramp)
        below = self._below[:, :, x0:x1]
        for column in range(first, stop):
            tile = tiles.get(column, self._blank)
            origin = column * axis.stride
            at = axis.first(column) - x0
            if column:
                ramp = slice(axis.margin, axis.margin + axis.ramp)
                mixed = np.multiply(tile[:, :, ramp], self._wx, dtype=np.uint16)
                mixed += np.multiply(self._left, ONE - self._wx, dtype=np.uint16)
                there = slice(at, at + axis.ramp)
                upper[:, :, there] = mixed[:, start]
                if end.stop:
                    lower[:, :, there] = mixed[:, end]
                part = mixed[:, inner[0] : inner[1]]
                part += ONE // 2  # at most 255 · 256 + 128
                np.right_shift(part, 8, out=out[:, top:, there], casting="unsafe")
                at += axis.ramp
            alone = slice(at + x0 - origin, axis.first(column + 1) - origin)
            there = slice(at, at + alone.stop - alone.start)
            out[:, top:, there] = tile[:, inner[0] : inner[1], alone]
            np.multiply(tile[:, start, alone], ONE, out=upper[:, :, there], dtype=np.uint16)
            if end.stop:
                np.multiply(tile[:, end, alone], ONE, out=lower[:, :, there], dtype=np.uint16)
            self._left = tile[:, :, axis.stride + axis.margin : axis.stride + axis.margin + axis.ramp]
        if top and emit:
            total = upper * self._wy
            total += below * (ONE - self._wy)
            total += ONE * ONE // 2
            np.right_shift(total, 16, out=out[:, :top], casting="unsafe")
        if end.stop:
            below[...] = lower
        if emit:
            self.sink(y0, x0, out)

    def _untouched(self, row: int, first: int, stop: int) -> bool:
        """Whether all windows with weight in a segment, in this row and the one above, are background."""
        return not self.active[max(row - 1, 0) : row + 1, max(first - 1, 0) : stop].any()
