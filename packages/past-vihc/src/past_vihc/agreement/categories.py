"""Agreement of categories: numbers cut at given values, and Cohen's weighted kappa."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from past_vihc.agreement.statistics import AgreementError, Estimate

Weights = Literal["quadratic", "linear"]


@dataclass(frozen=True)
class Categories:
    """Ordered categories of a number.

    Attributes:
        cutoffs: ascending values that part them.
        names: one more than cut-offs.
        above: whether a value on a cut-off belongs to the category above it (>=), or below (>).
        source: where they come from.

    Raises:
        AgreementError: cut-offs that do not ascend, or names of another number.
    """

    cutoffs: tuple[float, ...]
    names: tuple[str, ...]
    above: bool
    source: str

    def __post_init__(self) -> None:
        finite = all(math.isfinite(value) for value in self.cutoffs)
        if not self.cutoffs or not finite or list(self.cutoffs) != sorted(set(self.cutoffs)):
            raise AgreementError(
                f"cut-offs {', '.join(f'{c:g}' for c in self.cutoffs)}; expected ascending "
                "numbers, as in 50,100,200"
            )
        if len(self.names) != len(self.cutoffs) + 1:
            raise AgreementError(f"{len(self.names)} names of {len(self.cutoffs) + 1} categories")

    def of(self, values: np.ndarray) -> np.ndarray:
        """Category of each value, 0 for the lowest: `(N,)` int64."""
        return np.digitize(values, self.cutoffs, right=not self.above)


H_SCORE = Categories(
    (50.0, 100.0, 200.0), ("0–50", "51–100", "101–200", "201–300"), above=False, source="H-score"
)
"""The H-score's usual groups; 50.5 belongs to the second."""
PERCENT = Categories((1.0,), ("negative", "positive"), above=True, source="% positive, positive from 1 %")
"""The cut-off of oestrogen and progesterone receptor: positive from 1 % of the nuclei (ASCO/CAP)."""


def given_cutoffs(cutoffs: Sequence[float]) -> Categories:
    """Categories of cut-offs that a user gives; a value on one belongs to the category above.

    Raises:
        AgreementError: not ascending.
    """
    values = tuple(float(value) for value in cutoffs)
    if not values:
        raise AgreementError("no cut-offs; expected ascending numbers, as in 50,100,200")
    text = [f"{value:g}" for value in values]
    names = (f"below {text[0]}", *(f"{a} to {b}" for a, b in pairwise(text)))
    return Categories(values, (*names, f"{text[-1]} and above"), above=True, source="given")


def confusion(x: np.ndarray, y: np.ndarray, categories: Categories) -> np.ndarray:
    """Counts, `(K, K)` int64: rows are x's categories, columns y's."""
    k = len(categories.names)
    return np.bincount(categories.of(x) * k + categories.of(y), minlength=k * k).reshape(k, k)


def weighted_kappa(counts: np.ndarray, weights: Weights, *, confidence: float = 0.95) -> Estimate:
    """Cohen's kappa with disagreement weighted by the distance of categories, or its square.

    κ = 1 − Σ w o / Σ w e. The interval is that of its large-sample standard error (Fleiss, Cohen & Everitt
    1969), cut at −1 and 1.

    Args:
        counts: `(K, K)`, rows one rater, columns the other.
        weights: linear or quadratic. For two categories they are the same, and unweighted.
        confidence: of the interval.
    """
    from scipy.stats import norm

    value, agree, p = _kappa(counts, weights)
    if value is None:
        return Estimate(None, why="all values fall into one category, so that chance agrees as well")
    rows, columns, n = p.sum(axis=1), p.sum(axis=0), counts.sum()
    expected = (agree * np.outer(rows, columns)).sum()
    mean = (agree @ columns)[:, None] + (rows @ agree)[None, :]
    spread = (p * (agree - mean * (1 - value)) ** 2).sum() - (value - expected * (1 - value)) ** 2
    error = math.sqrt(max(float(spread), 0.0) / n) / (1 - expected)
    half = float(norm.ppf(0.5 + confidence / 2)) * error
    return Estimate(float(value), max(-1.0, float(value - half)), min(1.0, float(value + half)), "Fleiss")


def kappa_value(counts: np.ndarray, weights: Weights) -> float | None:
    """The value of `weighted_kappa` alone; None where all values fall into one category."""
    return _kappa(counts, weights)[0]


def _kappa(counts: np.ndarray, weights: Weights) -> tuple[float | None, np.ndarray, np.ndarray]:
    k, n = len(counts), counts.sum()
    distance = np.abs(np.subtract.outer(np.arange(k), np.arange(k))) / max(k - 1, 1)
    agree = 1 - (distance**2 if weights == "quadratic" else distance)
    p = counts / n
    rows, columns = p.sum(axis=1), p.sum(axis=0)
    observed, expected = (agree * p).sum(), (agree * np.outer(rows, columns)).sum()
    if 1 - expected <= 1e-12:
        return None, agree, p
    return float((observed - expected) / (1 - expected)), agree, p
