"""The order in which cells are seen: a pure function of (seed, epoch, rank)."""

from dataclasses import dataclass

import numpy as np

from past_core.data.groups import kd_groups
from past_core.errors import PastError


class BatchSizeError(PastError, ValueError):
    """The slides hold fewer cells than one batch over all ranks needs."""


@dataclass(frozen=True)
class BlockCells:
    """The cells of one block that may be drawn."""

    slide: int
    block: int
    rows: np.ndarray
    """`(n,)` rows of the slide's table."""
    points: np.ndarray
    """`(n, 2)` coordinates of these rows."""


class EpochPlan:
    """Deals all cells of all blocks into batches, again and again, deterministically.

    One round draws every cell once: blocks are shuffled, `open_blocks` of them at a time are mixed,
    and their spatial groups of `group_size` cells are shuffled among each other, so that a batch holds
    `batch_size / group_size` groups from several blocks and slides while only `open_blocks` blocks need
    to be in memory. Rounds follow each other in one endless stream that epochs cut into equal numbers
    of batches: the tail of a round that does not fill a batch on every rank leads the next epoch.

    Args:
        blocks: the drawable cells of every block.
        batch_size: cells in a batch of one rank.
        group_size: cells in a spatial group; 1 is a fully shuffled batch.
        open_blocks: blocks mixed at a time.
        seed: seed of every order.
        rank: this process.
        world_size: number of processes.

    Raises:
        BatchSizeError: fewer cells than `batch_size * world_size`.
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
    ) -> None:
        self.batch_size, self.seed, self.rank, self.world_size = batch_size, seed, rank, world_size
        self.open_blocks = max(1, open_blocks)
        self.n_cells = sum(len(block.rows) for block in blocks)
        if self.n_cells < batch_size * world_size:
            raise BatchSizeError(
                f"the training slides hold {self.n_cells} usable cells, but one step needs "
                f"{batch_size * world_size} (batch_size {batch_size} x {world_size} ranks); "
                f"lower data.batch_size to at most {self.n_cells // world_size} or add slides"
            )
        groups, self._block_start = [], np.zeros(len(blocks) + 1, dtype=np.int64)
        for index, block in enumerate(blocks):
            members = kd_groups(block.points, group_size)
            groups += [
                np.stack(
                    [np.full(len(m), block.slide), np.full(len(m), block.block), block.rows[m]], axis=1
                ).astype(np.int64)
                for m in members
            ]
            self._block_start[index + 1] = len(groups)
        self._groups = groups

    @property
    def batches_per_epoch(self) -> int:
        """Batches of every rank in every epoch."""
        return self.n_cells // (self.batch_size * self.world_size)

    def round(self, index: int) -> np.ndarray:
        """All cells once, in the order of round `index`: `(n_cells, 3)` of slide, block, row."""
        rng = np.random.default_rng([self.seed, index, 0])
        n_blocks = len(self._block_start) - 1
        blocks = rng.permutation(n_blocks)
        parts = []
        for first in range(0, n_blocks, self.open_blocks):
            opened = blocks[first : first + self.open_blocks]
            members = np.concatenate([np.arange(*self._block_start[b : b + 2]) for b in opened])
            parts += [self._groups[g] for g in rng.permutation(members)]
        return np.concatenate(parts)

    def epoch(self, epoch: int) -> np.ndarray:
        """This rank's cells of one epoch: `(batches, batch_size, 3)` int64 of slide, block, row."""
        step = self.batch_size * self.world_size
        length = self.batches_per_epoch * step
        first, stop = epoch * length, (epoch + 1) * length
        rounds = range(first // self.n_cells, -(-stop // self.n_cells))
        stream = np.concatenate([self.round(index) for index in rounds])
        offset = first - rounds.start * self.n_cells
        cells = stream[offset : offset + length]
        return cells.reshape(self.batches_per_epoch, self.world_size, self.batch_size, 3)[:, self.rank]
