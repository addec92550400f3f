"""Files that were made to do harm: pickles that run code, TIFFs and zips that claim or unpack to too much."""

import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from past_core.errors import PastError

DEEP = b"[" * 100_000
"""JSON deeper than any parser's stack."""


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple:
        return os.system, (f"touch '{self.marker}'",)


def pickles(marker: Path) -> dict[str, Callable[[Path], object]]:
    """Ways to hide code in a file of weights, of arrays or of a table: name, and what writes it."""
    evil = Touch(marker)
    weight = torch.zeros(3, 2)

    def zipped(path: Path, content: object) -> None:
        torch.save(content, path)

    def in_torchs_zip(path: Path) -> None:
        """A good archive whose pickle was exchanged."""
        torch.save({"features": weight}, path)
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for name, data in members.items():
                archive.writestr(name, pickle.dumps(evil) if name.endswith("data.pkl") else data)

    def npz(path: Path) -> None:
        with path.open("wb") as file:
            np.savez(file, features=np.array([[evil]], object), allow_pickle=True)

    def npy(path: Path) -> None:
        with path.open("wb") as file:
            np.save(file, np.array([[evil, evil]], object), allow_pickle=True)

    return {
        "a pickle": lambda path: path.write_bytes(pickle.dumps(evil)),
        "protocol 0": lambda path: path.write_bytes(pickle.dumps(evil, 0)),
        "torch's archive": lambda path: zipped(path, evil),
        "an entry of a state dict": lambda path: zipped(path, {"state_dict": {"w": weight}, "x": evil}),
        "an exchanged pickle": in_torchs_zip,
        "torch's old format": lambda path: torch.save(
            {"state_dict": {"w": weight}, "x": evil}, path, _use_new_zipfile_serialization=False
        ),
        "an array of objects": npy,
        "an archive of objects": npz,
    }


def refused(read: Callable[[], object], *words: str) -> PastError:
    """Asserts that a reader refuses in PAST's own words, and says them."""
    with pytest.raises(PastError) as caught:
        read()
    text = str(caught.value)
    assert text.strip()
    assert "Traceback" not in text
    assert len(text) < 5000
    for word in words:
        assert word in text, f"{word!r} is not in {text!r}"
    return caught.value


def settled(read: Callable[[], object]) -> PastError | None:
    """Reads; whatever is raised but a PastError goes through, and fails the test."""
    caught = None
    try:
        read()
    except PastError as error:
        caught = error
    assert "Traceback" not in str(caught)
    return caught


def damaged(content: bytes, kind: str, places: Sequence[float], value: int) -> bytes:
    """Content with bytes overwritten, cut off, cut out, repeated, or followed by others.

    Args:
        content: of a good file.
        kind: "flip", "truncate", "drop", "repeat" or "append".
        places: shares of the length, from 0 to 1.
        value: of bytes that are written.
    """
    if not content:
        return bytes([value])
    at = [min(int(place * len(content)), len(content) - 1) for place in places]
    if kind == "flip":
        changed = bytearray(content)
        for place in at:
            changed[place] = value
        return bytes(changed)
    first, last = min(at), max(at) + 1
    return {
        "truncate": content[:first],
        "drop": content[:first] + content[last:],
        "repeat": content[:last] + content[first:],
        "append": content + bytes([value]) * (last - first),
    }[kind]


KINDS = ("flip", "truncate", "drop", "repeat", "append")


def fuzz(path: Path, content: bytes, read: Callable[[Path], object], *, named: bool = False) -> None:
    """Damages a good file in every way: reading it gives a named error, or a result.

    Args:
        path: where the damaged file is written.
        content: of the good one.
        read: what reads it.
        named: whether every error names the file.
    """

    @settings(max_examples=30, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(KINDS), st.lists(st.floats(0, 1), min_size=1, max_size=6), st.integers(0, 255))
    def damage(kind: str, places: list[float], value: int) -> None:
        path.unlink(missing_ok=True)  # maps of the one before stay what they were
        path.write_bytes(damaged(content, kind, places, value))
        error = settled(lambda: read(path))
        assert error is None or not named or path.name in str(error), f"names no file: {error}"

    damage()


# --- TIFF ---------------------------------------------------------------------------------

SHORT, LONG = 3, 4
_FORMATS = {SHORT: "H", LONG: "I"}


def write_tiff(
    path: Path, tags: dict[int, tuple[int, Sequence[int]]], data: bytes = b"", *, next_ifd: int = 0
) -> Path:
    """Writes a classic TIFF of one directory, whatever it says; the data lies at `data_offset(tags)`."""
    end = 8 + 2 + 12 * len(tags) + 4
    head = b"II*\0" + struct.pack("<IH", 8, len(tags))
    outside = b""
    for tag, (kind, values) in sorted(tags.items()):
        packed = struct.pack(f"<{len(values)}{_FORMATS[kind]}", *values)
        where = packed.ljust(4, b"\0") if len(packed) <= 4 else struct.pack("<I", end + len(outside))
        outside += packed if len(packed) > 4 else b""
        head += struct.pack("<HHI", tag, kind, len(values)) + where
    path.write_bytes(head + struct.pack("<I", next_ifd) + outside + data)
    return path


def rgb_tags(width: int, height: int, compression: int) -> dict[int, tuple[int, Sequence[int]]]:
    """The tags of an RGB image but those of its segments."""
    return {
        256: (LONG, [width]),
        257: (LONG, [height]),
        258: (SHORT, [8, 8, 8]),
        259: (SHORT, [compression]),
        262: (SHORT, [2]),
        277: (SHORT, [3]),
        284: (SHORT, [1]),
    }


def tiled(
    width: int, height: int, compression: int, offsets: Sequence[int], counts: Sequence[int], tile: int = 256
) -> dict[int, tuple[int, Sequence[int]]]:
    """The tags of a tiled RGB image."""
    return rgb_tags(width, height, compression) | {
        322: (LONG, [tile]),
        323: (LONG, [tile]),
        324: (LONG, offsets),
        325: (LONG, counts),
    }


ONE_TILE = 8 + 2 + 12 * 11 + 4 + 6
"""Where the data begins in a file of `tiled` with one tile: behind the directory and the bits per sample."""
