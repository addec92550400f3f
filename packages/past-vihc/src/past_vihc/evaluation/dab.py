"""How alike two stains are in what is read off them: the brown, its extent, and each nucleus's mean."""

from typing import NamedTuple

import numpy as np

from past_core.stains import StainSet, deconvolve, stain_set
from past_vihc.hscore.quantify import White, nuclear_dab

POSITIVE = 0.2
"""Optical density of DAB from which a pixel counts as stained, as QuPath's weak threshold."""
LEAST_NUCLEI = 3
"""Fewer nuclei have no correlation."""


class DabFigures(NamedTuple):
    """Two stains of one tile compared in DAB.

    Attributes:
        dice: overlap of the stained pixels, 2·|A ∩ B| / (|A| + |B|); NaN where neither has any.
        r: Pearson's r of the nuclei's mean DAB; NaN where it is undefined.
        mae: mean absolute difference of the nuclei's mean DAB; NaN without nuclei.
        p90: difference of the pixels' 90th percentiles, virtual minus real.
    """

    dice: float
    r: float
    mae: float
    p90: float


class NuclearPair(NamedTuple):
    """Each nucleus's mean DAB in both stains, measured in the same mask.

    Attributes:
        labels: `(N,)` int64.
        fake: `(N,)` float64 in the virtual stain.
        real: `(N,)` float64 in the real one.
    """

    labels: np.ndarray
    fake: np.ndarray
    real: np.ndarray


def nuclear_pair(
    fake: np.ndarray,
    real: np.ndarray,
    nuclei: np.ndarray,
    *,
    stains: str | StainSet = "qupath-hdab",
    white: White = 255.0,
) -> NuclearPair:
    """Measures the same nuclei in two images.

    Args:
        fake: `(3, H, W)` uint8.
        real: `(3, H, W)` uint8.
        nuclei: `(H, W)` labels, 0 outside.
        stains: a set of haematoxylin and DAB.
        white: value of bare glass.
    """
    ours, theirs = (nuclear_dab(image, nuclei, stains=stains, white=white) for image in (fake, real))
    return NuclearPair(ours.labels, ours.dab, theirs.dab)


def dab_figures(
    fake: np.ndarray,
    real: np.ndarray,
    pair: NuclearPair,
    *,
    stains: str | StainSet = "qupath-hdab",
    white: White = 255.0,
) -> DabFigures:
    """Compares the DAB of two images.

    Args:
        fake: `(3, H, W)` uint8.
        real: `(3, H, W)` uint8.
        pair: their nuclei.
        stains: a set of haematoxylin and DAB.
        white: value of bare glass.
    """
    column = stain_set(stains).stains.index("dab")
    ours, theirs = (deconvolve(image, stains, white=white)[column] for image in (fake, real))
    a, b = ours >= POSITIVE, theirs >= POSITIVE
    total = int(a.sum()) + int(b.sum())
    return DabFigures(
        dice=2 * int((a & b).sum()) / total if total else float("nan"),
        r=correlation(pair.fake, pair.real),
        mae=float(np.abs(pair.fake - pair.real).mean()) if len(pair.labels) else float("nan"),
        p90=float(np.percentile(ours, 90) - np.percentile(theirs, 90)),
    )


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's r; NaN with fewer than three values, or where either does not vary."""
    if len(a) < LEAST_NUCLEI or np.ptp(a) < 1e-12 or np.ptp(b) < 1e-12:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])
