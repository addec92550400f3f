"""What is kept of one system under one split: moments of predictions and truths of every test region."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from past_core.errors import PastError
from past_genex.metrics.pairs import PairMoments

UNIT = ["fold", "patient", "cancer_type", "slide", "region"]
"""Columns of a unit: the test cells of one region of one slide in one fold."""


class ScoreError(PastError, ValueError):
    """Scores that cannot be made or put together."""


@dataclass(frozen=True)
class Scores:
    """One system's scores under one split.

    Attributes:
        system: the system.
        setting: "intra", "inter", "cross" or "random".
        split: name of the split.
        target: name of what was predicted.
        genes: G gene ids, of all folds together.
        units: U rows with the columns `UNIT`.
        moments: `(U, G)`; n is 0 where the slide does not measure a gene, or the fold has none of it.
        unpredicted: pairs of fold and gene for which the system had no prediction.
        maps: further figures of whole slides, `(S, G)` each by name, such as "spearman", "moran_truth" and
            "moran_prediction"; empty where predictions were never made. Rows as `map_slides`.
        map_slides: S rows with "patient", "cancer_type", "slide" and, for folds, "fold".
    """

    system: str
    setting: str
    split: str
    target: str
    genes: pd.Index
    units: pd.DataFrame
    moments: PairMoments
    unpredicted: int = 0
    maps: Mapping[str, np.ndarray] = field(default_factory=dict)
    map_slides: pd.DataFrame = field(default_factory=pd.DataFrame)

    def __post_init__(self) -> None:
        shape = (len(self.units), len(self.genes))
        if self.moments.n.shape != shape:
            raise ScoreError(
                f"moments of shape {self.moments.n.shape} for {shape[0]} units, {shape[1]} genes"
            )

    def subset(self, genes: pd.Index) -> "Scores":
        """The same for some of the genes, in the given order; those that are not here are left out."""
        column = self.genes.get_indexer(genes)
        column = column[column >= 0]
        return Scores(
            self.system,
            self.setting,
            self.split,
            self.target,
            self.genes[column],
            self.units,
            self.moments[:, column],
            self.unpredicted,
            {name: values[:, column] for name, values in self.maps.items()},
            self.map_slides,
        )

    def grouped(self, by: Sequence[str]) -> tuple[pd.DataFrame, PairMoments]:
        """Units merged by columns of `units`.

        Predictions of different folds come from different models, so that "fold" should be among them: the
        offset between two models is no skill, and would enter r.

        Returns:
            V rows, one a group, with the columns `by`; and `(V, G)` moments.
        """
        groups = self.units.groupby(list(by), sort=False, observed=True).indices
        table = pd.DataFrame([key if isinstance(key, tuple) else (key,) for key in groups], columns=list(by))
        return table, PairMoments.stack([self.moments[rows].merged() for rows in groups.values()])

    def pooled(self) -> np.ndarray:
        """`(G,)` r over all test cells of a fold, mean over the folds in which the gene can be scored."""
        return nanmean(self.grouped(["fold"])[1].r)

    def per_slide(self) -> np.ndarray:
        """`(G,)` r within each slide of each fold; mean over folds, then over slides."""
        return nanmean(self.slide_r()[1])

    def slide_r(self) -> tuple[pd.DataFrame, np.ndarray]:
        """`(S, G)` r within each slide, mean over its folds, and the slides' patient and cancer type."""
        table, moments = self.grouped(["slide", "patient", "cancer_type", "fold"])
        groups = table.groupby(["slide", "patient", "cancer_type"], sort=False, observed=True).indices
        slides = pd.DataFrame(list(groups), columns=["slide", "patient", "cancer_type"])
        r = moments.r
        return slides, np.stack([nanmean(r[rows]) for rows in groups.values()])

    def by(self, column: str) -> pd.Series:
        """Mean over genes and slides of r within slides, by "patient" or "cancer_type"."""
        slides, r = self.slide_r()
        means = pd.Series(nanmean(r.T), index=slides[column])
        return means.groupby(level=0, sort=False).mean()


def nanmean(values: np.ndarray) -> np.ndarray:
    """Mean over the first axis of what is not NaN; NaN where all is, without a warning."""
    known = ~np.isnan(values)
    n = known.sum(axis=0)
    return np.where(n > 0, np.where(known, values, 0.0).sum(axis=0) / np.maximum(n, 1), np.nan)
