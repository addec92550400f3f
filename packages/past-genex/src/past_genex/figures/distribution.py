"""r by gene of several systems, as distributions beside one another."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from past_genex.figures.space import FigureError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def r_distribution(
    r: Mapping[str, np.ndarray],
    *,
    ceiling: np.ndarray | None = None,
    heading: str = "Pearson's r by gene",
    highlight: str | None = None,
    xlabel: str = "r over held-out cells",
) -> "Figure":
    """One row per system: the density of r over genes, every gene as a dot, quartiles, and the mean.

    Genes without a value (constant or not measured truth) are left out; their number stands beside the
    system's name when it is not the same for all.

    Args:
        r: system -> `(G,)` r by gene. Drawn from top to bottom in the order given.
        ceiling: `(G,)` the largest r that count noise leaves possible, drawn as a last row.
        heading: of the picture.
        highlight: the system drawn in colour; the first by default.
        xlabel: what r is over.

    Raises:
        FigureError: no system, or one without a single finite r.
    """
    from matplotlib.figure import Figure

    rows = {name: np.asarray(value, np.float64).ravel() for name, value in r.items()}
    if not rows:
        raise FigureError("no system to draw; give at least one array of r by gene")
    for name, value in rows.items():
        if not np.isfinite(value).any():
            raise FigureError(f"{name!r} has no gene with an r among {len(value)}; leave it out")
    highlight = next(iter(rows)) if highlight is None else highlight
    if ceiling is not None:
        if not np.isfinite(ceiling).any():
            raise FigureError("the ceiling has no finite value; leave it out")
        rows["noise ceiling"] = np.asarray(ceiling, np.float64).ravel()
    kept = {name: value[np.isfinite(value)] for name, value in rows.items()}

    figure = Figure(figsize=(6.2, 0.62 * len(kept) + 1.15), layout="constrained")
    axis = figure.subplots()
    random = np.random.default_rng(0)
    everything = np.concatenate(list(kept.values()))
    low = min(-0.05, float(everything.min()) - 0.03)
    high = min(1.02, max(float(everything.max()) + 0.03, 0.2))
    for row, (name, value) in enumerate(kept.items()):
        colour = {highlight: "#1f6fb4", "noise ceiling": "#8c6d1f"}.get(name, "#8a8a8a")
        _density(axis, value, row, colour=colour, low=low, high=high)
        axis.scatter(
            value, row + 0.2 + random.uniform(-0.07, 0.07, len(value)), s=5, color=colour, alpha=0.45,
            linewidths=0, rasterized=True,
        )  # fmt: skip
        lower, median, upper = np.percentile(value, [25, 50, 75])
        axis.plot([lower, upper], [row + 0.04] * 2, color="black", lw=2.2, solid_capstyle="butt")
        axis.scatter([median], [row + 0.04], s=22, color="white", edgecolors="black", linewidths=1, zorder=4)
        axis.text(
            1.02, row, f"{value.mean():.3f}".replace("-", "\N{MINUS SIGN}"), fontsize=8, va="center",
            transform=axis.get_yaxis_transform(),
        )  # fmt: skip
    axis.text(1.02, -0.68, "mean", fontsize=8, va="center", transform=axis.get_yaxis_transform())
    genes = {len(value) for value in kept.values()}
    axis.set_yticks(
        range(len(kept)),
        [name if len(genes) == 1 else f"{name}\n({len(value)} genes)" for name, value in kept.items()],
        fontsize=8.5,
    )
    axis.axvline(0, color="0.75", lw=0.8, zorder=0)
    axis.set_xlim(low, high)
    axis.set_ylim(len(kept) - 0.55, -0.6)
    axis.tick_params(axis="y", length=0)
    axis.tick_params(axis="x", labelsize=8)
    axis.set_xlabel(xlabel, fontsize=8.5)
    axis.spines[["top", "right", "left"]].set_visible(False)
    count = f" ({genes.pop()} genes)" if len(genes) == 1 else ""
    axis.set_title(heading + count, fontsize=10, loc="left", pad=14)
    return figure


def _density(axis: "Axes", value: np.ndarray, row: int, *, colour: str, low: float, high: float) -> None:
    """Half a violin above the row's line; nothing where all values are (nearly) the same."""
    from scipy.stats import gaussian_kde

    if len(value) < 3 or np.ptp(value) < 1e-6:
        return
    at = np.linspace(low, high, 300)
    height = gaussian_kde(value)(at)
    height *= 0.5 / height.max()
    axis.fill_between(at, row, row - height, color=colour, alpha=0.4, linewidth=0)
    axis.plot(at, row - height, color=colour, lw=0.9)
