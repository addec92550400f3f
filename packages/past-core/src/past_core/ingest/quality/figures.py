"""The pictures of a report of quality control: where cells fail, and by how much."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from past_core.ingest.quality.cells import REASONS, Quantity
from past_core.ingest.store import SlideStore

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAP_PX = 1600
"""Longer side of the thumbnail under the map."""
MOST_POINTS = 200_000
"""Passing cells that are drawn; failed ones are all drawn."""
COLOUR = "#2b6cb0"
FAIL_COLOUR = "#c1121f"
LOGARITHMIC = {"low_counts", "low_genes", "cell_area", "transcript_density", "out_of_focus"}
"""Tests whose numbers span orders of magnitude."""


def reason_colours() -> dict[str, str]:
    """A colour of its own for every reason."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    palette = colormaps["tab20"]
    # Even places first: the saturated colours.
    return {name: to_hex(palette((2 * place) % 20 + (2 * place) // 20)) for place, name in enumerate(REASONS)}


def draw_map(axis: "Axes", store: SlideStore, failed: Mapping[str, np.ndarray]) -> None:
    """The H&E, paled, passing cells as faint dots, failed ones in the colour of their first reason."""
    sizes = [max(level.height, level.width) for level in store.levels]
    level = next((place for place, size in enumerate(sizes) if size <= MAP_PX), len(sizes) - 1)
    size = store.levels[level]
    picture = store.read(level, 0, 0, size.height, size.width).transpose(1, 2, 0)
    axis.imshow(255 - (255 - picture) // 2)
    points = store.centroids * (store.mpp / size.mpp) - 0.5
    passed = np.flatnonzero(store.passed)
    if len(passed) > MOST_POINTS:
        passed = np.random.default_rng(0).choice(passed, MOST_POINTS, replace=False)
    dot = float(np.clip(3e4 / max(store.n_cells, 1), 0.3, 8))
    x, y = points.T
    axis.scatter(x[passed], y[passed], s=dot, c=COLOUR, linewidths=0, alpha=0.35)
    colours, drawn = reason_colours(), np.zeros(store.n_cells, bool)
    axis.scatter([], [], s=30, c=COLOUR, label=f"pass ({store.passed.sum():,})")
    for name, bad in failed.items():
        colour, first = colours.get(name, "black"), bad & ~drawn
        drawn |= bad
        axis.scatter(x[first], y[first], s=2 * dot + 2, color=colour, linewidths=0)
        axis.scatter([], [], s=30, color=colour, label=f"{name} ({bad.sum():,})")
    # Cells outside the image stay outside the picture.
    axis.set(xlim=(-0.5, size.width - 0.5), ylim=(size.height - 0.5, -0.5), xticks=[], yticks=[])
    axis.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=9, borderaxespad=0)


def draw_histogram(axis: "Axes", quantity: Quantity) -> None:
    """What a test measured over all cells, its bounds, and which part fails."""
    values = np.asarray(quantity.measured)
    values = values[np.isfinite(values)]
    axis.set_title(f"{quantity.reason}: {quantity.failed.sum():,} cells", fontsize=10)
    axis.set_xlabel(quantity.label, fontsize=9)
    axis.set_yticks([])
    axis.tick_params(labelsize=8)
    if not values.size:
        axis.text(0.5, 0.5, "no cell has one", ha="center", transform=axis.transAxes)
        return
    bounds = [bound for bound in (quantity.low, quantity.high) if bound is not None]
    logarithmic = quantity.reason in LOGARITHMIC and (values > 0).any()
    if logarithmic:
        least = values[values > 0].min()
        values = np.maximum(values, least / 1.5)  # zeros stand at the left end
        axis.set_xscale("log")
    # The far tail would flatten the rest; what lies beyond is counted in the last bin.
    above = [bound for bound in bounds if bound > 0 or not logarithmic]
    low = min([values.min(), *above]) * (0.9 if logarithmic else 1)
    high = max(np.quantile(values, 0.999), *above, low + 1e-9)
    ends = (np.log10(low), np.log10(high)) if logarithmic else (low, high)
    edges = np.logspace(*ends, 61) if logarithmic else np.linspace(*ends, 61)
    axis.hist(np.clip(values, edges[0], edges[-1]), bins=edges.tolist(), color=COLOUR)
    left, right = axis.get_xlim()
    for bound in bounds:
        axis.axvline(bound, color=FAIL_COLOUR, lw=1.5)
    if quantity.low is not None:
        axis.axvspan(left, min(max(quantity.low, left), right), color=FAIL_COLOUR, alpha=0.12, lw=0)
    if quantity.high is not None:
        axis.axvspan(max(min(quantity.high, right), left), right, color=FAIL_COLOUR, alpha=0.12, lw=0)
    axis.set_xlim(left, right)


def map_figure(store: SlideStore, failed: Mapping[str, np.ndarray]) -> "Figure":
    """The map alone."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8), layout="constrained")
    draw_map(figure.subplots(), store, failed)
    return figure


def histogram_figure(quantities: Sequence[Quantity]) -> "Figure | None":
    """One histogram a test that measures something; None without any."""
    from matplotlib.figure import Figure

    measured = [quantity for quantity in quantities if quantity.measured is not None]
    if not measured:
        return None
    columns = min(3, len(measured))
    rows = -(-len(measured) // columns)
    figure = Figure(figsize=(3.7 * columns, 2.5 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, quantity in zip(axes, measured, strict=False):
        draw_histogram(axis, quantity)
    for axis in axes[len(measured) :]:
        axis.set_visible(False)
    return figure
