"""Rows of tiles: H&E, what each system made of it, and the real stain, as in the paper's Fig. 3a."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from past_core.errors import PastError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#1f6fb4", "#d1662c", "#3a923a", "#8c4fb0", "#8c6d1f", "#c44e79", "#5f5f5f", "#2aa6a6")
"""Of systems and groups, in order."""

MAX_TILES = 400
"""Most tiles in one picture."""


class FigureError(PastError, ValueError):
    """Arrays that cannot be drawn together."""


def stain_panels(
    columns: Mapping[str, np.ndarray],
    *,
    real: str | None = None,
    rows: Sequence[str] | None = None,
    heading: str = "",
    bar_um: float | None = None,
    mpp: float | None = None,
) -> "Figure":
    """A grid of tiles; under each virtual one its PSNR and SSIM against the real one.

    Args:
        columns: name -> `(N, 3, H, W)` uint8, from left to right; the first is the H&E.
        real: name of the real stain; the columns between the first and it are compared with it. None prints
            no figures.
        rows: `(N,)` names, such as the cases.
        heading: of the picture.
        bar_um: length of a scale bar on the first tile; needs `mpp`.
        mpp: µm per pixel.

    Raises:
        FigureError: no tile, too many, or columns that do not fit together.
    """
    from matplotlib.figure import Figure

    n = _check(columns, real, rows)
    names = list(columns)
    scored = [] if real is None else [name for name in names[1:] if name != real]
    texts = {} if real is None else {name: _figures(columns[name], columns[real]) for name in scored}
    height, width = columns[names[0]].shape[-2:]
    side = 1.5
    tall, gap = side * height / width, 0.23 if scored else 0.05
    top, left = 0.32 + (0.3 if heading else 0), 0.32 if rows is not None else 0.06
    size = left + len(names) * (side + 0.05) + 0.03, top + n * (tall + gap) + 0.03
    figure = Figure(figsize=size)
    for row in range(n):
        for column, name in enumerate(names):
            x = left + column * (side + 0.05)
            y = size[1] - top - row * (tall + gap) - tall
            axis = figure.add_axes((x / size[0], y / size[1], side / size[0], tall / size[1]))
            axis.imshow(columns[name][row].transpose(1, 2, 0), interpolation="nearest")
            _bare(axis)
            if row == 0:
                axis.set_title(name, fontsize=9, pad=4)
            if column == 0 and rows is not None:
                axis.set_ylabel(str(rows[row]), fontsize=8, labelpad=4)
            if name in texts:
                axis.set_xlabel(texts[name][row], fontsize=6.5, labelpad=2, color="0.25")
    if bar_um is not None and mpp:
        _scale_bar(figure.axes[0], bar_um, mpp, height)
    if heading:
        figure.text(left / size[0], 1 - 0.08 / size[1], heading, fontsize=10, va="top", ha="left")
    return figure


def _figures(fake: np.ndarray, real: np.ndarray) -> list[str]:
    from past_vihc.evaluation.similarity import WINDOW, psnr, ssim

    ratios = psnr(fake, real)
    if min(fake.shape[-2:]) < WINDOW:
        return [f"{ratio:.1f} dB" for ratio in ratios]
    return [f"{a:.1f} dB, SSIM {b:.2f}" for a, b in zip(ratios, ssim(fake, real), strict=True)]


def _bare(axis: "Axes") -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_linewidth(0.4)
        spine.set_color("0.6")


def _scale_bar(axis: "Axes", length: float, mpp: float, height: int) -> None:
    from matplotlib.patheffects import withStroke

    x, y = 0.06 * height, 0.92 * height
    halo = [withStroke(linewidth=2.5, foreground="white")]  # it lies on dark tissue and on glass alike
    axis.plot([x, x + length / mpp], [y, y], color="black", lw=2, solid_capstyle="butt", path_effects=halo)
    middle = x + length / mpp / 2
    axis.text(
        middle, y - 0.03 * height, f"{length:g} µm", fontsize=6, ha="center", va="bottom", path_effects=halo
    )


def _check(columns: Mapping[str, np.ndarray], real: str | None, rows: Sequence[str] | None) -> int:
    if len(columns) < 2:
        raise FigureError(f"{len(columns)} columns of tiles; expected the H&E and at least one stain")
    shapes = {name: tuple(images.shape) for name, images in columns.items()}
    first = next(iter(shapes.values()))
    for name, images in columns.items():
        shape = shapes[name]
        if len(shape) != 4 or shape[1] != 3 or not shape[0] or images.dtype != np.uint8:
            raise FigureError(f"{name}: {shape}, {images.dtype}; expected (N, 3, H, W) uint8, N at least 1")
        if shape != first:
            raise FigureError(f"{name}: {shape}, the first column is {first}; expected the same tiles")
    if real is not None and real not in columns:
        raise FigureError(f"no column {real!r}; there are {', '.join(columns)}")
    if rows is not None and len(rows) != first[0]:
        raise FigureError(f"{len(rows)} names for {first[0]} rows of tiles")
    if first[0] * len(columns) > MAX_TILES:
        raise FigureError(f"{first[0]} rows of {len(columns)} tiles; draw at most {MAX_TILES} tiles")
    return first[0]
