"""The white point of an IHC slide: decided once for the whole slide, and reported."""

import logging
from dataclasses import dataclass
from typing import Literal

import numpy as np

from past_core.errors import PastError
from past_core.slides import Slide
from past_vihc.hscore.quantify import White

logger = logging.getLogger(__name__)

BRIGHT = 215
"""Glass is at least this bright in every channel."""
GREY = 20
"""Largest difference of two channels in a pixel of glass."""
LEAST_GLASS = 0.002
"""Least share of the pixels looked at that must be glass."""
PIXELS = 4e6
"""Pixels looked at, about: small slides finely, large ones at the tissue mask's resolution."""
ROWS = 256
HALF_WIDTH = 3
"""The white is the mean of the values this near the mode, finer than one step of 255."""


class WhiteError(PastError, ValueError):
    """A white point that cannot be."""


@dataclass(frozen=True)
class WhitePoint:
    """Value of bare glass in red, green and blue, and where it comes from.

    Attributes:
        rgb: the values of red, green and blue, above 1, at most 255.
        source: `fixed` (255, as QuPath has it), `given`, or `estimated` from the slide.
        glass: share of the pixels looked at that were glass; None where none were looked at.
        note: why an estimate was not possible and 255 was taken.
    """

    rgb: tuple[float, float, float]
    source: Literal["fixed", "given", "estimated"]
    glass: float | None = None
    note: str | None = None

    def scaled(self, factor: float) -> White:
        """The values times a factor, at most 255."""
        red, green, blue = (min(255.0, value * factor) for value in self.rgb)
        return (red, green, blue)


def white_point(slide: Slide, white: str | White = 255.0) -> WhitePoint:
    """Decides a slide's white point.

    The published thresholds are QuPath's and IHC4BC's, whose white is 255; an estimate removes the density of
    glass and lamp, 0.02 a channel for a glass of 243, and moves every score with it.

    Args:
        slide: an open slide of known resolution.
        white: `"auto"` for an estimate, one value, three values, or their text (`243`, `243,241,244`).

    Raises:
        WhiteError: no such white.
    """
    if isinstance(white, str) and white.strip().lower() == "auto":
        return estimate_white(slide)
    try:
        given = [float(v) for v in (white.split(",") if isinstance(white, str) else np.atleast_1d(white))]
    except (TypeError, ValueError):
        raise WhiteError(
            f"white point {white!r}; expected auto, a value, or three as in 243,241,244"
        ) from None
    if len(given) not in {1, 3} or not all(100 <= v <= 255 for v in given):
        raise WhiteError(f"white point {white!r}; expected one value or three, from 100 to 255")
    red, green, blue = given * 3 if len(given) == 1 else given
    return WhitePoint((red, green, blue), "fixed" if given == [255.0] else "given")


def estimate_white(slide: Slide) -> WhitePoint:
    """The brightest peak of bright, grey pixels: glass is brighter than any stroma; 255 where there is none.

    Pixels of exactly 255 in all channels are what scanners write outside the scanned area, and are left out.
    """
    own = slide.require_mpp()
    mpp = float(np.clip(own * np.sqrt(slide.height * slide.width / PIXELS), own, max(own, 8.0)))
    view = slide.at(mpp)
    counts = np.zeros((256, 4), np.int64)  # by the darkest channel: pixels, sums of red, green and blue
    seen = 0
    for top in range(0, view.height, ROWS):
        window = view.read(top, 0, min(ROWS, view.height - top), view.width).reshape(3, -1)
        low, high = window.min(axis=0), window.max(axis=0)
        seen += int((low < 255).sum())
        bright = (low >= BRIGHT) & (low < 255) & (high - low <= GREY)
        where = low[bright]
        counts[:, 0] += np.bincount(where, minlength=256)
        for channel in range(3):
            sums = np.bincount(where, weights=window[channel][bright], minlength=256)
            counts[:, 1 + channel] += sums.astype(np.int64)
    peak = _brightest_peak(counts[:, 0], LEAST_GLASS * seen)
    if peak is None:
        note = (
            f"no peak of bright, grey pixels holds {LEAST_GLASS:.1%} of the slide, so that its glass cannot "
            "be measured: 255 was taken"
        )
        logger.warning("%s: %s", slide.path, note)
        return WhitePoint((255.0, 255.0, 255.0), "fixed", note=note)
    near = counts[max(0, peak - HALF_WIDTH) : peak + HALF_WIDTH + 1].sum(axis=0)
    red, green, blue = (float(total / near[0]) for total in near[1:])
    return WhitePoint((red, green, blue), "estimated", float(near[0] / seen))


def _brightest_peak(histogram: np.ndarray, least: float) -> int | None:
    """The highest value at a local maximum that holds enough pixels and stands out from what is above it."""
    smooth = np.convolve(histogram, [0.25, 0.5, 0.25], mode="same")
    for value in range(254, BRIGHT - 1, -1):
        around = smooth[max(0, value - 2) : value + 3]
        mass = histogram[max(0, value - HALF_WIDTH) : value + HALF_WIDTH + 1].sum()
        if smooth[value] > 0 and smooth[value] >= around.max() and mass >= max(least, 1):
            return value
    return None
