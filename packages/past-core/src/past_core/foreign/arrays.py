"""NumPy files: one array of numbers, mapped into memory."""

from pathlib import Path

import numpy as np

from past_core.foreign.errors import ForeignError, reason


def open_npy(path: Path) -> np.ndarray:
    """Maps a `.npy` into memory; its bytes are read when they are used, and a pickle never.

    Raises:
        FileNotFoundError: nothing is there.
        ForeignError: truncated, another kind of file, or an array of objects.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise
    except Exception as error:  # numpy parses the header as Python: what it raises is not only ValueError
        raise ForeignError(reason(error)) from error
    if not isinstance(array, np.ndarray):  # a zip by that name is an NpzFile
        array.close()
        raise ForeignError("an archive of arrays (.npz); expected one array (.npy)")
    return array
