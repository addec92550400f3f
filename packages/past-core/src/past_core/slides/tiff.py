"""SVS, OME-TIFF and other TIFFs: only the tiles that a window touches are read and decoded."""

import logging
import math
import struct
import threading
import weakref
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tifffile

from past_core.slides.errors import SlideError
from past_core.slides.slide import WHITE, Slide
from past_core.slides.tiff_resolution import stated_mpp

logger = logging.getLogger(__name__)

MAX_SEGMENT = 2**28
"""Largest tile or strip, in pixels, that is decoded in one piece."""
APERIO_JPEG2000_YCBCR = 33003
VENDORS = {
    "is_ndpi": "a Hamamatsu NDPI",
    "is_scn": "a Leica SCN",
    "is_bif": "a Ventana BIF",
    "is_philips": "a Philips TIFF",
}
"""tifffile's flags of the formats that openslide must read."""
CACHE_BYTES = 64 * 2**20
DAMAGE = (
    tifffile.TiffFileError,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,  # imagecodecs' decoders, NotImplementedError
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
"""What tifffile and its decoders raise on files that are truncated, damaged or not understood."""


def ycbcr_jpeg2000(path: Path) -> bool:
    """Whether an SVS keeps YCbCr in JPEG 2000, which tifffile would take for RGB; its files do not say so."""
    try:
        with tifffile.TiffFile(path) as tiff:
            return int(tiff.pages.first.compression) == APERIO_JPEG2000_YCBCR
    except DAMAGE:
        return False  # the reader says what is wrong


class TiffSlide(Slide):
    """The first image of a TIFF with its pyramid (SubIFDs or, in an SVS, further pages).

    Args:
        path: the file.
        mpp: µm per level-0 pixel, overriding what the file states.

    Raises:
        SlideError: truncated, damaged, or not an 8-bit RGB image.
    """

    def __init__(self, path: Path, *, mpp: float | None = None) -> None:
        try:
            self._tiff = tifffile.TiffFile(path)
        except DAMAGE as error:
            raise SlideError(f"{path}: damaged or truncated TIFF: {error}") from error
        try:
            self._refuse_vendors(path)
            series = self._tiff.series[0]
            self._levels = [_TiffLevel(path, level, self._tiff) for level in series.levels]
            if mpp is None:
                mpp = stated_mpp(path, self._tiff)
            super().__init__(path, [(level.height, level.width) for level in self._levels], mpp)
        except SlideError:
            self._tiff.close()
            raise
        except DAMAGE as error:
            self._tiff.close()
            raise SlideError(f"{path}: damaged or truncated TIFF: {error!r}") from error
        # A slide that is dropped unclosed, as on the way of an error, holds its file no longer than it lives.
        weakref.finalize(self, self._tiff.close).atexit = False
        self._lock = threading.Lock()
        self._cache: OrderedDict[tuple[int, int, int], np.ndarray | None] = OrderedDict()
        self._cached = 0

    def _refuse_vendors(self, path: Path) -> None:
        """Refuses a scanner's TIFF that openslide did not know: here its layout would be read wrongly."""
        for flag, name in VENDORS.items():
            if getattr(self._tiff, flag):
                raise SlideError(
                    f"{path}: {name} by its tags, but openslide does not know it so; it is "
                    "damaged, or of an unknown version: copy it again, or convert it to OME-TIFF"
                )

    def _read(self, level: int, y: int, x: int, height: int, width: int) -> np.ndarray:
        source = self._levels[level]
        window = np.full((height, width, source.samples), WHITE, np.uint8)
        for number, part in enumerate(source.parts):
            target = window[:, :, part.channels]
            if part.mapped is not None:
                target[...] = part.mapped[y : y + height, x : x + width]
                continue
            for segment, row, column in source.touching(y, x, height, width):
                pixels = self._segment(level, number, segment)
                if pixels is None:  # a sparse slide leaves out its empty tiles
                    continue
                top, left = max(row, y), max(column, x)
                bottom, right = (
                    min(row + pixels.shape[0], y + height),
                    min(column + pixels.shape[1], x + width),
                )
                piece = pixels[top - row : bottom - row, left - column : right - column]
                target[top - y : bottom - y, left - x : right - x] = piece
        if source.samples == 4:
            window = _over_white(window)
        return np.ascontiguousarray(window.transpose(2, 0, 1))

    def _segment(self, level: int, number: int, segment: int) -> np.ndarray | None:
        """A decoded tile or strip `(rows, columns, samples)`, from a small cache of the latest."""
        key = (level, number, segment)
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        part = self._levels[level].parts[number]
        try:
            pixels = self._decode(part, part.first + segment)
        except DAMAGE as error:
            raise SlideError(
                f"{self.path}: damaged image data in level {level}, segment {segment}: {error}"
            ) from error
        with self._lock:
            if key not in self._cache:
                self._cache[key] = pixels
                self._cached += 0 if pixels is None else pixels.nbytes
            while self._cached > CACHE_BYTES and len(self._cache) > 1:
                _, dropped = self._cache.popitem(last=False)
                self._cached -= 0 if dropped is None else dropped.nbytes
        return pixels

    def _decode(self, part: "_Part", index: int) -> np.ndarray | None:
        count = part.page.databytecounts[index]
        if count == 0:
            return None
        with self._lock:  # one file position for all threads; decoding runs outside
            handle = self._tiff.filehandle
            handle.seek(part.page.dataoffsets[index])
            data = handle.read(count)
        options = {"jpegtables": part.page.jpegtables} if part.page.jpegtables is not None else {}
        pixels = part.page.keyframe.decode(data, index, **options)[0]
        return None if pixels is None else pixels[0]

    def close(self) -> None:
        """Closes the file."""
        self._tiff.close()
        self._cache.clear()


class _Part(NamedTuple):
    """Some channels of a level: a page, its first segment, its channels, and its raw pixels if mapped."""

    page: Any
    first: int
    channels: slice
    mapped: np.ndarray | None


class _TiffLevel:
    """Where one level's pixels lie.

    RGB comes as one page with interleaved samples (YXS), as one page with separate planes (SYX), or as one
    page a channel (CYX).
    """

    def __init__(self, path: Path, level: Any, tiff: tifffile.TiffFile) -> None:
        shape = dict(zip(level.axes, level.shape, strict=True))
        others = [size for axis, size in shape.items() if axis not in "YXSC"]
        self.samples = shape.get("S", 1) * shape.get("C", 1)
        if (
            level.dtype != np.uint8
            or self.samples not in {3, 4}
            or not {"Y", "X"} <= set(shape)
            or any(size != 1 for size in others)
        ):
            raise SlideError(
                f"{path}: a {level.dtype} image of shape {level.shape} on axes {level.axes!r}; "
                "expected 8-bit RGB (YXS or CYX)"
            )
        self.height, self.width = shape["Y"], shape["X"]
        if min(self.height, self.width) < 1:
            raise SlideError(f"{path}: the image has no pixels ({self.height} x {self.width})")
        page = level.keyframe
        planes, depth, height, width, contig = page.shaped
        elsewhere = {page.parent.filehandle.name for page in level.pages if page and page.parent is not tiff}
        if elsewhere:  # OME-XML may name any other file, whose positions would be read from this one
            raise SlideError(
                f"{path}: its OME-XML says that its pixels lie in other files, which are not read "
                f"({', '.join(sorted(elsewhere)[:3])}); convert it to one file"
            )
        if (depth, height, width) != (1, self.height, self.width) or None in level.pages:
            raise SlideError(f"{path}: pages of the image are missing or differ in size")
        if len(level.pages) * planes * contig != self.samples:
            raise SlideError(f"{path}: {len(level.pages)} pages of shape {page.shape}; expected 8-bit RGB")
        rows = page.tilelength if page.is_tiled else min(page.rowsperstrip, self.height)
        columns = page.tilewidth if page.is_tiled else self.width
        self.tile = (rows, columns)
        self.across = math.ceil(self.width / columns)
        per_plane = self.across * math.ceil(self.height / rows)
        self.parts = []
        for number, frame in enumerate(level.pages):
            mapped = _check(path, frame, per_plane * planes, self.tile, tiff)
            for plane in range(planes):
                channel = number * planes + plane
                channels = slice(0, contig) if contig > 1 else slice(channel, channel + 1)
                pixels = None if mapped is None else mapped[plane]
                self.parts.append(_Part(frame, plane * per_plane, channels, pixels))

    def touching(self, y: int, x: int, height: int, width: int) -> list[tuple[int, int, int]]:
        """The segments that a window touches: (index within the plane, top row, left column)."""
        rows = range(y // self.tile[0], (y + height - 1) // self.tile[0] + 1)
        columns = range(x // self.tile[1], (x + width - 1) // self.tile[1] + 1)
        return [(r * self.across + c, r * self.tile[0], c * self.tile[1]) for r in rows for c in columns]


def _check(
    path: Path, frame: Any, need: int, tile: tuple[int, int], tiff: tifffile.TiffFile
) -> np.ndarray | None:
    """Refuses a page whose data is not all there; returns its pixels where they lie raw in one run.

    Returns:
        a map of the file `(planes, H, W, samples)`, or None where segments must be decoded.
    """
    offsets, counts = np.asarray(frame.dataoffsets, np.uint64), np.asarray(frame.databytecounts, np.uint64)
    page = frame.keyframe
    raw = page.is_memmappable and len(offsets) > 0
    planes, _, height, width, contig = page.shaped
    if raw:
        end = int(offsets[0]) + planes * height * width * contig
    elif len(offsets) < need or len(counts) < need:
        raise SlideError(f"{path}: damaged TIFF: {len(offsets)} of {need} image segments are listed")
    else:
        end = int((offsets + counts).max())
    if end > tiff.filehandle.size:
        raise SlideError(
            f"{path}: truncated: its image data ends at byte {end:,}, the file at {tiff.filehandle.size:,}; "
            "copy it again"
        )
    if raw:
        return np.memmap(path, np.uint8, "r", offset=int(offsets[0]), shape=(planes, height, width, contig))
    if tile[0] * tile[1] > MAX_SEGMENT:
        raise SlideError(
            f"{path}: stored in pieces of {tile[0]} x {tile[1]} pixels, too large to decode; "
            "convert the image to a tiled TIFF"
        )
    return None


def _over_white(rgba: np.ndarray) -> np.ndarray:
    """`(H, W, 4)` with transparency laid over white, the background of a slide."""
    alpha = rgba[:, :, 3:].astype(np.float32) / 255
    return np.floor(rgba[:, :, :3] * alpha + WHITE * (1 - alpha) + 0.5).astype(np.uint8)
