"""A slide as if it had been scanned at another resolution."""

import numpy as np

from past_core.slides.slide import Slide

SMALLEST_LEVEL = 1024
"""Levels are halved until both sides are below this."""


class ResampledSlide(Slide):
    """A view of a slide that is itself a slide: its level 0 is `slide.at(mpp)`, each next level half of it.

    Every level is read from the source's level that fits it, averaged over each pixel's area (no aliasing).
    Nothing is kept: a window costs the source's pixels below it. Within 1 % of one of the source's levels
    that level is taken as it is, and `mpp` is its resolution. Interpolated beyond twofold, it warns once.

    Args:
        slide: an open slide; it is closed with this one.
        mpp: µm per level-0 pixel of the view.
        native: µm per level-0 pixel of `slide`, where the caller knows it better than the file.

    Attributes:
        source: the slide behind it.
        downsample: level-0 pixels of the source per level-0 pixel.

    Raises:
        SlideError: the slide's resolution is not known, or `mpp` is not a positive number.
    """

    def __init__(self, slide: Slide, mpp: float, *, native: float | None = None) -> None:
        first = slide.at(mpp, native=native)
        self._views, pixel = [first], first.require_mpp()
        while max(self._views[-1].height, self._views[-1].width) >= SMALLEST_LEVEL:
            self._views.append(slide.at(pixel * 2 ** len(self._views), native=native))
        self.source = slide
        self.downsample = first.downsample
        super().__init__(
            slide.path,
            [(view.height, view.width) for view in self._views],
            first.mpp,
            downsamples=[view.downsample / first.downsample for view in self._views],
        )
        self.name = slide.name

    def _read(self, level: int, y: int, x: int, height: int, width: int) -> np.ndarray:
        return self._views[level].read(y, x, height, width)

    def close(self) -> None:
        """Closes the source."""
        self.source.close()
