"""Intervals of statistics of agreement by drawing patients with replacement, each with all of its rows."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from past_vihc.agreement.categories import Categories, confusion, kappa_value, weighted_kappa
from past_vihc.agreement.statistics import (
    LIMIT,
    AgreementError,
    Estimate,
    bland_altman,
    ccc,
    concordance,
    icc,
    icc_value,
    pearson,
    r_value,
    spearman,
)

Statistics = dict[str, Estimate]


def statistics(
    x: np.ndarray, y: np.ndarray, categories: Categories | None, *, confidence: float = 0.95
) -> Statistics:
    """All statistics of agreement of `(N,)` pairs by name.

    Raises:
        AgreementError: fewer than three pairs, or values that are not finite.
    """
    limits = bland_altman(x, y, confidence=confidence)
    found = {
        "pearson": pearson(x, y, confidence=confidence),
        "spearman": spearman(x, y, confidence=confidence),
        "concordance": concordance(x, y, confidence=confidence),
        "icc": icc(x, y, confidence=confidence),
        "bias": limits.bias,
        "lower_limit": limits.lower,
        "upper_limit": limits.upper,
        "slope": limits.slope,
    }
    if categories is not None:
        counts = confusion(x, y, categories)
        found["kappa_quadratic"] = weighted_kappa(counts, "quadratic", confidence=confidence)
        found["kappa_linear"] = weighted_kappa(counts, "linear", confidence=confidence)
    return found


def clustered(
    x: np.ndarray,
    y: np.ndarray,
    cluster: np.ndarray,
    categories: Categories | None,
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Statistics:
    """The same, with percentile intervals over draws of whole clusters.

    Rows of one patient are not independent: the usual intervals are too narrow. A draw in which a statistic
    is undefined is left out of its interval; where half of them are, there is none.

    Args:
        x: `(N,)` reference.
        y: `(N,)`.
        cluster: `(N,)` the patient of each row.
        categories: for kappa; None leaves it out.
        confidence: of the intervals.
        resamples: draws.
        seed: of the draws.

    Raises:
        AgreementError: as `statistics`, or fewer than three clusters.
    """
    found = statistics(x, y, categories, confidence=confidence)
    names, code = np.unique(np.asarray(cluster, str), return_inverse=True)
    if len(names) < 3:
        raise AgreementError(f"{len(names)} clusters ({', '.join(names)}); a bootstrap needs at least three")
    rows = [np.flatnonzero(code == number) for number in range(len(names))]
    rng = np.random.default_rng(seed)
    drawn: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(resamples):
        chosen = np.concatenate([rows[i] for i in rng.integers(0, len(names), len(names))])
        if len(chosen) < 3:
            continue
        for name, value in _values(x[chosen], y[chosen], categories).items():
            if value is not None:
                drawn[name].append(value)
    tail = (1 - confidence) / 2
    out = {}
    for name, estimate in found.items():
        values = drawn[name]
        if estimate.value is None:
            out[name] = estimate
        elif len(values) < resamples / 2:
            why = f"no interval: undefined in {resamples - len(values)} of {resamples} draws of clusters"
            out[name] = Estimate(estimate.value, why=why)
        else:
            low, high = (float(v) for v in np.quantile(values, [tail, 1 - tail]))
            label = "bootstrap"
            out[name] = dataclasses.replace(estimate, low=low, high=high, interval=label, why=None)
    return out


def _values(x: np.ndarray, y: np.ndarray, categories: Categories | None) -> Mapping[str, float | None]:
    """The values of `statistics` without intervals, a thousand times over."""
    from scipy.stats import rankdata

    difference, middle = y - x, (x + y) / 2
    bias, s = float(difference.mean()), float(difference.std(ddof=1))
    spread = middle - middle.mean()
    found = {
        "pearson": r_value(x, y),
        "spearman": r_value(rankdata(x), rankdata(y)),
        "concordance": ccc(x, y),
        "icc": icc_value(x, y),
        "bias": bias,
        "lower_limit": bias - LIMIT * s,
        "upper_limit": bias + LIMIT * s,
        "slope": float(spread @ difference / (spread @ spread)) if np.ptp(middle) > 0 else None,
    }
    if categories is not None:
        counts = confusion(x, y, categories)
        found["kappa_quadratic"] = kappa_value(counts, "quadratic")
        found["kappa_linear"] = kappa_value(counts, "linear")
    return found
