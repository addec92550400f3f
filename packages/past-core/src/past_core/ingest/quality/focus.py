"""Is the H&E in focus around a cell?"""

from typing import Any

import numpy as np
from scipy import ndimage

from past_core.ingest.quality.pixels import Tile, as_slide, over_tiles, tiles

FOCUS_MPP = 0.5
"""µm per pixel at which sharpness is measured."""
MAX_MPP = 1.2
"""Coarser images show no blur of optics."""
WINDOW_UM = 24.0
"""Side of the window around a cell."""
LUMINANCE = (0.299, 0.587, 0.114)
NOISE = 9.0
"""Added to the variance, in squared grey levels, so that an empty window is not divided by nothing."""


def focus_scores(image: Any, mpp: float, centroids: np.ndarray) -> np.ndarray:
    """Sharpness of the image around each cell: the energy of its Laplacian over its variance.

    The variance of the Laplacian (Pech-Pacheco et al. 2000) falls with blur, but also with how little there
    is to see; over the variance of the luminance it is one scale for nests of nuclei and pale stroma. A
    Gaussian of 0.5 µm goes before, for noise and compression are sharp, too. Sharp H&E of several scanners
    has 0.05 to 0.1 (99 % above 0.01), after a blur of 2 µm 0.003 (95 % below 0.009).

    The image is read tile by tile at 0.5 µm per pixel (or its own resolution, where that is coarser).

    Args:
        image: an open slide, or an array (3, H, W) uint8.
        mpp: µm per level-0 pixel.
        centroids: (N, 2) x, y of the cells in level-0 pixels.

    Returns:
        (N,) float64; nan outside the image.
    """
    slide = as_slide(image, mpp=mpp)
    view = slide.at(max(FOCUS_MPP, mpp))
    pixel = view.downsample * mpp
    half = max(2, round(WINDOW_UM / pixel / 2))
    blur = 0.5 / pixel

    def work(tile: Tile, pixels: np.ndarray) -> np.ndarray:
        light = np.tensordot(np.asarray(LUMINANCE, np.float32), pixels.astype(np.float32), 1)
        light = ndimage.gaussian_filter(light, blur, truncate=3) if blur > 0.3 else light
        edges = ndimage.laplace(light)
        # What lies outside the slide is white: its edge, and what the filters made of it, do not count.
        known = np.zeros(light.shape, bool)
        margin = 3
        top, left = max(0, margin - tile.top), max(0, margin - tile.left)
        bottom, right = view.height - margin - tile.top, view.width - margin - tile.left
        known[top : max(bottom, 0), left : max(right, 0)] = True
        mean = float(light.mean())
        light = light - mean  # sums of squares of small numbers keep their digits
        maps = [known, np.where(known, light, 0), np.where(known, light**2, 0), np.where(known, edges**2, 0)]
        count, first, second, energy = (
            _window_sums(values.astype(np.float64), tile.x, tile.y, half) for values in maps
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            variance = np.maximum(second / count - (first / count) ** 2, 0)
            return np.where(count > 0, energy / count / (variance + NOISE), np.nan)

    scores = np.full(len(centroids), np.nan)
    for tile, values in over_tiles(view, tiles(view, centroids, halo=half + 8), work):
        scores[tile.index] = values
    return scores


def _window_sums(values: np.ndarray, x: np.ndarray, y: np.ndarray, half: int) -> np.ndarray:
    """Sums over the square of `2 half + 1` pixels around each point, from a summed-area table."""
    table = np.pad(values.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    column, row = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    top, bottom = row - half, row + half + 1
    left, right = column - half, column + half + 1
    return table[bottom, right] - table[top, right] - table[bottom, left] + table[top, left]


def focus_limit(scores: np.ndarray, *, z: float, floor: float, clear: float) -> float:
    """The sharpness below which a cell is out of focus.

    `z` robust standard deviations (of the logarithm; median and median absolute deviation) below the
    slide's cells that are not below the floor already, but never above `clear` nor below `floor`: a slide
    that is blurred all over is found by the floor, one that is sharp all over loses no cells.

    Args:
        scores: (N,) of `focus_scores`.
        z: see `QualityOptions.focus_z`.
        floor: see `QualityOptions.focus_floor`.
        clear: see `QualityOptions.focus_clear`.
    """
    sharp = np.log(scores[np.isfinite(scores) & (scores >= max(floor, 1e-12))])
    if not sharp.size:
        return floor
    middle = np.median(sharp)
    spread = 1.4826 * np.median(np.abs(sharp - middle))
    return float(np.clip(np.exp(middle - z * spread), floor, max(clear, floor)))
