"""Scanners' own formats (NDPI, VMS, MRXS, SCN, BIF, Philips TIFF, CZI, ...) through the openslide library."""

import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from past_core.slides.errors import SlideError
from past_core.slides.slide import WHITE, Slide, downsample_of, square_mpp

logger = logging.getLogger(__name__)

CACHE_BYTES = 64 * 2**20
BLOCK = 256
"""Side of the squares that a level is read in where its pixels do not begin on whole level-0 pixels."""


def detect_vendor(path: Path) -> str | None:
    """What openslide takes a file to be, from its content: `hamamatsu`, `mirax`, `leica`, ... or None.

    Raises:
        SlideError: the openslide library cannot be loaded.
    """
    openslide = _library()
    try:
        return openslide.OpenSlide.detect_format(str(path))
    except (openslide.OpenSlideError, ValueError) as error:
        logger.info("%s: openslide cannot tell what it is: %s", path, error)
        return None


class OpenSlideSlide(Slide):
    """A slide that openslide reads.

    Coordinates are openslide's: level 0 is the whole canvas, which in MRXS, SCN and BIF files is larger than
    what was scanned. `bounds` says where the scan lies; a program that shows the scanned part alone (QuPath
    does, unless told otherwise) counts from the bounds' corner. What was not scanned is white.

    Args:
        path: the file; of an MRXS or VMS slide the index file, its data beside it.
        mpp: µm per level-0 pixel, overriding what the file states.

    Attributes:
        vendor: openslide's name of the format.
        bounds: (x, y, width, height) of the scanned part in level-0 pixels; None where not stated.

    Raises:
        SlideError: truncated, damaged, without its data files, pixels that are not square, or not readable
            by openslide.
    """

    def __init__(self, path: Path, *, mpp: float | None = None) -> None:
        from past_core.slides.complete import require_whole

        self._library = _library()
        self._lock = threading.Lock()
        self._cache = self._library.OpenSlideCache(CACHE_BYTES)
        self._file = str(path)
        self.path = path
        self._handle: Any = self._open()
        try:
            properties = dict(self._handle.properties)
            sizes = [(height, width) for width, height in self._handle.level_dimensions]
            self._downsamples = tuple(float(factor) for factor in self._handle.level_downsamples)
            factors = _factors(sizes, self._downsamples)
        except self._errors() as error:
            raise SlideError(f"{path}: damaged or truncated slide: {error!r}") from error
        self.vendor = properties.get("openslide.vendor", "")
        require_whole(path, self.vendor, properties)
        self.bounds = _bounds(properties)
        if mpp is None:
            mpp = _stated_mpp(path, properties)
        super().__init__(path, sizes, mpp, downsamples=factors)

    def _open(self) -> Any:
        try:
            handle = self._library.OpenSlide(self._file)
            handle.set_cache(self._cache)
        except self._errors() as error:
            raise SlideError(
                f"{self.path}: openslide cannot open it ({error or 'format not known'}); it is damaged, or "
                "its data files are not all there: copy it again"
            ) from error
        return handle

    def _errors(self) -> tuple[type[Exception], ...]:
        """What openslide and its binding raise on damaged files; levels without pixels divide by zero."""
        return (
            self._library.OpenSlideError,
            ArithmeticError,
            LookupError,
            MemoryError,
            OSError,
            ValueError,
        )

    def _read(self, level: int, y: int, x: int, height: int, width: int) -> np.ndarray:
        factor = self._downsamples[level]
        if factor == round(factor):
            return self._window(level, y, x, height, width)
        # openslide takes a window's corner in whole level-0 pixels and shifts the image by the fraction that
        # is left over. In blocks on a fixed grid that shift (half a level-0 pixel at most) does not depend on
        # the window, so that windows agree where they overlap.
        out = np.empty((3, height, width), np.uint8)
        size = self.levels[level]
        for top in range(y - y % BLOCK, y + height, BLOCK):
            for left in range(x - x % BLOCK, x + width, BLOCK):
                rows, columns = min(BLOCK, size.height - top), min(BLOCK, size.width - left)
                block = self._window(level, top, left, rows, columns)
                y0, y1 = max(y, top), min(y + height, top + rows)
                x0, x1 = max(x, left), min(x + width, left + columns)
                out[:, y0 - y : y1 - y, x0 - x : x1 - x] = block[
                    :, y0 - top : y1 - top, x0 - left : x1 - left
                ]
        return out

    def _window(self, level: int, y: int, x: int, height: int, width: int) -> np.ndarray:
        factor = self._downsamples[level]
        where = (round(x * factor), round(y * factor))
        with self._lock:
            handle = self._handle
        if handle is None:
            raise SlideError(f"{self.path}: the slide is closed")
        try:
            return _on_white(handle.read_region(where, level, (width, height)))
        except self._errors():
            # The first error kills a handle: other threads' windows fail with it, though nothing may be wrong
            # with them. So each window is tried once more on a handle of its own.
            pass
        fresh = self._open()
        try:
            window = _on_white(fresh.read_region(where, level, (width, height)))
        except self._errors() as error:
            fresh = self._open()
            raise SlideError(
                f"{self.path}: damaged image data in level {level}, in the window of {height} x {width} "
                f"pixels at row {y}, column {x}: {error}"
            ) from error
        finally:
            with self._lock:
                # The dead handle is let go, not closed: other threads may be inside it.
                if self._handle is handle:
                    self._handle = fresh
        return window

    def close(self) -> None:
        """Lets the file go; it is closed once no thread reads from it."""
        with self._lock:
            self._handle = None


def _library() -> Any:
    try:
        import openslide
    except (ImportError, OSError) as error:
        raise SlideError(
            f"the openslide library cannot be loaded ({error}); install openslide-python and openslide-bin"
        ) from error
    return openslide


def _factors(sizes: list[tuple[int, int]], downsamples: Sequence[float]) -> list[float]:
    """Levels' downsamples as the format states them, but 4 for 4.0003 where rounded sizes explain that."""
    by_size = [downsample_of(sizes[0], size) for size in sizes]
    pairs = zip(by_size, downsamples, strict=True)
    return [found if found == round(stated) else stated for found, stated in pairs]


def _stated_mpp(path: Path, properties: dict[str, str]) -> float | None:
    try:
        x, y = (float(properties[f"openslide.mpp-{axis}"]) for axis in "xy")
    except (KeyError, ValueError):
        return None
    return square_mpp(path, x, y)


def _bounds(properties: dict[str, str]) -> tuple[int, int, int, int] | None:
    try:
        x, y, width, height = (
            int(properties[f"openslide.bounds-{k}"]) for k in ("x", "y", "width", "height")
        )
    except (KeyError, ValueError):
        return None
    return x, y, width, height


def _on_white(image: Any) -> np.ndarray:
    """`(3, H, W)` uint8 from an RGBA image, transparency laid over white.

    No format has transparency of its own: it is where nothing was scanned, and partial at the rim of what
    was. A pixel of the rim that is covered by more than half keeps its colour.
    """
    rgba = np.asarray(image)
    rgb = np.ascontiguousarray(rgba[:, :, :3].transpose(2, 0, 1))
    alpha = rgba[:, :, 3]
    if alpha.size and alpha.min() < 128:
        through = alpha < 128
        share = alpha[through].astype(np.float32) / 255
        rgb[:, through] = np.floor(rgb[:, through] * share + WHITE * (1 - share) + 0.5).astype(np.uint8)
    return rgb
