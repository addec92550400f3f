"""Whether a scanner's slide is all there: the decoders fill what is cut off with grey, without an error."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tifffile

from past_core.slides.errors import SlideError
from past_core.slides.kinds import TIFF_MAGIC
from past_core.slides.tiff import DAMAGE, MAX_SEGMENT

JPEG_END = b"\xff\xd9"
TAIL = 4096
"""Bytes at a JPEG's end in which its end marker must be, for some writers pad their files."""


def require_whole(path: Path, vendor: str, properties: Mapping[str, str]) -> None:
    """Refuses a slide whose pixel data ends before it should.

    Args:
        path: the slide.
        vendor: openslide's name of the format.
        properties: openslide's properties of the slide.

    Raises:
        SlideError: something is cut off; which file, and where.
    """
    if vendor == "mirax":
        _mirax(path, properties)
    elif any(key.startswith("hamamatsu.ImageFile") for key in properties):
        _vms(path, properties)
    elif _begins(path).startswith(TIFF_MAGIC):
        _tiff(path)


def _begins(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(4)
    except OSError as error:
        raise SlideError(f"{path}: cannot be read: {error}") from error


def _tiff(path: Path) -> None:
    try:
        with tifffile.TiffFile(path) as tiff:
            size = tiff.filehandle.size
            for number, page in enumerate(tiff.pages):
                offsets = np.asarray(page.dataoffsets, np.uint64)
                counts = np.asarray(page.databytecounts, np.uint64)
                if len(offsets) != len(counts):
                    raise SlideError(
                        f"{path}: damaged TIFF: directory {number} lists {len(offsets)} positions and "
                        f"{len(counts)} lengths of image segments"
                    )
                end = int((offsets + counts).max(initial=0))
                if end > size:
                    raise _truncated(path, end, size)
                if (
                    isinstance(page, tifffile.TiffPage)
                    and page.is_tiled
                    and page.tilewidth * page.tilelength > MAX_SEGMENT
                ):
                    raise SlideError(
                        f"{path}: damaged TIFF: directory {number} has tiles of {page.tilewidth} x "
                        f"{page.tilelength} pixels"
                    )
    except SlideError:
        raise
    except DAMAGE as error:
        raise SlideError(f"{path}: damaged or truncated TIFF: {error!r}") from error


def _mirax(path: Path, properties: Mapping[str, str]) -> None:
    """Follows the index's pages of the zoom levels and compares what they list with the data files."""
    folder = path.with_suffix("")
    try:
        index = np.fromfile(folder / properties["mirax.HIERARCHICAL.INDEXFILE"], np.uint8)
        root = len("01.02") + len(properties["mirax.GENERAL.SLIDE_ID"])
        names = [
            properties[f"mirax.DATAFILE.FILE_{k}"]
            for k in range(int(properties["mirax.DATAFILE.FILE_COUNT"]))
        ]
        sizes = [(folder / name).stat().st_size for name in names]
        table = _integers(index, root, 1)[0]
        for level in range(int(properties["mirax.HIERARCHICAL.HIER_0_COUNT"])):
            page = _integers(index, _integers(index, table + 4 * level, 1)[0] + 4, 1)[0]
            pages = 0
            while page:
                count, following = _integers(index, page, 2)
                entries = _integers(index, page + 8, 4 * count).reshape(-1, 4)
                for file in np.unique(entries[:, 3]):
                    end = int(entries[entries[:, 3] == file, 1:3].sum(axis=1).max())
                    if end > sizes[file]:
                        raise _truncated(folder / names[file], end, sizes[file])
                page, pages = following, pages + 1
                if pages > index.size // 8:
                    raise ValueError(f"level {level}: the pages run in a circle")
    except SlideError:
        raise
    except (KeyError, IndexError, ValueError, OSError) as error:
        raise SlideError(f"{path}: damaged MRXS index or missing data file: {error}") from error


def _integers(index: np.ndarray, position: int, count: int) -> np.ndarray:
    if position < 0 or count < 0 or position + 4 * count > index.size:
        raise ValueError(f"{count} numbers at byte {position} of an index of {index.size} bytes")
    return index[position : position + 4 * count].copy().view("<i4").astype(np.int64)


def _vms(path: Path, properties: Mapping[str, str]) -> None:
    names = {
        value
        for key, value in properties.items()
        if key.startswith("hamamatsu.ImageFile") or key == "hamamatsu.MapFile"
    }
    for name in sorted(names):
        file = path.parent / name
        try:
            with file.open("rb") as content:
                size = content.seek(0, 2)
                jpeg = content.seek(0) == 0 and content.read(2) == b"\xff\xd8"
                content.seek(max(0, size - TAIL))
                tail = content.read()
        except OSError as error:
            raise SlideError(f"{path}: its image file {name} cannot be read: {error}") from error
        if jpeg and JPEG_END not in tail:
            raise SlideError(f"{file}: truncated: no end of the JPEG in its last {TAIL} bytes; copy it again")


def _truncated(path: Path, end: int, size: int) -> SlideError:
    return SlideError(
        f"{path}: truncated: its image data ends at byte {end:,}, the file at {size:,}; copy it again"
    )
