"""Kaplan-Meier curves with their bands, and the log-rank test between two groups of risk."""

from dataclasses import dataclass

import numpy as np

from past_surv.metrics.concordance import SurvivalDataError, checked


@dataclass(frozen=True, kw_only=True)
class SurvivalCurve:
    """A Kaplan-Meier curve.

    Attributes:
        time: `(T,)` distinct times, ascending.
        survival: `(T,)` share alive after each.
        low: `(T,)` lower bound of the 95 % band (log-log).
        high: `(T,)` upper bound.
        at_risk: `(T,)` patients followed just before each.
        patients: how many patients.
        events: how many deaths.
    """

    time: np.ndarray
    survival: np.ndarray
    low: np.ndarray
    high: np.ndarray
    at_risk: np.ndarray
    patients: int
    events: int

    @property
    def median(self) -> float | None:
        """First time at which at most half are alive; None where more than half still are at the end."""
        reached = np.flatnonzero(self.survival <= 0.5)
        return float(self.time[reached[0]]) if len(reached) else None


@dataclass(frozen=True, kw_only=True)
class LogRank:
    """A log-rank test of two or more groups.

    Attributes:
        statistic: chi square.
        p: two-sided.
        groups: how many groups.
    """

    statistic: float
    p: float
    groups: int


def kaplan_meier(event: np.ndarray, time: np.ndarray) -> SurvivalCurve:
    """The Kaplan-Meier estimate with log-log bands.

    Args:
        event: `(N,)` bool, True where death was seen.
        time: `(N,)` times.

    Raises:
        SurvivalDataError: no patient, or values that are no survival.
    """
    from sksurv.nonparametric import kaplan_meier_estimator

    event, time, _ = checked(event, time, np.zeros(len(time)))
    if not len(time):
        raise SurvivalDataError("a survival curve of no patients")
    moments, survival, band = kaplan_meier_estimator(event, time, conf_type="log-log")
    return SurvivalCurve(
        time=moments,
        survival=survival,
        low=band[0],
        high=band[1],
        at_risk=at_risk(time, moments),
        patients=len(time),
        events=int(event.sum()),
    )


def at_risk(time: np.ndarray, moments: np.ndarray) -> np.ndarray:
    """`(T,)` int: patients whose time is at least each moment."""
    return len(time) - np.searchsorted(np.sort(time), moments, side="left")


def log_rank(event: np.ndarray, time: np.ndarray, group: np.ndarray) -> LogRank:
    """The log-rank test.

    Args:
        event: `(N,)` bool, True where death was seen.
        time: `(N,)` times.
        group: `(N,)` to which group each patient belongs.

    Raises:
        SurvivalDataError: fewer than two groups, or values that are no survival.
    """
    from sksurv.compare import compare_survival
    from sksurv.util import Surv

    event, time, _ = checked(event, time, np.zeros(len(time)))
    names = np.unique(group)
    if len(names) < 2:
        raise SurvivalDataError(f"all {len(time)} patients are in one group ({names}); expected two or more")
    statistic, p = compare_survival(Surv.from_arrays(event, time), np.asarray(group))
    return LogRank(statistic=float(statistic), p=float(p), groups=len(names))


def high_risk(risk: np.ndarray) -> np.ndarray:
    """`(N,)` bool: risk at or above the median; a patient at the median counts as high."""
    return np.asarray(risk) >= np.percentile(risk, 50)
