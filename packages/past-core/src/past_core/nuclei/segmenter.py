"""What a segmenter of nuclei is, and those that go by name."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from past_core.errors import PastError

if TYPE_CHECKING:
    from past_core.slides.slide import Slide


class NucleiError(PastError, ValueError):
    """Nuclei that cannot be found on this slide, or in this way."""


class Segmenter(Protocol):
    """Turns windows of H&E into labelled nuclei.

    What it says of a pixel may depend on nothing farther away than `halo_um`, and on nothing but the window
    and what `fit` learnt of the whole slide: that makes tiles invisible in the result.

    Attributes:
        name: how it is asked for, and stamped.
        halo_um: margin in µm around a tile that it must see.
    """

    name: str
    halo_um: float

    def fit(self, slide: "Slide", tissue: tuple[np.ndarray, float], *, mpp: float) -> Self:
        """One that knows the slide: thresholds and white point of all of it.

        Args:
            slide: the slide.
            tissue: mask `(h, w)` bool, and level-0 pixels per pixel of it.
            mpp: µm per pixel of the windows to come.
        """

    def __call__(self, window: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Labels a window.

        Args:
            window: `(3, h, w)` uint8, white outside the slide.

        Returns:
            labels `(h, w)` int, 0 background; and haematoxylin's optical density `(h, w)` float.
        """

    def parameters(self) -> Mapping[str, Any]:
        """All that determines its work, as plain JSON values."""


def _watershed() -> Segmenter:
    from past_core.nuclei.watershed import Watershed

    return Watershed()


SEGMENTERS: dict[str, Callable[[], Segmenter]] = {"watershed": _watershed}
"""Segmenters by name, with their default settings."""


def find_segmenter(segmenter: str | Segmenter) -> Segmenter:
    """A segmenter by name; passes one through.

    Raises:
        NucleiError: no such name.
    """
    if not isinstance(segmenter, str):
        return segmenter
    if segmenter not in SEGMENTERS:
        raise NucleiError(f"no segmenter {segmenter!r}; choose one of {', '.join(SEGMENTERS)}")
    return SEGMENTERS[segmenter]()
