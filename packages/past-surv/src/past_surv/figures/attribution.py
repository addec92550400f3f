"""Bars of the genes that a network's risk depends on most, by group."""

from typing import TYPE_CHECKING

import pandas as pd

from past_surv.figures.curves import COLOURS, FigureError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

UNCLEAR = "0.6"


def attribution_bars(genes: pd.DataFrame, *, most: int = 12, heading: str | None = None) -> "Figure":
    """Mean |attribution| of each group's first genes; those in red raise the risk where they are high.

    Args:
        genes: of `CohortAttribution`.
        most: genes of a group that are drawn.
        heading: of the whole.

    Raises:
        FigureError: no genes.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    drawn = genes.dropna(subset="mean_abs")
    if drawn.empty:
        raise FigureError("no attribution to draw")
    names = list(dict.fromkeys(drawn["group"]))
    columns = min(3, len(names))
    lines = -(-len(names) // columns)
    figure = Figure(figsize=(3.4 * columns, (0.17 * most + 0.75) * lines + 0.6), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis, name in zip(axes, names, strict=False):
        first = drawn[drawn["group"] == name].head(most)[::-1]
        shades = [_shade(direction) for direction in first["direction"]]
        axis.barh(first["gene"], first["mean_abs"], color=shades)
        axis.set_title(name, fontsize=8.5)
        axis.tick_params(labelsize=6.5)
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_xlabel("mean |attribution| to the risk", fontsize=7)
    for axis in axes[len(names) :]:
        axis.set_axis_off()
    shown = {"more of it raises the risk": COLOURS["high"], "lowers it": COLOURS["low"], "neither": UNCLEAR}
    handles = [Patch(color=colour, label=label) for label, colour in shown.items()]
    figure.legend(handles=handles, loc="outside lower center", fontsize=6.5, frameon=False, ncols=3)
    if heading:
        figure.suptitle(heading, fontsize=9.5)
    return figure


def _shade(direction: float) -> str:
    if direction > 0:
        return COLOURS["high"]
    return COLOURS["low"] if direction < 0 else UNCLEAR
