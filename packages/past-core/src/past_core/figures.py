"""Pictures of a joint space: retrieval panels and a map of both sides. Drawn without a display."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PARTNER_COLOUR = "#1b9e3e"
OTHER_COLOUR = "#bbbbbb"


def retrieval_panel(
    queries: np.ndarray, retrieved: np.ndarray, ranks: Sequence[int], *, partner: np.ndarray, title: str
) -> "Figure":
    """One row per query: the query's patch, then the patches of the cells retrieved by expression.

    Args:
        queries: `(Q, 3, L, L)` uint8 patches of the queries.
        retrieved: `(Q, K, 3, L, L)` uint8 patches of the first K cells retrieved.
        ranks: `(Q,)` rank of each query's own transcriptome in the gallery.
        partner: `(Q, K)` bool, whether a retrieved cell is the query itself (framed).
        title: heading.
    """
    from matplotlib.figure import Figure

    n, k = partner.shape
    figure = Figure(figsize=(1.25 * (k + 1) + 0.9, 1.32 * n + 0.7), layout="constrained")
    axes = figure.subplots(n, k + 1, squeeze=False)
    for row in range(n):
        _patch(axes[row, 0], queries[row], "black")
        axes[row, 0].set_ylabel(f"partner at {ranks[row]}", fontsize=7)
        for column in range(k):
            is_partner = partner[row, column]
            _patch(
                axes[row, column + 1], retrieved[row, column], PARTNER_COLOUR if is_partner else OTHER_COLOUR
            )
    axes[0, 0].set_title("query image", fontsize=8)
    for column in range(k):
        axes[0, column + 1].set_title(f"retrieved {column + 1}", fontsize=8)
    figure.suptitle(title, fontsize=10)
    return figure


def _patch(axis: "Axes", patch: np.ndarray, colour: str) -> None:
    axis.imshow(patch.transpose(1, 2, 0))
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_color(colour)
        spine.set_linewidth(3 if colour == PARTNER_COLOUR else 1)


def joint_map(points: np.ndarray, *, colourings: dict[str, np.ndarray], title: str) -> "Figure":
    """The same 2-D map once per colouring.

    Args:
        points: `(N, 2)`.
        colourings: heading -> `(N,)` labels.
        title: heading of the whole.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * len(colourings), 5.2), layout="constrained")
    axes = figure.subplots(1, len(colourings), squeeze=False)[0]
    order = np.random.default_rng(0).permutation(len(points))
    for axis, (heading, labels) in zip(axes, colourings.items(), strict=True):
        names, codes = np.unique(labels.astype(str), return_inverse=True)
        palette = colormaps["tab10" if len(names) <= 10 else "tab20"]
        axis.scatter(
            *points[order].T, s=5, linewidths=0, alpha=0.7, c=[palette(c % palette.N) for c in codes[order]]
        )
        handles = [
            axis.scatter([], [], s=25, color=palette(c % palette.N), label=name)
            for c, name in enumerate(names)
        ]
        axis.legend(handles=handles, fontsize=8, frameon=False, loc="best")
        axis.set_title(heading, fontsize=10)
        axis.set_xticks([])
        axis.set_yticks([])
    figure.suptitle(title, fontsize=11)
    return figure
