"""What is decided once for a whole slide: bare glass, tissue, and the threshold of haematoxylin."""

from dataclasses import dataclass

import numpy as np

from past_core.nuclei.watershed import WatershedSettings, haematoxylin
from past_core.slides import Slide, tissue_mask

SAMPLE = 256
"""Side, in pixels, of the windows that the threshold is learned from."""
SAMPLES = 64
"""Most windows, spread evenly over the tissue."""
GLASS = 200
"""Glass is at least this bright in every channel."""
LEAST_GLASS = 0.005
"""Least share of the slide that must be glass for its colour to be measured."""


@dataclass(frozen=True)
class SlideWide:
    """The slide's own figures.

    Attributes:
        white: value of bare glass in each channel; 255 where the slide shows too little of it.
        threshold: Otsu's of the smoothed haematoxylin over the tissue, in optical density.
        tissue: `(h, w)` bool.
        downsample: level-0 pixels per pixel of `tissue`.
    """

    white: tuple[float, float, float]
    threshold: float
    tissue: np.ndarray
    downsample: float

    def on_tissue(self, points: np.ndarray) -> np.ndarray:
        """`(N,)` bool for `(N, 2)` x, y in level-0 pixels."""
        column, row = np.floor(points / self.downsample).astype(np.int64).T
        height, width = self.tissue.shape
        return self.tissue[np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)]


def slide_wide(slide: Slide, *, mpp: float, settings: WatershedSettings) -> SlideWide | None:
    """Looks at a slide once; None where it shows no tissue.

    Args:
        slide: an open slide of known resolution.
        mpp: µm per pixel at which nuclei are segmented.
        settings: of the watershed.
    """
    from skimage.filters import threshold_otsu

    tissue, downsample = tissue_mask(slide)
    if not tissue.any():
        return None
    white = _glass(slide, tissue)
    view = slide.at(mpp)
    ratio = downsample / view.downsample  # pixels of the view per pixel of the mask
    values = []
    for top, left in _windows(tissue, ratio):
        window = view.read(top, left, SAMPLE, SAMPLE)
        amount = haematoxylin(
            window, white=white, stains=settings.stains, sigma=settings.smooth_um / view.require_mpp()
        )
        row = np.minimum(((top + np.arange(SAMPLE)) / ratio).astype(np.int64), tissue.shape[0] - 1)
        column = np.minimum(((left + np.arange(SAMPLE)) / ratio).astype(np.int64), tissue.shape[1] - 1)
        values.append(amount[tissue[np.ix_(row, column)]])
    sample = np.concatenate(values)
    spread = sample.size > 0 and sample.min() < sample.max()
    return SlideWide(white, float(threshold_otsu(sample)) if spread else np.inf, tissue, downsample)


def slide_percentiles(
    slide: Slide, wide: SlideWide, *, mpp: float, percentiles: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Percentiles of each channel over the windows that the threshold is learned from.

    Taken once for a slide, so that tiles change nothing.

    Args:
        slide: an open slide.
        wide: what was decided for it.
        mpp: µm per pixel.
        percentiles: the lower and the upper.

    Returns:
        `(3,)` lower and `(3,)` upper values.
    """
    view = slide.at(mpp)
    histogram = np.zeros((3, 256), np.int64)
    for top, left in _windows(wide.tissue, wide.downsample / view.downsample):
        y, x = max(top, 0), max(left, 0)
        # White beyond the slide is no part of it.
        height, width = min(top + SAMPLE, view.height) - y, min(left + SAMPLE, view.width) - x
        window = view.read(y, x, height, width)
        histogram += np.stack([np.bincount(channel.ravel(), minlength=256) for channel in window])
    share = np.cumsum(histogram, axis=1) / histogram.sum(axis=1, keepdims=True)
    low, high = (np.argmax(share >= percent / 100, axis=1).astype(np.float64) for percent in percentiles)
    return low, high


def _windows(tissue: np.ndarray, ratio: float) -> list[tuple[int, int]]:
    """Corners of windows side by side, those with tissue, thinned evenly to the most that are read."""
    height, width = int(np.ceil(tissue.shape[0] * ratio)), int(np.ceil(tissue.shape[1] * ratio))
    corners = []
    for top in range(0, height, SAMPLE):
        for left in range(0, width, SAMPLE):
            rows = slice(int(top / ratio), int((top + SAMPLE) / ratio) + 1)
            columns = slice(int(left / ratio), int((left + SAMPLE) / ratio) + 1)
            if tissue[rows, columns].mean() > 0.25:
                corners.append((top, left))
    if not corners:  # less tissue than a quarter of any window
        row, column = np.argwhere(tissue)[tissue.sum() // 2]
        corners = [(int(row * ratio) - SAMPLE // 2, int(column * ratio) - SAMPLE // 2)]
    chosen = np.unique(np.linspace(0, len(corners) - 1, min(SAMPLES, len(corners))).round().astype(int))
    return [corners[i] for i in chosen]


def _glass(slide: Slide, tissue: np.ndarray) -> tuple[float, float, float]:
    """Median of the bright pixels outside the tissue, at the mask's resolution."""
    from past_core.slides.tissue import MASK_MPP

    view = slide.at(max(MASK_MPP, slide.require_mpp()))
    image = view.read(0, 0, view.height, view.width)
    glass = (~tissue & (image.min(axis=0) >= GLASS)) if image.shape[1:] == tissue.shape else np.zeros(0, bool)
    if glass.sum() < LEAST_GLASS * tissue.size:
        return (255.0, 255.0, 255.0)
    red, green, blue = (float(np.median(channel[glass])) for channel in image)
    return (red, green, blue)
