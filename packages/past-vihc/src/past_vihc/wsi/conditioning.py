"""What the generator is conditioned on: the frozen encoder's vectors, row by row of windows."""

from typing import TYPE_CHECKING

import numpy as np

from past_core.errors import PastError
from past_core.slides import iter_patches
from past_vihc.wsi.grid import Grid

if TYPE_CHECKING:
    from past_core.frozen import FrozenEncoder
    from past_core.slides import Slide, View


class ConditioningError(PastError, ValueError):
    """Embeddings that cannot be made, or do not fit the windows."""


class TileConditioning:
    """One vector a window: of the encoder's field round the window's centre.

    Args:
        slide: an open slide of known resolution.
        view: the slide at the generator's resolution.
        grid: windows over the view.
        active: `(rows, columns)` bool: the windows that are stained.
        encoder: the frozen encoder.
        batch_size: patches at a time.
    """

    def __init__(
        self,
        slide: "Slide",
        view: "View",
        grid: Grid,
        active: np.ndarray,
        encoder: "FrozenEncoder",
        *,
        batch_size: int,
    ) -> None:
        self.slide, self.view, self.grid, self.active = slide, view, grid, active
        self.encoder, self.batch_size = encoder, batch_size

    def row(self, row: int) -> np.ndarray:
        """Vectors of the active windows of a row, from left to right: `(n, d)` float32."""
        x = np.flatnonzero(self.active[row]) * self.grid.stride + self.grid.tile / 2
        return self._embed(x, row * self.grid.stride + self.grid.tile / 2)

    def _embed(self, x: np.ndarray, y: float) -> np.ndarray:
        """Vectors at points of the view on one line: `(n, d)`."""
        from past_core.embed.vectors import encode_stream  # with anndata, which plain generators spare

        points = np.stack([x, np.full(len(x), y)], axis=1) * self.view.downsample
        made = np.empty((len(x), self.encoder.dim), np.float32)
        stream = iter_patches(
            self.slide,
            points,
            mpp=self.encoder.mpp,
            size=self.encoder.patch_size,
            batch_size=self.batch_size,
        )
        for index, vectors in encode_stream(self.encoder, stream):
            made[index] = vectors
        if not np.isfinite(made).all():
            place = points[int(np.flatnonzero(~np.isfinite(made).all(axis=1))[0])]
            raise ConditioningError(
                f"{self.slide.path}: {self.encoder.name} gives NaN or infinity at x {place[0]:.0f}, "
                f"y {place[1]:.0f}"
            )
        return made


class CellConditioning(TileConditioning):
    """A grid of vectors a window, at the nodes of one grid that is anchored at the slide's corner.

    Nodes lie every `step` pixels, and windows start on nodes, so neighbours share theirs: each is embedded
    once, a line of nodes at a time, and kept while windows need it.

    Args:
        step: pixels of the view from node to node; divides the window and its stride.
        Others: as in `TileConditioning`.

    Raises:
        ConditioningError: a step that does not.
    """

    def __init__(
        self,
        slide: "Slide",
        view: "View",
        grid: Grid,
        active: np.ndarray,
        encoder: "FrozenEncoder",
        *,
        batch_size: int,
        step: int,
    ) -> None:
        super().__init__(slide, view, grid, active, encoder, batch_size=batch_size)
        if step < 1 or grid.tile % step or grid.stride % step:
            raise ConditioningError(
                f"nodes every {step} px do not divide windows of {grid.tile} px every {grid.stride} px"
            )
        self.step, self.side, self.per_stride = step, grid.tile // step + 1, grid.stride // step
        self._lines: dict[int, np.ndarray] = {}

    def row(self, row: int) -> np.ndarray:
        """Vectors of the active windows of a row: `(n, d, g, g)` float32."""
        top = row * self.per_stride
        self._lines = {line: values for line, values in self._lines.items() if line >= top}
        lines = [self._line(top + k) for k in range(self.side)]
        first = np.flatnonzero(self.active[row]) * self.per_stride
        index = first[:, None] + np.arange(self.side)
        nodes = np.stack([line[index] for line in lines], axis=1)  # (n, g, g, d)
        return np.ascontiguousarray(np.moveaxis(nodes, 3, 1))

    def _line(self, line: int) -> np.ndarray:
        """Vectors along one line of nodes, `(nodes, d)`; only those that any window needs are made."""
        if line not in self._lines:
            # All windows on the line, whichever row asks first: batches are then the same in every run.
            last = line // self.per_stride
            spread = -(-self.side // self.per_stride)
            rows = range(max(0, last - spread), min(last, self.grid.rows.count - 1) + 1)
            needed = np.zeros(self.grid.columns.count * self.per_stride + self.side, bool)
            for row in rows:
                if row * self.per_stride <= line < row * self.per_stride + self.side:
                    first = np.flatnonzero(self.active[row]) * self.per_stride
                    needed[(first[:, None] + np.arange(self.side)).ravel()] = True
            values = np.zeros((len(needed), self.encoder.dim), np.float32)
            values[needed] = self._embed(np.flatnonzero(needed) * float(self.step), line * float(self.step))
            self._lines[line] = values
        return self._lines[line]
