"""Moments at which survival is scored, and follow-up cut off after the last of them."""

import numpy as np

from past_surv.metrics.concordance import SurvivalDataError, checked

QUANTILES = (0.20, 0.81)
"""First and last moment, as quantiles of the training patients' times, as MCAT has them."""


def score_times(
    event: np.ndarray,
    time: np.ndarray,
    *,
    train_time: np.ndarray,
    before: float = np.inf,
    count: int = 15,
) -> np.ndarray:
    """Moments between the 20th and 81st percentile of the training patients' times.

    Kept are those at which something can be said of the scored patients: one died before, one lives on, and
    training patients are still followed.

    Args:
        event: `(N,)` bool of the scored patients.
        time: `(N,)` their times.
        train_time: `(M,)` times of the training patients.
        before: moments from here on are left out, such as the start of a last interval without end.
        count: how many moments before any is left out.

    Returns:
        `(T,)` ascending; empty where there is no such moment.

    Raises:
        SurvivalDataError: values that are no survival.
    """
    event, time, _ = checked(event, time, np.zeros(np.shape(time)))
    if count < 1:
        raise SurvivalDataError(f"{count} moments to score at; expected 1 or more")
    train_time = np.asarray(train_time, np.float64)
    if not (event.any() and len(train_time)):
        return np.zeros(0)
    times = np.unique(np.quantile(train_time, np.linspace(*QUANTILES, count)))
    last = min(time.max(), train_time.max(), before)
    return times[(times >= time[event].min()) & (times < last)]


def cut_off(event: np.ndarray, time: np.ndarray, horizon: float) -> tuple[np.ndarray, np.ndarray]:
    """Events and times as if follow-up had ended just after `horizon`.

    Scores at moments up to the horizon ask only who lived longer, so that they do not change; what lies
    later may be where no training patient is followed, and libraries refuse that.
    """
    beyond = time > horizon
    return event & ~beyond, np.where(beyond, np.nextafter(horizon, np.inf), time)
