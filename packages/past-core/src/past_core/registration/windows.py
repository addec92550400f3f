"""Windows spread over the tissue, in which the bundle's nuclei are compared with the H&E's haematoxylin."""

from typing import NamedTuple, Protocol

import numpy as np
from scipy import ndimage

from past_core.nuclei.watershed import haematoxylin
from past_core.registration.correlate import band_pass
from past_core.registration.nuclei_points import NucleiImage
from past_core.slides import Slide

STAINS = "qupath-he"
VIEW_MPP = 0.5
"""µm per pixel at which the two are compared; a coarser H&E is taken as it is."""
WINDOW_UM = (80.0, 300.0)
"""Least and largest side of a window; a third of the tissue between them."""
MARGIN_UM = 20.0
"""Read around a window, so that its borders are filtered as its middle is."""
RING_UM = 2.5
"""Width of the ring around nuclei whose haematoxylin theirs is compared with."""


class Frame(Protocol):
    """A way from the H&E to the morphology and back, both in µm."""

    def __call__(self, he_um: np.ndarray) -> np.ndarray:
        """(N, 2) H&E to morphology."""

    def to_he(self, fixed_um: np.ndarray) -> np.ndarray:
        """(N, 2) morphology to H&E."""


class Pictures(NamedTuple):
    """A window as both sides show it, on one grid of pixels.

    Attributes:
        nuclei: (h, w) the bundle's nuclei, band-passed, where the frame puts them.
        stain: (h + 2 r, w + 2 r) haematoxylin, band-passed, with the search around.
        middle_um: (2,) the middle of the window on the H&E in µm.
        mpp: µm of a pixel.
        contrast: mean haematoxylin in the nuclei minus that in a ring around them; NaN without nuclei.
    """

    nuclei: np.ndarray
    stain: np.ndarray
    middle_um: np.ndarray
    mpp: float
    contrast: float


def choose_windows(cells_um: np.ndarray, *, most: int) -> tuple[np.ndarray, float]:
    """Squares that hold many cells and lie far from one another.

    Args:
        cells_um: (N, 2) in µm.
        most: how many at most.

    Returns:
        (K, 2) their middles, and their side in µm.
    """
    low, high = np.percentile(cells_um, 0.5, axis=0), np.percentile(cells_um, 99.5, axis=0)
    side = float(np.clip((high - low).max() / 3, *WINDOW_UM))
    shape = np.maximum(np.ceil((high - low) / side - 0.25), 1).astype(int)
    # The squares share the tissue evenly, so that none hangs over its border.
    step = np.maximum((high - low) / shape, 1e-9)
    place = np.floor((cells_um - low) / step).astype(int)
    place = place[((place >= 0) & (place < shape)).all(axis=1)]
    counts = np.bincount(place[:, 1] * shape[0] + place[:, 0], minlength=int(shape.prod()))
    enough = np.flatnonzero(counts >= max(12, 0.4 * np.median(counts[counts > 0])))
    if not len(enough):
        return np.zeros((0, 2)), side
    middles = low + (np.column_stack([enough % shape[0], enough // shape[0]]) + 0.5) * step
    # Farthest points first, from the one with the most cells on.
    chosen = [int(np.argmax(counts[enough]))]
    distance = np.linalg.norm(middles - middles[chosen[0]], axis=1)
    while len(chosen) < min(most, len(middles)):
        chosen.append(int(np.argmax(distance)))
        distance = np.minimum(distance, np.linalg.norm(middles - middles[chosen[-1]], axis=1))
    return middles[sorted(chosen)], side


def read_window(
    slide: Slide,
    nuclei: NucleiImage,
    frame: Frame,
    middle_um: np.ndarray,
    *,
    side_um: float,
    search_um: float,
) -> Pictures:
    """Reads a window of both sides.

    Args:
        slide: the H&E, of known resolution.
        nuclei: of the bundle.
        frame: where the nuclei are taken to lie.
        middle_um: (2,) of the window in morphology µm.
        side_um: of the window.
        search_um: how far around it the H&E is wanted.

    Raises:
        SlideError: The H&E is damaged.
        NucleiImageError: The bundle's image is.
    """
    mpp_he = slide.require_mpp()
    view = slide.at(max(VIEW_MPP, mpp_he))
    mpp = view.downsample * mpp_he
    size, search, margin = (round(length / mpp) for length in (side_um, search_um, MARGIN_UM))
    at = frame.to_he(np.asarray(middle_um, dtype=np.float64)[None])[0]
    left, top = np.round(at / mpp - size / 2).astype(int)

    around = search + margin
    image = view.read(top - around, left - around, size + 2 * around, size + 2 * around)
    # Half a µm of smoothing: the band-pass below takes what is left of the grain.
    amount = haematoxylin(image, white=(255.0, 255.0, 255.0), stains=STAINS, sigma=0.5 / mpp)
    stain = band_pass(amount, mpp=mpp)[margin:-margin, margin:-margin]

    x = (np.arange(left - margin, left + size + margin) + 0.5) * mpp
    y = (np.arange(top - margin, top + size + margin) + 0.5) * mpp
    grid = np.stack(np.meshgrid(x, y), axis=-1)
    covered = nuclei.covers(frame(grid.reshape(-1, 2)).reshape(grid.shape))
    middle = (np.array([left, top]) + size / 2) * mpp
    inner = amount[search : search + size + 2 * margin, search : search + size + 2 * margin]
    picture = band_pass(covered, mpp=mpp)[margin:-margin, margin:-margin]
    return Pictures(picture, stain, middle, mpp, stain_contrast(covered, inner, RING_UM / mpp))


def stain_contrast(covered: np.ndarray, amount: np.ndarray, ring: float) -> float:
    """Mean stain in nuclei minus that in a ring around them; NaN without either.

    Args:
        covered: (H, W) bool, where there are nuclei.
        amount: (H, W) of the stain.
        ring: its width in pixels.
    """
    distance = ndimage.distance_transform_edt(~covered)
    around = (distance > 0) & (distance <= ring)
    if not covered.any() or not around.any():
        return float("nan")
    return float(amount[covered].mean() - amount[around].mean())
