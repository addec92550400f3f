"""One row a cohort, encoder and system; ranks within each cohort, and who comes first how often."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from past_surv.evaluation.cells import CellResult
from past_surv.evaluation.comparisons import ALL, label
from past_surv.evaluation.kaplan import RiskSplit
from past_surv.evaluation.predictions import ENTRY
from past_surv.evaluation.resampling import RESAMPLED, CohortBootstrap
from past_surv.evaluation.scores import METRICS, POOLED
from past_surv.metrics.bootstrap import interval


def summarise(
    scores: pd.DataFrame,
    cohorts: Mapping[str, CohortBootstrap],
    splits: Sequence[RiskSplit],
    results: Sequence[CellResult],
) -> pd.DataFrame:
    """Mean and deviation over folds of every score, intervals, ranks, log-rank p.

    Columns beside `ENTRY`: `label`, `seeds`, `folds`, `patients`, `events`, `unpredicted`, `parameters`; for
    each metric its mean over folds of the mean over seeds (of the folds that define it), `METRIC_sd` over
    folds (ddof 0), `METRIC_undefined` (scores that are undefined, of folds × seeds), `METRIC_pooled`; for
    those resampled `METRIC_low`, `METRIC_high` and `METRIC_rank` (1 is the best in its cohort; ties share the
    better rank); `ibs_reference`; `largest_weight` of Uno's C; `logrank_p` and `logrank_p_per_fold`.
    """
    tests = {(s.cohort, s.encoder, s.system, s.split): s.test for s in splits}
    infos = {(r.cell.cohort.name, r.cell.encoder, r.cell.system): r.info for r in results}
    rows = []
    for entry, own in scores.groupby(ENTRY, sort=False):
        folds = own[own["fold"] != POOLED]
        harrell = folds[folds["metric"] == "harrell"].drop_duplicates("fold")
        row: dict[str, Any] = dict(zip(ENTRY, entry, strict=True)) | {
            "label": label(entry[1:]),
            "seeds": folds["seed"].nunique(),
            "folds": folds["fold"].nunique(),
            "patients": int(harrell["patients"].sum()),
            "events": int(harrell["events"].sum()),
            "unpredicted": int(harrell["unpredicted"].sum()),
            "parameters": infos.get(entry, {}).get("parameters"),
        }
        for metric in METRICS:
            row |= _over_folds(own[own["metric"] == metric], metric)
        row["ibs_reference"] = folds.loc[folds["metric"] == "ibs", "reference"].astype(float).mean()
        row["largest_weight"] = folds.loc[folds["metric"] == "uno", "largest_weight"].astype(float).max()
        found = cohorts.get(entry[0])
        for metric in RESAMPLED:
            row |= {f"{metric}_low": np.nan, f"{metric}_high": np.nan}
            if found is not None and entry[1:] in found.entries:
                draws = found.draws(entry[1:], metric)
                bounds = interval(draws[0], draws[1:])
                row |= {f"{metric}_low": bounds.low, f"{metric}_high": bounds.high}
        for split, name in (("pooled", "logrank_p"), ("per fold", "logrank_p_per_fold")):
            test = tests.get((*entry, split))
            row[name] = test.p if test else None
        rows.append(row)
    table = pd.DataFrame(rows)
    for metric in RESAMPLED:
        table[f"{metric}_rank"] = table.groupby("cohort")[metric].rank(ascending=False, method="min")
    return table


def places(summary: pd.DataFrame) -> pd.DataFrame:
    """Over the cohorts: mean score, mean rank and first places of each system with its encoder.

    Means are over the cohorts that a system was run in; `cohorts` says how many those are, and only what was
    run in all of them can be held against one another.
    """
    rows = []
    for name, own in summary.groupby("label", sort=False):
        row: dict[str, Any] = {"label": name, "cohorts": len(own)}
        for metric in RESAMPLED:
            ranks = own[f"{metric}_rank"]
            row |= {
                metric: own[metric].mean(),
                f"{metric}_mean_rank": ranks.mean(),
                f"{metric}_firsts": int((ranks == 1).sum()),
            }
        rows.append(row)
    return pd.DataFrame(rows).assign(of=summary["cohort"].nunique())


def warnings_of(comparisons: pd.DataFrame, *, metric: str = "harrell") -> list[str]:
    """One line a cohort whose deaths are too few for some of the differences shown."""
    lines = []
    own = comparisons[comparisons["metric"] == metric]
    for cohort, rows in own.groupby("cohort", sort=False):
        unresolved = rows[~rows["resolved"].astype(bool)]
        if unresolved.empty:
            continue
        half = ((rows["high"] - rows["low"]) / 2).median()
        what = "over all cohorts" if cohort == ALL else cohort
        lines.append(
            f"{what}: {len(unresolved)} of {len(rows)} differences in {metric} are smaller than what "
            f"{int(rows['events'].max())} deaths resolve (about {half:.3f}): do not read an order from them"
        )
    return lines


def _over_folds(rows: pd.DataFrame, metric: str) -> dict[str, Any]:
    folds = rows[rows["fold"] != POOLED].assign(value=lambda t: t["value"].astype(float))
    by_fold = folds.groupby("fold")["value"].mean()  # over seeds; undefined ones are left out
    known = by_fold[np.isfinite(by_fold)]
    found = {
        metric: known.mean() if len(known) else None,
        f"{metric}_sd": known.std(ddof=0) if len(known) else None,
        f"{metric}_undefined": int(folds["value"].isna().sum()),
    }
    pooled = rows.loc[rows["fold"] == POOLED, "value"].astype(float)
    if metric != "ibs":
        found[f"{metric}_pooled"] = pooled.mean() if len(pooled) else None
    return found
