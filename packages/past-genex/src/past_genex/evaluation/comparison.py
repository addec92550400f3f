"""Bootstrap intervals, of means over genes and of single genes, and paired comparisons of scores."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from past_genex.evaluation.scores import Scores, nanmean
from past_genex.metrics.compare import (
    MIN_PATIENTS,
    CompareError,
    Interval,
    bootstrap_mean_r,
    compare_systems,
    weighted_r,
)

RESAMPLES = 500


def interval(scores: Scores, *, seed: int = 0) -> Interval:
    """Mean over genes of pooled r with its interval; NaN limits where there is nothing to draw from."""
    try:
        return bootstrap_mean_r(
            scores.moments, scores.units, statistic="pooled", resamples=RESAMPLES, seed=seed
        )
    except CompareError:
        patients = scores.units["patient"].nunique()
        value = float(nanmean(scores.pooled()))
        return Interval(value, np.nan, np.nan, "nothing (one region a patient)", patients, 0.95)


def differences(scores: Sequence[Scores], *, seed: int = 0) -> pd.DataFrame:
    """Every pair of systems, see `compare_systems`; empty where nothing can be compared."""
    if len(scores) < 2:
        return pd.DataFrame()
    moments = {s.system: s.moments for s in scores}
    try:
        return compare_systems(
            moments, scores[0].units, statistic="pooled", resamples=RESAMPLES, seed=seed
        ).table
    except CompareError:
        return pd.DataFrame()


def gene_intervals(
    scores: Scores, *, resamples: int = 300, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, str]:
    """`(G,)` 2.5 % and 97.5 % quantiles of every gene's pooled r, and what was drawn.

    Patients are drawn where there are six or more, else regions within patients, as for the mean.
    """
    stream = np.random.default_rng(seed)
    units = scores.units
    code, names = pd.factorize(units["patient"])
    weights = np.ones((resamples, len(units)))
    if len(names) >= MIN_PATIENTS:
        over = "patients"
        weights = stream.multinomial(len(names), np.full(len(names), 1 / len(names)), resamples)[:, code]
    else:
        over = "regions within patients"
        for rows in units.groupby(["fold", "slide"], sort=False).indices.values():
            weights[:, rows] = stream.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), resamples)
    top, bottom = np.zeros((resamples, len(scores.genes))), np.zeros((resamples, len(scores.genes)))
    for rows in units.groupby("fold", sort=False).indices.values():
        share = weights[:, rows].mean(axis=1, keepdims=True)
        r = weighted_r(scores.moments[rows], weights[:, rows].astype(np.float64))
        known = ~np.isnan(r)
        top += share * np.where(known, r, 0.0)
        bottom += share * known
    made = np.where(bottom > 0, top / np.maximum(bottom, 1e-300), np.nan)
    low, high = np.full(made.shape[1], np.nan), np.full(made.shape[1], np.nan)
    some = ~np.isnan(made).all(axis=0)
    if some.any():
        low[some], high[some] = np.nanquantile(made[:, some], [0.025, 0.975], axis=0)
    return low, high, over
