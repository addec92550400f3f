"""The watershed on DeepLIIF's real tiles: F1 of nuclei, and their positive and negative calls."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

SIDE = 512
MPP = 0.25
POSITIVE_OD = 0.2
"""QuPath's first threshold on a nucleus's mean DAB."""


class DeepliifFigures(NamedTuple):
    """Figures of one strip of six tiles.

    Attributes:
        f1: of the watershed on the haematoxylin against the drawn nuclei, at IoU 0.5.
        drawn: nuclei in the mask.
        found: nuclei of the watershed.
        drawn_positive: drawn as positive (red).
        drawn_negative: drawn as negative (blue).
        found_positive: found nuclei whose mean DAB on the IHC is at least `POSITIVE_OD`.
        found_negative: the others.
        agreement: share of nuclei in both (IoU 0.5) that are called as they are drawn; NaN without any.
    """

    f1: float
    drawn: int
    found: int
    drawn_positive: int
    drawn_negative: int
    found_positive: int
    found_negative: int
    agreement: float


def deepliif_figures(path: Path, *, threshold: float = POSITIVE_OD) -> DeepliifFigures:
    """Measures a strip: IHC, haematoxylin, DAPI, Lap2, Ki67 and mask side by side, 512 px each.

    Args:
        path: the strip, 3072 x 512.
        threshold: mean DAB, in optical density, from which a found nucleus is positive.
    """
    from PIL import Image
    from scipy import ndimage
    from skimage.filters import threshold_otsu

    from past_core.nuclei import WatershedSettings, f1_at_iou, watershed_labels
    from past_core.nuclei.matching import overlapping_pairs
    from past_core.nuclei.watershed import haematoxylin
    from past_core.stains import deconvolve

    strip = np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1)
    ihc, blue, mask = (strip[:, :, n * SIDE : (n + 1) * SIDE] for n in (0, 1, 5))
    red, green, dark = mask.astype(int)
    drawn, count = ndimage.label((np.maximum(red, dark) > 100) & (green < 100))
    names = np.arange(1, count + 1)
    drawn_positive = ndimage.mean(red - dark, drawn, names) > 0
    settings = WatershedSettings()
    amount = haematoxylin(blue, white=(255.0,) * 3, stains=settings.stains, sigma=settings.smooth_um / MPP)
    found = watershed_labels(amount, mpp=MPP, threshold=float(threshold_otsu(amount)))
    numbers = np.unique(found[found > 0])
    positive = ndimage.mean(deconvolve(ihc, "qupath-hdab")[1], found, numbers) >= threshold
    true, mine, _ = overlapping_pairs(drawn, found)
    same = drawn_positive[true] == positive[mine]
    return DeepliifFigures(
        f1=f1_at_iou(drawn, found),
        drawn=count,
        found=len(numbers),
        drawn_positive=int(drawn_positive.sum()),
        drawn_negative=int((~drawn_positive).sum()),
        found_positive=int(positive.sum()),
        found_negative=int((~positive).sum()),
        agreement=float(same.mean()) if len(same) else float("nan"),
    )
