"""The order in which cells are seen: a pure function of (seed, epoch, shard)."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from past_core.data.groups import kd_groups
from past_core.errors import PastError


class BatchSizeError(PastError, ValueError):
    """The slides hold fewer cells than one batch over all ranks needs, or ranks and batches do not divide."""


@dataclass(frozen=True)
class BlockCells:
    """The cells of one block that may be drawn."""

    slide: int
    block: int
    rows: np.ndarray
    """`(n,)` rows of the slide's table."""
    points: np.ndarray
    """`(n, 2)` coordinates of these rows."""


class _Pieces(NamedTuple):
    """One round as a line of cells: which block each stretch is, and where it starts."""

    block: np.ndarray  # (p,)
    start: np.ndarray  # (p + 1,) cells before each piece


class _Piece(NamedTuple):
    """A stretch of one block, its groups in random order."""

    block: int
    cells: np.ndarray  # (m,) positions in the plan's table of cells
    bounds: np.ndarray  # (groups + 1,) where each group starts in `cells`


class EpochPlan:
    """Deals all cells of all blocks into batches, again and again, deterministically.

    One round lays all blocks in random order on a line, every cell once; rounds follow each other. An epoch
    is the next stretch of that line that is a whole number of batches on every rank, so that the tail that
    does not fill one leads the next epoch. The stretch is cut into `shards` equal parts, each read by one
    rank alone: but for the blocks that a cut runs through, no block is read by two ranks. A shard walks its
    part with `open_blocks` blocks open at a time, draws spatial groups of `group_size` cells from them at
    random, and opens the next block when one is used up.

    Args:
        blocks: the drawable cells of every block.
        batch_size: cells in a batch of one rank.
        group_size: cells in a spatial group; 1 is a fully shuffled batch.
        open_blocks: blocks that a shard mixes at a time, and keeps in memory.
        seed: seed of every order.
        rank: this process.
        world_size: number of processes.
        shards: parts of an epoch, one or more for each rank; None is one for each. With the same number,
            training takes the same cells in the same steps on 1, 2, 4, ... ranks.
        balance: exponent on the slides' sizes: a round draws as many cells as there are, from each slide in
            proportion to (its cells)^balance. 1 draws every cell once; 0 draws equally from all slides.

    Raises:
        BatchSizeError: fewer cells than `batch_size * world_size`, or shards that neither ranks nor batches
            can be cut into.
    """

    def __init__(
        self,
        blocks: list[BlockCells],
        *,
        batch_size: int,
        group_size: int = 1,
        open_blocks: int = 16,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        shards: int | None = None,
        balance: float = 1.0,
    ) -> None:
        self.batch_size, self.seed, self.rank, self.world_size = batch_size, seed, rank, world_size
        self.shards = world_size if shards is None else shards
        self.balance = balance
        self.n_cells = sum(len(block.rows) for block in blocks)
        step = batch_size * world_size
        if self.n_cells < step:
            raise BatchSizeError(
                f"the training slides hold {self.n_cells} usable cells, but one step needs "
                f"{step} (batch_size {batch_size} x {world_size} ranks); "
                f"lower data.batch_size to at most {self.n_cells // world_size} or add slides"
            )
        if self.shards < 1 or self.shards % world_size or step % self.shards:
            raise BatchSizeError(
                f"data.shards is {self.shards}; expected a multiple of the {world_size} ranks that divides "
                f"the {step} cells of a step (batch_size {batch_size} x {world_size} ranks)"
            )
        if not balance >= 0:
            raise BatchSizeError(f"data.balance is {balance}; expected 0 (slides alike) to 1 (cells alike)")
        self._per_shard = step // self.shards
        self._group_size = group_size
        self._open = max(1, open_blocks)
        self._slide = np.array([block.slide for block in blocks], np.int64)
        self._block = np.array([block.block for block in blocks], np.int64)
        self._sizes = np.array([len(block.rows) for block in blocks], np.int64)
        self._first = np.concatenate([[0], np.cumsum(self._sizes)])
        self._rows = np.concatenate([block.rows for block in blocks])
        self._points = [block.points for block in blocks]
        self._round = lru_cache(maxsize=4)(self._lay_round)

    @property
    def batches_per_epoch(self) -> int:
        """Batches of every rank in every epoch."""
        return self.n_cells // (self.batch_size * self.world_size)

    def epoch(self, epoch: int) -> np.ndarray:
        """This rank's cells of one epoch: `(batches, batch_size, 3)` int64 of slide, block, row."""
        mine = self.shards // self.world_size
        parts = [self._shard(epoch, self.rank * mine + index) for index in range(mine)]
        return np.concatenate(parts, axis=1)

    def sample(self, count: int, *, blocks: int = 64) -> np.ndarray:
        """`count` cells (or all) of at most that many blocks, alike on every rank: `(n, 3)`, sorted."""
        rng = np.random.default_rng([self.seed, 3])
        some = np.sort(rng.permutation(len(self._sizes))[:blocks])
        position = np.concatenate([np.arange(*self._first[b : b + 2]) for b in some])
        chosen = np.sort(rng.permutation(position)[:count])
        block = np.searchsorted(self._first, chosen, side="right") - 1
        return np.stack([self._slide[block], self._block[block], self._rows[chosen]], axis=1)

    def _shard(self, epoch: int, shard: int) -> np.ndarray:
        """A shard's cells of one epoch, `(batches, cells, 3)`."""
        batches, cells = self.batches_per_epoch, self._per_shard
        start = (epoch * self.shards + shard) * batches * cells
        rng = np.random.default_rng([self.seed, epoch, 2, shard, self.shards])
        position, block = self._mix(self._line(start, start + batches * cells), rng)
        drawn = np.stack([self._slide[block], self._block[block], self._rows[position]], axis=1)
        return drawn.reshape(batches, cells, 3)

    def _line(self, start: int, stop: int) -> Iterator[_Piece]:
        """The pieces of blocks between two places of the endless line of rounds."""
        for number in range(start // self.n_cells, -(-stop // self.n_cells)):
            pieces = self._round(number)
            low, high = max(0, start - number * self.n_cells), min(self.n_cells, stop - number * self.n_cells)
            first, last = np.searchsorted(pieces.start, [low, high - 1], side="right") - 1
            for index in range(first, last + 1):
                begin, end = pieces.start[index], pieces.start[index + 1]
                yield self._piece(number, index, pieces, max(low, begin) - begin, min(high, end) - begin)

    def _piece(self, number: int, index: int, pieces: _Pieces, low: int, high: int) -> _Piece:
        block = int(pieces.block[index])
        # Grouped when it is needed: a rank sees few of the blocks.
        grouped, sizes = _grouped(self._points[block], self._group_size)
        order = np.random.default_rng([self.seed, number, 1, index]).permutation(len(sizes))
        starts = np.cumsum(sizes) - sizes
        sizes, starts = sizes[order], starts[order]
        bounds = np.concatenate([[0], np.cumsum(sizes)])
        cells = grouped[np.repeat(starts - bounds[:-1], sizes) + np.arange(bounds[-1])]
        inside = bounds[(bounds > low) & (bounds < high)]
        return _Piece(
            block, self._first[block] + cells[low:high], np.concatenate([[low], inside, [high]]) - low
        )

    def _lay_round(self, number: int) -> _Pieces:
        """The blocks of one round in random order; with `balance` some several times, some in part."""
        rng = np.random.default_rng([self.seed, number, 0])
        block, size = np.arange(len(self._sizes)), self._sizes
        if self.balance != 1:
            block, size = self._balanced(rng)
        order = rng.permutation(len(block))
        return _Pieces(block[order], np.concatenate([[0], np.cumsum(size[order])]))

    def _balanced(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Blocks and how many of their cells, so that slides are drawn as `balance` says."""
        slides, index = np.unique(self._slide, return_inverse=True)
        own = np.bincount(index, weights=self._sizes, minlength=len(slides))
        share = own**self.balance
        ideal = np.cumsum(share / share.sum() * self.n_cells)
        quota = np.diff(np.round(ideal).astype(np.int64), prepend=0)
        blocks, sizes = [], []
        for slide, wanted in enumerate(quota):
            members = np.flatnonzero(index == slide)
            passes, rest = divmod(int(wanted), int(own[slide]))
            blocks += [members] * passes
            sizes += [self._sizes[members]] * passes
            some = rng.permutation(members)
            before = np.cumsum(self._sizes[some]) - self._sizes[some]
            some, before = some[before < rest], before[before < rest]
            blocks.append(some)
            sizes.append(np.minimum(self._sizes[some], rest - before))
        return np.concatenate(blocks), np.concatenate(sizes)

    def _mix(self, pieces: Iterator[_Piece], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draws groups from `open_blocks` pieces at a time; positions and blocks of all cells."""
        at_once = max(1, self._per_shard // self._group_size)
        opened: list[_Piece] = []
        remaining = np.zeros(0, np.int64)
        cells: list[np.ndarray] = []
        blocks: list[np.ndarray] = []
        more = True
        while True:
            while more and len(opened) < self._open:
                piece = next(pieces, None)
                if more := piece is not None:
                    opened.append(piece)
                    remaining = np.append(remaining, len(piece.bounds) - 1)
            if not opened:
                return np.concatenate(cells), np.concatenate(blocks)
            drawn = _draw(remaining, at_once, rng, staggered=more)
            for piece, left, count in zip(opened, remaining.tolist(), drawn.tolist(), strict=True):
                if count:
                    first = len(piece.bounds) - 1 - left
                    part = piece.cells[piece.bounds[first] : piece.bounds[first + count]]
                    cells.append(part)
                    blocks.append(np.full(len(part), piece.block))
            remaining = remaining - drawn
            opened = [piece for piece, left in zip(opened, remaining, strict=True) if left]
            remaining = remaining[remaining > 0]


def _draw(remaining: np.ndarray, count: int, rng: np.random.Generator, *, staggered: bool) -> np.ndarray:
    """How many groups to take from each open piece, oldest first.

    While more pieces wait, older ones are drawn from more often: they are used up one by one, and so the
    next blocks are read one by one. The last ones are shuffled evenly.
    """
    if not staggered:
        count = min(count, int(remaining.sum()))
        return rng.multivariate_hypergeometric(remaining, count, method="marginals")
    weights = np.arange(len(remaining), 0, -1, dtype=np.float64)
    return np.minimum(rng.multinomial(count, weights / weights.sum()), remaining)


def _grouped(points: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Order of the points that puts groups together, and the groups' sizes."""
    if size == 1:
        return np.arange(len(points)), np.ones(len(points), np.int64)
    groups = kd_groups(points, size)
    return np.concatenate(groups), np.array([len(group) for group in groups])
