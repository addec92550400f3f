"""From (slide, block, row) to pixels, tokens and neighbourhoods: blocks are read once, cut from memory."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from past_core.data.batch import CellBatch
from past_core.data.plan import BlockCells
from past_core.errors import PastError
from past_core.ingest.store import SlideStore
from past_core.slides.opening import open_slide
from past_core.slides.patches import cut, patch_origin
from past_core.tokens import PAD, Vocabulary, gene_coverage, rank_tokenize


class EmptySlideError(PastError, ValueError):
    """A slide has no cell that can be used."""


@dataclass(frozen=True, kw_only=True)
class PatchSpec:
    """The image side of a batch: the encoder's resolution in µm per pixel and its input size in pixels."""

    mpp: float
    size: int


class SlideSource:
    """One slide store seen by the supply: its pixels at the encoder's resolution and its cells as tokens.

    Args:
        store: an open slide store.
        spec: resolution and size of a patch.
        vocabulary: the token vocabulary.
        gene_means: `(n_genes,)` non-zero means in the vocabulary's order.
        max_genes: gene tokens kept per cell.

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
    ) -> None:
        if not store.passed.any():
            raise EmptySlideError(
                f"{store.path}: none of its {store.n_cells} cells passed quality control "
                f"(reasons: {store.manifest.get('qc', {}).get('reasons')}); ingest it again or leave it out"
            )
        self.store, self.spec = store, spec
        self._means, self._max_genes = gene_means, max_genes
        self._context = vocabulary.context(store.assay, store.organism, store.modality)
        genes = list(store.genes.index)
        gene_coverage(vocabulary, genes, gene_means, source=str(store.path))
        self.gene_index = vocabulary.lookup(genes)
        self._slide = open_slide(store.path)
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
            for index, (_, _, start, stop) in enumerate(self.store.blocks)
            if len(rows := start + np.flatnonzero(self.store.passed[start:stop]))
        ]

    def read_block(self, block: int) -> tuple[np.ndarray, int, int]:
        """The pixels that the patches of one block's usable cells need: `(3, h, w)`, left column, top row."""
        _, _, start, stop = self.store.blocks[block]
        rows = start + np.flatnonzero(self.store.passed[start:stop])
        left, top = int(self._left[rows].min()), int(self._top[rows].min())
        width = int(self._left[rows].max()) - left + self.spec.size
        height = int(self._top[rows].max()) - top + self.spec.size
        return self._view.read(top, left, height, width), left, top

    def cut(self, region: tuple[np.ndarray, int, int], rows: np.ndarray) -> np.ndarray:
        """Patches of cells that lie in a region that was read: `(n, 3, size, size)` uint8."""
        image, left, top = region
        return cut(image, self._left[rows] - left, self._top[rows] - top, self.spec.size)

    def tokens(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rank tokens `(n, 3 + max_genes)` and lengths `(n,)` of cells by row."""
        return rank_tokenize(
            self.store.counts[rows], self.gene_index, self._means, self._context, max_genes=self._max_genes
        )

    def neighborhood(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Neighbour rows `(n, k)` (-1 absent) and distances `(n, k)` over the slide's median (0 absent)."""
        return self.store.neighbors[rows], self._distances[rows]


class RegionSupply:
    """Makes batches from slides, keeping the most recently used blocks in memory and reading ahead.

    Args:
        sources: the slides, in the order of the plan's slide numbers.
        open_blocks: blocks kept in memory.
        threads: threads that read blocks ahead.
    """

    def __init__(self, sources: Sequence[SlideSource], *, open_blocks: int = 16, threads: int = 1) -> None:
        self.sources = list(sources)
        self._capacity = max(2, open_blocks)
        self._regions: OrderedDict[tuple[int, int], Future] = OrderedDict()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="past-blocks")

    def _region(self, slide: int, block: int) -> Future:
        with self._lock:
            key = (slide, block)
            if key not in self._regions:
                self._regions[key] = self._pool.submit(self.sources[slide].read_block, block)
            self._regions.move_to_end(key)
            while len(self._regions) > self._capacity:
                self._regions.popitem(last=False)
            return self._regions[key]

    def batch(self, cells: np.ndarray, *, images: bool = True) -> CellBatch:
        """Cells `(B, 3)` of slide, block, row as one batch; `images=False` leaves the pixels out (size 0)."""
        size = self.sources[0].spec.size
        pixels = (
            np.empty((len(cells), 3, size, size), np.uint8)
            if images
            else np.empty((0, 3, size, size), np.uint8)
        )
        if images:
            self._cut(cells, pixels)
        *tensors, lengths = self._cells(cells)
        return CellBatch(torch.from_numpy(pixels), *tensors, lengths)

    def _cut(self, cells: np.ndarray, out: np.ndarray) -> None:
        keys, which = np.unique(cells[:, :2], axis=0, return_inverse=True)
        # A batch may touch more blocks than are kept: ask for a few at a time, in order.
        for start in range(0, len(keys), self._capacity):
            regions = [self._region(*key) for key in keys[start : start + self._capacity].tolist()]
            for number, region in enumerate(regions, start=start):
                members = np.flatnonzero(which.ravel() == number)
                out[members] = self.sources[int(keys[number, 0])].cut(region.result(), cells[members, 2])

    def _cells(self, cells: np.ndarray) -> tuple[torch.Tensor | np.ndarray, ...]:
        width = max(source.store.neighbors.shape[1] for source in self.sources)
        centres = np.empty(len(cells), np.int64)
        neighbors = np.full((len(cells), width), -1, np.int64)
        distances = np.zeros((len(cells), width), np.float32)
        own_lengths = np.empty(len(cells), np.int64)
        tokens, longest, offset = [], 0, 0
        for slide in np.unique(cells[:, 0]):
            source = self.sources[slide]
            members = np.flatnonzero(cells[:, 0] == slide)
            rows = cells[members, 2]
            near, distance = source.neighborhood(rows)
            present = near >= 0
            unique, inverse = np.unique(np.concatenate([rows, near[present]]), return_inverse=True)
            slide_tokens, lengths = source.tokens(unique)
            tokens.append(slide_tokens)
            longest = max(longest, int(lengths.max()))
            centres[members] = inverse[: len(rows)] + offset
            own_lengths[members] = lengths[inverse[: len(rows)]]
            local = np.full(near.shape, -1, np.int64)
            local[present] = inverse[len(rows) :] + offset
            neighbors[members, : near.shape[1]] = local
            distances[members, : near.shape[1]] = distance
            offset += len(unique)
        width = max(part.shape[1] for part in tokens)
        padded = np.concatenate(
            [np.pad(p, ((0, 0), (0, width - p.shape[1])), constant_values=PAD) for p in tokens]
        )
        arrays = (
            padded[:, :longest].astype(np.int64),
            centres,
            neighbors,
            distances,
            cells[:, 0],
            cells[:, 2],
        )
        return (*(torch.from_numpy(np.ascontiguousarray(a)) for a in arrays), own_lengths)

    def close(self) -> None:
        """Stops the reading threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def open_stores(paths: Sequence[str | Path]) -> list[SlideStore]:
    """Opens slide stores, refusing the same slide twice.

    Raises:
        StoreError, StoreNotFoundError: a path is no whole slide store.
    """
    stores = [SlideStore(path) for path in paths]
    seen: dict[Path, str] = {}
    for store in stores:
        resolved = store.path.resolve()
        if resolved in seen:
            raise EmptySlideError(f"{store.path} is listed twice; list every slide once")
        seen[resolved] = store.name
    return stores
