"""Whether an H&E that shows no nucleus of the bundle contradicts a registration, or says nothing of it."""

from collections.abc import Sequence

import numpy as np

from past_core.nuclei.watershed import haematoxylin, watershed_labels
from past_core.registration.measure import Window
from past_core.registration.nuclei_points import NucleiImage
from past_core.registration.windows import RING_UM, STAINS, VIEW_MPP, Frame, stain_contrast
from past_core.slides import Slide, tissue_mask

GLASS_SHARE = 0.5
"""Share of the cells that lie on glass or beside the image, above which they were put elsewhere."""
BRIGHT = 200
"""Least value of the darkest channel on glass; what is darker may be tissue without colour."""
SAMPLE = 20_000
"""Cells that are looked at."""
LEAST_NUCLEI = 10
"""Nuclei of the H&E in a window, from which it shows nuclei at all."""
LEAST_OD = 0.08
"""Haematoxylin of these nuclei over their surroundings, likewise; grain and eosin have less."""
NOTHING = 0.35
"""The bundle's nuclei have none of the H&E's where their contrast is below this share of its own nuclei's."""


def contradiction(
    slide: Slide, nuclei: NucleiImage, frame: Frame, windows: Sequence[Window], *, side_um: float
) -> str | None:
    """Why the H&E contradicts a registration; None where it cannot be judged.

    It does where the cells lie on glass, and where the H&E shows nuclei in the windows but none at the places
    of the bundle's.

    Args:
        slide: the H&E, of known resolution.
        nuclei: of the bundle.
        frame: the registration.
        windows: in which no nucleus of the bundle was found; none where the H&E is too coarse for nuclei.
        side_um: of a window.

    Raises:
        SlideError: The H&E is damaged.
        NucleiImageError: The bundle's image of nuclei is.
    """
    share = glass_share(slide, frame.to_he(_sampled(nuclei.cells_um)))
    if share > GLASS_SHARE:
        return (
            f"{share:.0%} of the cells lie on glass or beside the H&E: keypoints or matrix are of another "
            "image or another place"
        )
    against = shown = 0
    for window in windows:
        own, count, theirs = _contrasts(slide, nuclei, frame, window.fixed_middle_um, side_um=side_um)
        if count < LEAST_NUCLEI or own < LEAST_OD or not np.isfinite(theirs):
            continue
        if theirs >= NOTHING * own:
            return None
        against, shown = against + 1, shown + count
    if against == 0 or 2 * against < len(windows):
        return None
    return (
        f"none of the bundle's nuclei is found in the H&E, though it shows {shown} nuclei in {against} of "
        f"{len(windows)} windows: the cells lie elsewhere, or the H&E is of another section"
    )


def glass_share(slide: Slide, he_um: np.ndarray) -> float:
    """Share of points that lie on glass or beside the image.

    Args:
        slide: of known resolution.
        he_um: (N, 2) in H&E µm.
    """
    mask, downsample = tissue_mask(slide)
    pixel = downsample * slide.require_mpp()
    column, row = np.floor(he_um / pixel).astype(np.int64).T
    inside = (row >= 0) & (column >= 0) & (row < mask.shape[0]) & (column < mask.shape[1])
    glass = ~inside
    bare = np.flatnonzero(inside)
    bare = bare[~mask[row[bare], column[bare]]]
    view = slide.at(pixel)
    for line in np.unique(row[bare]):
        here = bare[row[bare] == line]
        at = column[here]
        pixels = view.read(int(line), int(at.min()), 1, int(np.ptp(at)) + 1)[:, 0]
        glass[here] = pixels.min(axis=0)[at - at.min()] >= BRIGHT
    return float(glass.mean())


def _sampled(points: np.ndarray) -> np.ndarray:
    return points[:: max(1, len(points) // SAMPLE)]


def _contrasts(
    slide: Slide, nuclei: NucleiImage, frame: Frame, middle_um: np.ndarray, *, side_um: float
) -> tuple[float, int, float]:
    """Haematoxylin over its surroundings of the H&E's own nuclei, their number, and that of the bundle's."""
    from skimage.filters import threshold_otsu

    mpp_he = slide.require_mpp()
    view = slide.at(max(VIEW_MPP, mpp_he))
    mpp = view.downsample * mpp_he
    size = round(side_um / mpp)
    at = frame.to_he(np.asarray(middle_um, dtype=np.float64)[None])[0]
    left, top = np.round(at / mpp - size / 2).astype(int)
    image = view.read(top, left, size, size)
    amount = haematoxylin(image, white=(255.0, 255.0, 255.0), stains=STAINS, sigma=0.5 / mpp)
    if not amount.min() < amount.max():
        return 0.0, 0, float("nan")
    labels = watershed_labels(amount, mpp=mpp, threshold=float(threshold_otsu(amount)))
    x, y = (np.arange(start, start + size) + 0.5 for start in (left, top))
    grid = np.stack(np.meshgrid(x, y), axis=-1) * mpp
    covered = nuclei.covers(frame(grid.reshape(-1, 2)).reshape(grid.shape))
    own = stain_contrast(labels > 0, amount, RING_UM / mpp)
    return own, int(labels.max()), stain_contrast(covered, amount, RING_UM / mpp)
