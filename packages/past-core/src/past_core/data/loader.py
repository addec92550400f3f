"""The loaders that Lightning iterates: deterministic, resumable in mid-epoch, a few batches ahead."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from past_core.data.supply import Key

Batch = TypeVar("Batch")
Made_co = TypeVar("Made_co", covariant=True)

DEPTH = 2
"""Batches made ahead of the consumer."""
READ_AHEAD = 2
"""Blocks read ahead of the batch that is made, beyond those it needs."""


class Supply(Protocol[Made_co]):
    """What makes batches: `RegionSupply`, or one of another task."""

    def hold(self, keys: Sequence[Key]) -> None:
        """Begins to read blocks that batches will need."""

    def release(self, keys: Sequence[Key]) -> None:
        """Blocks that no batch needs any more."""

    def batch(self, cells: np.ndarray) -> Made_co:
        """Makes the batch of some rows of the plan."""


class Plan(Protocol):
    """The order of an epoch: `EpochPlan`, or one of another task."""

    @property
    def batch_size(self) -> int:
        """Rows in a batch."""

    @property
    def batches_per_epoch(self) -> int:
        """Batches of every rank in every epoch."""

    def epoch(self, epoch: int) -> np.ndarray:
        """`(batches, batch_size, columns)` of one epoch."""


class _Schedule:
    """Which blocks a sequence of batches needs from when to when."""

    def __init__(self, batches: Sequence[np.ndarray]) -> None:
        step = np.repeat(np.arange(len(batches)), [len(cells) for cells in batches])
        cells = np.concatenate(batches) if len(batches) else np.zeros((0, 3), np.int64)
        code, inverse = np.unique(cells[:, 0] << 32 | cells[:, 1], return_inverse=True)
        first, last = np.full(len(code), len(batches)), np.full(len(code), -1)
        np.minimum.at(first, inverse, step)
        np.maximum.at(last, inverse, step)
        order = np.argsort(first, kind="stable")
        self._keys: list[Key] = [(int(c >> 32), int(c & 0xFFFFFFFF)) for c in code[order]]
        self._needed = np.cumsum(np.bincount(first, minlength=len(batches) + 1))
        self._closing: dict[int, list[Key]] = {}
        for key, end in zip(self._keys, last[order].tolist(), strict=True):
            self._closing.setdefault(end, []).append(key)
        self._opened = 0

    def opening(self, step: int) -> list[Key]:
        """Blocks to begin reading before batch `step` is made."""
        until = min(len(self._keys), int(self._needed[step]) + READ_AHEAD)
        keys = self._keys[self._opened : until]
        self._opened = max(self._opened, until)
        return keys

    def closing(self, step: int) -> list[Key]:
        """Blocks that no batch after `step` needs."""
        return self._closing.pop(step, [])

    def rest(self) -> list[Key]:
        """Blocks that were opened and not closed, where the batches are not used to the end."""
        still = {key for keys in self._closing.values() for key in keys}
        return [key for key in self._keys[: self._opened] if key in still]


def _ahead(supply: Supply[Batch], batches: Sequence[np.ndarray]) -> Iterator[Batch]:
    """Makes batches by threads, ahead of the consumer; their blocks are read further ahead."""
    schedule = _Schedule(batches)
    pool = ThreadPoolExecutor(DEPTH, thread_name_prefix="past-batches")

    def start(step: int) -> Future[Batch]:
        supply.hold(schedule.opening(step))
        return pool.submit(supply.batch, batches[step])

    waiting = [start(step) for step in range(min(DEPTH, len(batches)))]
    try:
        for step in range(len(batches)):
            batch = waiting.pop(0).result()
            supply.release(schedule.closing(step))
            if step + DEPTH < len(batches):
                waiting.append(start(step + DEPTH))
            yield batch
            del batch  # its buffer is free once the consumer lets go
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        supply.release(schedule.rest())


class TrainLoader(Generic[Batch]):
    """One epoch of the plan; carries its place in it, so that training resumes in mid-epoch.

    Lightning saves `state_dict` of any loader that has one, and calls `set_epoch` on its `sampler`.
    """

    def __init__(self, supply: Supply[Batch], plan: Plan) -> None:
        self._supply, self._plan = supply, plan
        self._epoch, self._first, self._handed_out = 0, 0, 0

    @property
    def sampler(self) -> "TrainLoader[Batch]":
        """Itself: what Lightning looks for to call `set_epoch`."""
        return self

    @property
    def batch_size(self) -> int:
        """Cells in a batch."""
        return self._plan.batch_size

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch of the next iteration."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._plan.batches_per_epoch

    def __iter__(self) -> Iterator[Batch]:
        first, self._first = self._first, 0
        self._handed_out = first
        for batch in _ahead(self._supply, list(self._plan.epoch(self._epoch)[first:])):
            # Counted before the batch is used: what the trainer has received, not what was prepared.
            self._handed_out += 1
            yield batch
            del batch

    def state_dict(self) -> dict[str, Any]:
        """Batches handed out of the current epoch; 0 at its end, where the next one starts afresh."""
        return {"handed_out": self._handed_out % max(1, len(self))}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Makes the next iteration start where the saved one stood."""
        self._first = int(state["handed_out"])


class SlideLoader(Generic[Batch]):
    """The cells of whole slides in order, for validation and prediction; each rank takes a share.

    Args:
        supply: the slides.
        rows: per slide the `(n, 3)` slide, block, row of its cells.
        batch_size: cells in a batch; the last of a slide may be smaller.
        rank: this process.
        world_size: number of processes.
    """

    def __init__(
        self,
        supply: Supply[Batch],
        rows: list[np.ndarray],
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._supply = supply
        self.batch_size = batch_size
        batches = [
            cells[start : start + batch_size] for cells in rows for start in range(0, len(cells), batch_size)
        ]
        # Neighbouring batches share blocks: a rank takes a run of them.
        self._batches = batches[rank * len(batches) // world_size : (rank + 1) * len(batches) // world_size]

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        return _ahead(self._supply, self._batches)
