"""Cells of slides as batches of features or pixels with their expression."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from past_core.data.plan import BlockCells
from past_core.data.source import BlockData, PatchSpec, SlideSource
from past_core.data.supply import RegionSupply
from past_core.errors import PastError
from past_core.slides.patches import patch_origin
from past_core.slides.stored import StoredSlide
from past_genex.data.slides import ExpressionSlide
from past_genex.data.targets import Target


class FeatureError(PastError, ValueError):
    """Features that are not finite, or of another number of cells."""


class ExpressionBatch(NamedTuple):
    """B cells."""

    inputs: torch.Tensor
    """`(B, d)` float32 features, or `(B, 3, L, L)` uint8 pixels."""
    targets: torch.Tensor
    """`(B, G)` float32 expression; NaN where a gene is not measured."""
    slide: torch.Tensor
    """`(B,)` int64 number of the slide."""
    cell: torch.Tensor
    """`(B,)` int64 place among the slide's usable cells."""


class PixelSource(SlideSource):
    """A slide's usable cells as pixels alone; blocks are read as in pretraining, no tokens are made.

    Args:
        slide: the slide.
        spec: resolution and size of a patch.
    """

    def __init__(self, slide: ExpressionSlide, spec: PatchSpec) -> None:  # without the tokens of its parent
        self.store, self.spec = slide.store, spec
        self._keep = np.zeros(slide.store.n_cells, bool)
        self._keep[slide.rows] = True
        self._view = StoredSlide(slide.store).at(spec.mpp)
        points = slide.store.centroids / self._view.downsample
        self._left, self._top = patch_origin(points[:, 0], points[:, 1], spec.size)

    def _usable(self, block: int) -> np.ndarray:
        _, _, start, stop = self.store.blocks[block]
        return start + np.flatnonzero(self._keep[start:stop])

    def read_block(self, block: int) -> BlockData:
        """Reads a block's pixels once."""
        rows = self._usable(block)
        left, top = int(self._left[rows].min()), int(self._top[rows].min())
        width = int(self._left[rows].max()) - left + self.spec.size
        height = int(self._top[rows].max()) - top + self.spec.size
        n = len(rows)
        return BlockData(
            image=self._view.read(top, left, height, width),
            left=left,
            top=top,
            rows=rows,
            tokens=np.zeros((n, 1), np.int32),
            lengths=np.ones(n, np.int64),
            neighbors=np.full((n, 0), -1, np.int64),
        )

    def distances(self, rows: np.ndarray) -> np.ndarray:
        """None: `(n, 0)`."""
        return np.zeros((len(rows), 0), np.float32)


class ExpressionSupply:
    """Batches of cells with their targets, made as they are asked for.

    Args:
        slides: the slides, by number.
        genes: `(G,)` ids of the targets' columns.
        target: their scale.
        features: per slide `(N, d)`; None supplies pixels.
        spec: of the patches, where pixels are supplied.
        open_blocks: blocks kept in memory.

    Raises:
        FeatureError: features of another number of cells than their slide's.
    """

    def __init__(
        self,
        slides: Sequence[ExpressionSlide],
        genes: pd.Index,
        target: Target,
        *,
        features: Sequence[np.ndarray] | None = None,
        spec: PatchSpec | None = None,
        open_blocks: int = 16,
    ) -> None:
        self.slides, self.genes, self.target, self._features = slides, genes, target, features
        for slide, own in zip(slides, features or [], strict=False):
            if len(own) != slide.n_cells:
                raise FeatureError(
                    f"{slide.name}: features of {len(own)} cells, the slide has {slide.n_cells}"
                )
        self._pixels = None
        if features is None and spec is not None:
            self._pixels = RegionSupply([PixelSource(s, spec) for s in slides], open_blocks=open_blocks)

    def blocks(self, number: int, cells: np.ndarray) -> list[BlockCells]:
        """The chosen usable cells (`(N,)` bool) of every block of a slide."""
        slide = self.slides[number]
        rows = slide.rows[cells]
        block = np.searchsorted(slide.store.blocks[:, 3], rows, side="right")
        return [
            BlockCells(number, int(one), rows[block == one], slide.store.centroids[rows[block == one]])
            for one in np.unique(block)
        ]

    def hold(self, keys: Iterable[tuple[int, int]]) -> None:
        """See `RegionSupply`."""
        if self._pixels is not None:
            self._pixels.hold(keys)

    def release(self, keys: Iterable[tuple[int, int]]) -> None:
        """See `RegionSupply`."""
        if self._pixels is not None:
            self._pixels.release(keys)

    def batch(self, cells: np.ndarray) -> ExpressionBatch:
        """Cells `(B, 3)` of slide, block, row of the store, in their order.

        Raises:
            FeatureError: features that are not finite; names the slide and the cell.
        """
        targets = np.empty((len(cells), len(self.genes)), np.float32)
        place = np.empty(len(cells), np.int64)
        inputs = None
        for number in np.unique(cells[:, 0]):
            slide, at = self.slides[number], np.flatnonzero(cells[:, 0] == number)
            own = place[at] = np.searchsorted(slide.rows, cells[at, 2])
            targets[at] = slide.expression(self.target, self.genes, own)
            if self._features is not None:
                values = np.asarray(self._features[number][own], np.float32)
                bad = ~np.isfinite(values).all(axis=1)
                if bad.any():
                    raise FeatureError(
                        f"slide {slide.name}: the features of {int(bad.sum())} of {len(own)} cells of a "
                        f"batch are NaN or infinite, the first "
                        f"{slide.cell_ids[own[np.argmax(bad)]]}; embed it again"
                    )
                inputs = np.empty((len(cells), values.shape[1]), np.float32) if inputs is None else inputs
                inputs[at] = values
        if inputs is not None:
            images = torch.from_numpy(inputs)
        elif self._pixels is not None:
            images = self._pixels.batch(cells).images
        else:
            raise FeatureError("neither features nor the specification of patches were given to supply")
        return ExpressionBatch(
            images,
            torch.from_numpy(targets),
            torch.from_numpy(np.ascontiguousarray(cells[:, 0])),
            torch.from_numpy(place),
        )
