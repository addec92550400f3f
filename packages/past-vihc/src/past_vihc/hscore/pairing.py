"""An IHC slide upon its H&E: the same size in µm, read on one grid whatever their resolutions."""

from past_core.errors import PastError
from past_core.slides import Slide, View

SAME_SIZE = 0.01
"""Relative difference of two sides below which slides count as equally large; or two pixels."""


class PairError(PastError, ValueError):
    """An H&E and an IHC that are not of one size."""


def check_pair(ihc: Slide, he: Slide) -> None:
    """Makes sure that the IHC lies upon the H&E.

    Raises:
        PairError: their sizes in µm differ.
        SlideError: the resolution of one is unknown.
    """
    mpp, he_mpp = ihc.require_mpp(), he.require_mpp()
    for side in ("width", "height"):
        one, other = getattr(ihc, side) * mpp, getattr(he, side) * he_mpp
        if abs(one - other) > max(SAME_SIZE * max(one, other), 2 * max(mpp, he_mpp)):
            raise PairError(
                f"the IHC {ihc.path} has {ihc.width} x {ihc.height} pixels at {mpp:.4g} µm "
                f"({ihc.width * mpp:.0f} x {ihc.height * mpp:.0f} µm), the H&E {he.path} {he.width} x "
                f"{he.height} at {he_mpp:.4g} µm ({he.width * he_mpp:.0f} x {he.height * he_mpp:.0f} µm); "
                "expected the same field. Register them first, or correct their µm per pixel"
            )


def exact_view(slide: Slide, mpp: float) -> View:
    """The slide at exactly this resolution: `Slide.at` takes a level within 1 %, which would drift."""
    view = slide.at(mpp)
    if view.mpp is not None and abs(view.mpp / mpp - 1) > 1e-9:
        level = slide.levels[view.level]
        return View(slide, view.level, mpp / (slide.require_mpp() * level.downsample), mpp)
    return view
