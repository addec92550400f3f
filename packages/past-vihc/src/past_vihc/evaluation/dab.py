"""DAB of a virtual stain against the real one: the stained area, the densities, and each nucleus."""

from typing import NamedTuple

import numpy as np

from past_core.stains import stain_set
from past_vihc.hscore.quantify import density_tables, nuclear_dab

MASK = 0.2
"""Optical density of DAB from which a pixel counts as stained: QuPath's threshold of weak staining."""
BINS = 40
BIN_WIDTH = 0.05
"""The histogram of DAB: 40 bins of 0.05 from 0; the first and the last take what lies outside."""
STAINS = "qupath-hdab"


class TileDab(NamedTuple):
    """One tile's DAB, of the fake and the real image.

    Attributes:
        both: pixels that are stained in both.
        fake: pixels stained in the fake.
        real: pixels stained in the real image.
        p90_fake: 90th percentile of density.
        p90_real: the same.
        histogram_fake: `(BINS,)` int64 pixels by density.
        histogram_real: the same.
        labels: `(N,)` labels of the nuclei.
        nuclei_fake: `(N,)` mean density of each nucleus in the fake.
        nuclei_real: `(N,)` the same in the real image, under the same mask.
    """

    both: int
    fake: int
    real: int
    p90_fake: float
    p90_real: float
    histogram_fake: np.ndarray
    histogram_real: np.ndarray
    labels: np.ndarray
    nuclei_fake: np.ndarray
    nuclei_real: np.ndarray


def tile_dab(fake: np.ndarray, real: np.ndarray, nuclei: np.ndarray, *, mask: float = MASK) -> TileDab:
    """Measures one tile.

    Args:
        fake: `(3, H, W)` uint8.
        real: the same.
        nuclei: `(H, W)` labels, 0 outside; both images are measured under them.
        mask: density from which a pixel is stained.

    Raises:
        QuantificationError: shapes or types that do not fit.
    """
    a, b = nuclear_dab(fake, nuclei, stains=STAINS), nuclear_dab(real, nuclei, stains=STAINS)
    maps = [dab_density(image) for image in (fake, real)]
    stained = [density >= mask for density in maps]
    return TileDab(
        int((stained[0] & stained[1]).sum()),
        int(stained[0].sum()),
        int(stained[1].sum()),
        float(np.percentile(maps[0], 90)),
        float(np.percentile(maps[1], 90)),
        histogram(maps[0]),
        histogram(maps[1]),
        a.labels,
        a.dab,
        b.dab,
    )


def dab_density(image: np.ndarray) -> np.ndarray:
    """Optical density of DAB of each pixel, QuPath's conventions: `(H, W)` float64 of `(3, H, W)` uint8."""
    row = np.linalg.inv(stain_set(STAINS).matrix)[:, 1]
    tables = density_tables(255.0)
    return sum((tables[c] * row[c])[image[c]] for c in range(3))


def histogram(density: np.ndarray) -> np.ndarray:
    """Pixels in each bin of density: `(BINS,)` int64."""
    bins = np.clip(np.floor(density / BIN_WIDTH), 0, BINS - 1).astype(np.int64)
    return np.bincount(bins.ravel(), minlength=BINS)


def dice(both: float, fake: float, real: float) -> float:
    """Dice's overlap of two areas, 2 · both / (fake + real); NaN (undefined) where nothing is stained."""
    return 2 * both / (fake + real) if fake + real else float("nan")


def kl_divergence(real: np.ndarray, fake: np.ndarray) -> float:
    """KL(real ‖ fake) in nats of two histograms; a pixel is added to every bin, so that it stays finite.

    Args:
        real: `(BINS,)` counts.
        fake: `(BINS,)` counts.
    """
    p, q = (np.asarray(counts, np.float64) + 1 for counts in (real, fake))
    p, q = p / p.sum(), q / q.sum()
    return float((p * np.log(p / q)).sum())


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's r; NaN (undefined) of fewer than three pairs or where one side is constant."""
    if len(a) < 3:
        return float("nan")
    a, b = (np.asarray(v, np.float64) - np.mean(v) for v in (a, b))
    scale = [np.abs(v).max() for v in (a, b)]
    if min(scale) < 1e-12:  # what rounding leaves of a constant
        return float("nan")
    return float(np.clip(a @ b / np.sqrt((a @ a) * (b @ b)), -1, 1))
