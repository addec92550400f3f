"""Brier score: how far predicted survival is from what happened, weighted for censoring (Graf et al. 1999).

    BS(t) = mean_i [ S(t | i)^2 · 1[t_i <= t, died] / G(t_i) + (1 - S(t | i))^2 · 1[t_i > t] / G(t) ],

with G the Kaplan-Meier estimate of the censoring time in the training fold. Integrated over time it is one
number: 0 is perfect, 0.25 what a prediction of one half for everybody gets. Beside it stands the reference
without any feature, the Kaplan-Meier curve of the training fold given to everybody: a model above that says
less than no model.
"""

from dataclasses import dataclass

import numpy as np

from past_surv.metrics.concordance import SurvivalDataError, checked
from past_surv.metrics.horizon import cut_off


@dataclass(frozen=True, kw_only=True, eq=False)
class Brier:
    """A Brier score over time.

    Attributes:
        value: integrated over `times`; None where it is undefined, see `problem`.
        reference: the same of the training fold's Kaplan-Meier curve.
        times: `(T,)` moments.
        scores: `(T,)` score at each.
        censoring: whose censoring distribution gave the weights.
        problem: why it is undefined; None where it is not.
    """

    value: float | None
    reference: float | None
    times: np.ndarray
    scores: np.ndarray
    censoring: str
    problem: str | None = None


def survival_at(survival: np.ndarray, edges: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Survival of a discrete-time model at any moment before its last, open interval.

    Within an interval the hazard is taken as constant, so that the logarithm of survival is linear.

    Args:
        survival: `(N, K)` share alive after each interval.
        edges: `(K + 1,)` of the intervals; the outer ones may be infinite.
        times: `(T,)` moments, above 0 and at most at the last inner edge.

    Returns:
        `(N, T)` float64.

    Raises:
        SurvivalDataError: shapes that do not fit, survival that is no probability or rises, or moments
            outside of the edges.
    """
    survival, edges = np.asarray(survival, np.float64), np.asarray(edges, np.float64)
    times = np.asarray(times, np.float64)
    if survival.ndim != 2 or edges.shape != (survival.shape[1] + 1,) or survival.shape[1] < 2:
        raise SurvivalDataError(
            f"survival {survival.shape} and edges {edges.shape}; expected (N, K) and K + 1, with 2 or more "
            "intervals"
        )
    if not (survival >= 0).all() or not (survival <= 1).all():
        raise SurvivalDataError("survival must lie between 0 and 1 and be finite")
    if (np.diff(survival, axis=1) > 1e-9).any():
        raise SurvivalDataError("survival rises from one interval to the next")
    knots = np.concatenate([[0.0], edges[1:-1]])
    if not (np.diff(knots) > 0).all():
        raise SurvivalDataError(f"edges {edges.tolist()}; expected them to ascend from above 0")
    if len(times) and (times.min() < 0 or times.max() > knots[-1]):
        raise SurvivalDataError(
            f"moments from {times.min():g} to {times.max():g}; expected 0 to {knots[-1]:g}, for the last "
            "interval has no end"
        )
    tiny = np.finfo(np.float64).tiny
    logs = np.log(np.maximum(np.concatenate([np.ones((len(survival), 1)), survival[:, :-1]], axis=1), tiny))
    right = np.clip(np.searchsorted(knots, times, side="left"), 1, len(knots) - 1)
    share = (times - knots[right - 1]) / (knots[right] - knots[right - 1])
    return np.exp(logs[:, right - 1] * (1 - share) + logs[:, right] * share)


def integrated_brier(
    event: np.ndarray,
    time: np.ndarray,
    survival: np.ndarray,
    times: np.ndarray,
    *,
    train_event: np.ndarray,
    train_time: np.ndarray,
    source: str = "training fold",
) -> Brier:
    """The Brier score over time, and its integral.

    Args:
        event: `(N,)` bool of the scored patients.
        time: `(N,)` their times.
        survival: `(N, T)` predicted share alive at each moment, see `survival_at`.
        times: `(T,)` moments, see `score_times`.
        train_event: `(M,)` bool of the patients whose censoring gives the weights.
        train_time: `(M,)` their times.
        source: whose censoring it is, for the record.

    Raises:
        SurvivalDataError: shapes that do not fit, or values that cannot be scored.
    """
    from sksurv.metrics import brier_score
    from sksurv.util import Surv

    event, time, _ = checked(event, time, np.zeros(np.shape(time)))
    train_event, train_time, _ = checked(train_event, train_time, np.zeros(np.shape(train_time)))
    times, survival = np.asarray(times, np.float64), np.asarray(survival, np.float64)
    if survival.shape != (len(time), len(times)):
        raise SurvivalDataError(
            f"survival {survival.shape}; expected {len(time)} patients, {len(times)} times"
        )
    if len(times) < 2:
        return Brier(
            value=None,
            reference=None,
            times=times,
            scores=np.full(len(times), np.nan),
            censoring=source,
            problem=f"{len(times)} moments at which some have died and others live on; expected 2 or more",
        )
    cut = Surv.from_arrays(*cut_off(event, time, times[-1]))
    train = Surv.from_arrays(train_event, train_time)
    _, scores = brier_score(train, cut, survival, times)
    everybody = np.tile(_kaplan_meier_at(train_event, train_time, times), (len(time), 1))
    _, reference = brier_score(train, cut, everybody, times)
    span = times[-1] - times[0]
    return Brier(
        value=float(np.trapezoid(scores, times) / span),
        reference=float(np.trapezoid(reference, times) / span),
        times=times,
        scores=scores,
        censoring=source,
    )


def _kaplan_meier_at(event: np.ndarray, time: np.ndarray, at: np.ndarray) -> np.ndarray:
    from sksurv.nonparametric import kaplan_meier_estimator

    moments, survival = kaplan_meier_estimator(event, time)
    return np.concatenate([[1.0], survival])[np.searchsorted(moments, at, side="right")]
