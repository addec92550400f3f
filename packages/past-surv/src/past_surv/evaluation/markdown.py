"""The summary of a matrix as text for people."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from past_surv.evaluation.report import MatrixReport

HEAD = ("system", "Harrell's C", "95 %", "Uno's C to tau", "G⁻¹, to tau", "AUC", "IBS (reference)",
        "log-rank p", "rank")  # fmt: skip


def summary_text(report: "MatrixReport") -> str:
    """Markdown: a table a cohort, ranks, comparisons over all cohorts, notes, failures."""
    lines = ["# Survival", "", "Research use only.", ""]
    lines += [
        "Mean ± deviation over folds (ddof 0), of the mean over seeds; intervals over resampled patients. A "
        "high risk means a short survival. " + report.settings["selection"],
        "",
    ]
    for cohort, own in report.summary.groupby("cohort", sort=False):
        lines += [
            f"## {cohort}",
            "",
            report.cohorts[cohort],
            "",
            *_table(HEAD, map(_row, own.itertuples())),
            "",
        ]
    if len(report.cohorts) > 1:
        lines += ["## Ranks over the cohorts", "", *_table(
            ("system", "cohorts", "mean C", "mean rank", "first places", "mean Uno's C", "mean rank",
             "first places"),
            map(_place, report.places.itertuples()),
        ), ""]  # fmt: skip
    if len(report.comparisons):
        lines += ["## Differences in Harrell's C", "", *_table(
            ("cohort", "first − second", "difference", "95 %", "p, Holm", "deaths", "resolved"),
            map(_difference, report.comparisons[report.comparisons["metric"] == "harrell"].itertuples()),
        ), ""]  # fmt: skip
    if report.notes:
        lines += ["## Notes", "", *(f"- {note}" for note in report.notes), ""]
    if report.failed:
        lines += ["## Failed", "", *(f"- {cell}: {why}" for cell, why in report.failed), ""]
    lines += ["Columns of the tables beside this file are explained in `report.json`.", ""]
    return "\n".join(lines)


def number(value: float | None, digits: int = 3) -> str:
    """Digits, or `undefined`."""
    return "undefined" if value is None or pd.isna(value) else f"{value:.{digits}f}"


def p_number(value: float | None) -> str:
    """A p-value, or `undefined`."""
    if value is None or pd.isna(value):
        return "undefined"
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"


def _row(row: Any) -> Sequence[str]:
    def spread(metric: str) -> str:
        text = f"{number(getattr(row, metric))} ± {number(getattr(row, f'{metric}_sd'))}"
        missing = int(getattr(row, f"{metric}_undefined"))
        if missing == row.folds * row.seeds:
            return "undefined"
        return text + (f" (undefined {missing} of {row.folds * row.seeds})" if missing else "")

    brier = "no curves" if pd.isna(row.ibs) else f"{number(row.ibs)} ({number(row.ibs_reference)})"
    rank = "" if pd.isna(row.harrell_rank) else str(int(row.harrell_rank))
    return (
        row.label, spread("harrell"), bounds(row.harrell_low, row.harrell_high), spread("uno_tau"),
        number(row.ipcw1_tau), number(row.auc), brier, p_number(row.logrank_p), rank,
    )  # fmt: skip


def _place(row: Any) -> Sequence[str]:
    found = [row.label, f"{row.cohorts} of {row.of}"]
    for metric in ("harrell", "uno_tau"):
        found += [
            number(getattr(row, metric)),
            number(getattr(row, f"{metric}_mean_rank"), 1),
            str(getattr(row, f"{metric}_firsts")),
        ]
    return found


def _difference(row: Any) -> Sequence[str]:
    return (
        row.cohort, f"{row.first} − {row.second}",
        "undefined" if pd.isna(row.difference) else f"{row.difference:+.3f}", bounds(row.low, row.high),
        p_number(row.p_holm), str(row.events), "yes" if row.resolved else "no",
    )  # fmt: skip


def bounds(low: float, high: float) -> str:
    """Both ends of an interval, or `undefined`."""
    return "undefined" if pd.isna(low) else f"{low:.3f} to {high:.3f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]
