"""NumPy files: one array of numbers, mapped into memory."""

from pathlib import Path

import numpy as np

from past_core.foreign.errors import ForeignError, reason

MAGIC = b"\x93NUMPY"


def open_npy(path: Path) -> np.ndarray:
    """Maps a `.npy` into memory; its bytes are read when they are used, and a pickle never.

    Raises:
        OSError: nothing is there, or it cannot be read.
        ForeignError: truncated, another kind of file, or an array of objects.
    """
    with path.open("rb") as file:
        begins = file.read(len(MAGIC))
    if begins != MAGIC:  # numpy would try it as an archive, or as a pickle
        raise ForeignError(f"no array of NumPy (it begins with {begins!r}); expected one array (.npy)")
    try:
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy parses the header as Python: what it raises is not only ValueError
        raise ForeignError(reason(error)) from error
    return array
