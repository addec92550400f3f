"""Speed of per-nucleus DAB: past-vihc against scikit-image's rgb2hed with a loop over regionprops."""

import time
from collections.abc import Callable
from statistics import median

import numpy as np

from past_core.stains import deconvolve
from past_vihc.hscore.quantify import nuclear_dab


def run(side: int = 3000, nuclei: int = 10000, repeats: int = 3) -> dict[str, float]:
    """Measures both on the same image.

    Args:
        side: of the image in pixels.
        nuclei: about how many, on a grid.
        repeats: of each; the median counts.

    Returns:
        `side`, `nuclei`; `ours_s`, `skimage_s` and their `ratio`; `max_difference` of our mean DAB to the
        plain formula (deconvolution of every pixel, then the mean over each label).
    """
    image, labels = _example(side, nuclei)
    ours = median(_seconds(lambda: nuclear_dab(image, labels)) for _ in range(repeats))
    theirs = median(_seconds(lambda: _skimage(image, labels)) for _ in range(repeats))
    found = nuclear_dab(image, labels)
    dab = deconvolve(image.astype(np.float64), "qupath-hdab")[1]
    order = np.argsort(labels.ravel(), kind="stable")
    ends = np.searchsorted(labels.ravel()[order], found.labels, side="right")
    starts = np.searchsorted(labels.ravel()[order], found.labels, side="left")
    values = dab.ravel()[order]
    plain = np.array([values[a:b].mean() for a, b in zip(starts, ends, strict=True)])
    return {
        "side": side,
        "nuclei": len(found.labels),
        "ours_s": ours,
        "skimage_s": theirs,
        "ratio": theirs / ours,
        "max_difference": float(np.abs(found.dab - plain).max()),
    }


def _example(side: int, nuclei: int) -> tuple[np.ndarray, np.ndarray]:
    """An image of noise and round nuclei side by side that cover a fifth of it."""
    rng = np.random.default_rng(0)
    image = rng.integers(1, 256, (3, side, side), np.uint8)
    labels = np.zeros((side, side), np.int32)
    across = max(1, int(np.sqrt(nuclei)))
    pitch = side / across
    radius = 0.26 * pitch
    reach = int(np.ceil(radius))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = y**2 + x**2 <= radius**2
    centres = ((np.arange(across) + 0.5) * pitch).astype(int)
    for row, top in enumerate(centres):
        for column, left in enumerate(centres):
            window = labels[top - reach : top + reach + 1, left - reach : left + reach + 1]
            window[disk] = row * across + column + 1
    return image, labels


def _skimage(image: np.ndarray, labels: np.ndarray) -> list[float]:
    from skimage.color import rgb2hed
    from skimage.measure import regionprops

    dab = rgb2hed(image.transpose(1, 2, 0))[..., 2]
    return [region.intensity_mean for region in regionprops(labels, intensity_image=dab)]


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
