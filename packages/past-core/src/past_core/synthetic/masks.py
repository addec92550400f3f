"""Masks of cells and nuclei that cannot overlap."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from skimage.measure import label as connected

from past_core.synthetic.cohort import TissueConfig
from past_core.synthetic.looks import LOOKS
from past_core.synthetic.seeding import generator


@dataclass(frozen=True)
class Masks:
    """Rasterised cells.

    Args:
        cells: (H, W) uint32 labels, 0 background.
        nuclei: (H, W) uint32, the same label as the cell that each lies in.
        level: (H, W) float32: 0 to 1 from the centre to the border of a nucleus, 1 to 2 (excluded) from the
            centre to the border of a cell, 2 outside.
    """

    cells: np.ndarray
    nuclei: np.ndarray
    level: np.ndarray


def rasterise(config: TissueConfig, cells: pd.DataFrame, blocked: np.ndarray) -> Masks:
    """Draws all cells; where two meet, a pixel falls to the one whose level is smaller, so that none overlap.

    A nucleus (level ≤ 1) always wins over cytoplasm (level > 1). What is cut off from the largest piece of
    its nucleus or cell is given back to the background (or to the cytoplasm).

    Args:
        config: The slide.
        cells: `x_um`, `y_um`, `angle` and the lengths of `LOOKS`.
        blocked: (H, W) bool: pixels that no cell may take (lumens).
    """
    height, width = config.shape
    level = np.full((height, width), 2, np.float32)
    labels = np.zeros((height, width), np.int32)
    lobes = generator(config, "lobes").standard_normal((len(cells), 2))
    columns = ["x_um", "y_um", "angle", *LOOKS[:6]]
    for i, row in enumerate(cells[columns].to_numpy(np.float64)):
        _draw(level, labels, i + 1, row, lobes[i], config.mpp)
    labels[blocked] = 0
    level[blocked] = 2
    return _whole(labels, level)


def _draw(
    level: np.ndarray, labels: np.ndarray, name: int, row: np.ndarray, lobes: np.ndarray, mpp: float
) -> None:
    """Writes one cell into the level and label images."""
    x, y, angle, major, minor, cell_major, cell_minor, offset, irregularity = row
    height, width = labels.shape
    c, s = np.cos(angle), np.sin(angle)
    reach_x, reach_y = np.hypot(cell_major * c, cell_minor * s), np.hypot(cell_major * s, cell_minor * c)
    x0, x1 = max(int((x - reach_x) / mpp) - 1, 0), min(int((x + reach_x) / mpp) + 2, width)
    y0, y1 = max(int((y - reach_y) / mpp) - 1, 0), min(int((y + reach_y) / mpp) + 2, height)
    dx = (np.arange(x0, x1, dtype=np.float32) + 0.5) * mpp - x
    dy = ((np.arange(y0, y1, dtype=np.float32) + 0.5) * mpp - y)[:, None]
    u, v = dx * c + dy * s, dy * c - dx * s

    key = np.sqrt((u / cell_major) ** 2 + (v / cell_minor) ** 2)
    key = np.where(key <= 1, 1.0005 + 0.99 * key, 2)
    a, b = (u - offset) / major, v / minor
    r2 = a * a + b * b
    # Three lobes and a bend: cos 3θ and sin 3θ from the coordinates, cheaper than angles.
    lobe = (lobes[0] * a * (a * a - 3 * b * b) + lobes[1] * b * (3 * a * a - b * b)) / (
        r2 * np.sqrt(r2) + 1e-3
    )
    nucleus = np.sqrt(r2) * (1 + np.clip(irregularity * lobe, -0.25, 0.25))
    key = np.where((nucleus <= 1) & (key < 2), nucleus, key).astype(np.float32)

    window = level[y0:y1, x0:x1]
    wins = key < window
    window[wins] = key[wins]
    labels[y0:y1, x0:x1][wins] = name


def _whole(labels: np.ndarray, level: np.ndarray) -> Masks:
    """Keeps the largest connected piece of each cell and of each nucleus within it."""
    labels = _largest_piece(labels)
    level = np.where(labels > 0, level, np.float32(2))
    nuclei = _largest_piece(np.where(level <= 1, labels, 0))
    level[(level <= 1) & (nuclei == 0)] = 1.001
    return Masks(labels.astype(np.uint32), nuclei.astype(np.uint32), level)


def _largest_piece(labels: np.ndarray) -> np.ndarray:
    pieces = connected(labels, connectivity=1, background=0)
    size = np.bincount(pieces.ravel())
    flat = np.flatnonzero(labels)
    owner = np.zeros(len(size), np.int64)
    owner[pieces.ravel()[flat]] = labels.ravel()[flat]
    order = np.lexsort((size, owner))
    last = np.append(owner[order][1:] != owner[order][:-1], True)
    best = np.zeros(len(size), bool)
    best[order[last]] = True
    best[0] = False
    return np.where(best[pieces], labels, 0)
