"""High against low risk: Kaplan-Meier curves of out-of-fold risks, and log-rank tests."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from past_surv.evaluation.predictions import ENTRY
from past_surv.metrics.concordance import SurvivalDataError
from past_surv.metrics.curves import LogRank, SurvivalCurve, high_risk, kaplan_meier, log_rank

SPLITS = {
    "pooled": "the median of all out-of-fold risks, as published",
    "per fold": "the median of each fold's risks, which models of several folds cannot shift",
}
"""How patients are split into high and low risk; who lies at the median counts as high."""
GROUPS = ("high", "low")


@dataclass(frozen=True, eq=False, kw_only=True)
class RiskSplit:
    """Patients at high and at low risk.

    Attributes:
        cohort: name.
        encoder: of the slides, or `none`.
        system: name.
        split: one of `SPLITS`.
        curves: by group of `GROUPS`; without one that is empty.
        test: log-rank between both; None where it is undefined, see `problem`.
        problem: why.
    """

    cohort: str
    encoder: str
    system: str
    split: str
    curves: Mapping[str, SurvivalCurve]
    test: LogRank | None
    problem: str | None = None


def risk_splits(predictions: pd.DataFrame) -> list[RiskSplit]:
    """Both splits of every cohort, encoder and system.

    A patient's risk is the mean over seeds. Patients without a risk are left out.

    Args:
        predictions: with the columns of `predictions.COLUMNS`.
    """
    made = []
    for entry, own in predictions.groupby(ENTRY, sort=False):
        table = own.groupby("case_id", sort=False).agg(
            risk=("risk", "mean"), time=("time", "first"), event=("event", "first"), fold=("fold", "first")
        )
        table = table[np.isfinite(table["risk"])]
        if table.empty:
            continue
        event, time = table["event"].to_numpy(bool), table["time"].to_numpy()
        within = table.groupby("fold")["risk"].transform(high_risk).to_numpy(bool)
        for split, high in (("pooled", high_risk(table["risk"])), ("per fold", within)):
            made.append(_split(entry, split, event, time, np.asarray(high, bool)))
    return made


def kaplan_table(splits: list[RiskSplit]) -> pd.DataFrame:
    """One row a group: patients, deaths, median survival, and the test between both groups."""
    rows = []
    for split in splits:
        for group, curve in split.curves.items():
            rows.append(
                {
                    "cohort": split.cohort,
                    "encoder": split.encoder,
                    "system": split.system,
                    "split": split.split,
                    "group": group,
                    "patients": curve.patients,
                    "events": curve.events,
                    "median": curve.median,
                    "log_rank": split.test.statistic if split.test else None,
                    "p": split.test.p if split.test else None,
                    "problem": split.problem,
                }
            )
    return pd.DataFrame(rows)


def curve_table(splits: list[RiskSplit]) -> pd.DataFrame:
    """Every step of every curve, with its band and the number at risk."""
    parts = []
    for split in splits:
        for group, curve in split.curves.items():
            named = {"cohort": split.cohort, "encoder": split.encoder, "system": split.system}
            steps = {name: getattr(curve, name) for name in ("time", "survival", "low", "high", "at_risk")}
            parts.append(pd.DataFrame(named | {"split": split.split, "group": group} | steps))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _split(
    entry: tuple[str, str, str], split: str, event: np.ndarray, time: np.ndarray, high: np.ndarray
) -> RiskSplit:
    curves = {
        name: kaplan_meier(event[members], time[members])
        for name, members in zip(GROUPS, (high, ~high), strict=True)
        if members.any()
    }
    test, problem = None, None
    try:
        test = log_rank(event, time, high)
    except SurvivalDataError:
        problem = f"all {len(time)} patients have the same risk, so that there are no two groups"
    return RiskSplit(
        cohort=entry[0],
        encoder=entry[1],
        system=entry[2],
        split=split,
        curves=curves,
        test=test,
        problem=problem,
    )
