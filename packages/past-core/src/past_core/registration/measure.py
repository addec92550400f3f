"""How far each window's nuclei are from the haematoxylin: four pairs a window, as if picked by hand."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from past_core.registration.combine import PairSet
from past_core.registration.correlate import correlation, peak
from past_core.registration.nuclei_points import NucleiImage
from past_core.registration.windows import Frame, read_window
from past_core.slides import Slide

AGREE_UM = 2.0
"""Quarters of a window within this of one another show the same nuclei."""
LEAST_QUARTERS = 3
"""So many quarters must agree for a window to count."""


@dataclass(frozen=True)
class Window:
    """One window.

    Attributes:
        name: for reports.
        fixed_middle_um: (2,) its middle in morphology µm.
        he_um: (n, 2) middles of the quarters that agree, on the H&E where the haematoxylin has them.
        fixed_um: (n, 2) the same in morphology µm.
        found: whether enough quarters agree.
        shift_um: (2,) from where the frame puts the nuclei to where the haematoxylin has them, on the H&E.
        score: correlation there.
        score_here: correlation without the shift.
        contrast: haematoxylin of the nuclei minus that around them, where the frame puts them.
    """

    name: str
    fixed_middle_um: np.ndarray
    he_um: np.ndarray
    fixed_um: np.ndarray
    found: bool
    shift_um: np.ndarray
    score: float
    score_here: float
    contrast: float


def measure(
    slide: Slide,
    nuclei: NucleiImage,
    frame: Frame,
    middles_um: np.ndarray,
    *,
    side_um: float,
    search_um: float,
) -> list[Window]:
    """Measures every window by itself, up to `search_um` along each axis.

    Each quarter is matched alone: agreement of the four tells nuclei that are found from a chance match.

    Args:
        slide: the H&E.
        nuclei: of the bundle.
        frame: where the nuclei are taken to lie.
        middles_um: (K, 2) of the windows in morphology µm.
        side_um: of the windows.
        search_um: largest shift.
    """
    return [
        _measure(slide, nuclei, frame, middle, number, side_um=side_um, search_um=search_um)
        for number, middle in enumerate(middles_um, start=1)
    ]


def _measure(
    slide: Slide,
    nuclei: NucleiImage,
    frame: Frame,
    middle: np.ndarray,
    number: int,
    *,
    side_um: float,
    search_um: float,
) -> Window:
    seen = read_window(slide, nuclei, frame, middle, side_um=side_um, search_um=search_um)
    size = seen.nuclei.shape[0]
    radius = (seen.stain.shape[0] - size) // 2
    whole = correlation(seen.nuclei, seen.stain)
    best = peak(whole)
    half = size // 2
    places, shifts, inside = [], [], []
    for top in (0, size - half):
        for left in (0, size - half):
            picture = seen.nuclei[top : top + half, left : left + half]
            image = seen.stain[top : top + half + 2 * radius, left : left + half + 2 * radius]
            quarter = peak(correlation(picture, image))
            places.append(seen.middle_um + (np.array([left, top]) + half / 2 - size / 2) * seen.mpp)
            shifts.append(quarter.shift * seen.mpp)
            inside.append(quarter.inside)
    place, shift = np.array(places), np.array(shifts)
    agree = np.array(inside) & (np.linalg.norm(shift - np.median(shift, axis=0), axis=1) <= AGREE_UM)
    return Window(
        name=f"window {number} (x {middle[0]:.0f}, y {middle[1]:.0f} µm)",
        fixed_middle_um=np.asarray(middle, dtype=np.float64),
        he_um=(place + shift)[agree],
        fixed_um=frame(place)[agree],
        found=bool(agree.sum() >= LEAST_QUARTERS and best.inside),
        shift_um=best.shift * seen.mpp,
        score=best.score,
        score_here=float(whole[radius, radius]),
        contrast=seen.contrast,
    )


def pair_sets(windows: Sequence[Window]) -> list[PairSet]:
    """The windows in which nuclei were found, each a region of pairs."""
    return [PairSet(w.name, w.he_um, w.fixed_um) for w in windows if w.found]
