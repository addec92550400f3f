"""Opens the files of a Xenium bundle; whatever is wrong with one becomes a `BundleError` that names it."""

import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import pyarrow as pa
import pyarrow.parquet as pq

from past_core.errors import PastError


class BundleError(PastError, ValueError):
    """A Xenium bundle is damaged, inconsistent, or of a kind that is not read."""


class BundleNotFoundError(PastError, FileNotFoundError):
    """A Xenium bundle or one of its files is not there."""


AGAIN = "copy the bundle again"


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
        BundleError: It is no JSON object.
    """
    require_file(path, what)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BundleError(f"{path} is not readable JSON ({error}); {AGAIN}") from error
    if not isinstance(content, dict):
        raise BundleError(f"{path} holds a JSON {type(content).__name__}, expected an object: {what}")
    return content


def read_table(
    path: Path, what: str, *, required: tuple[str, ...], optional: tuple[str, ...] = ()
) -> pa.Table:
    """Reads columns of a parquet file by name.

    Args:
        path: The file.
        what: What it is, for messages.
        required: Columns that must be there.
        optional: Columns that are read where they exist.

    Raises:
        BundleNotFoundError: The file is not there.
        BundleError: It is no parquet file, truncated, or lacks a column.
    """
    require_file(path, what)
    try:
        with pq.ParquetFile(path) as file:
            present = file.schema_arrow.names
            missing = [column for column in required if column not in present]
            if missing:
                raise BundleError(
                    f"{path} has no column {', '.join(map(repr, missing))}: expected {what} with "
                    f"{', '.join(required)}; found {', '.join(present)}"
                )
            return file.read(columns=[*required, *(column for column in optional if column in present)])
    except (pa.ArrowException, OSError) as error:
        raise BundleError(f"{path} is not a whole parquet file ({error}); {AGAIN}") from error


@contextmanager
def open_hdf5(path: Path, what: str) -> Iterator[h5py.File]:
    """Opens an HDF5 file for reading; what goes wrong inside the block is named after the file too.

    Raises:
        BundleNotFoundError: The file is not there.
        BundleError: It is no HDF5 file, truncated, or lacks what is asked for.
    """
    require_file(path, what)
    try:
        with h5py.File(path, "r") as file:
            yield file
    except BundleError:
        raise
    except KeyError as error:
        raise BundleError(f"{path} lacks a part of {what} ({error.args[0]})") from error
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise BundleError(f"{path} is not a whole HDF5 file ({error}); {AGAIN}") from error


@contextmanager
def open_zip(path: Path, what: str) -> Iterator[zipfile.ZipFile]:
    """Opens a zip for reading in place; nothing is ever unpacked.

    Raises:
        BundleNotFoundError: The file is not there.
        BundleError: It is no zip, truncated or damaged.
    """
    require_file(path, what)
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise BundleError(f"{path} is not a whole zip file ({error}); {AGAIN}") from error
