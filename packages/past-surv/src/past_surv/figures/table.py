"""The table of scores as a picture: cohorts by systems, coloured by rank, the first place in bold."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from past_surv.evaluation.scores import METRICS
from past_surv.figures.curves import FigureError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def rank_table(summary: pd.DataFrame, places: pd.DataFrame, *, metric: str = "harrell") -> "Figure":
    """Mean ± deviation over folds and the rank in each cohort; last rows: mean rank and first places.

    Args:
        summary: of `summarise`.
        places: of `summary.places`.
        metric: one that is ranked.

    Raises:
        FigureError: nothing ranked of that name.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    if summary.empty or f"{metric}_rank" not in summary:
        raise FigureError(f"no ranks of {metric!r} to draw")
    cohorts, names = list(dict.fromkeys(summary["cohort"])), list(places["label"])
    at = summary.set_index(["cohort", "label"])
    ranks = np.full((len(cohorts), len(names)), np.nan)
    figure = Figure(
        figsize=(max(1.05 * len(names) + 1.5, 4.6), 0.42 * (len(cohorts) + 2) + 1.5), layout="constrained"
    )
    axis = figure.subplots()
    for i, cohort in enumerate(cohorts):
        for j, name in enumerate(names):
            if (cohort, name) not in at.index:
                axis.text(j, i, "not run", ha="center", va="center", fontsize=7, color="0.5")
                continue
            row = at.loc[(cohort, name)]
            ranks[i, j] = row[f"{metric}_rank"]
            if np.isnan(ranks[i, j]):
                axis.text(j, i, "undefined", ha="center", va="center", fontsize=7, color="0.5")
                continue
            first = ranks[i, j] == 1
            axis.text(
                j, i, f"{row[metric]:.3f} ± {row[f'{metric}_sd']:.3f}\n{int(ranks[i, j])}", ha="center",
                va="center", fontsize=7, fontweight="bold" if first else "normal",
            )  # fmt: skip
    for j, row in enumerate(places.itertuples()):
        mean_rank, firsts = getattr(row, f"{metric}_mean_rank"), getattr(row, f"{metric}_firsts")
        text = "" if np.isnan(mean_rank) else f"{mean_rank:.1f}"
        axis.text(j, len(cohorts), text, ha="center", va="center", fontsize=7.5)
        axis.text(j, len(cohorts) + 1, f"{firsts} of {row.cohorts}", ha="center", va="center", fontsize=7.5)
    shades = colormaps["Blues_r"].with_extremes(bad="white")
    shown = np.concatenate([ranks, np.full((2, len(names)), np.nan)])
    axis.imshow(shown, cmap=shades, vmin=-len(names), vmax=len(names) + 1, aspect="auto", alpha=0.75)
    axis.set_xticks(range(len(names)), names, rotation=35, ha="right", rotation_mode="anchor", fontsize=7.5)
    axis.set_yticks(range(len(cohorts) + 2), [*cohorts, "mean rank", "first places"], fontsize=8)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.axhline(len(cohorts) - 0.5, color="0.3", lw=0.8)
    axis.set_title(
        f"{METRICS[metric].split(',')[0]}: mean ± deviation over folds, rank", fontsize=9, loc="left"
    )
    return figure
