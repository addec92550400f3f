"""Whether two systems differ: paired tests over genes and slides, and bootstrap intervals over patients."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
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


@dataclass(frozen=True)
class Interval:
    """An estimate with a percentile bootstrap interval.

    Attributes:
        estimate: of the units as they are.
        low: lower limit.
        high: upper limit.
        resampled: "patients", or "regions within patients": then it says nothing of other patients.
        patients: number of patients.
        confidence: such as 0.95.
    """

    estimate: float
    low: float
    high: float
    resampled: str
    patients: int
    confidence: float


@dataclass(frozen=True)
class Comparison:
    """All pairs of systems.

    Attributes:
        table: one row a pair: "first", "second", "difference" of mean r with "low", "high" and "resampled";
            "p_genes", "n_genes", "p_slides", "n_slides" of Wilcoxon's signed-rank tests, and "p_genes_holm",
            "p_slides_holm" corrected over all pairs of the table.
        patients: mean r of both systems and their difference for every pair and patient.
    """

    table: pd.DataFrame
    patients: pd.DataFrame


def bootstrap_mean_r(
    pairs: PairMoments,
    units: pd.DataFrame,
    *,
    statistic: Statistic = "slide",
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Mean r over genes of one system, with a percentile bootstrap interval.

    For "slide", r of each slide in each fold; mean over a slide's folds, over slides, over genes. For
    "pooled", r over all test cells of each fold; mean over folds, over genes.

    Six patients or more are drawn with replacement. With fewer, the regions of each slide and fold are, and
    every patient stays: the interval then covers the choice of regions within these patients only. Genes
    without an r in a draw (constant truth) are left out of that draw's mean.

    Args:
        pairs: `(U, G)`.
        units: U rows with "fold", "patient", "slide" and "region".
        statistic: see above.
        resamples: number of draws.
        confidence: of the interval.
        seed: of the draws.

    Raises:
        CompareError: shapes that differ, nothing that can be scored, or nothing to draw from.
    """
    weights, shares, kind = _draws(units, pairs, statistic, resamples, seed)
    return _interval(_means([pairs], units, weights, shares, statistic)[0], kind, units, confidence)


def compare_systems(
    systems: Mapping[str, PairMoments],
    units: pd.DataFrame,
    *,
    statistic: Statistic = "slide",
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Compares systems scored on the same units, pair by pair.

    Only genes and units that both systems of a pair predict enter. The interval is that of
    `bootstrap_mean_r`, of the difference, with the same draws for both systems. Wilcoxon's signed-rank tests
    (two-sided, zero differences dropped, SciPy's exact distribution where it applies) compare mean r by gene
    over slides, and mean r by slide over genes. Genes are correlated, so that the test over genes is too sure
    of itself; slides of one patient are too. Over few slides p cannot become small: 2 / 2^n at best.
    Holm's correction is over all pairs, for each of the two tests.

    Args:
        systems: `(U, G)` by name, at least two.
        units: see `bootstrap_mean_r`.
        statistic: for the interval and the patients' differences.
        resamples: number of draws.
        confidence: of the interval.
        seed: of the draws.

    Raises:
        CompareError: fewer than two systems, or see `bootstrap_mean_r`.
    """
    from statsmodels.stats.multitest import multipletests

    if len(systems) < 2:
        raise CompareError(f"{len(systems)} systems; expected at least two to compare")
    rows, patients = [], []
    for first, second in combinations(systems, 2):
        a, b = _common(systems[first], systems[second])
        weights, shares, kind = _draws(units, a, statistic, resamples, seed)
        mean_a, mean_b = _means([a, b], units, weights, shares, statistic)
        found = _interval(mean_a - mean_b, kind, units, confidence)
        by_slide = [_group_r(pair, units, "slide")[1] for pair in (a, b)]
        slide = _folded(_group_r(a, units, "slide")[0], by_slide)
        p_genes, n_genes = wilcoxon(_nanmean(slide[0], 0), _nanmean(slide[1], 0))
        p_slides, n_slides = wilcoxon(_nanmean(slide[0], 1), _nanmean(slide[1], 1))
        rows.append(
            {
                "first": first, "second": second, "difference": found.estimate, "low": found.low,
                "high": found.high, "resampled": kind, "p_genes": p_genes, "n_genes": n_genes,
                "p_slides": p_slides, "n_slides": n_slides,
            }
        )  # fmt: skip
        for patient, index in units.groupby("patient", sort=False, observed=True).indices.items():
            one, part = np.ones((1, len(index))), units.iloc[index].reset_index(drop=True)
            r = [m[0] for m in _means([a[index], b[index]], part, one, one, statistic)]
            patients.append(
                {"first": first, "second": second, "patient": patient, "r_first": r[0], "r_second": r[1],
                 "difference": r[0] - r[1]}
            )  # fmt: skip
    table = pd.DataFrame(rows)
    for test in ("p_genes", "p_slides"):
        table[f"{test}_holm"] = multipletests(table[test], method="holm")[1]
    return Comparison(table, pd.DataFrame(patients))


def wilcoxon(first: np.ndarray, second: np.ndarray) -> tuple[float, int]:
    """Wilcoxon's signed-rank test, two-sided, of `(n,)` values; NaN in either leaves the pair out.

    Returns:
        p, and the number of pairs with a difference; p is 1 where there is none.
    """
    from scipy import stats

    difference = first - second
    difference = difference[~np.isnan(difference) & (difference != 0)]
    if not len(difference):
        return 1.0, 0
    return float(stats.wilcoxon(difference, zero_method="wilcox").pvalue), len(difference)


def _common(first: PairMoments, second: PairMoments) -> tuple[PairMoments, PairMoments]:
    """Both systems where both have a prediction of a measured gene."""
    if first.n.shape != second.n.shape:
        raise CompareError(
            f"moments of shapes {first.n.shape} and {second.n.shape}; expected the same units, genes"
        )
    both = (first.n > 0) & (second.n > 0)
    differs = both & (first.n != second.n)
    if differs.any():
        unit = int(np.flatnonzero(differs.any(axis=1))[0])
        raise CompareError(
            f"two systems have different numbers of cells in unit {unit}; score the same cells"
        )

    def only(pair: PairMoments) -> PairMoments:
        return PairMoments(*(np.where(both, getattr(pair, f), 0.0) for f in _FIELDS))

    return only(first), only(second)


_FIELDS = ("n", "mean_p", "mean_t", "pp", "tt", "pt")


def _columns(statistic: Statistic) -> list[str]:
    return ["fold", "slide"] if statistic == "slide" else ["fold"]


def _draws(
    units: pd.DataFrame, pairs: PairMoments, statistic: Statistic, resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray, str]:
    """How often each unit and its patient are drawn, `(1 + B, U)`; the first row is the units as they are."""
    if pairs.n.ndim != 2 or len(units) != len(pairs.n) or not len(units):
        raise CompareError(
            f"moments of shape {pairs.n.shape} for {len(units)} units; expected (units, genes)"
        )
    if statistic not in ("slide", "pooled") or resamples < 1:
        raise CompareError(
            f"statistic {statistic!r} with {resamples} resamples; expected slide or pooled, and 1+"
        )
    rng = np.random.default_rng(seed)
    code, names = pd.factorize(units["patient"])
    weights = np.ones((1 + resamples, len(units)))
    if len(names) >= MIN_PATIENTS:
        weights[1:] = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), resamples)[:, code]
        return weights, weights, "patients"
    strata = list(units.groupby(["fold", "slide"], sort=False, observed=True).indices.values())
    if max(map(len, strata)) < 2:
        raise CompareError(
            f"{len(names)} patients, fewer than {MIN_PATIENTS}, and one region each: nothing to draw from; "
            "cut the slides into more regions"
        )
    for rows in strata:
        weights[1:, rows] = rng.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), resamples)
    return weights, np.ones_like(weights), "regions within patients"


def _means(
    systems: list[PairMoments],
    units: pd.DataFrame,
    weights: np.ndarray,
    shares: np.ndarray,
    statistic: Statistic,
) -> list[np.ndarray]:
    """`(B,)` mean r over groups, then over genes, for each system and each row of weights."""
    groups = list(units.groupby(_columns(statistic), sort=False, observed=True).indices.values())
    # A slide counts once however many folds test it.
    each = units.groupby("slide", observed=True)["fold"].transform("nunique").to_numpy()
    out = []
    for pairs in systems:
        total, count = np.zeros(len(weights)), np.zeros(len(weights))
        for start in range(0, pairs.n.shape[1], GENES_AT_A_TIME):
            part = pairs[:, start : start + GENES_AT_A_TIME]
            top = np.zeros((len(weights), part.n.shape[1]))
            bottom = np.zeros_like(top)
            for rows in groups:
                share = shares[:, rows].mean(axis=1) / (each[rows[0]] if statistic == "slide" else 1.0)
                r = weighted_r(part[rows], weights[:, rows])
                known = ~np.isnan(r)
                top += share[:, None] * np.where(known, r, 0.0)
                bottom += share[:, None] * known
            scored = bottom > 0
            total += np.divide(top, bottom, out=np.zeros_like(top), where=scored).sum(axis=1)
            count += scored.sum(axis=1)
        out.append(np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0))
    return out


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


def _interval(means: np.ndarray, kind: str, units: pd.DataFrame, confidence: float) -> Interval:
    if not 0 < confidence < 1:
        raise CompareError(f"confidence {confidence}; expected between 0 and 1")
    if np.isnan(means[0]):
        raise CompareError(
            "no gene can be scored: the truth of all is constant, or none is measured and predicted"
        )
    tail = (1 - confidence) / 2
    # A draw of which no gene can be scored says nothing.
    low, high = np.nanquantile(means[1:], [tail, 1 - tail])
    return Interval(float(means[0]), float(low), float(high), kind, units["patient"].nunique(), confidence)


def _group_r(
    pairs: PairMoments, units: pd.DataFrame, statistic: Statistic
) -> tuple[pd.DataFrame, np.ndarray]:
    groups = units.groupby(_columns(statistic), sort=False, observed=True).indices
    table = units.iloc[[rows[0] for rows in groups.values()]].reset_index(drop=True)
    return table, np.stack([pairs[rows].merged().r for rows in groups.values()])


def _folded(table: pd.DataFrame, r: list[np.ndarray]) -> list[np.ndarray]:
    """`(S, G)` mean over the folds of each slide."""
    groups = table.groupby("slide", sort=False, observed=True).indices.values()
    return [np.stack([_nanmean(values[rows], 0) for rows in groups]) for values in r]


def _nanmean(values: np.ndarray, axis: int) -> np.ndarray:
    known = ~np.isnan(values)
    n = known.sum(axis=axis)
    return np.where(n > 0, np.where(known, values, 0.0).sum(axis=axis) / np.maximum(n, 1), np.nan)
