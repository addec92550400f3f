"""Concordance between risk and survival: Harrell's, and with weights for censoring.

A high risk means a short survival. Two patients are comparable when the one who lived shorter died: i died
at t_i and t_j > t_i, or t_j = t_i and j was censored. Over comparable pairs

    C = sum w_i (1[r_i > r_j] + 0.5 · 1[r_i = r_j]) / sum w_i,

with w_i = 1 for Harrell's C (Harrell et al. 1982), and w_i = 1[t_i < tau] / G(t_i)^p with inverse probability
of censoring, where G is the Kaplan-Meier estimate of the censoring time: p = 2 for Uno's C (Uno et al. 2011),
p = 1 as the PAST paper prints it.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from past_core.errors import PastError

TIED_TOLERANCE = 1e-8
"""Risks nearer than this are tied, as in scikit-survival."""

NO_PAIR = "no pair of patients is comparable: nobody's death was seen before another's time"


class SurvivalDataError(PastError, ValueError):
    """Times, events or risks that cannot be scored."""


class Pairs(NamedTuple):
    """Which pairs are comparable, and how the risks order them.

    Attributes:
        comparable: `(N, N)` bool; row i died before column j.
        order: `(N, N)` float64; 1 where the risk of i is the higher, 0.5 where both are tied, else 0.
    """

    comparable: np.ndarray
    order: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Concordance:
    """A concordance index and everything that decides its value.

    Attributes:
        value: in [0, 1]; None where it is undefined, see `problem`.
        pairs: number of comparable pairs.
        concordant: pairs whose order is right.
        discordant: pairs whose order is wrong.
        tied: pairs of tied risk.
        tau: times from here on were left out, in the unit of time; None kept all.
        exponent: p of the weights; None for Harrell's.
        censoring: whose censoring distribution gave the weights, in words; None for Harrell's.
        largest_weight: of any patient's death; 1 for Harrell's.
        problem: why it is undefined; None where it is not.
    """

    value: float | None
    pairs: int
    concordant: int
    discordant: int
    tied: int
    tau: float | None = None
    exponent: float | None = None
    censoring: str | None = None
    largest_weight: float = 1.0
    problem: str | None = None


def harrell_c(event: np.ndarray, time: np.ndarray, risk: np.ndarray) -> Concordance:
    """Harrell's concordance index.

    Args:
        event: `(N,)` bool, True where death was seen.
        time: `(N,)` time to death or censoring, above 0.
        risk: `(N,)`, higher means a shorter survival.

    Raises:
        SurvivalDataError: lengths that differ, values that are not finite, times that are not positive.
    """
    from sksurv.exceptions import NoComparablePairException
    from sksurv.metrics import concordance_index_censored

    event, time, risk = checked(event, time, risk)
    try:
        value, concordant, discordant, tied, _ = concordance_index_censored(
            event, time, risk, tied_tol=TIED_TOLERANCE
        )
    except (NoComparablePairException, ValueError) as error:  # ValueError: everybody is censored
        return _undefined(f"{NO_PAIR} ({error})", {})
    concordant, discordant, tied = int(concordant), int(discordant), int(tied)
    return Concordance(
        value=float(value),
        pairs=concordant + discordant + tied,
        concordant=concordant,
        discordant=discordant,
        tied=tied,
    )


def uno_c(
    event: np.ndarray,
    time: np.ndarray,
    risk: np.ndarray,
    *,
    train_event: np.ndarray,
    train_time: np.ndarray,
    tau: float | None = None,
    exponent: float = 2.0,
    source: str = "training fold",
) -> Concordance:
    """Concordance weighted by the inverse probability of censoring.

    Args:
        event: `(N,)` bool of the scored patients.
        time: `(N,)` their times.
        risk: `(N,)`, higher means a shorter survival.
        train_event: `(M,)` bool of the patients whose censoring gives the weights.
        train_time: `(M,)` their times.
        tau: deaths at or after this time are left out; None keeps all.
        exponent: p of the weights: 2 is Uno's, 1 the PAST paper's.
        source: whose censoring it is, for the record.

    Returns:
        the index; undefined where no pair is comparable, or where a death has a probability of 0 of being
        seen, which happens when it lies after the last time of the training patients.

    Raises:
        SurvivalDataError: lengths that differ, values that are not finite, times that are not positive.
    """
    event, time, risk = checked(event, time, risk)
    train_event, train_time, _ = checked(train_event, train_time, np.zeros(len(train_time)))
    counted = event & (time < (np.inf if tau is None else tau))
    seen = censoring_survival(train_event, train_time, time)
    record: dict[str, Any] = {
        "tau": None if tau is None else float(tau),
        "exponent": float(exponent),
        "censoring": source,
    }
    if (seen[counted] <= 0).any():
        late = float(time[counted & (seen <= 0)].min())
        return _undefined(
            f"a death at {late:g} lies where no patient of the {source} is followed any more, so that its "
            "weight is infinite; give a tau before it",
            record,
        )
    weight = np.zeros(len(time))
    weight[counted] = seen[counted] ** -float(exponent)
    return _score(pairs_of(event, time, risk), weight, record)


def censoring_survival(event: np.ndarray, time: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Kaplan-Meier estimate of the probability of not yet being censored.

    Deaths at a time come before censorings at it, so that a patient who dies at t leaves the risk set first.

    Args:
        event: `(M,)` bool, True where death was seen.
        time: `(M,)` times.
        at: `(N,)` times to evaluate at.

    Returns:
        `(N,)` G(t), right-continuous; beyond the last time its last value.
    """
    moments, first = np.unique(time, return_inverse=True)
    censored = np.bincount(first, weights=~event, minlength=len(moments))
    died = np.bincount(first, weights=event, minlength=len(moments))
    at_risk = len(time) - np.concatenate([[0], np.cumsum(censored + died)[:-1]])
    left = at_risk - died
    factor = np.where(censored > 0, 1 - censored / np.maximum(left, 1), 1.0)
    survival = np.concatenate([[1.0], np.cumprod(factor)])
    return survival[np.searchsorted(moments, at, side="right")]


def pairs_of(event: np.ndarray, time: np.ndarray, risk: np.ndarray) -> Pairs:
    """Comparable pairs, and how the risks order them; memory is 9 bytes a pair."""
    later = time[None] > time[:, None]
    later |= (time[None] == time[:, None]) & ~event[None]
    comparable = event[:, None] & later
    np.fill_diagonal(comparable, val=False)
    difference = risk[:, None] - risk[None]
    order = np.where(np.abs(difference) <= TIED_TOLERANCE, 0.5, (difference > 0).astype(np.float64))
    return Pairs(comparable, order)


def checked(
    event: np.ndarray, time: np.ndarray, risk: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Events as bool, times and risks as float64.

    Raises:
        SurvivalDataError: lengths that differ, values that are not finite, times that are not positive.
    """
    event, time, risk = np.asarray(event), np.asarray(time, np.float64), np.asarray(risk, np.float64)
    if not (event.shape == time.shape == risk.shape and time.ndim == 1):
        raise SurvivalDataError(
            f"events {event.shape}, times {time.shape} and risks {risk.shape}; expected one of each a patient"
        )
    if not np.isin(event, (0, 1)).all():
        raise SurvivalDataError("events must be 0 or 1 (1: death was seen)")
    for name, values in (("time", time), ("risk", risk)):
        wrong = np.flatnonzero(~np.isfinite(values))
        if len(wrong):
            raise SurvivalDataError(
                f"{len(wrong)} of {len(values)} values of {name} are not finite, first number {wrong[0]}"
            )
    if len(time) and time.min() <= 0:
        raise SurvivalDataError(f"a time of {time.min():g}, patient number {time.argmin()}; must be positive")
    return event.astype(bool), time, risk


def _score(pairs: Pairs, weight: np.ndarray, record: dict[str, Any]) -> Concordance:
    used = pairs.comparable & (weight > 0)[:, None]
    count = int(used.sum())
    if not count:
        return _undefined(NO_PAIR, record)
    concordant, tied = int((used & (pairs.order == 1)).sum()), int((used & (pairs.order == 0.5)).sum())
    mass = (weight[:, None] * used).sum()
    return Concordance(
        value=float((weight[:, None] * used * pairs.order).sum() / mass),
        pairs=count,
        concordant=concordant,
        discordant=count - concordant - tied,
        tied=tied,
        largest_weight=float(weight.max()),
        **record,
    )


def _undefined(problem: str, record: dict[str, Any]) -> Concordance:
    return Concordance(
        value=None, pairs=0, concordant=0, discordant=0, tied=0, largest_weight=0.0, problem=problem, **record
    )
