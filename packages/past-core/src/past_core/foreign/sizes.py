"""What HDF5 and zarr files claim to hold, compared with what is there, before anything is allocated."""

import json
import math
import re
from pathlib import Path
from typing import Any

from past_core.foreign.errors import ForeignError, reason

FLOOR = 2**28
"""Bytes that may be claimed whatever the size of the file."""
MAX_RATIO = 200
"""Most bytes claimed per byte stored: sparse counts of cells pack 20- to 60-fold."""
_WIDTH = re.compile(r"(\d+)$")


def check_hdf5(path: Path) -> None:
    """Refuses an HDF5 file (`.h5`, `.h5ad`) whose arrays claim far more than it stores, or lie elsewhere.

    A few bytes may claim any shape, whose missing parts are filled when it is read; and a link or an
    external array may name any other file of this machine.

    Raises:
        FileNotFoundError: nothing is there.
        ForeignError: it does, or it is no HDF5 file.
    """
    import h5py

    claimed = 0

    # What these return ends the visit; h5py does not pass on what a visitor raises.
    def look(name: str, found: Any) -> str | None:
        nonlocal claimed
        if isinstance(found, h5py.Dataset):
            if found.external or found.is_virtual:
                return f"{name} lies in another file, which is not read"
            claimed += math.prod(found.shape or ()) * found.dtype.itemsize
        return None

    def follow(name: str, link: Any) -> str | None:
        outside = isinstance(link, h5py.ExternalLink)
        return f"{name} is a link into another file, which is not read" if outside else None

    try:
        with h5py.File(path, "r") as file:
            outside = file.visititems_links(follow) or file.visititems(look)
    except FileNotFoundError:
        raise
    except Exception as error:  # whatever h5py raises on damage
        raise ForeignError(reason(error)) from error
    if outside is not None:
        raise ForeignError(outside)
    _compare(claimed, path.stat().st_size)


def check_zarr(folder: Path) -> None:
    """Refuses a zarr group whose arrays claim far more than its files store.

    Raises:
        ForeignError: it does, or its metadata is damaged.
    """
    claimed = stored = 0
    for file in folder.rglob("*"):
        if not file.is_file():
            continue
        stored += file.stat().st_size
        if file.name in ("zarr.json", ".zarray"):
            claimed += _claimed(file)
    _compare(claimed, stored)


def _claimed(file: Path) -> int:
    try:
        found = json.loads(file.read_bytes())
        if file.name == "zarr.json" and found["node_type"] != "array":
            return 0
        kind = found["data_type"] if file.name == "zarr.json" else found["dtype"]
        width = _WIDTH.search(kind) if isinstance(kind, str) else None
        # Whole chunks are unpacked, also where the array is smaller; texts and bools have no number.
        chunk = (
            found["chunk_grid"]["configuration"]["chunk_shape"] if "chunk_grid" in found else found["chunks"]
        )
        size = max(math.prod(map(int, found["shape"])), math.prod(map(int, chunk)))
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise ForeignError(f"{file.name} of {file.parent.name}: {reason(error)}") from error
    bits = int(width[1]) if width else 8
    return size * max(bits // 8 if file.name == "zarr.json" else bits, 1)


def _compare(claimed: int, stored: int) -> None:
    if claimed > max(FLOOR, MAX_RATIO * stored):
        raise ForeignError(
            f"its arrays claim {claimed:,} bytes, of which {stored:,} are stored; the file is damaged, or "
            "made to fill the memory"
        )
