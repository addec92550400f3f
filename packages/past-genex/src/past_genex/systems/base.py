"""What a system is: anything that predicts the expression of test cells from training cells and images."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import pandas as pd

from past_core.errors import PastError
from past_genex.data.targets import Target
from past_genex.metrics.pairs import PairMoments

if TYPE_CHECKING:
    from past_genex.data.splits import Fold, Split

Prediction = tuple[int, np.ndarray, np.ndarray]
"""Slide number, `(n,)` indices of its usable cells, and `(n, G)` predictions of them."""


class UnknownSystemError(PastError, ValueError):
    """A name that is no system's."""


class SystemUnavailableError(PastError, ValueError):
    """A system that cannot work under this split; the others can."""


@runtime_checkable
class System(Protocol):
    """Predicts the expression of a fold's test cells, having seen its training cells only.

    Attributes:
        name: how tables call it.
    """

    name: str

    def predict(self, split: "Split", fold: "Fold", genes: pd.Index) -> Iterator[Prediction]:
        """Predictions of all cells in the test parts of a fold.

        Args:
            split: the split.
            fold: one of its folds.
            genes: what to predict, ids.

        Yields:
            Slide number, `(n,)` int64 indices into its usable cells, and `(n, len(genes))` float; a gene
            that cannot be predicted is NaN for all cells. A slide may come in several pieces.
        """
        ...


@runtime_checkable
class LinearSystem(System, Protocol):
    """A system that is scored from sums, without a prediction."""

    def score(self, split: "Split", fold: "Fold", genes: pd.Index) -> Mapping[tuple[int, int], PairMoments]:
        """Moments of predictions and truths of every test region with cells, by slide and region number.

        Returns:
            `(len(genes),)` moments each.
        """
        ...


@dataclass(frozen=True)
class Surroundings:
    """What systems share: the scale of the target, where they keep things, and how they compute.

    Attributes:
        target: what is predicted.
        cache: folder for features and statistics; None is the user's cache.
        batch_size: patches or cells at a time.
        device: "auto", "cpu", "cuda", ...
        seed: of everything drawn at random.
        options: further arguments of single systems, by system: `{"stnet": {"epochs": 3}}`.
    """

    target: Target = field(default_factory=Target)
    cache: Path | None = None
    batch_size: int = 64
    device: str = "auto"
    seed: int = 0
    options: Mapping[str, Mapping[str, object]] = field(default_factory=dict)


def fold_cells(
    split: "Split", parts: Mapping[int, np.ndarray], *, rows: bool = True
) -> Iterator[tuple[int, np.ndarray]]:
    """The cells of one side of a fold, slide by slide, in the slides' order.

    Args:
        split: the split.
        parts: `fold.train` or `fold.test`.
        rows: whether cells come as indices (else as a mask).

    Yields:
        Slide number, and `(n,)` int64 indices of usable cells (or `(N,)` bool). Slides without a cell of
        these parts are left out.
    """
    for number in sorted(parts):
        mask = split.regions[number].cells(parts[number])
        if mask.any():
            yield number, np.flatnonzero(mask) if rows else mask


def require_training(split: "Split", fold: "Fold", genes: pd.Index) -> list[tuple[int, np.ndarray]]:
    """The training cells of a fold.

    Raises:
        SystemUnavailableError: there is none, or none measures any of the genes.
    """
    cells = list(fold_cells(split, fold.train))
    if not any(split.slides[number].genes.isin(genes).any() for number, _ in cells):
        raise SystemUnavailableError(
            f"fold {fold.name} of {split.name}: {len(cells)} training slides with cells, and none of them "
            f"measures any of the {len(genes)} genes"
        )
    return cells
