"""C-index of every system as bars with a dot a fold, and differences between systems with their intervals."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from past_surv.evaluation.comparisons import label
from past_surv.evaluation.scores import METRICS, POOLED
from past_surv.figures.curves import FigureError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST = 30
"""Differences that are drawn; more do not fit a page."""


def score_bars(
    scores: pd.DataFrame, summary: pd.DataFrame, *, metric: str = "harrell", heading: str | None = None
) -> "Figure":
    """A panel a cohort: bars of the mean over folds, a dot a fold, a line at 0.5, intervals over patients.

    Args:
        scores: of `score_table`.
        summary: of `summarise`.
        metric: one that has an interval.
        heading: of the picture.

    Raises:
        FigureError: no score of that name.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    if summary.empty or f"{metric}_low" not in summary:
        raise FigureError(f"no intervals of {metric!r} to draw")
    cohorts = list(dict.fromkeys(summary["cohort"]))
    names = list(dict.fromkeys(summary["label"]))
    colours = {name: colormaps["tab10"](i % 10) for i, name in enumerate(names)}
    folds = scores[(scores["metric"] == metric) & (scores["fold"] != POOLED)]
    folds = folds.assign(
        value=folds["value"].astype(float),
        label=[label(pair) for pair in zip(folds["encoder"], folds["system"], strict=True)],
    )
    figure = Figure(figsize=(max(2.2, 0.42 * len(names) + 0.7) * len(cohorts), 3.6), layout="constrained")
    axes = figure.subplots(1, len(cohorts), squeeze=False, sharey=True)[0]
    for axis, cohort in zip(axes, cohorts, strict=True):
        own = summary[summary["cohort"] == cohort].set_index("label")
        for x, name in enumerate(names):
            if name not in own.index or not np.isfinite(own.loc[name, metric] or np.nan):
                axis.text(x, 0.31, "n/a", ha="center", va="bottom", fontsize=6.5, rotation=90, color="0.5")
                continue
            row = own.loc[name]
            axis.bar(x, row[metric], width=0.72, color=colours[name], alpha=0.75, lw=0)
            # The bootstrap's median need not be the sample's value; where it lies outside, no bar is drawn.
            reach = np.maximum(
                [[row[metric] - row[f"{metric}_low"]], [row[f"{metric}_high"] - row[metric]]], 0
            )
            axis.errorbar(x, row[metric], reach, color="black", lw=0.9, capsize=2, capthick=0.9)
            dots = (
                folds[(folds["cohort"] == cohort) & (folds["label"] == name)].groupby("fold")["value"].mean()
            )
            axis.plot(x + np.linspace(-0.2, 0.2, len(dots)), dots, ".", color="0.15", ms=3.5, zorder=4)
        axis.axhline(0.5, color="0.4", lw=0.8, ls="--", zorder=0)
        axis.set_xticks(range(len(names)), names, rotation=55, ha="right", rotation_mode="anchor", fontsize=7)
        axis.set_title(
            f"{cohort} ({int(own['patients'].max())}, {int(own['events'].max())} deaths)", fontsize=8.5
        )
        axis.set_ylim(0.3, max(0.9, folds["value"].max() + 0.03))
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(axis="y", labelsize=7.5)
    axes[0].set_ylabel(METRICS[metric].split(",")[0], fontsize=8.5)
    figure.suptitle(heading or "mean over folds, 95 % interval over patients, a dot a fold", fontsize=9)
    return figure


def difference_forest(
    comparisons: pd.DataFrame, *, metric: str = "harrell", cohorts: Sequence[str] | None = None
) -> "Figure":
    """A line a comparison: its difference and interval; grey where the deaths do not resolve it.

    Args:
        comparisons: of `compare`.
        metric: which.
        cohorts: names; all by default.

    Raises:
        FigureError: no comparison of that metric.
    """
    from matplotlib.figure import Figure

    rows = comparisons[comparisons["metric"] == metric].dropna(subset=["difference", "low", "high"])
    if cohorts is not None:
        rows = rows[rows["cohort"].isin(cohorts)]
    if rows.empty:
        raise FigureError(f"no comparison in {metric!r} to draw")
    left_out = max(len(rows) - MOST, 0)
    if left_out:  # the largest differences in terms of their intervals
        size = (rows["difference"].abs() / (rows["high"] - rows["low"]).clip(lower=1e-9)).nlargest(MOST)
        rows = rows.loc[sorted(size.index)]
    figure = Figure(figsize=(7.4, 0.25 * len(rows) + 1.2), layout="constrained")
    axis = figure.subplots()
    for y, row in enumerate(rows.itertuples()):
        colour = "#1f6fb4" if row.resolved else "0.6"
        axis.plot([row.low, row.high], [y, y], color=colour, lw=1.3)
        axis.plot(row.difference, y, "o", color=colour, ms=4)
        p = "p n/a" if np.isnan(row.p_holm) else f"p {row.p_holm:.3f}"
        axis.text(1.01, y, p, transform=axis.get_yaxis_transform(), fontsize=7, va="center")
    names = [f"{row.cohort}: {row.first} \N{MINUS SIGN} {row.second}" for row in rows.itertuples()]
    axis.set_yticks(range(len(rows)), names, fontsize=7)
    axis.axvline(0, color="0.3", lw=0.8, zorder=0)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.tick_params(axis="x", labelsize=7.5)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.set_xlabel(f"difference in {METRICS[metric].split(',')[0]}; p Holm-corrected", fontsize=8)
    more = f"; {left_out} more in comparisons.csv" if left_out else ""
    axis.set_title(
        f"paired bootstrap over patients, 95 %; grey is not resolved{more}", fontsize=8.5, loc="left"
    )
    return figure
