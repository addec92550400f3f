"""Scores of every fold, and of all folds pooled, each with what decides it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from past_surv.evaluation.cells import CellResult
from past_surv.evaluation.predictions import ENTRY
from past_surv.evaluation.sources import load
from past_surv.metrics.auc import dynamic_auc
from past_surv.metrics.brier import integrated_brier, survival_at
from past_surv.metrics.concordance import harrell_c, uno_c
from past_surv.metrics.horizon import score_times

TAU_QUANTILE = 0.8
"""tau is this quantile of the training patients' times of death."""
BRIER_QUANTILE = 0.75
"""The Brier score is integrated up to this quantile, the last edge of four intervals of time."""
POOLED = "pooled"
"""Name of the fold that holds all."""
METRICS = {
    "harrell": "Harrell's C (C-index 1)",
    "uno": "Uno's C, weights G^-2, no tau",
    "uno_tau": "Uno's C, weights G^-2, up to tau (C-index 2)",
    "ipcw1": "C with weights G^-1 as the PAST paper prints it, no tau",
    "ipcw1_tau": "C with weights G^-1 as the PAST paper prints it, up to tau",
    "auc": "time-dependent AUC, mean over 15 moments",
    "ibs": "Brier score, integrated over those of the moments before the 75th percentile of training deaths",
}
"""Scores by name; of all but the last, higher is better."""
VARIANTS = {"uno": (2.0, False), "uno_tau": (2.0, True), "ipcw1": (1.0, False), "ipcw1_tau": (1.0, True)}
"""Exponent, and whether there is a tau."""
COLUMNS = {
    "cohort": "name of the cohort",
    "encoder": "encoder of the slides, or `none`",
    "system": "name in the registry",
    "seed": "of whatever is drawn at random",
    "fold": "name of the fold; `pooled` for all scored patients together",
    "metric": ", ".join(f"{name}: {what}" for name, what in METRICS.items()),
    "value": "empty where it is undefined, see `problem`; never 0 instead",
    "patients": "scored",
    "events": "deaths among them",
    "unpredicted": "scored patients of the fold of whom the system could say nothing, left out",
    "pairs": "comparable pairs, of concordances",
    "tau": "deaths at or after it are left out (Brier score: moments), in the cohort's unit",
    "exponent": "p of the weights G^-p",
    "censoring": "whose censoring gave the weights",
    "largest_weight": "of any one death, before it is divided by the sum",
    "reference": "of the Brier score: that of the training fold's Kaplan-Meier curve given to everybody",
    "problem": "why it is undefined",
}
"""Columns of `scores.csv`, and what they hold."""


def tau_of(event: np.ndarray, time: np.ndarray, *, quantile: float = TAU_QUANTILE) -> float:
    """A quantile of the times of those who died, of training patients."""
    return float(np.quantile(np.asarray(time)[np.asarray(event, bool)], quantile))


def score_table(results: Sequence[CellResult], *, tau_quantile: float = TAU_QUANTILE) -> pd.DataFrame:
    """Scores of every cell, and of the pooled folds of each system and seed; columns as in `COLUMNS`.

    The weights of a fold come from the training fold's censoring. Pooled, every patient is in the training
    folds of others, and the weights come from all patients of the cohort.

    Args:
        results: of a matrix.
        tau_quantile: see `tau_of`.
    """
    rows: list[dict[str, object]] = []
    groups: dict[tuple, list[CellResult]] = {}
    for result in results:
        cell = result.cell
        groups.setdefault((cell.cohort, cell.encoder, cell.system, cell.seed), []).append(result)
    for (source, encoder, system, seed), members in groups.items():
        cohort, folds = load(source)
        named = {"cohort": cohort.name, "encoder": encoder, "system": system, "seed": seed}
        for result in members:
            fold = folds[result.cell.fold]
            train = cohort.event[fold.train], cohort.time[fold.train]
            scored = cohort.event[fold.test], cohort.time[fold.test], result.risk
            found = score_fold(
                *scored, *train, survival=result.survival, edges=result.edges, tau_quantile=tau_quantile
            )
            rows += [named | {"fold": fold.name} | row for row in found]
        if len(members) == len(folds):
            test = np.concatenate([folds[result.cell.fold].test for result in members])
            risk = np.concatenate([result.risk for result in members])
            everybody = cohort.event, cohort.time
            scored = cohort.event[test], cohort.time[test], risk
            found = score_fold(*scored, *everybody, source="all patients", tau_quantile=tau_quantile)
            rows += [named | {"fold": POOLED} | row for row in found if row["metric"] != "ibs"]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def score_fold(
    event: np.ndarray,
    time: np.ndarray,
    risk: np.ndarray,
    train_event: np.ndarray,
    train_time: np.ndarray,
    *,
    survival: np.ndarray | None = None,
    edges: np.ndarray | None = None,
    source: str = "training fold",
    tau_quantile: float = TAU_QUANTILE,
) -> list[dict[str, object]]:
    """Every score of one set of patients, a row each.

    Args:
        event: `(N,)` bool of the scored patients.
        time: `(N,)` their times.
        risk: `(N,)`; NaN is left out and counted.
        train_event: `(M,)` bool of the patients whose censoring gives the weights.
        train_time: `(M,)` their times.
        survival: `(N, K)` share alive after each interval, for the Brier score; None where there is none.
        edges: `(K + 1,)` of the intervals.
        source: whose censoring it is.
        tau_quantile: see `tau_of`.
    """
    known = np.isfinite(risk)
    event, time, risk = event[known], time[known], risk[known]
    base: dict[str, object] = {
        "patients": len(risk),
        "events": int(event.sum()),
        "unpredicted": int((~known).sum()),
    }
    weights: dict[str, Any] = {"train_event": train_event, "train_time": train_time, "source": source}
    tau = tau_of(train_event, train_time, quantile=tau_quantile)
    rows = []
    scores = {"harrell": harrell_c(event, time, risk)}
    for name, (exponent, to_tau) in VARIANTS.items():
        scores[name] = uno_c(event, time, risk, **weights, exponent=exponent, tau=tau if to_tau else None)
    for name, found in scores.items():
        rows.append(
            base
            | {
                "metric": name,
                "value": found.value,
                "pairs": found.pairs,
                "tau": found.tau,
                "exponent": found.exponent,
                "censoring": found.censoring,
                "largest_weight": found.largest_weight if found.value is not None else None,
                "problem": found.problem,
            }
        )
    times = score_times(event, time, train_time=train_time)
    auc = dynamic_auc(event, time, risk, times, **weights)
    rows.append(base | {"metric": "auc", "value": auc.value, "censoring": source, "problem": auc.problem})
    row = base | {"metric": "ibs", "value": None, "censoring": source}
    if survival is None or edges is None:
        rows.append(row | {"problem": "the system gives risks and no survival curves"})
        return rows
    # The same moments for all systems: those of discrete time end where their last interval begins.
    horizon = min(tau_of(train_event, train_time, quantile=BRIER_QUANTILE), float(np.asarray(edges)[-2]))
    times = score_times(event, time, train_time=train_time, before=horizon)
    curves = survival_at(np.asarray(survival)[known], edges, times)
    brier = integrated_brier(event, time, curves, times, **weights)
    rows.append(
        row
        | {
            "value": brier.value,
            "reference": brier.reference,
            "tau": horizon,
            "problem": brier.problem,
        }
    )
    return rows


def entries_of(table: pd.DataFrame) -> list[tuple[str, str, str]]:
    """Cohort, encoder and system of a table, each once, in order."""
    return list(table[ENTRY].drop_duplicates().itertuples(index=False, name=None))
