"""Which sequences run together, so that padding costs nothing: planned on the host, from lengths alone."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np

MAX_CHUNKS = 8
"""Most groups that a batch's sequences are cut into by length."""
CHUNK_COST = 512
"""Padded tokens that one more group must save: about what its calls cost on a CPU."""
ACCELERATOR_CHUNK_COST = 12_288
"""The same where kernels must be launched: 15 ms for twelve layers, both passes, on an H200."""


class Chunk(NamedTuple):
    """Sequences `start` to `stop` of the sorted batch, which run together."""

    start: int
    stop: int
    width: int
    """Length of the longest: where all are cut."""
    padded: bool
    """Whether any is shorter, so that attention needs a mask."""


class ChunkPlan(NamedTuple):
    """The chunks of a batch, and the order that they are cut from."""

    order: np.ndarray | None
    """(B,) int64: the sorted batch is `batch[order]`; None where it stays as it is."""
    chunks: tuple[Chunk, ...]

    @property
    def tokens(self) -> int:
        """Tokens that the transformer runs over, padding included."""
        return sum((chunk.stop - chunk.start) * chunk.width for chunk in self.chunks)


def plan_chunks(lengths: np.ndarray, *, most: int | None = None, accelerator: bool = False) -> ChunkPlan:
    """Sort sequences by length and cut them into at most `MAX_CHUNKS` groups with the fewest padded tokens.

    The cuts are optimal: a dynamic programme over the different lengths (at most 303), in which every
    further group must save `CHUNK_COST` tokens, or `ACCELERATOR_CHUNK_COST`.

    Args:
        lengths: (B,) tokens of each sequence, at least 1.
        most: cut groups further, to at most so many sequences.
        accelerator: the sequences run on a GPU, where one more group costs more.
    """
    lengths = np.asarray(lengths)
    if not len(lengths):
        return ChunkPlan(None, (Chunk(0, 0, 1, padded=False),))
    cuts = _cuts(lengths, float(ACCELERATOR_CHUNK_COST if accelerator else CHUNK_COST))
    if len(cuts) == 2 and (most is None or len(lengths) <= most):
        return ChunkPlan(None, (_chunk(lengths, 0, len(lengths)),))
    order = np.argsort(lengths, kind="stable")
    ascending = lengths[order]
    chunks = []
    for start, stop in pairwise(cuts):
        chunks += [_chunk(ascending, start + a, start + b) for a, b in _evenly(stop - start, most)]
    return ChunkPlan(order, tuple(chunks))


def equal_chunks(n: int, width: int, *, most: int | None = None) -> tuple[Chunk, ...]:
    """Chunks of n sequences of which nothing but the width is known, at most `most` in each."""
    return tuple(Chunk(start, stop, width, padded=True) for start, stop in _evenly(n, most))


def _evenly(n: int, most: int | None) -> list[tuple[int, int]]:
    parts = 1 if most is None else max(1, -(-n // most))
    return [(n * part // parts, n * (part + 1) // parts) for part in range(parts)]


def _chunk(lengths: np.ndarray, start: int, stop: int) -> Chunk:
    part = lengths[start:stop]
    width = int(part.max())
    return Chunk(int(start), int(stop), width, bool(part.min() < width))


def _cuts(lengths: np.ndarray, group_cost: float) -> np.ndarray:
    """Where the sorted lengths are cut: 0, ..., B."""
    width, count = np.unique(lengths, return_counts=True)
    ends = np.concatenate([[0], np.cumsum(count)])
    n = len(width)
    # cost[i, j]: tokens of one group of the different lengths i to j - 1.
    cost = (ends[None, :] - ends[:, None]) * np.concatenate([[0], width])[None, :] + group_cost
    cost[np.tril_indices(n + 1)] = np.inf
    best, back = cost[0], [np.zeros(n + 1, np.int64)]
    candidates = [(best[n], 1)]
    for groups in range(2, min(MAX_CHUNKS, n) + 1):
        through = best[:, None] + cost
        back.append(through.argmin(0))
        best = through.min(0)
        candidates.append((best[n], groups))
    groups = min(candidates)[1]
    cuts = [n]
    for step in reversed(back[:groups]):
        cuts.append(int(step[cuts[-1]]))
    return ends[cuts[::-1]]
