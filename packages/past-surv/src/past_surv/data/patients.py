"""Patients of a fold as a data set, and the order in which they are drawn."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from past_core.errors import PastError
from past_surv.data.bags import Bag
from past_surv.data.batches import PatientInput

if TYPE_CHECKING:
    from past_surv.data.fold_data import FoldData

Sampling = Literal["balanced", "plain"]


class PatientError(PastError, ValueError):
    """Patients that cannot be drawn."""


class Draw(NamedTuple):
    """One draw of a patient.

    Attributes:
        index: of the data set.
        seed: of the choice of patches, so that workers draw the same whoever reads.
    """

    index: int  # type: ignore[assignment]  # in place of tuple.index
    seed: int


class PatientDataset(Dataset):
    """Inputs of patients of one fold.

    Args:
        data: the fold's data.
        rows: of the cohort.
        max_patches: most patches of a patient, over all slides; all without.
        generator: draws which patches where there are more, anew at every reading; without it, and without a
            `Draw`, they lie evenly over the bags, always the same.

    Raises:
        PatientError: a row that has neither a slide nor a group, or a senseless number.
    """

    def __init__(
        self,
        data: "FoldData",
        rows: np.ndarray,
        *,
        max_patches: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        if max_patches is not None and max_patches < 1:
            raise PatientError(f"at most {max_patches} patches a patient; expected 1 or more")
        self.data, self.rows = data, np.asarray(rows, np.int64)
        bare = np.intersect1d(self.rows, data.left_out)
        if len(bare):
            raise PatientError(
                f"{data.cohort.name}: case {data.cohort.cases[bare[0]]} has neither a slide nor a group; "
                f"leave it out ({len(bare)} such rows)"
            )
        self.max_patches, self._generator = max_patches, generator
        self._interval = data.intervals.of_times(data.cohort.time)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, item: int | Draw) -> PatientInput:
        """Reads a patient.

        Raises:
            BagError: a bag that cannot be read.
        """
        index, generator = item, self._generator
        if isinstance(item, Draw):
            index, generator = item.index, torch.Generator().manual_seed(item.seed)
        data, row = self.data, int(self.rows[index])
        bags = data.patient_bags[row]
        return PatientInput(
            patches=self._patches(bags, generator),
            omics=tuple(values[row] for values in data.omics),
            missing=data.missing[row],
            interval=int(self._interval[row]),
            censored=not bool(data.cohort.event[row]),
            time=float(data.cohort.time[row]),
            row=row,
            no_slide=not bags,
        )

    def _patches(self, bags: tuple[Bag, ...], generator: torch.Generator | None) -> np.ndarray:
        if not bags:
            return np.zeros((1, self.data.patch_dim or 1), np.float32)
        total, most = sum(bag.patches for bag in bags), self.max_patches
        if most is None or total <= most:
            parts = [bag.features() for bag in bags]
        else:
            rows = _choice(total, most, generator)
            starts = np.cumsum([0] + [bag.patches for bag in bags])
            cuts = np.searchsorted(rows, starts[1:-1])
            parts = [
                bag.features(part - start)
                for bag, start, part in zip(bags, starts, np.split(rows, cuts), strict=False)
                if len(part)
            ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _choice(total: int, most: int, generator: torch.Generator | None) -> np.ndarray:
    """`most` of `total` rows, ascending: drawn, or spread evenly without a generator."""
    if generator is None:
        return (np.arange(most) * total) // most
    return np.sort(torch.randperm(total, generator=generator)[:most].numpy())


class PatientSampler(Sampler):
    """The order of an epoch, a function of (seed, epoch): the same after a restart, and for any workers.

    Args:
        classes: `(n,)` class of each patient.
        sampling: `balanced` draws n times with replacement, every class as often as every other, as MCAT
            does; `plain` is a shuffle.
        seed: of the draws.
        rank: which share of the draws.
        world_size: number of shares; all have the same length, and what is over is dropped.

    Raises:
        PatientError: another sampling, or fewer patients than shares.
    """

    def __init__(
        self,
        classes: np.ndarray,
        sampling: Sampling = "balanced",
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if sampling not in ("balanced", "plain"):
            raise PatientError(f"data.sampler {sampling!r}; expected balanced or plain")
        if len(classes) < world_size:
            raise PatientError(f"{len(classes)} patients for {world_size} ranks; expected one each or more")
        _, index, count = np.unique(classes, return_inverse=True, return_counts=True)
        self._weights = torch.tensor(1.0 / count[index], dtype=torch.float64)
        self._sampling, self._seed, self._rank, self._world = sampling, seed, rank, world_size
        self.epoch = 0

    def __len__(self) -> int:
        return len(self._weights) // self._world

    def set_epoch(self, epoch: int) -> None:
        """Says which epoch comes next; Lightning does."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Draw]:
        stream = np.random.default_rng([self._seed, self.epoch])
        generator = torch.Generator().manual_seed(int(stream.integers(2**62)))
        n = len(self._weights)
        if self._sampling == "balanced":
            order = torch.multinomial(self._weights, n, replacement=True, generator=generator)
        else:
            order = torch.randperm(n, generator=generator)
        seeds = stream.integers(2**62, size=n)
        self.epoch += 1
        for place in range(self._rank, len(self) * self._world, self._world):
            yield Draw(int(order[place]), int(seeds[place]))
