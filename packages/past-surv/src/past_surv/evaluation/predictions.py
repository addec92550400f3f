"""Out-of-fold predictions of a matrix as one table, keyed by case id."""

from collections.abc import Sequence

import pandas as pd

from past_surv.evaluation.cells import CellResult
from past_surv.evaluation.sources import load

COLUMNS = {
    "cohort": "name of the cohort",
    "case_id": "the patient",
    "encoder": "encoder of the slides; `none` for a system that reads no slide",
    "system": "what predicted, by its name in the registry",
    "seed": "of whatever is drawn at random",
    "fold": "name of the fold in which this patient was scored and not learned from",
    "risk": "higher means a shorter survival; comparable within a fold; empty where nothing that the system "
    "reads was there",
    "time": "to death or censoring, in the cohort's unit",
    "event": "1 where death was seen, 0 where the patient was censored",
}
"""Columns of `predictions.csv`, and what they hold."""
ENTRY = ["cohort", "encoder", "system"]
"""Columns that name what is compared."""


def predictions_of(results: Sequence[CellResult]) -> pd.DataFrame:
    """One row a scored patient and cell, with the columns of `COLUMNS`."""
    parts = []
    for result in results:
        cohort, folds = load(result.cell.cohort)
        fold = folds[result.cell.fold]
        parts.append(
            pd.DataFrame(
                {
                    "cohort": cohort.name,
                    "case_id": result.cases,
                    "encoder": result.cell.encoder,
                    "system": result.cell.system,
                    "seed": result.cell.seed,
                    "fold": fold.name,
                    "risk": result.risk,
                    "time": cohort.time[fold.test],
                    "event": cohort.event[fold.test].astype(int),
                }
            )
        )
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(COLUMNS))
