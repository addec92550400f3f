"""Predictions of whole slides, kept for a few genes: for ranks, spatial autocorrelation and pictures."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from past_genex.data.targets import Target
from past_genex.evaluation.scores import nanmean
from past_genex.metrics.rank import spearman
from past_genex.metrics.spatial import morans_i, spatial_weights

if TYPE_CHECKING:
    from past_genex.data.splits import Fold, Split

MIN_CELLS = 20
"""Cells of a fold up to which its Moran's I is left out."""


class MapCollector:
    """Collects out-of-fold predictions of some genes, slide by slide.

    Args:
        split: the split.
        target: what is predicted.
        genes: the genes to keep.
    """

    def __init__(self, split: "Split", target: Target, genes: pd.Index) -> None:
        self._split, self._target, self.genes = split, target, genes
        self._predicted: dict[int, np.ndarray] = {}
        self._fold: dict[int, np.ndarray] = {}

    def add(self, fold: "Fold", number: int, cells: np.ndarray, values: np.ndarray, genes: pd.Index) -> None:
        """Takes `(n, len(genes))` predictions of some cells; genes that are not kept are left out."""
        n = self._split.slides[number].n_cells
        if number not in self._predicted:
            self._predicted[number] = np.full((n, len(self.genes)), np.nan, np.float32)
            self._fold[number] = np.full(n, -1)
        column = genes.get_indexer(self.genes)
        kept = np.flatnonzero(column >= 0)
        self._predicted[number][np.ix_(cells, kept)] = values[:, column[kept]]
        self._fold[number][cells] = [f.name for f in self._split.folds].index(fold.name)

    def slide(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Cells of a slide that were predicted, their `(n, G)` predictions and truths over `genes`."""
        cells = np.flatnonzero(self._fold[number] >= 0)
        truth = self._split.slides[number].expression(self._target, self.genes, cells)
        return cells, self._predicted[number][cells].astype(np.float64), truth

    @staticmethod
    def _fold_figures(
        xy_um: np.ndarray, cells: np.ndarray, predicted: np.ndarray, truth: np.ndarray, here: np.ndarray
    ) -> np.ndarray:
        """`(3, G)` Spearman, Moran's I of truth and of prediction over the cells of one fold."""
        known = ~np.isnan(predicted[here]).any(axis=0)
        ranks = np.full(len(known), np.nan)
        ranks[known] = spearman(predicted[np.ix_(here, known)], truth[np.ix_(here, known)])
        if np.count_nonzero(here) <= MIN_CELLS:
            return np.stack([ranks, np.full_like(ranks, np.nan), np.full_like(ranks, np.nan)])
        weights = spatial_weights(xy_um[cells[here]])
        return np.stack([ranks, morans_i(truth[here], weights), morans_i(predicted[here], weights)])

    def figures(self, union: pd.Index) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
        """Figures of every slide over all genes, NaN for those that are not kept.

        Returns:
            "spearman", "moran_truth" and "moran_prediction", each `(S, len(union))`, means over the folds of
            a slide's cells; and the slides.
        """
        rows, names = [], ("spearman", "moran_truth", "moran_prediction")
        figures: dict[str, list[np.ndarray]] = {name: [] for name in names}
        column = union.get_indexer(self.genes)
        for number in sorted(self._predicted):
            slide = self._split.slides[number]
            cells, predicted, truth = self.slide(number)
            folds = self._fold[number][cells]
            # Fold by fold: offsets between the models of two folds would look like structure in space.
            parts = [self._fold_figures(slide.xy_um, cells, predicted, truth, folds == f) for f in set(folds)]
            for name, values in zip(names, nanmean(np.array(parts)), strict=True):
                wide = np.full(len(union), np.nan)
                wide[column[column >= 0]] = values[column >= 0]
                figures[name].append(wide)
            rows.append((slide.name, slide.patient, slide.cancer_type))
        table = pd.DataFrame(rows, columns=["slide", "patient", "cancer_type"])
        return {name: np.array(values).reshape(-1, len(union)) for name, values in figures.items()}, table
