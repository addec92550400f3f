"""Labels of nuclei over a pair's field, window by window."""

import hashlib
import json
import logging
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import numpy as np

from past_core.atomic import replacing
from past_core.errors import PastError
from past_core.foreign.arrays import open_npy
from past_core.foreign.planes import read_plane
from past_core.nuclei import WatershedSettings, nucleus_tiles
from past_core.nuclei.segment import MAX_MPP
from past_core.nuclei.slidewide import slide_wide
from past_core.slides import Slide
from past_core.synthetic.cache import cache_folder
from past_vihc.data.content import content_key
from past_vihc.data.pairs import MAX_DIFFERENCE

logger = logging.getLogger(__name__)

VERSION = 1
"""Raised when the watershed gives other labels for the same settings."""
_MAKING = threading.Lock()


class LabelImageError(PastError, ValueError):
    """A label image that is none, or not of its pair's field."""


class Labels(Protocol):
    """Labels of nuclei at the tiles' resolution."""

    def read(self, y: int, x: int, height: int, width: int) -> np.ndarray:
        """A window `(height, width)` of integers; 0 is background, also outside the image."""


class GivenLabels:
    """A label image of any resolution over the same field, by nearest neighbour.

    Args:
        path: `.npy`, or a TIFF of one page.
        slide: the H&E image.
        mpp: µm per pixel of the windows.

    Raises:
        LabelImageError: damaged, not a plane of whole numbers, or of another shape than the H&E.
    """

    def __init__(self, path: Path, slide: Slide, mpp: float) -> None:
        self._labels = _load(path)
        height, width = self._labels.shape
        self._factor = height / slide.height, width / slide.width
        if abs(self._factor[0] / self._factor[1] - 1) > MAX_DIFFERENCE:
            raise LabelImageError(
                f"{path}: {width} x {height} labels for the H&E image {slide.path} of {slide.width} x "
                f"{slide.height} "
                "px; expected the same field, at any resolution"
            )
        self._downsample = slide.at(mpp).downsample

    def read(self, y: int, x: int, height: int, width: int) -> np.ndarray:
        """See `Labels`."""
        axes = []
        for start, count, factor, limit in zip(
            (y, x), (height, width), self._factor, self._labels.shape, strict=True
        ):
            centre = (np.arange(start, start + count) + 0.5) * self._downsample * factor
            index = np.floor(centre).astype(np.int64)
            axes.append((np.clip(index, 0, limit - 1), (index >= 0) & (index < limit)))
        (rows, tall), (columns, wide) = axes
        return np.where(np.outer(tall, wide), self._labels[np.ix_(rows, columns)], 0)


class SegmentedLabels:
    """Labels of the haematoxylin watershed over the whole H&E, made once and kept in the cache.

    Args:
        slide: the H&E image.
        mpp: µm per pixel of segmentation and windows.
        cache: folder of the cache; `PAST_CACHE`, else the user's.
    """

    def __init__(self, slide: Slide, mpp: float, cache: str | Path | None = None) -> None:
        settings = WatershedSettings()
        key = [VERSION, content_key(Path(str(slide.path))), slide.mpp, mpp, asdict(settings)]
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        path = cache_folder(cache) / "vihc" / "nuclei" / f"{digest[:32]}.npy"
        with _MAKING:  # threads that ask for one image at a time make it once
            if not path.is_file():
                _segment(slide, mpp, settings, path)
        self._labels = _load(path)

    def read(self, y: int, x: int, height: int, width: int) -> np.ndarray:
        """See `Labels`."""
        out = np.zeros((height, width), self._labels.dtype)
        top, left = max(y, 0), max(x, 0)
        part = self._labels[top : max(y + height, 0), left : max(x + width, 0)]
        out[top - y : top - y + part.shape[0], left - x : left - x + part.shape[1]] = part
        return out


def relabel(labels: np.ndarray) -> np.ndarray:
    """Numbers the labels that occur 1, 2, … in their order: `(H, W)` int32."""
    values, inverse = np.unique(labels, return_inverse=True)
    number = np.cumsum(values != 0) * (values != 0)
    return number.astype(np.int32)[inverse].reshape(labels.shape)


def _load(path: Path) -> np.ndarray:
    import tifffile

    try:
        if path.suffix.lower() == ".npy":
            labels = open_npy(path)
        else:
            try:
                labels = tifffile.memmap(path, mode="r")
            except ValueError:  # compressed or tiled
                labels = read_plane(path)
    except FileNotFoundError as error:
        raise LabelImageError(f"{path}: the label image does not exist") from error
    except Exception as error:  # whatever tifffile and numpy raise on foreign data
        raise LabelImageError(f"{path}: not a label image that can be read: {error}") from error
    if labels.ndim != 2 or not np.issubdtype(labels.dtype, np.integer) or 0 in labels.shape:
        raise LabelImageError(
            f"{path}: an array of {labels.dtype} and shape {labels.shape}; expected one plane of whole "
            "numbers, 0 "
            "where there is no nucleus"
        )
    return labels


def _segment(slide: Slide, mpp: float, settings: WatershedSettings, path: Path) -> None:
    view = slide.at(mpp)
    wide = None
    if view.require_mpp() > MAX_MPP:
        logger.warning(
            "%s: no nuclei at %.3g µm per pixel, which is too coarse to see them", slide.path, view.mpp
        )
    else:
        wide = slide_wide(slide, mpp=mpp, settings=settings)
        if wide is None:
            logger.warning("%s: no tissue, so no nuclei", slide.path)
    count = 0
    with replacing(path) as temporary:
        labels = np.lib.format.open_memmap(temporary, "w+", np.int32, (view.height, view.width))
        for tile in nucleus_tiles(slide, wide, mpp=mpp, settings=settings) if wide is not None else ():
            number = np.zeros(int(tile.labels.max()) + 1, np.int32)
            number[tile.owned] = count + 1 + np.arange(len(tile.owned))
            own = number[tile.labels]
            target = labels[tile.top : tile.top + own.shape[0], tile.left : tile.left + own.shape[1]]
            np.copyto(target, own, where=own > 0)
            count += len(tile.owned)
        labels.flush()
        del labels
    logger.info("%s: %d nuclei by watershed, kept in %s", slide.path, count, path)
