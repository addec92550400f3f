"""Where two pictures of the same nuclei match best: normalised cross-correlation, to parts of a pixel."""

from typing import NamedTuple

import numpy as np
from scipy import fft, ndimage

FINE_UM, COARSE_UM = 0.75, 6.0
"""Standard deviations between which the pictures are compared: less is grain, more is staining."""
LEAST_PIXELS = 64
"""Pictures with less content (pixels' worth) match nothing."""
EMPTY = 1e-4
"""So much variation (optical density) is the rounding of an image without content."""


class Peak(NamedTuple):
    """The best shift.

    Attributes:
        shift: (2,) x, y in pixels, by which the picture must be moved to lie on the image.
        score: correlation there, in [-1, 1].
        inside: whether it lies within the search, not on its border.
    """

    shift: np.ndarray
    score: float
    inside: bool


def band_pass(image: np.ndarray, *, mpp: float) -> np.ndarray:
    """Keeps what has the size of nuclei: (H, W) float32, about 0 on average."""
    values = np.asarray(image, dtype=np.float32)
    fine = ndimage.gaussian_filter(values, FINE_UM / mpp, truncate=3.0)
    return fine - ndimage.gaussian_filter(values, COARSE_UM / mpp, truncate=3.0)


def correlation(picture: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Normalised cross-correlation of a picture with every place of a larger image.

    Args:
        picture: (h, w).
        image: (h + 2 r, w + 2 s).

    Returns:
        (2 r + 1, 2 s + 1) in [-1, 1]; the middle is no shift. 0 where either is empty.
    """
    h, w = picture.shape
    rows, columns = image.shape[0] - h + 1, image.shape[1] - w + 1
    shape = [fft.next_fast_len(side, real=True) for side in image.shape]
    spectrum = np.conj(fft.rfft2(picture.astype(np.float64), shape))
    products = fft.irfft2(spectrum * fft.rfft2(image.astype(np.float64), shape), shape)[:rows, :columns]
    squares = np.zeros((image.shape[0] + 1, image.shape[1] + 1))
    squares[1:, 1:] = (image.astype(np.float64) ** 2).cumsum(axis=0).cumsum(axis=1)
    energy = squares[h:, w:] - squares[:-h, w:] - squares[h:, :-w] + squares[:-h, :-w]
    own = float((picture.astype(np.float64) ** 2).sum())
    if own <= 0:
        return np.zeros((rows, columns))
    floor = max(1e-6 * float(energy.max(initial=0.0)), EMPTY**2 * h * w)
    return np.where(energy > floor, products / np.sqrt(own * np.maximum(energy, floor)), 0.0)


def peak(surface: np.ndarray) -> Peak:
    """The maximum of a correlation surface, to parts of a pixel by a parabola along each axis."""
    row, column = np.unravel_index(int(np.argmax(surface)), surface.shape)
    middle = (np.array(surface.shape) - 1) / 2
    inside = 0 < row < surface.shape[0] - 1 and 0 < column < surface.shape[1] - 1
    at = np.array([column, row], dtype=np.float64)
    if inside:
        at += [
            _vertex(surface[row, column - 1 : column + 2]),
            _vertex(surface[row - 1 : row + 2, column]),
        ]
    return Peak(at - middle[::-1], float(surface[row, column]), bool(inside and surface[row, column] > 0))


def _vertex(values: np.ndarray) -> float:
    """Where a parabola through three values, of which the middle is the largest, has its top."""
    left, top, right = values
    bend = left - 2 * top + right
    return 0.0 if bend >= 0 else float(np.clip(0.5 * (left - right) / bend, -0.5, 0.5))
