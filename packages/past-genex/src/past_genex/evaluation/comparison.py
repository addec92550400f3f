"""How sure a mean r is, and whether two systems differ: bootstrap, Wilcoxon, Holm."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import wilcoxon

from past_genex.evaluation.scores import Scores, nanmean

MIN_PATIENTS = 6
"""Patients from which they are drawn themselves; with fewer, regions are drawn within each."""
DRAWS = 500


@dataclass(frozen=True)
class Interval:
    """A mean over genes of r with its bootstrap interval.

    Attributes:
        value: mean over genes of r pooled over the test cells of a fold, mean over folds.
        low: 2.5 % quantile of the draws.
        high: 97.5 % quantile.
        over: what was drawn: "patients", or "regions within patients".
        draws: `(B,)` the draws, for differences between systems (the same draws for all).
    """

    value: float
    low: float
    high: float
    over: str
    draws: np.ndarray


def bootstrap(scores: Scores, *, draws: int = DRAWS, seed: int = 0) -> Interval:
    """Interval of the mean pooled r over patients, or over regions within patients with fewer than six.

    Scores of two systems over the same units are given the same draws.

    Args:
        scores: a system's.
        draws: B.
        seed: of the draws.
    """
    over, drawn = _drawn(scores, draws, seed)
    made = np.array([nanmean(r) for r in drawn])
    value = float(nanmean(scores.pooled()))
    if np.isnan(made).all():
        return Interval(value, np.nan, np.nan, over, made)
    low, high = np.nanpercentile(made, [2.5, 97.5])
    return Interval(value, float(low), float(high), over, made)


def gene_intervals(scores: Scores, *, draws: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray, str]:
    """`(G,)` 2.5 % and 97.5 % quantiles of every gene's pooled r, and what was drawn; see `bootstrap`."""
    over, drawn = _drawn(scores, draws, seed)
    made = np.array(list(drawn))
    known = ~np.isnan(made).all(axis=0)
    low, high = np.full(made.shape[1], np.nan), np.full(made.shape[1], np.nan)
    if known.any():
        low[known], high[known] = np.nanpercentile(made[:, known], [2.5, 97.5], axis=0)
    return low, high, over


def _drawn(scores: Scores, draws: int, seed: int) -> tuple[str, Iterator[np.ndarray]]:
    """What is drawn, and `(G,)` pooled r of every draw."""
    weights, over = _weights(scores, draws, np.random.default_rng(seed))
    folds = list(scores.units.groupby("fold", sort=False).indices.values())
    parts = [scores.moments[rows] for rows in folds]

    def each() -> Iterator[np.ndarray]:
        for w in weights:
            r = np.stack([part.merged(weights=w[rows]).r for part, rows in zip(parts, folds, strict=True)])
            share = np.array([w[rows].mean() for rows in folds])[:, None]
            known = ~np.isnan(r) & (share > 0)
            n = np.where(known, share, 0.0).sum(axis=0)
            total = np.where(known, r * share, 0.0).sum(axis=0)
            yield np.where(n > 0, total / np.maximum(n, 1e-12), np.nan)

    return over, each()


def _weights(scores: Scores, draws: int, stream: np.random.Generator) -> tuple[np.ndarray, str]:
    """`(B, U)` how often each unit is drawn."""
    patients = scores.units.groupby("patient", sort=False).indices
    weights = np.zeros((draws, len(scores.units)))
    if len(patients) >= MIN_PATIENTS:
        times = stream.multinomial(len(patients), np.full(len(patients), 1 / len(patients)), draws)
        for column, rows in enumerate(patients.values()):
            weights[:, rows] = times[:, column : column + 1]
        return weights, "patients"
    for rows in patients.values():
        weights[:, rows] = stream.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), draws)
    return weights, "regions within patients"


@dataclass(frozen=True)
class Difference:
    """Two systems on the same test cells.

    Attributes:
        first: name of one.
        second: name of the other.
        value: mean over genes of the difference of pooled r, first minus second.
        low: 2.5 % quantile of paired bootstrap draws.
        high: 97.5 %.
        p_genes: Wilcoxon's signed-rank test over genes, two-sided; genes are not independent.
        p_slides: over slides; NaN with fewer than six.
        p_genes_holm: corrected by Holm's method over all pairs.
        p_slides_holm: corrected too.
    """

    first: str
    second: str
    value: float
    low: float
    high: float
    p_genes: float
    p_slides: float
    p_genes_holm: float = np.nan
    p_slides_holm: float = np.nan


def differences(
    scores: Sequence[Scores], intervals: Sequence[Interval], *, reference: str | None = None
) -> list[Difference]:
    """Every pair of systems, or every other system against a reference."""
    pairs = [
        (i, j)
        for i in range(len(scores))
        for j in range(i + 1, len(scores))
        if reference is None or reference in (scores[i].system, scores[j].system)
    ]
    raw = []
    for i, j in pairs:
        delta = scores[i].pooled() - scores[j].pooled()
        drawn = intervals[i].draws - intervals[j].draws
        known = np.isfinite(drawn)
        low, high = np.percentile(drawn[known], [2.5, 97.5]) if known.any() else (np.nan, np.nan)
        slides = nanmean(scores[i].slide_r()[1].T) - nanmean(scores[j].slide_r()[1].T)
        raw.append(
            Difference(
                scores[i].system,
                scores[j].system,
                float(nanmean(delta)),
                float(low),
                float(high),
                signed_rank(delta),
                signed_rank(slides),
            )
        )
    genes = holm(np.array([d.p_genes for d in raw]))
    slides = holm(np.array([d.p_slides for d in raw]))
    return [
        Difference(**(vars(d) | {"p_genes_holm": float(g), "p_slides_holm": float(s)}))
        for d, g, s in zip(raw, genes, slides, strict=True)
    ]


def signed_rank(delta: np.ndarray, *, least: int = 6) -> float:
    """Two-sided p of Wilcoxon's signed-rank test; NaN with fewer than `least` values, 1 where all are 0."""
    delta = delta[np.isfinite(delta)]
    if len(delta) < least:
        return float("nan")
    return 1.0 if not delta.any() else float(wilcoxon(delta).pvalue)


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's step-down correction (1979); NaN stays NaN and is not counted."""
    out = np.full(len(p), np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    steps = p[order] * (len(order) - np.arange(len(order)))
    out[order] = np.minimum(np.maximum.accumulate(steps), 1.0) if len(order) else steps
    return out
