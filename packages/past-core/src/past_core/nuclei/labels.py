"""Label images of nuclei from elsewhere: TIFF, PNG or .npy, of the slide's size or a whole fraction of it."""

from pathlib import Path
from typing import Any

import numpy as np

from past_core.errors import PastError
from past_core.foreign.arrays import open_npy
from past_core.foreign.planes import read_plane
from past_core.nuclei.imported import boxes_of

MAX_LABEL = 2**31 - 1


class LabelError(PastError, ValueError):
    """A label image that is none, or not one of this slide."""


class LabelNotFoundError(PastError, FileNotFoundError):
    """There are no labels at that path."""


class ImageLabels:
    """A label image in memory; see `past_core.nuclei.imported.ImportedLabels`.

    Args:
        image: `(H, W)` int32, 0 outside nuclei and another number in each.
        downsample: level-0 pixels per pixel.
        parameters: where it comes from.
    """

    def __init__(self, image: np.ndarray, downsample: float, parameters: dict[str, Any]) -> None:
        self.image, self.downsample, self.parameters = image, downsample, parameters
        self.height, self.width = image.shape
        values, compact = np.unique(image, return_inverse=True)
        compact = compact.reshape(image.shape).astype(np.int32)
        if not len(values) or values[0] != 0:
            compact += 1
        self.names = values[values != 0]
        self.boxes = boxes_of(compact)
        count = len(self.names) + 1
        area = np.bincount(compact.ravel(), minlength=count)[1:]
        x, y = np.zeros(count), np.zeros(count)
        for row, line in enumerate(compact):  # by rows: indices of all pixels would take many times the image
            weight = np.bincount(line, minlength=1)
            y[: len(weight)] += weight * row
            total = np.bincount(line, np.arange(self.width), 1)
            x[: len(total)] += total
        self.centres = np.column_stack([x[1:], y[1:]]) / area[:, None] + 0.5

    def window(self, top: int, left: int, height: int, width: int) -> np.ndarray:
        """A window of the labels, `(height, width)` int32."""
        return self.image[top : top + height, left : left + width]


def read_labels(path: str | Path, *, shape: tuple[int, int]) -> ImageLabels:
    """Reads a label image: 0 outside nuclei, another whole number in each.

    Its size is compared with the slide's before its pixels are read.

    Args:
        path: a TIFF of one page, a PNG, or a .npy.
        shape: height and width of the slide in level-0 pixels.

    Raises:
        LabelNotFoundError: no such file.
        LabelError: damaged, another kind of file, not a plane of whole numbers, or of a size that is neither
            the slide's nor a whole fraction of it.
    """
    path = Path(path)
    if not path.is_file():
        raise LabelNotFoundError(f"no labels at {path}; expected a label image (TIFF, PNG, .npy)")
    readers = {".npy": _npy, ".tif": _tiff, ".tiff": _tiff, ".png": _png}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise LabelError(f"{path}: {path.suffix or 'no ending'}; expected {', '.join(readers)} or .geojson")
    try:
        image = reader(path, shape)
    except LabelError:
        raise
    except Exception as error:  # whatever the readers raise on foreign data
        raise LabelError(f"{path}: cannot be read as a label image ({error})") from error
    return image_labels(image, shape=shape, path=path)


def image_labels(image: np.ndarray, *, shape: tuple[int, int], path: Path | None = None) -> ImageLabels:
    """Takes an array as labels of a slide of that height and width.

    Raises:
        LabelError: see `read_labels`.
    """
    where = str(path) if path is not None else "labels"
    factor = _check(where, image.shape, image.dtype, shape)
    if image.size and (image.min() < 0 or image.max() > MAX_LABEL):
        raise LabelError(
            f"{where}: labels from {image.min()} to {image.max()}; expected 0 outside nuclei and at most "
            f"{MAX_LABEL}"
        )
    parameters = {"file": path.name} if path is not None else {}
    return ImageLabels(image.astype(np.int32), float(factor), {**parameters, "downsample": factor})


def _check(where: str, found: tuple[int, ...], dtype: np.dtype, shape: tuple[int, int]) -> int:
    """The whole number of slide pixels per pixel of the labels."""
    if len(found) != 2 or not np.issubdtype(dtype, np.integer) or 0 in found:
        raise LabelError(
            f"{where}: an array of shape {tuple(found)}, {dtype}; expected one plane (H, W) of whole "
            "numbers, 0 outside nuclei and another number in each"
        )
    factor = max(1, round(shape[0] / found[0]), round(shape[1] / found[1]))
    # The last row and column of a fraction may be left out or run over the slide's border.
    if any(abs(long - factor * short) >= factor for long, short in zip(shape, found, strict=True)):
        raise LabelError(
            f"{where}: labels of {found[1]} x {found[0]} pixels for a slide of {shape[1]} x {shape[0]}; "
            "expected the same size or a whole fraction of it"
        )
    return factor


def _npy(path: Path, shape: tuple[int, int]) -> np.ndarray:
    image = open_npy(path)
    _check(str(path), image.shape, image.dtype, shape)
    return image


def _tiff(path: Path, shape: tuple[int, int]) -> np.ndarray:
    return read_plane(path, lambda found, kind: _check(str(path), found, kind, shape))


def _png(path: Path, shape: tuple[int, int]) -> np.ndarray:
    from PIL import Image

    with Image.open(path, formats=["PNG"]) as image:  # others run programs of their own (EPS)
        if image.mode not in {"L", "I", "I;16", "1", "P"}:
            raise LabelError(f"{path}: a PNG of mode {image.mode}; expected one channel of 8 or 16 bits")
        kind = np.dtype(np.int32)
        _check(str(path), (image.height, image.width), kind, shape)
        return np.asarray(image).astype(kind)
