"""Draws of patients or regions with replacement, and r of every gene under each draw."""

from collections.abc import Iterator
from typing import Literal

import numpy as np
import pandas as pd

from past_core.errors import PastError
from past_genex.metrics.pairs import CONSTANT, PairMoments

Statistic = Literal["slide", "pooled"]

MIN_PATIENTS = 6
"""Below this many patients, regions within patients are drawn instead: so few patients give no interval."""

GENES_AT_A_TIME = 512


class CompareError(PastError, ValueError):
    """Scores that cannot be compared."""


def draw_units(units: pd.DataFrame, *, resamples: int, seed: int = 0) -> tuple[np.ndarray, str]:
    """How often each unit is drawn, in each of B draws.

    Six patients or more are drawn with replacement. With fewer, the regions of each slide are, over all of
    its folds, and every slide stays: what is drawn are the regions that were tested, whichever model tested
    them.

    Args:
        units: U rows with "patient", "slide" and "region".
        resamples: B.
        seed: of the draws.

    Returns:
        `(1 + B, U)` float64, of which the first row is the units as they are, and what was drawn.

    Raises:
        CompareError: no draw asked for, or nothing to draw from.
    """
    if resamples < 1 or not len(units):
        raise CompareError(f"{resamples} resamples of {len(units)} units; expected at least one of each")
    rng = np.random.default_rng(seed)
    code, names = pd.factorize(units["patient"])
    weights = np.ones((1 + resamples, len(units)))
    if len(names) >= MIN_PATIENTS:
        weights[1:] = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), resamples)[:, code]
        return weights, "patients"
    slides = list(units.groupby("slide", sort=False, observed=True).indices.values())
    if max(map(len, slides)) < 2:
        raise CompareError(
            f"{len(names)} patients, fewer than {MIN_PATIENTS}, and one region a slide: nothing to draw "
            "from; cut the slides into more regions"
        )
    for rows in slides:
        weights[1:, rows] = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), resamples)
    return weights, "regions within patients"


def resampled_r(
    pairs: PairMoments, units: pd.DataFrame, weights: np.ndarray, statistic: Statistic
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Pearson's r of every gene under every row of weights, some genes at a time.

    For "slide", r of each slide in each fold; mean over a slide's folds, then over slides. For "pooled", r
    over all test cells of each fold; mean over folds. In these means a fold (or slide) counts by the mean
    weight of its units: once where the units are as they are, not at all where none of it was drawn. A set
    in which a gene has no r is left out of that gene's mean.

    Args:
        pairs: `(U, G)`.
        units: U rows with "fold" and "slide".
        weights: `(B, U)`, not negative.
        statistic: see above.

    Yields:
        The genes, `(B, those genes)` r, NaN where no set has one, and how much of each gene was drawn: the
        number of sets that have an r, by their weights. A mean over genes should count a gene by this, over
        what it is where the units are as they are: else genes of few patients drop out of many draws, and
        the mean is over other genes than the estimate.
    """
    outer = "slide" if statistic == "slide" else "fold"
    groups = []
    for rows in units.groupby(outer, sort=False, observed=True).indices.values():
        folds = units.iloc[rows].groupby("fold", sort=False, observed=True).indices.values()
        groups.append([rows[inner] for inner in folds])
    for start in range(0, pairs.n.shape[1], GENES_AT_A_TIME):
        genes = slice(start, start + GENES_AT_A_TIME)
        part = pairs[:, genes]
        top, bottom = np.zeros((2, len(weights), part.n.shape[1]))
        for folds in groups:
            above, below = np.zeros_like(top), np.zeros_like(top)
            for rows in folds:
                drawn = weights[:, rows]
                r = weighted_r(part[rows], drawn)
                share = drawn.mean(axis=1, keepdims=True) * ~np.isnan(r)
                above += share * np.nan_to_num(r)
                below += share
            share = weights[:, np.concatenate(folds)].mean(axis=1, keepdims=True) * (below > 0)
            top += share * np.divide(above, below, out=np.zeros_like(above), where=below > 0)
            bottom += share
        yield genes, np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom > 0), bottom


def weighted_r(pairs: PairMoments, weights: np.ndarray) -> np.ndarray:
    """Pearson's r of units merged under many weights: `pairs.merged(weights=w).r` for each row w.

    By matrix products, for thousands of weights at once.

    Args:
        pairs: `(U, G)`.
        weights: `(B, U)`, not negative.

    Returns:
        `(B, G)`.
    """
    if (weights == weights[:, :1]).all():
        # All units alike, as when patients are drawn and these are of one slide.
        return np.where(weights[:, :1] > 0, pairs.merged().r, np.nan)
    centre = pairs.merged()
    # About the common mean the raw moments are linear in the weights, and hardly anything cancels.
    dp = np.where(pairs.n > 0, pairs.mean_p - centre.mean_p, 0.0)
    dt = np.where(pairs.n > 0, pairs.mean_t - centre.mean_t, 0.0)
    n, p, t = weights @ pairs.n, weights @ (pairs.n * dp), weights @ (pairs.n * dt)
    safe = np.maximum(n, 1e-300)
    pp = weights @ (pairs.pp + pairs.n * dp * dp) - p * p / safe
    tt = weights @ (pairs.tt + pairs.n * dt * dt) - t * t / safe
    pt = weights @ (pairs.pt + pairs.n * dp * dt) - p * t / safe
    # What is left of a constant after the subtraction is rounding, at most this share of what was subtracted.
    pp = np.where(pp <= CONSTANT * p * p / safe, 0.0, pp)
    tt = np.where(tt <= CONSTANT * t * t / safe, 0.0, tt)
    return PairMoments(n, centre.mean_p + p / safe, centre.mean_t + t / safe, pp, tt, pt).r
