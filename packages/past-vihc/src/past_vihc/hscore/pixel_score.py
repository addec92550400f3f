"""H-score of pixels: a check on the nuclear score that needs no segmentation.

After Ram et al. 2021 (pixelwise H-score, PMC8475990): of the pixels that are stained, the shares that are
weak, moderate and strong. Stained are those with haematoxylin of at least `STAINED` or DAB of at least the
weak threshold; unstained stroma and glass are left out, so that the number stands beside a nuclear score and
not below it. It weighs nuclei by area and counts cytoplasm that is stained: expect it near, not equal.
"""

from typing import NamedTuple

import numpy as np

from past_core.stains import StainSet, stain_set
from past_vihc.hscore.presets import Thresholds
from past_vihc.hscore.quantify import White, density_tables

STAINED = 0.1
"""Least optical density of haematoxylin in a stained pixel: the threshold of QuPath's cell detection."""


class PixelScore(NamedTuple):
    """Counts of pixels and the score made of them.

    Attributes:
        h: 0 to 300; None where nothing is stained.
        percent: `(4,)` of stained pixels that are negative, 1+, 2+, 3+; None where nothing is stained.
        stained: pixels.
        tissue: pixels.
    """

    h: float | None
    percent: np.ndarray | None
    stained: int
    tissue: int


def pixel_counts(
    image: np.ndarray,
    tissue: np.ndarray,
    thresholds: Thresholds,
    *,
    stains: str | StainSet = "qupath-hdab",
    white: White = 255.0,
) -> np.ndarray:
    """Stained pixels of each class, and tissue pixels: `(5,)` int64; add up those of all tiles.

    Args:
        image: `(3, H, W)` uint8.
        tissue: `(H, W)` bool, the pixels that count.
        thresholds: of the classes.
        stains: a set of haematoxylin and DAB, or its name.
        white: value of bare glass.
    """
    pixels = image[:, tissue]
    tables = density_tables(white)
    row = np.linalg.inv(stain_set(stains).matrix)
    haematoxylin, dab = (
        sum((tables[c] * row[c, stain])[pixels[c]] for c in range(3)) + 0.0 for stain in (0, 1)
    )
    stained = (haematoxylin >= STAINED) | (dab >= thresholds.weak)
    classes = np.bincount(np.digitize(dab[stained], thresholds.levels), minlength=4)
    return np.append(classes, pixels.shape[1]).astype(np.int64)


def pixel_score(counts: np.ndarray) -> PixelScore:
    """The score of counts that `pixel_counts` made."""
    stained = int(counts[:4].sum())
    if not stained:
        return PixelScore(None, None, 0, int(counts[4]))
    percent = 100 * counts[:4] / stained
    return PixelScore(float(percent @ np.arange(4)), percent, stained, int(counts[4]))
