"""Contact sheet of a slide's attention: the H&E, then a row a group with its map and its first patches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from past_core.ingest.pyramid import halve
from past_surv.figures.curves import FigureError
from past_surv.figures.heatmaps import colours

if TYPE_CHECKING:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

MAP_PX = 700
"""Longer side, at most, of a map on the sheet."""


@dataclass(frozen=True, eq=False, kw_only=True)
class SheetRow:
    """One group on the sheet.

    Attributes:
        name: of the group.
        note: a second line, on how the attention is spread.
        image: `(3, H, W)` uint8 map.
        patches: `(k, 3, L, L)` uint8, the largest weight first.
        captions: k of them.
    """

    name: str
    note: str
    image: np.ndarray
    patches: np.ndarray
    captions: Sequence[str]


def small(image: np.ndarray) -> np.ndarray:
    """An image halved until it fits on the sheet."""
    while max(image.shape[1:]) > MAP_PX:
        image = halve(image)
    return image


def contact_sheet(slide: np.ndarray, rows: Sequence[SheetRow], *, heading: str) -> "Figure":
    """Draws the sheet.

    Args:
        slide: `(3, H, W)` uint8 H&E, beside each map.
        rows: of the groups.
        heading: of the whole.

    Raises:
        FigureError: no rows.
    """
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

    if not rows:
        raise FigureError("no group to draw")
    most = max(len(row.patches) for row in rows)
    ratio = slide.shape[2] / slide.shape[1]
    wide = float(np.clip(1.9 * ratio, 1.2, 3.8))
    figure = Figure(figsize=(2 * wide + 1.15 * most + 1.2, 2.1 * len(rows) + 0.9), layout="constrained")
    axes = figure.subplots(len(rows), 2 + most, squeeze=False, width_ratios=[wide, wide] + [1.15] * most)
    for axis in axes.flat:
        axis.set_xticks([])
        axis.set_yticks([])
    for line, row in zip(axes, rows, strict=True):
        line[0].imshow(slide.transpose(1, 2, 0))
        line[1].imshow(row.image.transpose(1, 2, 0))
        line[0].set_ylabel(row.name, fontsize=8.5)
        line[1].set_title(row.note, fontsize=7)
        for axis, number in zip(line[2:], range(most), strict=True):
            if number >= len(row.patches):
                axis.set_axis_off()
                continue
            axis.imshow(row.patches[number].transpose(1, 2, 0))
            axis.set_title(row.captions[number], fontsize=6.5)
    scale = figure.colorbar(
        _mappable(ListedColormap(colours() / 255)),
        ax=axes,
        location="bottom",
        shrink=0.35,
        aspect=40,
        pad=0.02,
    )
    scale.set_label("rank of a patch's attention among the patient's patches, in %", fontsize=7.5)
    scale.ax.tick_params(labelsize=7)
    figure.suptitle(heading, fontsize=10)
    return figure


def _mappable(table: "Colormap") -> "ScalarMappable":
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    return ScalarMappable(Normalize(0, 100), table)
