"""One slide as the supply sees it: pixels at the encoder's resolution, cells as tokens, block by block."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from past_core.data.plan import BlockCells
from past_core.errors import PastError
from past_core.ingest.store import SlideStore
from past_core.slides.patches import cut, patch_origin
from past_core.slides.stored import StoredSlide
from past_core.tokens import Vocabulary, gene_coverage, rank_tokenize, trim_padding


class EmptySlideError(PastError, ValueError):
    """A slide has no cell that can be used."""


@dataclass(frozen=True, kw_only=True)
class PatchSpec:
    """The image side of a batch: the encoder's resolution in µm per pixel and its input size in pixels."""

    mpp: float
    size: int


@dataclass(frozen=True)
class BlockData:
    """One block in memory: all that its usable cells need.

    Attributes:
        image: `(3, h, w)` uint8, the pixels of their patches.
        left: column of `image` in the slide, in pixels of the encoder's resolution.
        top: row, likewise.
        rows: `(n,)` ascending rows of the usable cells and of all their neighbours.
        tokens: `(n, T)` int32 rank tokens of these, padded to the longest.
        lengths: `(n,)` tokens of each, context included.
        neighbors: `(n, k)` places of their neighbours in `rows`, nearest first; -1 where absent, and for
            cells that are here as neighbours only.
    """

    image: np.ndarray
    left: int
    top: int
    rows: np.ndarray
    tokens: np.ndarray
    lengths: np.ndarray
    neighbors: np.ndarray

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return sum(a.nbytes for a in (self.image, self.rows, self.tokens, self.lengths, self.neighbors))


class SlideSource:
    """One slide store seen by the supply.

    Args:
        store: an open slide store.
        spec: resolution and size of a patch.
        vocabulary: the token vocabulary.
        gene_means: `(n_genes,)` non-zero means in the vocabulary's order.
        max_genes: gene tokens kept per cell.
        context_order: of the context tokens.
        missing_means: what becomes of genes without a mean, see `rank_tokenize`.

    Raises:
        VocabularyError: none of the slide's genes is in the vocabulary.
        TokenError: none of them has a mean.
        EmptySlideError: no cell passed quality control.
    """

    def __init__(
        self,
        store: SlideStore,
        *,
        spec: PatchSpec,
        vocabulary: Vocabulary,
        gene_means: np.ndarray,
        max_genes: int,
        context_order: Sequence[str] = ("assay", "organism", "modality"),
        missing_means: Literal["drop", "one"] = "drop",
    ) -> None:
        if not store.passed.any():
            raise EmptySlideError(
                f"{store.path}: none of its {store.n_cells} cells passed quality control "
                f"(reasons: {store.manifest.get('qc', {}).get('reasons')}); ingest it again or leave it out"
            )
        self.store, self.spec = store, spec
        self._means, self._max_genes = gene_means, max_genes
        self._missing = missing_means
        self._context = vocabulary.context(store.assay, store.organism, store.modality, order=context_order)
        genes = list(store.genes.index)
        gene_coverage(vocabulary, genes, gene_means, source=str(store.path))
        self.gene_index = vocabulary.lookup(genes)
        self._slide = StoredSlide(store)
        self._view = self._slide.at(spec.mpp)
        points = store.centroids / self._view.downsample
        self._left, self._top = patch_origin(points[:, 0], points[:, 1], spec.size)
        self._distances = np.where(np.isfinite(store.distances), store.distances, 0.0) / np.float32(
            store.median_distance if np.isfinite(store.median_distance) else 1.0
        )

    def blocks(self, slide: int) -> list[BlockCells]:
        """The usable cells of every block, as `slide` in the plan."""
        return [
            BlockCells(slide, index, rows, self.store.centroids[rows])
            for index in range(len(self.store.blocks))
            if len(rows := self._usable(index))
        ]

    def _usable(self, block: int) -> np.ndarray:
        _, _, start, stop = self.store.blocks[block]
        return start + np.flatnonzero(self.store.passed[start:stop])

    def read_block(self, block: int) -> BlockData:
        """Reads a block once: the pixels of its cells' patches, and the tokens of cells and neighbours.

        The cells of a block are one contiguous slice of the counts; few neighbours lie outside it.
        """
        rows = self._usable(block)
        left, top = int(self._left[rows].min()), int(self._top[rows].min())
        width = int(self._left[rows].max()) - left + self.spec.size
        height = int(self._top[rows].max()) - top + self.spec.size
        image = self._view.read(top, left, height, width)
        near = self.store.neighbors[rows]
        everyone = np.union1d(rows, near[near >= 0])
        tokens, lengths = self.tokens(everyone)
        neighbors = np.full((len(everyone), near.shape[1]), -1, np.int64)
        neighbors[np.searchsorted(everyone, rows)] = np.where(near >= 0, np.searchsorted(everyone, near), -1)
        return BlockData(
            image=image,
            left=left,
            top=top,
            rows=everyone,
            tokens=np.ascontiguousarray(trim_padding(tokens, lengths)),
            lengths=lengths,
            neighbors=neighbors,
        )

    def cut(self, block: BlockData, rows: np.ndarray, out: np.ndarray, at: np.ndarray) -> None:
        """Cuts the patches of cells of a block in memory into places `at` of `out`, `(B, 3, size, size)`."""
        cut(block.image, self._left[rows] - block.left, self._top[rows] - block.top, self.spec.size, out, at)

    def tokens(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rank tokens `(n, 3 + max_genes)` and lengths `(n,)` of cells by row."""
        return rank_tokenize(
            self.store.counts[rows],
            self.gene_index,
            self._means,
            self._context,
            max_genes=self._max_genes,
            missing=self._missing,
        )

    def distances(self, rows: np.ndarray) -> np.ndarray:
        """Distances to their neighbours over the slide's median, `(n, k)` float32, 0 where absent."""
        return self._distances[rows]
