"""Opens the files of a Xenium bundle; whatever is wrong with one becomes a `BundleError` that names it."""

import json
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from past_core.errors import PastError


class BundleError(PastError, ValueError):
    """A Xenium bundle is damaged, inconsistent, or of a kind that is not read."""


class BundleNotFoundError(PastError, FileNotFoundError):
    """A Xenium bundle or one of its files is not there."""


AGAIN = "copy the bundle again"
MAX_JSON = 2**26
"""Largest manifest in bytes."""
MAX_RATIO = 1100
"""No byte of deflated data unpacks to more."""
MAX_TEXT = 4096
"""Longest fixed-width string in an HDF5 file, in bytes."""

# What libraries raise on damaged content; PastErrors, which are ValueErrors too, are let through.
DAMAGED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)


@contextmanager
def named_after(path: Path, what: str) -> Iterator[None]:
    """Turns what a library raises on damaged content into an error that names the file.

    Args:
        path: The file.
        what: What it should have been, such as "a whole zip file".

    Raises:
        BundleError: Instead of any of `DAMAGED`.
    """
    try:
        yield
    except PastError:
        raise
    except DAMAGED as error:
        said = str(error).strip() or type(error).__name__
        raise BundleError(f"{path} is not {what} ({said[:300]}); {AGAIN}") from error


def require_file(path: Path, what: str) -> Path:
    """Returns `path` if it is a file with content.

    Raises:
        BundleNotFoundError: It is not there.
        BundleError: It is empty.
    """
    if not path.is_file():
        raise BundleNotFoundError(f"{path} not found: expected {what}")
    if path.stat().st_size == 0:
        raise BundleError(f"{path} is empty (0 bytes): expected {what}; {AGAIN}")
    return path


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        BundleNotFoundError: The file is not there.
        BundleError: It is no JSON object, or larger than any manifest.
    """
    require_file(path, what)
    if path.stat().st_size > MAX_JSON:
        raise BundleError(f"{path} has {path.stat().st_size} bytes, too many for {what}")
    with named_after(path, "readable JSON"):
        content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise BundleError(f"{path} holds a JSON {type(content).__name__}, expected an object: {what}")
    return content


@contextmanager
def open_hdf5(path: Path, what: str) -> Iterator[h5py.File]:
    """Opens an HDF5 file for reading; what goes wrong inside the block is named after the file too.

    Raises:
        BundleNotFoundError: The file is not there.
        BundleError: It is no HDF5 file, truncated, or lacks what is asked for.
    """
    require_file(path, what)
    with named_after(path, "a whole HDF5 file"):
        try:
            with h5py.File(path, "r") as file:
                yield file
        except KeyError as error:
            raise BundleError(f"{path} lacks a part of {what} ({error.args[0]})") from error


def dataset(group: h5py.Group, name: str, path: Path) -> h5py.Dataset:
    """A dataset that lies in this very file and whose elements are numbers or short text.

    Raises:
        KeyError: It is not there.
        BundleError: It is a group, a link into another file, or of another kind.
    """
    link = group.get(name, getlink=True)
    found = group[name] if not isinstance(link, h5py.ExternalLink) else None
    if not isinstance(found, h5py.Dataset) or found.external or found.is_virtual:
        raise BundleError(f"{path}: {group.name}/{name} is no dataset of this file; {AGAIN}")
    if found.ndim != 1 or found.dtype.kind not in "iufSO" or found.dtype.itemsize > MAX_TEXT:
        raise BundleError(
            f"{path}: {group.name}/{name} is {found.dtype} of shape {found.shape}, expected one dimension of "
            "numbers or text"
        )
    return found


@contextmanager
def open_zip(path: Path, what: str) -> Iterator[zipfile.ZipFile]:
    """Opens a zip for reading in place; nothing is ever unpacked.

    Raises:
        BundleNotFoundError: The file is not there.
        BundleError: It is no zip, truncated or damaged.
    """
    require_file(path, what)
    with named_after(path, "a whole zip file"), zipfile.ZipFile(path) as archive:
        _check_entries(path, archive)
        yield archive


def _check_entries(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuses entries that claim more than the file can hold: their sizes are allocated on reading."""
    size = path.stat().st_size
    for entry in archive.infolist():
        stored = entry.compress_type == zipfile.ZIP_STORED
        most = entry.compress_size if stored else entry.compress_size * MAX_RATIO + 1024
        if entry.compress_size > size or entry.file_size > most:
            raise BundleError(
                f"{path}: entry {entry.filename[:200]!r} claims {entry.compress_size} bytes that unpack to "
                f"{entry.file_size}, in a file of {size} bytes; {AGAIN}"
            )
