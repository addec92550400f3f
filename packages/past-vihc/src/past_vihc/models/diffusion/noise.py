"""Noise that belongs to a place: the same pixel of the same image always gets the same draw."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

BLOCK = 64
"""Side in pixels of the squares that are drawn at once, on a grid from the image's corner."""


class Place(NamedTuple):
    """Where a window lies."""

    image: int
    """Number of the image: of a slide, or of a tile that stands for itself."""
    y: int = 0
    """First row, in pixels of the resolution that is sampled at; may be negative."""
    x: int = 0
    """First column."""


def _natural(n: int) -> int:
    return 2 * n if n >= 0 else -2 * n - 1


def place_noise(
    places: Sequence[Place], height: int, width: int, *, seed: int, draw: int, channels: int = 3
) -> Tensor:
    """Standard normal noise of windows, a function of (seed, draw, image, pixel) and of nothing else.

    Windows of one image that overlap have the same noise where they do, and a tile's does not depend on the
    batch that it is sampled in, nor on the device.

    Args:
        places: the B windows.
        height: H.
        width: W.
        seed: of the sampling.
        draw: number of the draw: 0 is where sampling starts, then one for each step that adds noise.
        channels: C.

    Returns:
        `(B, C, H, W)` float32.
    """
    out = np.empty((len(places), channels, height, width), np.float32)
    for window, (image, top, left) in zip(out, places, strict=True):
        for row in range(top // BLOCK, (top + height - 1) // BLOCK + 1):
            for column in range(left // BLOCK, (left + width - 1) // BLOCK + 1):
                key = [seed, draw, *map(_natural, (image, row, column))]
                block = np.random.default_rng(key).standard_normal((channels, BLOCK, BLOCK), np.float32)
                y, x = row * BLOCK - top, column * BLOCK - left
                y0, y1, x0, x1 = max(y, 0), min(y + BLOCK, height), max(x, 0), min(x + BLOCK, width)
                window[:, y0:y1, x0:x1] = block[:, y0 - y : y1 - y, x0 - x : x1 - x]
    return torch.from_numpy(out)
