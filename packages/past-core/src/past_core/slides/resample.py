"""Resampling on a grid anchored at the image's origin: area averages down, linear interpolation up."""

from typing import NamedTuple

import numpy as np

_STRIP = 64
"""Rows that are resampled together."""


class Taps(NamedTuple):
    """The source pixels behind each pixel of one axis, and their weights.

    `index` `(n, K)` counts from `start`; `extent` source pixels are needed; `weight` `(n, K)` sums to one;
    `inside` `(n,)` says whether the pixel's centre lies in the source.
    """

    start: int
    extent: int
    index: np.ndarray  # type: ignore[assignment]  # in place of tuple.index
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
    """Applies the taps of both axes to `(C, rows.extent, columns.extent)` uint8, rounding half up.

    The sum runs tap by tap, so a pixel's value does not depend on the window it is computed in. It runs
    over a few rows at a time, which stay in the processor's cache, and over columns as rows of the transpose.
    """
    out = np.empty((window.shape[0], len(rows.index), len(columns.index)), np.uint8)
    for channel, target in zip(window, out, strict=True):
        for start in range(0, len(rows.index), _STRIP):
            part = slice(start, start + _STRIP)
            tall = _apply(channel, rows.index[part], rows.weight[part])
            wide = _apply(np.ascontiguousarray(tall.T), columns.index, columns.weight)
            wide += 0.5  # weights are positive and sum to one: the result stays in 0..255
            target[part] = wide.T.astype(np.uint8)
    return out


def _apply(image: np.ndarray, index: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Weighted sums of rows: `(n, width)` float32."""
    total = weight[:, 0, None] * image[index[:, 0]]
    for tap in range(1, index.shape[1]):
        total += weight[:, tap, None] * image[index[:, tap]]
    return total
