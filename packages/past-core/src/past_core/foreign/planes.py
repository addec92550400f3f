"""Label images as TIFF: the first image of the file, whose claimed size is compared with what is stored."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from past_core.foreign.errors import ForeignError

FLOOR = 2**28
"""Bytes that may be claimed whatever the size of the file."""
MAX_RATIO = 2000
"""Most bytes claimed per byte stored; flat labels pack a thousandfold."""


def read_plane(
    path: Path, check: Callable[[tuple[int, ...], np.dtype], object] = lambda _shape, _kind: None
) -> np.ndarray:
    """Reads the first image of a TIFF.

    Args:
        path: the file.
        check: given its shape and type before it is allocated; raises where they are not what is needed.

    Raises:
        ForeignError: far more pixels are claimed than the file can hold.
        Exception: whatever tifffile raises on damage.
    """
    import tifffile

    with tifffile.TiffFile(path) as file:
        series = file.series[0]
        check(tuple(series.shape), series.dtype)
        claimed, stored = series.size * series.dtype.itemsize, file.filehandle.size
        if claimed > max(FLOOR, MAX_RATIO * stored):
            raise ForeignError(f"{claimed:,} bytes of pixels are claimed in a file of {stored:,}")
        return series.asarray()
