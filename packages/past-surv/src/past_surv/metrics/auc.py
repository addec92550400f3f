"""Time-dependent AUC: does the risk tell those who died by a moment from those who lived on?

Cumulative cases, dynamic controls, weighted by the inverse probability of censoring (Uno et al. 2007); the
mean over moments is weighted by the drop of survival (Lambert and Chevret 2016), both through
scikit-survival.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from past_surv.metrics.concordance import SurvivalDataError, checked
from past_surv.metrics.horizon import cut_off


@dataclass(frozen=True, kw_only=True, eq=False)
class DynamicAUC:
    """AUC over time.

    Attributes:
        value: mean over `times`; None where it is undefined, see `problem`.
        times: `(T,)` moments.
        scores: `(T,)` AUC at each.
        censoring: whose censoring distribution gave the weights.
        problem: why it is undefined; None where it is not.
    """

    value: float | None
    times: np.ndarray
    scores: np.ndarray
    censoring: str
    problem: str | None = None


def dynamic_auc(
    event: np.ndarray,
    time: np.ndarray,
    risk: np.ndarray,
    times: np.ndarray,
    *,
    train_event: np.ndarray,
    train_time: np.ndarray,
    source: str = "training fold",
) -> DynamicAUC:
    """AUC at each moment, and its mean.

    Args:
        event: `(N,)` bool of the scored patients.
        time: `(N,)` their times.
        risk: `(N,)`, higher means a shorter survival.
        times: `(T,)` moments, see `score_times`.
        train_event: `(M,)` bool of the patients whose censoring gives the weights.
        train_time: `(M,)` their times.
        source: whose censoring it is, for the record.

    Raises:
        SurvivalDataError: lengths that differ, or values that cannot be scored.
    """
    from sksurv.metrics import cumulative_dynamic_auc
    from sksurv.util import Surv

    event, time, risk = checked(event, time, risk)
    train_event, train_time, _ = checked(train_event, train_time, np.zeros(np.shape(train_time)))
    times = np.asarray(times, np.float64)
    if times.ndim != 1 or (np.diff(times) <= 0).any():
        raise SurvivalDataError(f"moments {times.tolist()}; expected them to ascend")
    record: dict[str, Any] = {"times": times, "censoring": source}
    nothing = np.full(len(times), np.nan)
    if not len(times):
        problem = "no moment at which a patient has died, others live on and training patients are followed"
        return DynamicAUC(value=None, scores=nothing, problem=problem, **record)
    died = [(event & (time <= moment)).any() and (time > moment).any() for moment in times]
    if not all(died):
        problem = f"nobody has died, or nobody lives on, at {times[int(np.argmin(died))]:g}"
        return DynamicAUC(value=None, scores=nothing, problem=problem, **record)
    cut = Surv.from_arrays(*cut_off(event, time, times[-1]))
    scores, mean = cumulative_dynamic_auc(Surv.from_arrays(train_event, train_time), cut, risk, times)
    return DynamicAUC(value=float(mean), scores=scores, **record)
