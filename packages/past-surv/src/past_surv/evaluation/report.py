"""Everything about a matrix as tables and plain values, and as files; pictures are drawn by the verb."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from past_core.atomic import replacing
from past_surv.evaluation import comparisons as compared
from past_surv.evaluation import predictions as predicted
from past_surv.evaluation import scores as scored
from past_surv.evaluation.cells import Cell, software
from past_surv.evaluation.comparisons import compare
from past_surv.evaluation.kaplan import SPLITS, RiskSplit, curve_table, kaplan_table, risk_splits
from past_surv.evaluation.markdown import summary_text
from past_surv.evaluation.predictions import predictions_of
from past_surv.evaluation.resampling import RESAMPLES, bootstraps
from past_surv.evaluation.run import Run
from past_surv.evaluation.scores import TAU_QUANTILE, score_table
from past_surv.evaluation.sources import load
from past_surv.evaluation.summary import places, summarise, warnings_of

USE = "research use only"
SELECTION = (
    "Nothing is chosen on the scored fold: systems train a fixed number of epochs and the last is scored, or "
    "choose on an inner split of the training fold."
)


@dataclass(frozen=True, eq=False, kw_only=True)
class MatrixReport:
    """All that is said of a matrix.

    Attributes:
        predictions: of `predictions_of`.
        scores: of `score_table`.
        summary: of `summarise`.
        places: ranks and first places over the cohorts.
        comparisons: of `compare`.
        splits: high against low risk.
        notes: what is left out, lacking, or not to be read from the figures.
        failed: cells that failed, and why.
        cohorts: one line a cohort.
        settings: of the evaluation.
        infos: what the systems say of what they did, by cell.
    """

    predictions: pd.DataFrame
    scores: pd.DataFrame
    summary: pd.DataFrame
    places: pd.DataFrame
    comparisons: pd.DataFrame
    splits: list[RiskSplit]
    notes: list[str]
    failed: list[tuple[str, str]]
    cohorts: dict[str, str]
    settings: dict[str, Any]
    infos: list[dict[str, Any]]


def report_of(
    run: Run,
    notes: Sequence[str] = (),
    *,
    reference: str | None = None,
    resamples: int = RESAMPLES,
    tau_quantile: float = TAU_QUANTILE,
    seed: int = 0,
) -> MatrixReport:
    """Scores, compares and sums up.

    Args:
        run: with at least one result.
        notes: of the plan.
        reference: see `compare`.
        resamples: of the bootstrap.
        tau_quantile: of tau.
        seed: of the bootstrap.

    Raises:
        ComparisonError: a reference that was not run.
    """
    predictions = predictions_of(run.results)
    scores = score_table(run.results, tau_quantile=tau_quantile)
    drawn = bootstraps(run.results, resamples=resamples, seed=seed, tau_quantile=tau_quantile)
    splits = risk_splits(predictions)
    summary = summarise(scores, drawn, splits, run.results)
    table = compare(drawn, reference=reference)
    sources = {result.cell.cohort: None for result in run.results}
    return MatrixReport(
        predictions=predictions,
        scores=scores,
        summary=summary,
        places=places(summary),
        comparisons=table,
        splits=splits,
        notes=[*notes, *_incomplete(summary, run.failed), *_undefined(scores), *warnings_of(table)],
        failed=[(str(cell), why) for cell, why in run.failed],
        cohorts={source.name: load(source)[0].describe() for source in sources},
        settings={
            "selection": SELECTION,
            "tau_quantile": tau_quantile,
            "resamples": resamples,
            "bootstrap_seed": seed,
            "reference": reference,
            "folds": {
                s.name: "published" if s.splits else "made here, no site on both sides" for s in sources
            },
            "inputs": _inputs([result.cell for result in run.results]),
        },
        infos=[
            {"cell": str(result.cell), "seconds": round(result.seconds, 3), "info": result.info}
            for result in run.results
        ],
    )


def write_report(report: MatrixReport, folder: Path) -> list[str]:
    """Writes the tables and the report, each whole or not at all; gives the files' names."""
    tables = {
        "predictions.csv": report.predictions,
        "scores.csv": report.scores,
        "summary.csv": report.summary,
        "comparisons.csv": report.comparisons,
        "kaplan.csv": kaplan_table(report.splits),
        "curves.csv": curve_table(report.splits),
    }
    for name, table in tables.items():
        with replacing(folder / name) as temporary:
            table.to_csv(temporary, index=False)
    with replacing(folder / "summary.md") as temporary:
        temporary.write_text(summary_text(report), encoding="utf-8")
    with replacing(folder / "report.json") as temporary:
        temporary.write_text(json.dumps(_content(report), indent=2, default=str, allow_nan=False) + "\n")
    return [*tables, "summary.md", "report.json"]


def _content(report: MatrixReport) -> dict[str, Any]:
    return {
        "use": USE,
        "software": software(),
        "settings": report.settings,
        "cohorts": report.cohorts,
        "notes": report.notes,
        "failed": [{"cell": cell, "why": why} for cell, why in report.failed],
        "summary": _records(report.summary),
        "places": _records(report.places),
        "comparisons": _records(report.comparisons),
        "kaplan": _records(kaplan_table(report.splits)),
        "cells": report.infos,
        "columns": {
            "predictions.csv": predicted.COLUMNS,
            "scores.csv": scored.COLUMNS,
            "comparisons.csv": compared.COLUMNS,
            "kaplan.csv": {"split": SPLITS},
        },
    }


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain values; NaN becomes null."""
    return [
        {
            name: None if isinstance(value, float) and not np.isfinite(value) else value
            for name, value in row.items()
        }
        for row in table.astype(object).where(table.notna(), None).to_dict("records")
    ]


def _inputs(cells: Sequence[Cell]) -> Mapping[str, Mapping[str, str]]:
    """Files by what they are, with the digest of their contents."""
    found: dict[str, dict[str, str]] = {}
    for cell in cells:
        for path in cell.cohort.paths:
            found.setdefault(f"cohort {cell.cohort.name}", {})[path.name] = cell.cohort.digest
        for what, path in cell.inputs.items():
            name = f"bags {cell.encoder}" if what == "bags" else what
            found.setdefault(name, {})[path.name] = cell.digests[what]
    return found


def _incomplete(summary: pd.DataFrame, failed: Sequence[tuple[Cell, str]]) -> list[str]:
    lines = []
    for cohort, encoder, system in dict.fromkeys((c.cohort.name, c.encoder, c.system) for c, _ in failed):
        count = sum((c.cohort.name, c.encoder, c.system) == (cohort, encoder, system) for c, _ in failed)
        lines.append(
            f"{cohort}: {compared.label((encoder, system))} lacks {count} cells, see the end; its means are "
            "over the rest, and it is not compared where a fold is without any"
        )
    lines += [
        f"{row.cohort}: {row.label} says nothing of {row.unpredicted} patients, who are left out"
        for row in summary.itertuples()
        if row.unpredicted
    ]
    return lines


def _undefined(scores: pd.DataFrame) -> list[str]:
    """One line a reason for which scores are undefined, besides systems without curves."""
    rows = scores[scores["problem"].notna() & (scores["metric"] != "ibs")]
    lines = []
    for (cohort, problem), own in rows.groupby(["cohort", "problem"], sort=False):
        folds, metrics = (", ".join(dict.fromkeys(own[name].astype(str))) for name in ("fold", "metric"))
        lines.append(f"{cohort}: {metrics} undefined in fold {folds}: {problem}")
    return lines
