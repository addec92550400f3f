"""Kaplan-Meier curves of high and low risk with bands and numbers at risk, a grid of them, as in Fig. 4."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from past_core.errors import PastError
from past_surv.evaluation.kaplan import GROUPS, RiskSplit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"high": "#c8312b", "low": "#1f6fb4"}
PANEL = (2.9, 2.75)
"""Inches of a panel, its numbers at risk included."""


class FigureError(PastError, ValueError):
    """Nothing to draw, or nothing that fits."""


def curve_grid(
    splits: Sequence[RiskSplit],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    labels: Mapping[str, str] | None = None,
    unit: str = "months",
    heading: str | None = None,
) -> "Figure":
    """Kaplan-Meier curves, a row a cohort and a column a system.

    Args:
        splits: of one way to split; those of other cohorts and systems than asked for are left out.
        rows: names of cohorts.
        columns: `ENCODER/SYSTEM`.
        labels: what stands above a column instead.
        unit: of the times.
        heading: of the picture.

    Raises:
        FigureError: nothing to draw, or two splits for one panel.
    """
    from matplotlib.figure import Figure

    if not rows or not columns:
        raise FigureError("no cohort or no system to draw")
    panels: dict[tuple[str, str], RiskSplit] = {}
    for each in splits:
        place = each.cohort, f"{each.encoder}/{each.system}"
        if place in panels:
            raise FigureError(f"{place[0]}, {place[1]} comes twice; draw the splits of one kind at a time")
        panels[place] = each
    figure = Figure(figsize=(PANEL[0] * len(columns) + 0.4, PANEL[1] * len(rows) + 0.5), layout="constrained")
    axes = figure.subplots(len(rows), len(columns), squeeze=False)
    for i, cohort in enumerate(rows):
        for j, column in enumerate(columns):
            axis, split = axes[i, j], panels.get((cohort, column))
            if i == 0:
                axis.set_title((labels or {}).get(column, column), fontsize=8.5, pad=4)
            if split is None:
                axis.set_axis_off()
                axis.text(0.5, 0.5, "not run", ha="center", va="center", fontsize=8, color="0.5")
                continue
            draw_curves(axis, split, unit=unit)
            if j == 0:
                axis.set_ylabel(f"{cohort}\nsurvival", fontsize=8.5)
    if heading:
        figure.suptitle(heading, fontsize=10)
    return figure


def draw_curves(axis: "Axes", split: RiskSplit, *, unit: str = "months") -> None:
    """One panel: steps, 95 % bands, marks where somebody was censored, p, and numbers at risk below."""
    end = max(float(curve.time[-1]) for curve in split.curves.values())
    for group, curve in split.curves.items():
        time = np.concatenate([[0.0], curve.time])
        low, high = (np.concatenate([[1.0], values]) for values in (curve.low, curve.high))
        survival = np.concatenate([[1.0], curve.survival])
        axis.fill_between(time, low, high, step="post", color=COLOURS[group], alpha=0.16, lw=0)
        axis.step(time, survival, where="post", color=COLOURS[group], lw=1.3, label=f"{group} risk")
        # A time after which survival did not fall is one at which somebody was censored.
        still = np.flatnonzero(np.diff(survival) == 0) + 1
        axis.plot(time[still], survival[still], "|", color=COLOURS[group], ms=3.2, mew=0.6)
    p = "log-rank undefined" if split.test is None else f"p {p_text(split.test.p)}"
    axis.text(0.97, 0.97, p, transform=axis.transAxes, ha="right", va="top", fontsize=7.5)
    axis.legend(loc="lower left", fontsize=6.5, frameon=False, handlelength=1.2, borderaxespad=0.2)
    axis.set_xlim(0, end * 1.02)
    axis.set_ylim(0, 1.03)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=7)
    _numbers_at_risk(axis, split, end, unit)


def p_text(p: float) -> str:
    """A p-value as it is printed: `= 0.031`, or `= 4.1e-06`."""
    return f"= {p:.3f}" if p >= 0.001 else f"= {p:.1e}".replace("e-0", "e-").replace("-", "\N{MINUS SIGN}")


def _numbers_at_risk(axis: "Axes", split: RiskSplit, end: float, unit: str) -> None:
    from matplotlib.ticker import MaxNLocator

    ticks = [tick for tick in MaxNLocator(4, integer=True).tick_values(0, end) if 0 <= tick <= end]
    axis.set_xticks(ticks)
    axis.set_xlabel(unit, fontsize=7.5, labelpad=1 + 9 * len(GROUPS))
    for line, group in enumerate(GROUPS):
        if group not in split.curves:
            continue
        curve = split.curves[group]
        for tick in ticks:
            later = np.searchsorted(curve.time, tick, side="left")
            count = int(curve.at_risk[later]) if later < len(curve.time) else 0
            axis.annotate(
                f"{count}", (tick, 0), xycoords=("data", "axes fraction"), xytext=(0, -17 - 9 * line),
                textcoords="offset points", ha="center", va="center", fontsize=6.5, color=COLOURS[group],
            )  # fmt: skip
