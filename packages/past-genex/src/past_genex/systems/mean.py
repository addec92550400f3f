"""The mean of the training cells: what is known without looking at the image."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from past_genex.data.targets import Target
from past_genex.systems.base import Prediction, Surroundings, fold_cells, require_training

if TYPE_CHECKING:
    from past_genex.data.slides import ExpressionSlide
    from past_genex.data.splits import Fold, Split

CHUNK = 4096
"""Cells made dense at a time."""


class MeanOfTraining:
    """Every test cell gets the mean of the training cells that measure the gene."""

    name = "mean"

    def __init__(self, surroundings: Surroundings) -> None:
        self._target = surroundings.target

    def predict(self, split: "Split", fold: "Fold", genes: pd.Index) -> Iterator[Prediction]:
        """See `System`."""
        mean = training_mean(split, fold, genes, self._target)
        for number, cells in fold_cells(split, fold.test):
            yield number, cells, np.broadcast_to(mean, (len(cells), len(genes)))


def training_mean(split: "Split", fold: "Fold", genes: pd.Index, target: Target) -> np.ndarray:
    """`(G,)` mean over the training cells that measure each gene, NaN where none does."""
    total, n = np.zeros(len(genes)), np.zeros(len(genes))
    for number, cells in require_training(split, fold, genes):
        slide = split.slides[number]
        measured = genes.isin(slide.genes)
        for values in chunks(slide, target, genes[measured], cells):
            total[measured] += values.sum(axis=0)
        n[measured] += len(cells)
    return np.where(n > 0, total / np.maximum(n, 1), np.nan)


def chunks(
    slide: "ExpressionSlide", target: Target, genes: pd.Index, cells: np.ndarray
) -> Iterator[np.ndarray]:
    """The target of some cells in pieces of at most `CHUNK` rows."""
    for start in range(0, len(cells), CHUNK):
        yield slide.expression(target, genes, cells[start : start + CHUNK])
