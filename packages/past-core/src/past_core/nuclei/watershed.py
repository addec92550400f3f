"""Nuclei by haematoxylin: a threshold, then a watershed on the distance to the border.

Every step looks only at a bounded neighbourhood, so that a tile with enough around it gives what the whole
slide would: windows of Gaussians end, holes and specks are small, distances are capped, peaks are local
maxima, and ties of the flooding are broken by a pixel's place on the slide.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from past_core.stains import optical_density, stain_set

TRUNCATE = 3.0
"""Standard deviations at which a Gaussian's window ends."""


@dataclass(frozen=True, kw_only=True)
class WatershedSettings:
    """Sizes of the watershed, in µm and µm².

    Attributes:
        smooth_um: standard deviation of the smoothing of the haematoxylin.
        local_um: width of the window (six standard deviations) of the local mean that a nucleus must exceed.
        global_share: share of the slide's Otsu threshold that it must exceed too.
        open_um: radius of the opening, which cuts thin bridges.
        min_area_um2: smaller objects are dropped.
        max_hole_um2: smaller holes are filled.
        distance_um: distances to the border are capped here.
        distance_smooth_um: standard deviation of the distances' smoothing.
        peak_um: least distance of two nuclei's centres.
        stains: set of stain vectors.
    """

    smooth_um: float = 0.5
    local_um: float = 40.0
    global_share: float = 0.6
    open_um: float = 0.75
    min_area_um2: float = 10.0
    max_hole_um2: float = 20.0
    distance_um: float = 12.0
    distance_smooth_um: float = 0.4
    peak_um: float = 2.0
    stains: str = "qupath-he"

    @property
    def halo_um(self) -> float:
        """How far around a tile the image is needed: all windows together, and two large nuclei."""
        windows = TRUNCATE * (self.smooth_um + self.local_um / 6 + self.distance_smooth_um)
        return windows + 2 * self.open_um + self.distance_um + self.peak_um + 2 * 2 * self.distance_um


def haematoxylin(
    image: np.ndarray, *, white: tuple[float, float, float], stains: str, sigma: float
) -> np.ndarray:
    """Smoothed haematoxylin in optical density.

    Args:
        image: `(3, H, W)` uint8.
        white: value of bare glass in each channel.
        stains: set of stain vectors.
        sigma: standard deviation of the smoothing in pixels.

    Returns:
        `(H, W)` float32.
    """
    density = optical_density(image, white=white)
    weights = np.linalg.inv(stain_set(stains).matrix)[:, 0].astype(np.float32)
    # Term by term: a matrix product may round differently for windows of another shape.
    amount = density[0] * weights[0] + density[1] * weights[1] + density[2] * weights[2]
    return ndimage.gaussian_filter(amount, sigma, truncate=TRUNCATE)


def watershed_labels(
    amount: np.ndarray,
    *,
    mpp: float,
    threshold: float,
    settings: WatershedSettings | None = None,
    corner: tuple[int, int] = (0, 0),
) -> np.ndarray:
    """Labels of nuclei.

    Args:
        amount: `(H, W)` smoothed haematoxylin, see `haematoxylin`.
        mpp: µm per pixel.
        threshold: the slide's, before `global_share`.
        settings: sizes.
        corner: column and row of the window's corner on the slide.

    Returns:
        `(H, W)` int32, 0 background, numbered in reading order of their peaks.
    """
    from skimage.morphology import disk
    from skimage.segmentation import watershed

    settings = settings or WatershedSettings()
    local = ndimage.gaussian_filter(amount, settings.local_um / 6 / mpp, truncate=TRUNCATE)
    mask = amount > np.maximum(local, settings.global_share * threshold)
    mask = ndimage.binary_opening(mask, disk(max(1, round(settings.open_um / mpp))))
    mask = ~_without_small(~mask, settings.max_hole_um2 / mpp**2)
    mask = _without_small(mask, settings.min_area_um2 / mpp**2)

    distance = np.minimum(ndimage.distance_transform_edt(mask), settings.distance_um / mpp)
    distance = ndimage.gaussian_filter(distance, settings.distance_smooth_um / mpp, truncate=TRUNCATE)
    distance = np.where(mask, distance, 0).astype(np.float32)
    radius = max(1, round(settings.peak_um / mpp))
    peaks = mask & (distance == ndimage.maximum_filter(distance, footprint=disk(radius)))
    # Plateaus, and peaks of one height nearer than the least distance, are one nucleus.
    joined = ndimage.binary_dilation(peaks, disk(max(1, radius // 2))) & mask
    markers, count = ndimage.label(joined, structure=np.ones((3, 3)))
    if not count:
        return np.zeros(amount.shape, np.int32)
    labels = watershed(_without_ties(corner, mask.shape) - distance, markers, mask=mask)
    sizes = np.bincount(labels.ravel())
    small = sizes < settings.min_area_um2 / mpp**2
    small[0] = True
    labels[small[labels]] = 0
    return labels.astype(np.int32)


def _without_ties(corner: tuple[int, int], shape: tuple[int, int]) -> np.ndarray:
    """Less than a thousandth of a pixel of distance, another amount at every place of the slide.

    Distances to a border of pixels are often equal, and the flooding takes equal ones as they come: in an
    order that depends on the window.
    """
    row = np.arange(corner[1], corner[1] + shape[0], dtype=np.uint64)[:, None]
    column = np.arange(corner[0], corner[0] + shape[1], dtype=np.uint64)[None]
    mixed = (row * np.uint64(0x9E3779B97F4A7C15)) ^ (column * np.uint64(0xC2B2AE3D27D4EB4F))
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    return (mixed >> np.uint64(32)).astype(np.float64) * (1e-3 / 2**32)


def _without_small(mask: np.ndarray, area: float) -> np.ndarray:
    """The mask without 4-connected pieces of fewer pixels."""
    labels, _ = ndimage.label(mask)
    sizes = np.bincount(labels.ravel())
    keep = sizes >= area
    keep[0] = False
    return keep[labels]
