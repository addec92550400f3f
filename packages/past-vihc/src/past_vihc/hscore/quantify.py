"""Mean DAB of each nucleus in one pass: tables of optical density, and sums by label.

Conventions are QuPath's: log10 densities, values clipped at 1/255, densities of a channel never below 0,
unmixed with unit vectors of haematoxylin, DAB and the residual perpendicular to both. Unmixed DAB may be
negative, where a pixel is bluer than haematoxylin, and such pixels stay in the mean, as in QuPath: clipped,
the mean of an unstained nucleus would be that of its noise.

scikit-image's `rgb2hed` must not be used with published thresholds: its numbers are six times smaller, and it
unmixes eosin, which an H-DAB slide does not have.
"""

from typing import NamedTuple

import numpy as np

from past_core.errors import PastError
from past_core.stains import MIN_VALUE, StainSet, stain_set

White = float | tuple[float, float, float]
"""Value of bare glass, one or one a channel."""


class QuantificationError(PastError, ValueError):
    """An image, labels or a white point that nothing can be measured with."""


class NuclearDab(NamedTuple):
    """What was measured in each nucleus, in ascending order of labels.

    Attributes:
        labels: `(N,)` int64.
        dab: `(N,)` float64, mean optical density of DAB.
        area: `(N,)` int64, pixels.
        haematoxylin: `(N,)` float64, mean optical density of haematoxylin.
        density: `(N, 3)` float64, mean optical density of red, green and blue.
    """

    labels: np.ndarray
    dab: np.ndarray
    area: np.ndarray
    haematoxylin: np.ndarray
    density: np.ndarray


def nuclear_dab(
    image: np.ndarray,
    labels: np.ndarray,
    *,
    stains: str | StainSet = "qupath-hdab",
    white: White = 255.0,
) -> NuclearDab:
    """Mean DAB and haematoxylin of each nucleus.

    Unmixing is linear, so the mean concentration of a nucleus is that of its mean densities: three sums a
    nucleus serve all stains. Only pixels of nuclei are touched, and a nucleus's pixels are added in reading
    order, so that what lies around it in the image never changes a bit of its result.

    Args:
        image: `(3, H, W)` uint8.
        labels: `(H, W)` integers, 0 outside nuclei.
        stains: a set of haematoxylin and DAB, or its name.
        white: value of bare glass.

    Raises:
        QuantificationError: shapes or types that do not fit, negative labels, or no possible white.
        StainError: no such set.
    """
    return nuclear_dab_at(image, labels, stains=stains, whites=(white,))[0]


def nuclear_dab_at(
    image: np.ndarray, labels: np.ndarray, *, stains: str | StainSet, whites: tuple[White, ...]
) -> list[NuclearDab]:
    """The same under several white points, for little more than the time of one."""
    _check(image, labels)
    flat = labels.reshape(-1)
    where = np.flatnonzero(flat != 0)  # three times faster than of the labels themselves
    owner = flat.take(where).astype(np.intp)
    if owner.size and owner.min() < 0:
        raise QuantificationError(f"labels down to {owner.min()}; expected 0 outside nuclei, positive inside")
    if (
        owner.size and owner.max() > flat.size
    ):  # labels of a slide in a window: sums of their own would be empty
        names, owner = np.unique(owner, return_inverse=True)
        counts = np.bincount(owner, minlength=len(names))
    else:
        counts = np.bincount(owner) if owner.size else np.zeros(1, np.int64)
        names = np.flatnonzero(counts)
    pixels = [channel.reshape(-1).take(where) for channel in image]
    row = np.linalg.inv(stain_set(stains).matrix)
    found = []
    for white in whites:
        tables = density_tables(white)
        sums = [
            np.bincount(owner, weights=table[values], minlength=len(counts))
            for table, values in zip(tables, pixels, strict=True)
        ]
        present = counts > 0
        density = np.stack([total[present] / counts[present] for total in sums], axis=1)
        found.append(
            NuclearDab(
                labels=np.asarray(names, np.int64),
                dab=_unmix(density, row[:, 1]),
                area=counts[present].astype(np.int64),
                haematoxylin=_unmix(density, row[:, 0]),
                density=density,
            )
        )
    return found


def density_tables(white: White) -> np.ndarray:
    """Optical density, at least 0, of each of the 256 values of red, green and blue: `(3, 256)` float64.

    Raises:
        QuantificationError: a white that is not above 1 and at most 255.
    """
    level = np.broadcast_to(np.asarray(white, np.float64), (3,))
    if not (np.isfinite(level).all() and (level > MIN_VALUE).all() and (level <= 255).all()):
        raise QuantificationError(f"white point {white}; expected values above 1 and up to 255")
    values = np.log10(np.maximum(np.arange(256, dtype=np.float64), MIN_VALUE))
    return np.maximum(np.log10(level)[:, None] - values, 0)


def _unmix(density: np.ndarray, weights: np.ndarray) -> np.ndarray:
    # Term by term: a matrix product may round differently for another number of nuclei.
    return density[:, 0] * weights[0] + density[:, 1] * weights[1] + density[:, 2] * weights[2]


def _check(image: np.ndarray, labels: np.ndarray) -> None:
    if image.ndim != 3 or image.shape[0] != 3 or image.dtype != np.uint8:
        raise QuantificationError(
            f"an image of shape {image.shape}, {image.dtype}; expected (3, H, W) uint8 (8-bit RGB)"
        )
    if labels.shape != image.shape[1:] or not np.issubdtype(labels.dtype, np.integer):
        raise QuantificationError(
            f"labels of shape {labels.shape}, {labels.dtype}, for an image of {image.shape[1:]}; expected "
            "the same size and whole numbers"
        )
