"""PNG and JPEG images, decoded whole."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from past_core.slides.errors import SlideError
from past_core.slides.slide import Slide

MAX_PIXELS = 2**29
"""Largest image that is decoded into memory (1.5 GiB of RGB)."""

_PIL_LOCK = threading.Lock()


class PlainSlide(Slide):
    """A PNG or JPEG: one level; its resolution only where `mpp` gives it, for such files state a print size.

    Raises:
        SlideError: damaged, truncated, too large to decode whole, or without colour.
    """

    def __init__(self, path: Path, *, mpp: float | None = None) -> None:
        from PIL import Image

        try:
            with _own_limit(), Image.open(path, formats=["PNG", "JPEG"]) as image:
                self._check(path, image.size, image.mode)
                rgb = _on_white(image)
        except SlideError:
            raise
        except (OSError, ValueError, SyntaxError, MemoryError) as error:
            raise SlideError(f"{path}: damaged or truncated image: {error}") from error
        self._pixels = np.ascontiguousarray(rgb.transpose(2, 0, 1))
        super().__init__(path, [rgb.shape[:2]], mpp)

    @staticmethod
    def _check(path: Path, size: tuple[int, int], mode: str) -> None:
        if size[0] * size[1] > MAX_PIXELS:
            raise SlideError(
                f"{path}: {size[1]} x {size[0]} pixels are too many to decode at once; "
                "convert the image to a tiled TIFF"
            )
        if mode not in {"RGB", "RGBA", "P", "CMYK", "YCbCr"}:
            raise SlideError(f"{path}: an image of mode {mode}; expected 8-bit colour (RGB)")

    def _read(self, level: int, y: int, x: int, height: int, width: int) -> np.ndarray:
        return self._pixels[:, y : y + height, x : x + width].copy()


@contextmanager
def _own_limit() -> Iterator[None]:
    """Lifts PIL's guard against large images, a global, for our check of the size before decoding."""
    from PIL import Image

    with _PIL_LOCK:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _on_white(image: Any) -> np.ndarray:
    """`(H, W, 3)` uint8, transparency laid over white, the background of a slide."""
    from PIL import Image

    if image.mode == "RGBA" or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return np.asarray(Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB"))
    return np.asarray(image.convert("RGB"))
