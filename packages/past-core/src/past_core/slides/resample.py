"""Resampling on a grid anchored at the image's origin: area averages down, linear interpolation up."""

from typing import NamedTuple

import numpy as np


class Taps(NamedTuple):
    """The source pixels behind each pixel of one axis, and their weights.

    `index` `(n, K)` counts from `start`; `extent` source pixels are needed; `weight` `(n, K)` sums to one;
    `inside` `(n,)` says whether the pixel's centre lies in the source.
    """

    start: int
    extent: int
    index: np.ndarray
    weight: np.ndarray
    inside: np.ndarray


def taps(first: int, count: int, scale: float, limit: int) -> Taps:
    """Taps of the pixels `first` to `first + count` of an axis resampled by `scale` source pixels a pixel.

    Above one, pixel i averages the source over [i·scale, (i + 1)·scale), each source pixel weighted by its
    overlap; below one, it is interpolated linearly at its centre. Past the borders the edge
    pixel is repeated.

    Args:
        first: first pixel, may be negative.
        count: number of pixels.
        scale: source pixels per pixel.
        limit: length of the source axis.
    """
    pixel = np.arange(first, first + count, dtype=np.float64)
    centre = (pixel + 0.5) * scale
    if scale >= 1:
        low, high = pixel * scale, (pixel + 1) * scale
        base = np.floor(low).astype(np.int64)
        index = base[:, None] + np.arange(int(np.ceil(scale)) + 1)
        overlap = np.minimum(high[:, None], index + 1) - np.maximum(low[:, None], index)
        weight = np.clip(overlap, 0, None)
    else:
        base = np.floor(centre - 0.5).astype(np.int64)
        index = base[:, None] + np.arange(2)
        fraction = centre - 0.5 - base
        weight = np.stack([1 - fraction, fraction], axis=1)
    weight /= weight.sum(axis=1, keepdims=True)
    index = np.clip(index, 0, limit - 1)
    inside = (centre >= 0) & (centre < limit)
    start = int(index.min()) if count else 0
    extent = int(index.max()) + 1 - start if count else 0
    return Taps(start, extent, index - start, weight.astype(np.float32), inside)


def resample(window: np.ndarray, rows: Taps, columns: Taps) -> np.ndarray:
    """Applies the taps of both axes to `(3, rows.extent, columns.extent)` uint8, rounding half up.

    The sum runs tap by tap, so a pixel's value does not depend on the window it is computed in.
    """
    tall = np.zeros((window.shape[0], len(rows.index), window.shape[2]), np.float32)
    for k in range(rows.index.shape[1]):
        tall += rows.weight[:, k, None] * window[:, rows.index[:, k], :]
    out = np.zeros((window.shape[0], len(rows.index), len(columns.index)), np.float32)
    for k in range(columns.index.shape[1]):
        out += columns.weight[:, k] * tall[:, :, columns.index[:, k]]
    return np.floor(np.clip(out, 0, 255) + 0.5).astype(np.uint8)
