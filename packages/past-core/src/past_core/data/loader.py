"""The loaders that Lightning iterates: deterministic, resumable in mid-epoch, one batch ahead."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from past_core.data.batch import CellBatch
from past_core.data.plan import EpochPlan
from past_core.data.supply import RegionSupply


def _ahead(
    supply: RegionSupply, batches: np.ndarray | list[np.ndarray], depth: int = 2
) -> Iterator[CellBatch]:
    """Makes batches in order in one thread, `depth` ahead of the consumer."""
    with ThreadPoolExecutor(1, thread_name_prefix="past-batches") as pool:
        waiting = [pool.submit(supply.batch, cells) for cells in batches[:depth]]
        for index in range(len(batches)):
            batch = waiting.pop(0).result()
            if index + depth < len(batches):
                waiting.append(pool.submit(supply.batch, batches[index + depth]))
            yield batch


class TrainLoader:
    """One epoch of the plan; carries its place in it, so that training resumes in mid-epoch.

    Lightning saves `state_dict` of any loader that has one, and calls `set_epoch` on its `sampler`.
    """

    def __init__(self, supply: RegionSupply, plan: EpochPlan) -> None:
        self._supply, self._plan = supply, plan
        self._epoch, self._first, self._handed_out = 0, 0, 0

    @property
    def sampler(self) -> "TrainLoader":
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

    def __iter__(self) -> Iterator[CellBatch]:
        first, self._first = self._first, 0
        self._handed_out = first
        for batch in _ahead(self._supply, self._plan.epoch(self._epoch)[first:]):
            # Counted before the batch is used: what the trainer has received, not what was prepared.
            self._handed_out += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Batches handed out of the current epoch; 0 at its end, where the next one starts afresh."""
        return {"handed_out": self._handed_out % max(1, len(self))}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Makes the next iteration start where the saved one stood."""
        self._first = int(state["handed_out"])


class SlideLoader:
    """The cells of whole slides in order, for validation and prediction; ranks take batches in turn.

    Args:
        supply: the slides.
        rows: per slide the `(n, 3)` slide, block, row of its cells.
        batch_size: cells in a batch; the last of a slide may be smaller.
        rank: this process.
        world_size: number of processes.
    """

    def __init__(
        self,
        supply: RegionSupply,
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
        self._batches = batches[rank::world_size]

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[CellBatch]:
        return _ahead(self._supply, self._batches)
