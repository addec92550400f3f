"""The nearest training cells in space: how far a map can be guessed without an image."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from past_core.errors import PastError
from past_genex.systems.base import Prediction, Surroundings, SystemUnavailableError, fold_cells

if TYPE_CHECKING:
    from past_genex.data.splits import Fold, Split

CHUNK = 4096
"""Test cells at a time."""


class NeighbourError(PastError, ValueError):
    """A number of neighbours that makes no sense."""


class NearestInSpace:
    """Every test cell gets the mean of the k nearest training cells of its own slide.

    Only for settings that train on other parts of the test slides.

    Args:
        surroundings: target.
        k: neighbours; fewer where the slide has fewer training cells.
    """

    name = "neighbours"

    def __init__(self, surroundings: Surroundings, *, k: int = 8) -> None:
        if k < 1:
            raise NeighbourError(f"k is {k}; at least one neighbour is needed")
        self._target, self.k = surroundings.target, k

    def predict(self, split: "Split", fold: "Fold", genes: pd.Index) -> Iterator[Prediction]:
        """See `System`.

        Raises:
            SystemUnavailableError: a test slide has no training cells, as in patient-wise settings.
        """
        training = dict(fold_cells(split, fold.train))
        test = list(fold_cells(split, fold.test))
        alone = [split.slides[number].name for number, _ in test if number not in training]
        if alone:
            raise SystemUnavailableError(
                f"nearest neighbours in space need training cells on the test slide; in setting "
                f"{split.setting} (fold {fold.name}) {', '.join(alone[:5])} has none"
            )
        for number, cells in test:
            slide, near = split.slides[number], training[number]
            k = min(self.k, len(near))
            _, nearest = cKDTree(slide.xy_um[near]).query(slide.xy_um[cells], k=range(1, k + 1))
            for start in range(0, len(cells), CHUNK):
                wanted, inverse = np.unique(near[nearest[start : start + CHUNK]], return_inverse=True)
                values = slide.expression(self._target, genes, wanted)
                inverse = inverse.reshape(-1, k)
                total = np.zeros((len(inverse), len(genes)))
                for column in inverse.T:  # one neighbour at a time: (n, k, G) at once would not fit
                    total += values[column]
                yield number, cells[start : start + CHUNK], total / k
