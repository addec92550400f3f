"""Systems beside one another: a figure of each case, and the distribution of DAB."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from past_vihc.evaluation.dab import BIN_WIDTH, BINS
from past_vihc.figures.panels import COLOURS, FigureError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def metric_by_case(
    tables: Mapping[str, pd.DataFrame], *, metric: str, label: str, heading: str = ""
) -> "Figure":
    """Every case as a line over the systems, with each system's mean: whether one is better case by case.

    Args:
        tables: `StainEvaluator.cases()` by system, in the order drawn.
        metric: a column.
        label: of the axis.
        heading: of the picture.

    Raises:
        FigureError: no system, no such column, or no case with a value.
    """
    from matplotlib.figure import Figure

    columns = {}
    for name, table in tables.items():
        if metric not in table or "case" not in table:
            raise FigureError(f"{name}: no column {metric!r}; it has {', '.join(map(str, table.columns))}")
        columns[name] = table.groupby("case")[metric].mean()
    values = pd.DataFrame(columns)
    if values.empty or values.isna().all(axis=None):
        raise FigureError(f"no case has a value of {metric} under any of {', '.join(tables) or 'no system'}")
    figure = Figure(figsize=(1.6 + 1.05 * len(columns), 3.4), layout="constrained")
    axis = figure.subplots()
    at = np.arange(len(columns))
    for row in values.to_numpy():
        axis.plot(at, row, color="0.72", lw=0.9, marker="o", ms=3.5, mec="none", zorder=1)
    for place, (name, column) in enumerate(values.items()):
        mean = column.mean()
        if np.isnan(mean):
            continue
        axis.plot(
            [place - 0.2, place + 0.2], [mean] * 2, color=COLOURS[0], lw=2.4, solid_capstyle="butt", zorder=2
        )
        axis.text(
            place, 1.02, f"{mean:.3g}", fontsize=8, ha="center", va="bottom", color=COLOURS[0],
            transform=axis.get_xaxis_transform(), label=name,
        )  # fmt: skip
    axis.set_xticks(at, list(columns), fontsize=8.5, rotation=20 if len(columns) > 4 else 0)
    axis.set_xlim(-0.5, len(columns) - 0.5)
    axis.set_ylabel(f"{label}, each of {len(values)} cases", fontsize=8.5)
    axis.tick_params(axis="y", labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    if heading:
        axis.set_title(heading, fontsize=10, loc="left", pad=18)
    return figure


def dab_curves(curves: Mapping[str, np.ndarray], *, real: str = "real", heading: str = "") -> "Figure":
    """The share of pixels by DAB density, of the real stain and of each system; the axis is logarithmic.

    Args:
        curves: name -> `(BINS,)` counts, see `StainEvaluator.histograms`.
        real: name of the real stain's, drawn in black.
        heading: of the picture.

    Raises:
        FigureError: nothing to draw, or counts of another length.
    """
    from matplotlib.figure import Figure

    if not curves:
        raise FigureError("no histogram to draw")
    figure = Figure(figsize=(5.2, 3.2), layout="constrained")
    axis = figure.subplots()
    colours = iter(COLOURS * (1 + len(curves) // len(COLOURS)))
    edges = np.arange(BINS + 1) * BIN_WIDTH
    last = 0
    for name, counts in curves.items():
        counts = np.asarray(counts, np.float64)
        if counts.shape != (BINS,) or counts.sum() <= 0:
            raise FigureError(
                f"{name}: counts of shape {counts.shape}; expected ({BINS},) with pixels in them"
            )
        last = max(last, int(np.flatnonzero(counts)[-1]))
        share = np.where(counts > 0, counts / counts.sum(), np.nan)
        colour, width = ("black", 1.8) if name == real else (next(colours), 1.3)
        axis.stairs(share, edges, color=colour, lw=width, label=name, baseline=None)
    axis.set_yscale("log")
    axis.set_xlim(0, edges[last + 1])
    axis.set_xlabel("optical density of DAB", fontsize=8.5)
    axis.set_ylabel("share of pixels", fontsize=8.5)
    axis.tick_params(labelsize=8)
    axis.legend(fontsize=8, frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    if heading:
        axis.set_title(heading, fontsize=10, loc="left")
    return figure
