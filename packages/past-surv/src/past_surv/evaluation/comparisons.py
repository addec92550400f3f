"""Which of two systems or encoders is better, how sure that is, and whether the events suffice to tell."""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import pandas as pd

from past_core.errors import PastError
from past_core.holm import holm
from past_surv.evaluation.cells import NO_ENCODER
from past_surv.evaluation.resampling import RESAMPLED, CohortBootstrap, Entry
from past_surv.metrics.bootstrap import interval

ALL = "all cohorts"
"""Name of the mean over cohorts."""
COLUMNS = {
    "cohort": f"name of the cohort; `{ALL}` for the mean over the cohorts that both have",
    "metric": "harrell or uno_tau, mean over folds and seeds",
    "first": "system, and encoder",
    "second": "what it is compared with",
    "value_first": "on the patients of whom both say something",
    "value_second": "the same of the second",
    "difference": "first minus second",
    "low": "2.5th percentile over resampled patients",
    "high": "97.5th percentile",
    "p": "two-sided, from the share of resamples beyond 0",
    "p_holm": "corrected for all comparisons of this cohort and metric",
    "patients": "of whom both say something",
    "events": "deaths among them",
    "undefined": "resamples in which a fold has no comparable pair; not used",
    "resolved": "whether the difference is larger than the interval's half width",
    "warning": "where it is not: what these events can resolve",
}
"""Columns of `comparisons.csv`, and what they hold."""


class ComparisonError(PastError, ValueError):
    """A reference that was not run."""


def label(entry: Entry) -> str:
    """System, and encoder where it reads one."""
    encoder, system = entry
    return system if encoder == NO_ENCODER else f"{system} ({encoder})"


def compare(cohorts: Mapping[str, CohortBootstrap], *, reference: str | None = None) -> pd.DataFrame:
    """Every pair in every cohort, and over all cohorts; columns as in `COLUMNS`.

    Args:
        cohorts: resamples by cohort.
        reference: label of the one that all others are compared with, as `mcat (uni)`; None takes all pairs.

    Raises:
        ComparisonError: no cohort has the reference.
    """
    every = list(dict.fromkeys(entry for found in cohorts.values() for entry in found.entries))
    if reference is not None and reference not in map(label, every):
        raise ComparisonError(f"no {reference!r} to compare with; there are {', '.join(map(label, every))}")
    rows = []
    for metric in RESAMPLED:
        for first, second in combinations(every, 2):
            if reference is not None and reference not in (label(first), label(second)):
                continue
            if reference == label(second):
                first, second = second, first
            rows += _pair(cohorts, metric, first, second)
    table = pd.DataFrame(rows, columns=[name for name in COLUMNS if name != "p_holm"])
    corrected = table.groupby(["cohort", "metric"])["p"].transform(lambda p: holm(p.to_numpy()))
    table.insert(list(COLUMNS).index("p_holm"), "p_holm", corrected if len(table) else [])
    names = [*cohorts, ALL]
    return table.sort_values("cohort", key=lambda c: c.map(names.index), kind="stable", ignore_index=True)


def _pair(
    cohorts: Mapping[str, CohortBootstrap], metric: str, first: Entry, second: Entry
) -> list[dict[str, object]]:
    both = {name: own for name, own in cohorts.items() if {first, second} <= set(own.entries)}
    rows, draws, counts = [], [], []
    for name, own in both.items():
        pair = np.stack([own.draws(first, metric, beside=second), own.draws(second, metric, beside=first)])
        counts.append(own.events(first, second))
        draws.append(pair)
        rows.append(_row(name, metric, first, second, pair, *counts[-1]))
    if len(both) > 1:
        patients, events = np.sum(counts, axis=0).tolist()
        rows.append(_row(ALL, metric, first, second, np.mean(draws, axis=0), patients, events))
    return rows


def _row(
    cohort: str, metric: str, first: Entry, second: Entry, pair: np.ndarray, patients: int, events: int
) -> dict[str, object]:
    difference = pair[0] - pair[1]
    found = interval(difference[0], difference[1:])
    drawn = difference[1:][np.isfinite(difference[1:])]
    # Never 0: what was not seen in B resamples may still happen once in B + 1.
    p = (
        min(1.0, 2 * (1 + min((drawn <= 0).sum(), (drawn >= 0).sum())) / (len(drawn) + 1))
        if len(drawn)
        else np.nan
    )
    half = (found.high - found.low) / 2
    resolved = bool(abs(found.value) > half)
    warning = None
    if np.isnan(found.value) or np.isnan(half):
        p, warning = np.nan, "undefined: no fold has a comparable pair of patients"
    elif not resolved:
        warning = (
            f"{events} deaths resolve differences of about {half:.3f}; {abs(found.value):.3f} is not told "
            "from chance"
        )
    return {
        "cohort": cohort, "metric": metric, "first": label(first), "second": label(second),
        "value_first": pair[0, 0], "value_second": pair[1, 0], "difference": found.value, "low": found.low,
        "high": found.high, "p": p, "patients": patients, "events": events,
        "undefined": found.undefined, "resolved": resolved, "warning": warning,
    }  # fmt: skip
