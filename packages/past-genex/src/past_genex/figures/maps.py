"""Maps of genes: measured beside predicted, on one colour scale."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from past_genex.figures.space import (
    FigureError,
    check_places,
    grid_shape,
    hide,
    map_axes,
    panel_size,
    point_area,
    scatter_values,
)
from past_genex.metrics.pairs import PairMoments

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LONGEST = 2.6
"""Inches of a map's longer side."""


def gene_maps(
    xy_um: np.ndarray,
    measured: np.ndarray,
    predicted: np.ndarray,
    *,
    titles: Sequence[str],
    r: np.ndarray | None = None,
    r_label: str = "r",
    heading: str | None = None,
    unit: str = "log1p expression",
    percentiles: tuple[float, float] = (1.0, 99.0),
    columns: int = 2,
    colours: str = "viridis",
) -> "Figure":
    """Measured beside predicted expression, a pair of maps per gene.

    Both maps of a gene share one colour scale: the stated percentiles of measured and predicted values
    together. Where these coincide (sparse genes), the scale runs from the smallest to the largest value.

    Args:
        xy_um: `(N, 2)` x, y of the cells in µm.
        measured: `(N, G)` on the target's scale; a gene not measured is NaN and drawn grey.
        predicted: `(N, G)` on the same scale.
        titles: `(G,)` names of the genes.
        r: `(G,)` Pearson's r to print; computed over the given cells by default.
        r_label: what `r` is, such as "held-out r".
        heading: of the whole picture.
        unit: label of the colour bars.
        percentiles: at which the colours are clipped.
        columns: pairs beside one another.
        colours: a matplotlib colour map.

    Raises:
        FigureError: shapes that do not fit, or no gene.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    measured, predicted = np.asarray(measured, np.float64), np.asarray(predicted, np.float64)
    places = check_places(xy_um, measured=measured, predicted=predicted)
    if measured.shape != predicted.shape or measured.ndim != 2 or measured.shape[1] != len(titles):
        raise FigureError(
            f"measured {measured.shape}, predicted {predicted.shape}, {len(titles)} titles; "
            "expected (N, G) twice and G titles"
        )
    if not len(titles):
        raise FigureError("no gene to draw; name at least one")
    r = PairMoments.of(predicted, measured).r if r is None else np.asarray(r, np.float64)
    if r.shape != (len(titles),):
        raise FigureError(f"r has shape {r.shape}; expected one value for each of {len(titles)} genes")

    width, height = panel_size(places, longest=LONGEST)
    area = point_area(places, longest=LONGEST)
    rows, pairs = grid_shape(len(titles), columns)
    figure = Figure(
        figsize=(pairs * (2 * width + 1.0) + 0.2, rows * (height + 0.75) + 0.45),
        layout=ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.05),
    )
    grid = figure.subplots(rows, 2 * pairs, squeeze=False).reshape(rows * pairs, 2)
    for gene, (left, right) in enumerate(grid[: len(titles)]):
        low, high = _limits(np.stack([measured[:, gene], predicted[:, gene]]), percentiles)
        for axis, values, side in ((left, measured, "measured"), (right, predicted, "predicted")):
            drawn = scatter_values(
                axis, places, values[:, gene], area=area, cmap=colours, vmin=low, vmax=high
            )
            known = np.isfinite(values[:, gene]).any()
            map_axes(axis, places, bar=side == "predicted", background="0.97")
            head = f"{titles[gene]}, {side}" if side == "measured" else f"{side}, {_r(r[gene], r_label)}"
            axis.set_title(head if known else f"{titles[gene]}, not {side}", fontsize=8.5, pad=3)
        bar = figure.colorbar(drawn, ax=[left, right], extend="both", shrink=0.85, aspect=22, pad=0.015)
        bar.ax.tick_params(labelsize=6.5, length=2)
        bar.set_label(unit, fontsize=6.5)
        bar.outline.set_linewidth(0.4)
    hide(grid[len(titles) :].ravel().tolist())
    clip = f"colours clipped at percentiles {percentiles[0]:g} and {percentiles[1]:g} of both maps"
    text = f"{heading}\n{clip}" if heading else clip
    figure.suptitle(text, fontsize=9)
    return figure


def _r(value: float, label: str) -> str:
    number = f"{value:.2f}".replace("-", "\N{MINUS SIGN}")
    return f"{label} = {number}" if np.isfinite(value) else f"{label}: n/a"


def _limits(values: np.ndarray, percentiles: tuple[float, float]) -> tuple[float, float]:
    known = values[np.isfinite(values)]
    if not known.size:
        return 0.0, 1.0
    low, high = np.percentile(known, percentiles)
    if high <= low:
        low, high = known.min(), known.max()
    return float(low), float(high if high > low else low + 1.0)
