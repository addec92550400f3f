"""Whether two systems differ: paired tests over genes and slides, and bootstrap intervals over patients."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd

from past_genex.metrics.pairs import PairMoments
from past_genex.metrics.resample import CompareError, Statistic, draw_units, resampled_r


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
    "pooled", r over all test cells of each fold; mean over folds, over genes. See `resampled_r`.

    Six patients or more are drawn with replacement. With fewer, the regions of each slide are, see
    `draw_units`: the interval then covers the choice of regions within these patients only. A gene
    counts in a draw's mean by how much of it was drawn, so that the mean is over the same genes throughout.

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
    weights, kind = _draws(units, pairs, statistic, resamples, seed)
    return _interval(_means(pairs, units, weights, statistic), kind, units, confidence)


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
    weights, kind = _draws(units, next(iter(systems.values())), statistic, resamples, seed)
    kept: dict[tuple[str, bytes], np.ndarray] = {}

    def means(name: str, pairs: PairMoments) -> np.ndarray:
        # Most systems predict the same genes, and are then drawn once for all their pairs.
        key = (name, (pairs.n > 0).tobytes())
        if key not in kept:
            kept[key] = _means(pairs, units, weights, statistic)
        return kept[key]

    for first, second in combinations(systems, 2):
        a, b = _common(systems[first], systems[second])
        mean_a, mean_b = means(first, a), means(second, b)
        found = _interval(mean_a - mean_b, kind, units, confidence)
        slide = [_by_slide(pair, units) for pair in (a, b)]
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
            r = [_means(pair[index], part, one, statistic)[0] for pair in (a, b)]
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


def _draws(
    units: pd.DataFrame, pairs: PairMoments, statistic: Statistic, resamples: int, seed: int
) -> tuple[np.ndarray, str]:
    if pairs.n.ndim != 2 or len(units) != len(pairs.n) or not len(units):
        raise CompareError(
            f"moments of shape {pairs.n.shape} for {len(units)} units; expected (units, genes)"
        )
    if statistic not in ("slide", "pooled"):
        raise CompareError(f"statistic {statistic!r}; expected slide or pooled")
    return draw_units(units, resamples=resamples, seed=seed)


def _means(pairs: PairMoments, units: pd.DataFrame, weights: np.ndarray, statistic: Statistic) -> np.ndarray:
    """`(B,)` mean over genes of r under each row of weights, of which the first is one for every unit."""
    total, count = np.zeros((2, len(weights)))
    for _, r, drawn in resampled_r(pairs, units, weights, statistic):
        share = np.divide(drawn, drawn[0], out=np.zeros_like(drawn), where=drawn[0] > 0)
        total += (share * np.nan_to_num(r)).sum(axis=1)
        count += share.sum(axis=1)
    return np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)


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


def _by_slide(pairs: PairMoments, units: pd.DataFrame) -> np.ndarray:
    """`(S, G)` r within each slide and fold, mean over the folds of each slide."""
    out = []
    for rows in units.groupby("slide", sort=False, observed=True).indices.values():
        folds = units.iloc[rows].groupby("fold", sort=False, observed=True).indices
        out.append(_nanmean(np.stack([pairs[rows[inner]].merged().r for inner in folds.values()]), 0))
    return np.stack(out)


def _nanmean(values: np.ndarray, axis: int) -> np.ndarray:
    known = ~np.isnan(values)
    n = known.sum(axis=axis)
    return np.where(n > 0, np.where(known, values, 0.0).sum(axis=axis) / np.maximum(n, 1), np.nan)
