"""What a system of survival gets and gives."""

from typing import Protocol

import numpy as np

from past_surv.data.cohort import Cohort
from past_surv.data.splits import Fold


class SurvivalSystem(Protocol):
    """Learns from the training rows of a fold, and orders the scored rows by risk."""

    name: str

    def risk(self, cohort: Cohort, fold: Fold, *, seed: int = 0) -> np.ndarray:
        """`(len(fold.test),)` risks, higher means a shorter survival; scored outcomes are never read."""
        ...


def rank_sum(*risks: np.ndarray) -> np.ndarray:
    """Joins risks of different scales: the mean of their ranks, `(N,)`."""
    from scipy.stats import rankdata

    return np.mean([rankdata(risk) for risk in risks], axis=0)
