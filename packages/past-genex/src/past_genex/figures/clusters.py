"""Pictures of clusters: how measured and predicted ones correspond, and where they lie."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from past_genex.figures.space import (
    FigureError,
    check_places,
    map_axes,
    panel_size,
    point_area,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

UNKNOWN = "#d9d9d9"
"""Colour of cells without a group."""


def palette(n: int) -> list[str]:
    """Distinct colours as hex: matplotlib's tab10, tab20, then around the hue circle."""
    from matplotlib import colormaps
    from matplotlib.colors import hsv_to_rgb, to_hex

    if n <= 20:
        table = colormaps["tab10" if n <= 10 else "tab20"]
        return [to_hex(table(i)) for i in range(n)]
    tones = [(i / n, 0.75 if i % 2 else 0.5, 0.9 if i % 3 else 0.65) for i in range(n)]
    return [to_hex(tuple(hsv_to_rgb(tone).tolist())) for tone in tones]


def confusion(
    counts: np.ndarray,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    pcc: np.ndarray | None = None,
    genes: np.ndarray | None = None,
    row_title: str = "measured cluster",
    column_title: str = "predicted cluster",
    heading: str | None = None,
    pcc_title: str = "PCC over markers (n genes)",
) -> "Figure":
    """Heat map of two groupings of the same cells, beside it the correlation of the groups' profiles.

    Args:
        counts: `(R, C)` cells by row's and column's group; coloured by share of the row.
        rows: `(R,)` names.
        columns: `(C,)` names.
        pcc: `(R, C)` correlation of the groups' mean expression; NaN where undefined. No second panel
            without it.
        genes: `(R, C)` number of genes each correlation is over, printed beside it.
        row_title: what the rows are.
        column_title: what the columns are.
        heading: of the picture.
        pcc_title: heading of the second panel.

    Raises:
        FigureError: shapes that do not fit.
    """
    from matplotlib.figure import Figure

    counts = np.asarray(counts)
    shape = (len(rows), len(columns))
    for name, array in {"counts": counts, "pcc": pcc, "genes": genes}.items():
        if array is not None and np.shape(array) != shape:
            raise FigureError(f"{name} has shape {np.shape(array)}; expected {shape}, groups by groups")
    if not counts.size:
        raise FigureError("no groups to draw")
    panels = 1 if pcc is None else 2
    cell = 0.56
    size = (max(2.4, cell * shape[1]) + 1.7, max(1.8, cell * shape[0]) + 1.4)
    figure = Figure(figsize=(panels * size[0], size[1]), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    text = [
        [f"{counts[i, j]:,}\n{share[i, j]:.0%}" if counts[i, j] else "" for j in range(shape[1])]
        for i in range(shape[0])
    ]
    _heat(axes[0], share, text, rows, columns, label="share of the row", limits=(0, 1), colours="Blues")
    axes[0].set_title("cells", fontsize=9)
    if pcc is not None:
        pcc = np.asarray(pcc, np.float64)
        text = [
            [_correlation(pcc[i, j], None if genes is None else genes[i, j]) for j in range(shape[1])]
            for i in range(shape[0])
        ]
        _heat(axes[1], pcc, text, rows, columns, label="PCC", limits=(-1, 1), colours="RdBu_r")
        axes[1].set_title(pcc_title, fontsize=9)
    for axis in axes:
        axis.set_ylabel(row_title, fontsize=8.5)
        axis.set_xlabel(column_title, fontsize=8.5)
    if heading:
        figure.suptitle(heading, fontsize=10)
    return figure


def _correlation(value: float, genes: int | None) -> str:
    head = f"{value:.2f}".replace("-", "\N{MINUS SIGN}") if np.isfinite(value) else "n/a"
    return head if genes is None else f"{head}\n({int(genes)})"


def _heat(
    axis: "Axes", values: np.ndarray, text: list[list[str]], rows: Sequence[str], columns: Sequence[str],
    *, label: str, limits: tuple[float, float], colours: str,
) -> None:  # fmt: skip
    from matplotlib import colormaps

    shades = colormaps[colours].with_extremes(bad="0.93")
    drawn = axis.imshow(values, cmap=shades, vmin=limits[0], vmax=limits[1], aspect="auto")
    for i, line in enumerate(text):
        for j, entry in enumerate(line):
            level = (values[i, j] - limits[0]) / (limits[1] - limits[0]) if np.isfinite(values[i, j]) else 0.5
            red, green, blue, _ = shades(level)
            dark = np.isfinite(values[i, j]) and 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
            axis.text(j, i, entry, ha="center", va="center", fontsize=6.5, color="white" if dark else "black")
    rotate = max(map(len, columns)) > 4
    axis.set_xticks(
        range(len(columns)), columns, fontsize=7.5, rotation=40 if rotate else 0,
        ha="right" if rotate else "center", rotation_mode="anchor" if rotate else "default",
    )  # fmt: skip
    axis.set_yticks(range(len(rows)), rows, fontsize=7.5)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    bar = axis.figure.colorbar(drawn, ax=axis, shrink=0.8, aspect=22, pad=0.02)
    bar.set_label(label, fontsize=7)
    bar.ax.tick_params(labelsize=6.5, length=2)
    bar.outline.set_linewidth(0.4)


def cluster_maps(
    xy_um: np.ndarray,
    groups: Mapping[str, Sequence[str] | np.ndarray],
    *,
    colours: Mapping[str, Mapping[str, str]] | None = None,
    heading: str | None = None,
    unknown: str = "",
) -> "Figure":
    """Several groupings of the same cells side by side, as maps.

    Args:
        xy_um: `(N, 2)` x, y of the cells in µm.
        groups: heading -> `(N,)` name of each cell's group.
        colours: heading -> name -> colour, so that groups that correspond look alike; by default a name has
            one colour wherever it appears.
        heading: of the picture.
        unknown: name of cells without a group, drawn grey and beneath.

    Raises:
        FigureError: no grouping, or one of another length.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    if not groups:
        raise FigureError("no grouping to draw; give at least one")
    labels = {name: np.asarray(value).astype(str) for name, value in groups.items()}
    places = check_places(xy_um, **labels)
    names = sorted({each for value in labels.values() for each in value} - {unknown}, key=_natural)
    common = dict(zip(names, palette(len(names)), strict=True))

    longest = 3.4
    width, height = panel_size(places, longest=longest)
    area = point_area(places, longest=longest)
    entries = max(len(np.unique(value)) for value in labels.values())
    lines = -(-entries // 3)
    figure = Figure(
        figsize=(len(labels) * max(width, 2.2) + 0.3, height + 0.22 * lines + 0.95), layout="constrained"
    )
    axes = figure.subplots(1, len(labels), squeeze=False)[0]
    order = np.random.default_rng(0).permutation(len(places))
    for axis, (title, value) in zip(axes, labels.items(), strict=True):
        chosen = common if colours is None or title not in colours else colours[title]
        rank = order[np.argsort(value[order] != unknown, kind="stable")]
        axis.scatter(
            *places[rank].T, s=area, linewidths=0, rasterized=True,
            c=[chosen.get(each, UNKNOWN) for each in value[rank]],
        )  # fmt: skip
        map_axes(axis, places, bar=axis is axes[-1])
        axis.set_title(title, fontsize=9, pad=3)
        present = sorted(np.unique(value), key=_natural)
        handles = [
            Line2D([], [], marker="o", ls="", ms=5, mec="none", color=chosen.get(each, UNKNOWN),
                   label=f"{each or 'none'} ({np.count_nonzero(value == each):,})")
            for each in present
        ]  # fmt: skip
        axis.legend(
            handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.09), ncols=min(3, len(handles)),
            fontsize=7, frameon=False, handletextpad=0.1, columnspacing=0.9, borderaxespad=0,
        )  # fmt: skip
    if heading:
        figure.suptitle(heading, fontsize=10)
    return figure


def _natural(name: str) -> tuple[int, int, str]:
    """Numbers by value, then names by alphabet."""
    return (0, int(name), "") if name.isdecimal() else (1, 0, name)
