"""Whether one system is better than another on the same held-out tiles."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from past_core.errors import PastError

RESAMPLES = 2000


class ComparisonError(PastError, ValueError):
    """Tables that are not of the same tiles."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """System a against system b in one measure.

    Attributes:
        measure: the column compared.
        difference: mean over cases of the mean over tiles of a − b.
        low: 2.5th percentile of that over resampled tiles, drawn within each case.
        high: 97.5th percentile.
        p: of Wilcoxon's signed-rank test over tiles, two-sided; 1 where nothing differs.
        p_holm: the same, corrected for all comparisons made together; `p` until `holm` is called.
        cases: difference of every case. With few cases these are what to look at: tiles of one case are
            alike, and the test over tiles says nothing about other patients.
        tiles: tiles compared; those where either is undefined are left out.
    """

    measure: str
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    cases: dict[str, float]
    tiles: int


def compare(a: pd.DataFrame, b: pd.DataFrame, measure: str, *, seed: int = 0) -> Comparison:
    """Compares two systems on the tiles that both stained.

    Args:
        a: `StainEvaluator.table()` of one system.
        b: that of another, of the same tiles.
        measure: a column.
        seed: of the resamples.

    Raises:
        ComparisonError: other tiles, or none with the measure.
    """
    from scipy.stats import wilcoxon

    if not (len(a) == len(b) and (a["index"].to_numpy() == b["index"].to_numpy()).all()):
        raise ComparisonError(f"{len(a)} and {len(b)} tiles that are not the same ones; test both alike")
    differences = a[measure].to_numpy(float) - b[measure].to_numpy(float)
    known = np.isfinite(differences)
    if not known.any():
        raise ComparisonError(f"{measure} is undefined on all {len(a)} tiles")
    own, case = differences[known], a["case"].to_numpy()[known]
    by_case = {str(name): own[case == name] for name in pd.unique(case)}
    stream = np.random.default_rng(seed)
    draws = [
        values[stream.integers(0, len(values), (RESAMPLES, len(values)))].mean(axis=1)
        for values in by_case.values()
    ]
    low, high = np.percentile(np.mean(draws, axis=0), [2.5, 97.5])
    p = float(wilcoxon(own).pvalue) if np.any(own) else 1.0
    return Comparison(
        measure=measure,
        difference=float(np.mean([values.mean() for values in by_case.values()])),
        low=float(low),
        high=float(high),
        p=p,
        p_holm=p,
        cases={name: float(values.mean()) for name, values in by_case.items()},
        tiles=len(own),
    )


def holm(p: Sequence[float]) -> np.ndarray:
    """Holm's step-down correction: `(N,)` corrected p, in the order given."""
    values = np.asarray(p, np.float64)
    order = np.argsort(values, kind="stable")
    stepped = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(stepped, 1.0)
    return corrected
