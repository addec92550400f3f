"""The picture beside a score: outlines of the nuclei, coloured by class, over the IHC."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from past_core.slides import Slide
from past_vihc.hscore.geojson import COLOURS
from past_vihc.hscore.presets import CLASSES
from past_vihc.hscore.result import SlideScore

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OVERVIEW = 1400
"""Longest side of the whole slide in the picture, in pixels."""
ZOOM = 500
"""Side of the window at full resolution, in level-0 pixels."""
MANY = 20_000
"""More nuclei are drawn as points."""


def write_overlay(path: Path, slide: Slide, result: SlideScore) -> None:
    """Draws the whole slide, and where it is larger than a window, its densest window at full resolution.

    Args:
        path: a PNG; written as it is: replace it atomically.
        slide: the IHC.
        result: its score.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    large = max(slide.width, slide.height) > 1.5 * ZOOM
    figure = Figure(figsize=(15 if large else 8, 8), layout="constrained")
    axes = figure.subplots(1, 2 if large else 1, squeeze=False)[0]
    factor = max(1.0, max(slide.width, slide.height) / OVERVIEW)
    view = slide.at(slide.require_mpp() * factor)
    _panel(axes[0], view.read(0, 0, view.height, view.width), result, (0, 0), view.downsample, width=0.6)
    if large:
        left, top = _densest(result, slide)
        window = slide.read(0, top, left, ZOOM, ZOOM)
        _panel(axes[1], window, result, (left, top), 1.0, width=1.4)
        x, y = left / view.downsample, top / view.downsample
        side = ZOOM / view.downsample
        axes[0].plot(
            [x, x + side, x + side, x, x], [y, y, y + side, y + side, y], color="black", linewidth=1.2
        )
        axes[1].set_title(f"most positive {ZOOM * slide.require_mpp():.0f} µm, every pixel", fontsize=10)
    counts = result.nuclei["class"].value_counts()
    handles = [
        Line2D([], [], color=_rgb(colour), linewidth=3, label=f"{name}  {counts.get(name, 0):,}")
        for name, colour in zip(CLASSES, COLOURS, strict=True)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=10)
    figure.suptitle(_title(result), fontsize=12)
    figure.savefig(path, dpi=110, format="png")


def _title(result: SlideScore) -> str:
    record, score, ci = result.record, result.score, result.interval
    thresholds = record["thresholds"]
    named = f"{thresholds['name']} {thresholds['weak']:g}/{thresholds['moderate']:g}/{thresholds['strong']:g}"
    if score.h is None:
        text = f"H-score undefined: {score.why_undefined}"
    else:
        text = f"H-score {score.h:.0f}"
        text += "" if ci is None else f" (95 % CI {ci.low:.0f} to {ci.high:.0f})"
        text += f", {score.percent_positive:.1f} % positive"
    where = f"{record['segmenter']} on the {record['nuclei_on']}"
    return f"{record['ihc']}, {record['marker'].upper()}: {text}\n{named}, nuclei: {where}. Research use only"


def _densest(result: SlideScore, slide: Slide) -> tuple[int, int]:
    """Corner of the window with most positive nuclei (most nuclei, where none is), in half windows."""
    limit = (max(0, slide.width - ZOOM), max(0, slide.height - ZOOM))
    if not len(result.nuclei):
        return limit[0] // 2, limit[1] // 2
    step = ZOOM // 2
    shape = (slide.height // step + 2, slide.width // step + 2)
    cells = np.zeros(shape)
    positive = result.nuclei["class"] != CLASSES[0]
    shown = result.nuclei[positive] if positive.any() else result.nuclei
    row, column = (shown[name].to_numpy() // step for name in ("y", "x"))
    np.add.at(cells, (row.astype(int), column.astype(int)), 1)
    inside = cells[:-1, :-1] + cells[1:, :-1] + cells[:-1, 1:] + cells[1:, 1:]
    top, left = np.unravel_index(int(inside.argmax()), inside.shape)
    return min(int(left) * step, limit[0]), min(int(top) * step, limit[1])


def _panel(
    axis: "Axes",
    image: np.ndarray,
    result: SlideScore,
    corner: tuple[int, int],
    downsample: float,
    *,
    width: float,
) -> None:
    from matplotlib.collections import PolyCollection

    height, across = image.shape[1:]
    axis.imshow(image.transpose(1, 2, 0), extent=(0, across, height, 0), interpolation="nearest")
    places = (result.nuclei[["x", "y"]].to_numpy() - corner) / downsample
    near = ((places > -50) & (places < (across + 50, height + 50))).all(axis=1)
    classes = result.nuclei["class"].to_numpy()
    for name, colour in zip(CLASSES, COLOURS, strict=True):
        chosen = np.flatnonzero(near & (classes == name))
        if len(chosen) > MANY:
            axis.plot(*places[chosen].T, ",", color=_rgb(colour))
        elif len(chosen):
            rings = [(result.outlines[i] - corner) / downsample for i in chosen]
            axis.add_collection(
                PolyCollection(rings, facecolors="none", edgecolors=[_rgb(colour)], linewidths=width)
            )
    axis.set(xlim=(0, across), ylim=(height, 0), xticks=[], yticks=[])


def _rgb(colour: tuple[int, int, int]) -> tuple[float, float, float]:
    red, green, blue = (value / 255 for value in colour)
    return (red, green, blue)
