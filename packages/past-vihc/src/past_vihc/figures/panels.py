"""Tiles side by side: the H&E, what each system made of it, and the real stain (paper, Fig. 3a)."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from past_vihc.evaluation.similarity import psnr, ssim


def stain_panel(
    he: np.ndarray,
    virtual: Mapping[str, np.ndarray],
    real: np.ndarray,
    *,
    labels: Sequence[str] = (),
    real_name: str = "real IHC",
    title: str = "",
    tile_um: float | None = None,
) -> Figure:
    """A row a tile: H&E | each system, with its PSNR and SSIM | real stain.

    Args:
        he: `(B, 3, S, S)` uint8.
        virtual: by name of the system, `(B, 3, S, S)` uint8, drawn in this order.
        real: `(B, 3, S, S)` uint8.
        labels: names of the rows, such as the cases.
        real_name: heading of the last column.
        title: of the figure.
        tile_um: side of a tile in µm; drawn as a scale bar where given.
    """
    columns = [("H&E", he), *virtual.items(), (real_name, real)]
    rows = len(he)
    figure = Figure(figsize=(2.0 * len(columns) + 0.4, 2.12 * rows + 0.7), layout="constrained")
    axes = figure.subplots(rows, len(columns), squeeze=False)
    for row in range(rows):
        for column, (name, images) in enumerate(columns):
            axis = axes[row, column]
            axis.imshow(np.moveaxis(images[row], 0, -1), interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            for spine in axis.spines.values():
                spine.set_visible(False)
            if row == 0:
                axis.set_title(name, fontsize=9)
            if 0 < column < len(columns) - 1:
                figures = f"{psnr(images[row], real[row]):.1f} dB, SSIM {ssim(images[row], real[row]):.2f}"
                axis.set_xlabel(figures, fontsize=7, labelpad=2)
        if labels:
            axes[row, 0].set_ylabel(labels[row], fontsize=8)
    if tile_um is not None:
        _scale_bar(axes[-1, 0], he.shape[-1], tile_um)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def _scale_bar(axis: object, side: int, tile_um: float) -> None:
    length = 10.0 ** np.floor(np.log10(tile_um / 2))
    length *= max(k for k in (1, 2, 5) if k * length <= tile_um / 2)
    width = length / tile_um * side
    axis.plot([0.05 * side, 0.05 * side + width], [0.95 * side] * 2, color="black", linewidth=2)
    axis.text(0.05 * side, 0.92 * side, f"{length:g} µm", fontsize=7, va="bottom")
