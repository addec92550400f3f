"""What every slide offers: levels, micrometres per pixel, windows, and a view at any resolution."""

import logging
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from past_core.remote import Location, locate
from past_core.slides.errors import SlideError
from past_core.slides.patches import patches
from past_core.slides.resample import Taps, resample, taps

logger = logging.getLogger(__name__)

WHITE = 255
SAME_MPP = 0.01
"""Relative difference below which a level counts as having the wanted resolution and is read as it is."""
MAX_UPSAMPLING = 2.0
MAX_WINDOW = 2**31
"""Largest window, in bytes, that one read may ask for."""


@dataclass(frozen=True, kw_only=True)
class Level:
    """One level of a slide's pyramid: its size in pixels, its resolution, and level-0 pixels per pixel."""

    height: int
    width: int
    mpp: float | None
    downsample: float


class Slide(ABC):
    """An RGB image of tissue with its pyramid; safe to read from several threads.

    Points are `(x, y)` in level-0 pixels with the origin at the image's top-left corner, so the centre of
    the first pixel is (0.5, 0.5). Images are `(3, H, W)` uint8; what lies outside the slide is white.

    Args:
        path: where the slide is, for messages.
        sizes: (height, width) of each level, finest first.
        mpp: µm per level-0 pixel, None where unknown.
        downsamples: level-0 pixels per pixel of each level, where the sizes do not say.

    Raises:
        SlideError: a level without pixels, or an mpp that is not a positive number.
    """

    def __init__(
        self,
        path: str | Location,
        sizes: list[tuple[int, int]],
        mpp: float | None,
        *,
        downsamples: Sequence[float] | None = None,
    ) -> None:
        self.path = locate(path)
        self.name = self.path.name
        if mpp is not None and not (np.isfinite(mpp) and mpp > 0):
            raise SlideError(f"{path}: mpp is {mpp}; expected a positive number of µm per pixel")
        if not sizes or min(min(size) for size in sizes) < 1:
            raise SlideError(f"{path}: the image has no pixels (level sizes {sizes})")
        self.mpp = None if mpp is None else float(mpp)
        factors = [downsample_of(sizes[0], size) for size in sizes] if downsamples is None else downsamples
        self.levels = tuple(
            Level(height=height, width=width, mpp=None if mpp is None else mpp * factor, downsample=factor)
            for (height, width), factor in zip(sizes, factors, strict=True)
        )
        self._warned = False
        self._warn_lock = threading.Lock()

    @property
    def height(self) -> int:
        """Height of level 0 in pixels."""
        return self.levels[0].height

    @property
    def width(self) -> int:
        """Width of level 0 in pixels."""
        return self.levels[0].width

    def require_mpp(self) -> float:
        """The slide's µm per pixel.

        Raises:
            SlideError: the file does not say and none was given.
        """
        if self.mpp is None:
            raise SlideError(
                f"{self.path}: the file does not state its resolution; give it in µm per pixel with --mpp "
                "(20x is about 0.5, 40x about 0.25)"
            )
        return self.mpp

    def read(self, level: int, y: int, x: int, height: int, width: int) -> np.ndarray:
        """Reads a window of one level.

        Args:
            level: index into `levels`.
            y: top row of the window, in that level's pixels; may lie outside the slide.
            x: left column, likewise.
            height: rows of the window.
            width: columns of the window.

        Returns:
            `(3, height, width)` uint8, white outside the slide.

        Raises:
            SlideError: no such level, an impossible window, or damaged image data.
        """
        if not 0 <= level < len(self.levels):
            raise SlideError(
                f"{self.path}: no level {level}; the slide has levels 0 to {len(self.levels) - 1}"
            )
        y, x, height, width = int(y), int(x), int(height), int(width)
        if height < 0 or width < 0 or 3 * height * width > MAX_WINDOW:
            raise SlideError(f"{self.path}: cannot read a window of {height} x {width} pixels at once")
        size = self.levels[level]
        top, bottom = max(y, 0), min(y + height, size.height)
        left, right = max(x, 0), min(x + width, size.width)
        if (top, bottom, left, right) == (y, y + height, x, x + width) and height and width:
            return self._read(level, y, x, height, width)
        window = np.full((3, height, width), WHITE, np.uint8)
        if top < bottom and left < right:
            window[:, top - y : bottom - y, left - x : right - x] = self._read(
                level, top, left, bottom - top, right - left
            )
        return window

    @abstractmethod
    def _read(self, level: int, y: int, x: int, height: int, width: int) -> np.ndarray:
        """Reads a window that lies inside the level: `(3, height, width)` uint8."""

    def at(self, mpp: float | None, *, native: float | None = None) -> "View":
        """The whole slide at `mpp` µm per pixel; None means level 0 as it is.

        A level within 1 % of `mpp` is read as it is. Otherwise the coarsest level that is still finer is
        averaged over each new pixel's area (no aliasing); where none is finer, level 0 is interpolated,
        with a warning once per slide beyond a factor of two.

        Args:
            mpp: µm per pixel of the view.
            native: µm per level-0 pixel, where the caller knows it better than the file.
        """
        if mpp is None:
            return View(self, 0, 1.0, self.mpp if native is None else native)
        mpp = float(mpp)
        if not (np.isfinite(mpp) and mpp > 0):
            raise SlideError(f"{self.path}: asked for {mpp} µm per pixel; expected a positive number")
        base = self.require_mpp() if native is None else float(native)
        level_mpp = base * np.array([level.downsample for level in self.levels])
        nearest = int(np.argmin(np.abs(np.log(level_mpp / mpp))))
        if abs(level_mpp[nearest] / mpp - 1) <= SAME_MPP:
            return View(self, nearest, 1.0, float(level_mpp[nearest]))
        finer = np.flatnonzero(level_mpp <= mpp)
        level = int(finer[np.argmax(level_mpp[finer])]) if finer.size else 0
        self._warn_upsampling(float(level_mpp[level] / mpp), float(level_mpp[level]), mpp)
        return View(self, level, mpp / float(level_mpp[level]), mpp)

    def _warn_upsampling(self, factor: float, have: float, want: float) -> None:
        if factor <= MAX_UPSAMPLING:
            return
        with self._warn_lock:
            if self._warned:
                return
            self._warned = True
        logger.warning(
            "%s: its finest level has %.4g µm per pixel, %.4g is wanted: upsampled %.3g x, adding nothing",
            self.path,
            have,
            want,
            factor,
        )

    def read_field(self, points: ArrayLike, field_um: float, size: int) -> np.ndarray:
        """Reads a square field in µm around each point.

        Args:
            points: `(N, 2)` x, y in level-0 pixels.
            field_um: side of the field in µm.
            size: side of the returned patches in pixels.

        Returns:
            `(N, 3, size, size)` uint8.
        """
        return patches(self, points, mpp=field_um / size, size=size)

    def close(self) -> None:  # noqa: B027  (not every slide holds a file open)
        """Releases the file; reading afterwards is an error."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        sizes = ", ".join(f"{level.height}x{level.width}" for level in self.levels)
        return f"{type(self).__name__}({str(self.path)!r}, mpp={self.mpp}, levels=[{sizes}])"


class View:
    """A slide as if scanned at another resolution: one level, resampled on a grid from the slide's corner.

    Every pixel depends on its position alone, so any two windows agree where they overlap.

    Attributes:
        level: the level that is read.
        scale: that level's pixels per pixel of the view.
        downsample: level-0 pixels per pixel of the view.
        mpp: µm per pixel of the view, None where unknown.
        height: rows of the view.
        width: columns of the view.
    """

    def __init__(self, slide: Slide, level: int, scale: float, mpp: float | None) -> None:
        self.slide, self.level, self.scale, self.mpp = slide, level, scale, mpp
        source = slide.levels[level]
        self.downsample = source.downsample * scale
        # A pixel belongs to the view when its centre lies in the slide.
        self.height = max(1, int(np.ceil(source.height / scale - 0.5)))
        self.width = max(1, int(np.ceil(source.width / scale - 0.5)))

    def require_mpp(self) -> float:
        """µm per pixel of the view.

        Raises:
            SlideError: the slide as it is, and its file does not say.
        """
        return self.slide.require_mpp() if self.mpp is None else self.mpp

    def read(self, y: int, x: int, height: int, width: int) -> np.ndarray:
        """Reads a window of the view: `(3, height, width)` uint8, white outside the slide."""
        if self.scale == 1.0:
            return self.slide.read(self.level, y, x, height, width)
        source = self.slide.levels[self.level]
        rows = taps(int(y), int(height), self.scale, source.height)
        columns = taps(int(x), int(width), self.scale, source.width)
        window = self.slide.read(self.level, rows.start, columns.start, rows.extent, columns.extent)
        return self._whiten(resample(window, rows, columns), rows, columns)

    @staticmethod
    def _whiten(image: np.ndarray, rows: Taps, columns: Taps) -> np.ndarray:
        image[:, ~rows.inside, :] = WHITE
        image[:, :, ~columns.inside] = WHITE
        return image


def downsample_of(base: tuple[int, int], size: tuple[int, int]) -> float:
    """Level-0 pixels per pixel; a whole number where the sizes agree with one up to rounding."""
    factor = (base[0] / size[0] + base[1] / size[1]) / 2
    whole = round(factor)
    if whole >= 1 and all(abs(long - whole * short) < whole for long, short in zip(base, size, strict=True)):
        return float(whole)
    return factor


def square_mpp(path: Location, x: float, y: float) -> float | None:
    """One resolution from two; None where they are not positive numbers.

    Raises:
        SlideError: they differ by more than 2 %.
    """
    if not (math.isfinite(x) and math.isfinite(y) and x > 0 and y > 0):
        return None
    if abs(x / y - 1) > 0.02:
        raise SlideError(
            f"{path}: its pixels are not square ({x:.4g} x {y:.4g} µm); resample the image first"
        )
    return (x + y) / 2
