"""From (slide, block, row) to batches: blocks are read and tokenised once, patches cut from memory."""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from past_core.data.batch import CellBatch
from past_core.data.buffers import PatchBuffers
from past_core.data.source import BlockData, EmptySlideError, PatchSpec, SlideSource
from past_core.ingest.store import SlideStore
from past_core.remote import Location
from past_core.tokens import PAD

__all__ = ["BlockData", "EmptySlideError", "PatchSpec", "RegionSupply", "SlideSource", "open_stores"]

Key = tuple[int, int]
"""Slide and block."""

_ROW_BITS = 40


class RegionSupply:
    """Makes batches from slides whose blocks are read once, by threads, and kept while they are needed.

    Loaders say which blocks they will need (`hold`) and when they are done with one (`release`); what is
    asked for without that is kept until `open_blocks` others were used since.

    Args:
        sources: the slides, in the order of the plan's slide numbers.
        open_blocks: blocks kept in memory beyond those that are held.
        threads: threads that read blocks ahead. Decoding is parallel in itself.
    """

    def __init__(self, sources: Sequence[SlideSource], *, open_blocks: int = 16, threads: int = 2) -> None:
        self.sources = list(sources)
        self._capacity = max(2, open_blocks)
        self._blocks: OrderedDict[Key, Future[BlockData]] = OrderedDict()
        self._held: dict[Key, int] = {}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="past-blocks")
        self._buffers = PatchBuffers(self.sources[0].spec.size)
        self._width = max(source.store.neighbors.shape[1] for source in self.sources)

    # --- blocks in memory -----------------------------------------------------------------------------------

    def hold(self, keys: Iterable[Key]) -> None:
        """Starts reading blocks, and keeps each until it was released as often as it was held."""
        with self._lock:
            for key in keys:
                self._held[key] = self._held.get(key, 0) + 1
                self._want(key)

    def release(self, keys: Iterable[Key]) -> None:
        """Lets blocks go."""
        with self._lock:
            for key in keys:
                self._held[key] -= 1
                if not self._held[key]:
                    del self._held[key]
                    future = self._blocks.pop(key)
                    future.cancel()

    def _want(self, key: Key) -> Future[BlockData]:
        if key not in self._blocks:
            slide, block = key
            self._blocks[key] = self._pool.submit(self.sources[slide].read_block, block)
        self._blocks.move_to_end(key)
        return self._blocks[key]

    def _get(self, key: Key) -> Future[BlockData]:
        with self._lock:
            future = self._want(key)
            loose = [other for other in self._blocks if other not in self._held]
            for other in loose[: max(0, len(loose) - self._capacity)]:
                del self._blocks[other]
            return future

    @property
    def nbytes(self) -> int:
        """Bytes of the blocks in memory."""
        with self._lock:
            futures = list(self._blocks.values())
        return sum(
            f.result().nbytes for f in futures if f.done() and not f.cancelled() and f.exception() is None
        )

    # --- batches --------------------------------------------------------------------------------------------

    def batch(self, cells: np.ndarray) -> CellBatch:
        """Cells `(B, 3)` of slide, block, row as one batch, in their order."""
        images = self._buffers.take(len(cells))
        pixels = images.numpy()
        code, which = np.unique(cells[:, 0] << _ROW_BITS | cells[:, 1], return_inverse=True)
        keys = [(int(c >> _ROW_BITS), int(c & (1 << _ROW_BITS) - 1)) for c in code]
        order = np.argsort(which, kind="stable")
        members = np.split(order, np.cumsum(np.bincount(which))[:-1])
        distances = np.zeros((len(cells), self._width), np.float32)
        cell_tokens = _Tokens(len(cells), self._width)
        # A batch may touch more blocks than are kept: ask for a few at a time, in order.
        for start in range(0, len(keys), self._capacity):
            part = keys[start : start + self._capacity]
            futures = [self._get(key) for key in part]
            for (slide, _), future, at in zip(part, futures, members[start:], strict=False):
                source, block, rows = self.sources[slide], future.result(), cells[at, 2]
                source.cut(block, rows, pixels, at)
                own = source.distances(rows)
                distances[at, : own.shape[1]] = own
                cell_tokens.add(block, at, rows)
        tokens, centres, neighbors, lengths = cell_tokens.gather()
        arrays = (tokens, centres, neighbors, distances, cells[:, 0], cells[:, 2])
        tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]
        if self._buffers.pin:
            tensors = [tensor.pin_memory() for tensor in tensors]  # or their copies would wait for the device
        return CellBatch._make([images, *tensors, lengths])

    def close(self) -> None:
        """Stops the reading threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class _Tokens:
    """Collects the cells of a batch block by block; every distinct cell of a block has its tokens once."""

    def __init__(self, cells: int, width: int) -> None:
        # Column 0 is the cell itself, then its neighbours: places in all blocks' rows, -1 where absent.
        self._place = np.full((cells, 1 + width), -1, np.int64)
        self._blocks: list[BlockData] = []
        self._rows = 0

    def add(self, block: BlockData, at: np.ndarray, rows: np.ndarray) -> None:
        """The cells at places `at` of the batch, `rows` of this block, with their neighbours."""
        place = np.searchsorted(block.rows, rows)
        near = block.neighbors[place]
        self._place[at, 0] = self._rows + place
        self._place[at, 1 : 1 + near.shape[1]] = np.where(near >= 0, self._rows + near, -1)
        self._blocks.append(block)
        self._rows += len(block.rows)

    def gather(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Tokens (U, T) int64, centres (B,), neighbours (B, k) and the centres' lengths (B,)."""
        # Marking costs less than sorting; place -1 marks the last entry, which stands for no cell.
        used = np.zeros(self._rows + 1, bool)
        used[self._place] = True
        used[-1] = False
        index = (np.cumsum(used) - 1)[self._place]
        index[self._place < 0] = -1
        chosen, start = [], 0
        for block in self._blocks:
            chosen.append(np.flatnonzero(used[start : start + len(block.rows)]))
            start += len(block.rows)
        lengths = np.concatenate([b.lengths[own] for b, own in zip(self._blocks, chosen, strict=True)])
        tokens = np.full((len(lengths), int(lengths.max())), PAD, np.int64)
        start = 0
        for block, own in zip(self._blocks, chosen, strict=True):
            width = min(tokens.shape[1], block.tokens.shape[1])
            tokens[start : start + len(own), :width] = block.tokens[own, :width]
            start += len(own)
        centres = index[:, 0]
        return tokens, centres, index[:, 1:], lengths[centres]


def open_stores(paths: Sequence[str | Path]) -> list[SlideStore]:
    """Opens slide stores, by path or URL, refusing the same slide twice.

    Raises:
        StoreError, StoreNotFoundError: a path is no whole slide store.
        RemoteError: a URL cannot be reached, or may not be read.
    """
    with ThreadPoolExecutor(8, thread_name_prefix="past-opening") as pool:  # a URL's answers take their time
        stores = list(pool.map(SlideStore, paths))
    seen: dict[Location, str] = {}
    for store in stores:
        resolved = store.path.resolve()
        if resolved in seen:
            raise EmptySlideError(f"{store.path} is listed twice; list every slide once")
        seen[resolved] = store.name
    return stores
