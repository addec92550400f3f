"""Bootstrap of concordance over patients: two matrix products serve every resample.

A resample of patients with multiplicities m counts the pair (i, j) m_i · m_j times, so that
C = (m·w)ᵀ K m / (m·w)ᵀ P m with P the comparable pairs, K those in order (ties half) and w the weights of
the deaths. Pairs of a patient with its own copy are not comparable, as in the sample itself.
"""

from dataclasses import dataclass

import numpy as np

from past_surv.metrics.concordance import SurvivalDataError, checked, pairs_of


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A percentile interval from resamples.

    Attributes:
        value: on the sample itself; NaN where it is undefined.
        low: 2.5th percentile of the resamples where it is defined.
        high: 97.5th percentile.
        resamples: how many resamples.
        undefined: on how many of them it is undefined.
    """

    value: float
    low: float
    high: float
    resamples: int
    undefined: int


def multiplicities(patients: int, resamples: int, *, seed: int = 0) -> np.ndarray:
    """How often each patient is drawn: `(resamples, patients)` float64, rows that add up to `patients`."""
    stream = np.random.default_rng(seed)
    return stream.multinomial(patients, np.full(patients, 1 / patients), size=resamples).astype(np.float64)


def resampled_c(
    event: np.ndarray,
    time: np.ndarray,
    risks: np.ndarray,
    counts: np.ndarray,
    *,
    weight: np.ndarray | None = None,
) -> np.ndarray:
    """Concordance of every system on every resample.

    Args:
        event: `(N,)` bool, True where death was seen.
        time: `(N,)` times.
        risks: `(S, N)` risks of S systems, of the same patients.
        counts: `(B, N)` how often each patient is in each resample, see `multiplicities`.
        weight: `(N,)` weights of the deaths; all 1 (Harrell's C) by default.

    Returns:
        `(S, B)` float64, NaN where no pair of a resample is comparable.

    Raises:
        SurvivalDataError: shapes that do not fit, or values that cannot be scored.
    """
    risks = np.atleast_2d(np.asarray(risks, np.float64))
    counts = np.asarray(counts, np.float64)
    if counts.ndim != 2 or counts.shape[1] != risks.shape[1]:
        raise SurvivalDataError(f"multiplicities {counts.shape} of {risks.shape[1]} patients")
    left = counts if weight is None else counts * np.asarray(weight, np.float64)
    total, out = None, np.empty((len(risks), len(counts)))
    for number, risk in enumerate(risks):
        pairs = pairs_of(*checked(event, time, risk))
        if total is None:  # which pairs are comparable does not depend on the risk
            total = np.einsum("bi,bi->b", left @ pairs.comparable.astype(np.float64), counts)
        ordered = np.einsum("bi,bi->b", left @ (pairs.comparable * pairs.order), counts)
        out[number] = np.divide(ordered, total, out=np.full(len(counts), np.nan), where=total > 0)
    return out


def interval(value: float, resamples: np.ndarray) -> Interval:
    """The 95 % percentile interval of `(B,)` resampled values; those that are NaN are counted, not used."""
    known = resamples[np.isfinite(resamples)]
    low, high = np.percentile(known, [2.5, 97.5]) if len(known) else (np.nan, np.nan)
    return Interval(
        value=float(value),
        low=float(low),
        high=float(high),
        resamples=len(resamples),
        undefined=len(resamples) - len(known),
    )
