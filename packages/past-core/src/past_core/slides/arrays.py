"""An array seen as a slide."""

from typing import Any

import numpy as np

from past_core.slides.slide import Slide


class ArraySlide(Slide):
    """An image in memory, or sliced like one, as a slide of one level.

    Args:
        image: (3, H, W) uint8; anything whose slices `[:, y0:y1, x0:x1]` become arrays (numpy, dask, zarr).
        mpp: µm per pixel.
        name: for messages.
    """

    def __init__(self, image: Any, mpp: float, name: str = "image") -> None:
        super().__init__(name, [(int(image.shape[1]), int(image.shape[2]))], mpp)
        self._image = image

    def _read(self, level: int, y: int, x: int, height: int, width: int) -> np.ndarray:
        return np.ascontiguousarray(self._image[:, y : y + height, x : x + width])
