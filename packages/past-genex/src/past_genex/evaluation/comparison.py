"""Bootstrap intervals, of means over genes and of single genes, and paired comparisons of scores."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from past_genex.evaluation.scores import Scores, nanmean
from past_genex.metrics.compare import (
    Interval,
    bootstrap_mean_r,
    compare_systems,
)
from past_genex.metrics.resample import CompareError, draw_units, resampled_r

RESAMPLES = 500
NOTHING = "nothing (one region a slide)"


def interval(scores: Scores, *, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Mean over genes of pooled r with its interval; NaN limits where there is nothing to draw from."""
    try:
        return bootstrap_mean_r(
            scores.moments, scores.units, statistic="pooled", resamples=resamples, seed=seed
        )
    except CompareError:
        patients = scores.units["patient"].nunique()
        value = float(nanmean(scores.pooled()))
        return Interval(value, np.nan, np.nan, NOTHING, patients, 0.95)


def differences(scores: Sequence[Scores], *, resamples: int = RESAMPLES, seed: int = 0) -> pd.DataFrame:
    """Every pair of systems, see `compare_systems`; empty where nothing can be compared."""
    if len(scores) < 2:
        return pd.DataFrame()
    moments = {s.system: s.moments for s in scores}
    try:
        return compare_systems(
            moments, scores[0].units, statistic="pooled", resamples=resamples, seed=seed
        ).table
    except CompareError:
        return pd.DataFrame()


def gene_intervals(
    scores: Scores, *, resamples: int = 300, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, str]:
    """`(G,)` 2.5 % and 97.5 % quantiles of every gene's pooled r, and what was drawn.

    Patients are drawn where there are six or more, else regions within patients, as for the mean; NaN where
    there is nothing to draw from.
    """
    genes = len(scores.genes)
    low, high = np.full(genes, np.nan), np.full(genes, np.nan)
    try:
        weights, over = draw_units(scores.units, resamples=resamples, seed=seed)
    except CompareError:
        return low, high, NOTHING
    for part, r, _ in resampled_r(scores.moments, scores.units, weights[1:], "pooled"):
        some = np.flatnonzero(~np.isnan(r).all(axis=0))
        if len(some):
            low[part][some], high[part][some] = np.nanquantile(r[:, some], [0.025, 0.975], axis=0)
    return low, high, over
