"""Arrays of numbers in a zip of zarr format 2, as in Xenium bundles: read in place, sizes checked first."""

import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import zarr

from past_core.ingest.xenium_files import AGAIN, BundleError, named_after, open_zip

MAX_CHUNK = 2**30
"""Largest chunk in bytes that is decoded in one piece."""
MAX_METADATA = 2**22
"""Largest piece of metadata in bytes."""

_METADATA = (".zarray", ".zattrs", ".zgroup", ".zmetadata")

# A zarr array may name any codec, Pickle among them; only these run, and only on numbers.
_COMPRESSORS = {None, "blosc", "gzip", "lz4", "zlib", "zstd"}


class ZarrZip:
    """An open zip of zarr format 2; see `open_zarr`.

    Args:
        path: The zip file.
        archive: The same, open.

    Raises:
        BundleError: A piece of metadata claims an absurd size.
    """

    def __init__(self, path: Path, archive: zipfile.ZipFile):
        self.path = path
        self._archive = archive
        self._entries = {info.filename: info for info in archive.infolist()}
        for name, info in self._entries.items():
            if name.endswith(_METADATA) and info.file_size > MAX_METADATA:
                raise BundleError(f"{path}: {name} claims {info.file_size} bytes")
        # Consolidated metadata would be a second description of each array, past the one that is checked.
        store = zarr.storage.ZipStore(path, mode="r")
        self._root = zarr.open_group(store, mode="r", zarr_format=2, use_consolidated=False)

    def close(self) -> None:
        """Lets go of the file."""
        self._root.store.close()

    def __contains__(self, name: str) -> bool:
        return f"{name}/.zarray" in self._entries or f"{name}/.zgroup" in self._entries

    def attributes(self, group: str) -> dict[str, Any]:
        """The attributes of a group.

        Raises:
            BundleError: There are none, or they are no JSON object.
        """
        entry = self._entries.get(f"{group}/.zattrs")
        if entry is None:
            raise BundleError(f"{self.path} has no attributes of {group!r}; {AGAIN}")
        found = json.loads(self._archive.read(entry))
        if not isinstance(found, dict):
            raise BundleError(f"{self.path}: {entry.filename} holds no attributes")
        return found

    def described(self, name: str) -> dict[str, Any]:
        """The metadata of an array.

        Raises:
            BundleError: There is none, or it describes something else.
        """
        entry = self._entries.get(f"{name}/.zarray")
        if entry is None:
            raise BundleError(f"{self.path} has no array {name!r}; {AGAIN}")
        described = json.loads(self._archive.read(entry))
        if not isinstance(described, dict) or not all(
            isinstance(described.get(key), list)
            and all(type(size) is int and 0 <= size < 2**48 for size in described[key])
            for key in ("shape", "chunks")
        ):
            raise BundleError(f"{self.path}: {entry.filename} does not describe an array")
        return described

    def array(self, name: str, *, ndim: int) -> zarr.Array:
        """Opens an array of numbers.

        Raises:
            BundleError: It is missing, not of numbers, of other dimensions, or in chunks too large to decode.
        """
        described = self.described(name)
        codec = described.get("compressor")
        compressor = codec.get("id") if isinstance(codec, dict) else codec
        dtype = np.dtype(described["dtype"]) if isinstance(described.get("dtype"), str) else np.dtype(object)
        if described.get("filters") or compressor not in _COMPRESSORS or dtype.kind not in "uif":
            raise BundleError(
                f"{self.path}: array {name!r} of {dtype} with codec {compressor!r} and filters "
                f"{described.get('filters')!r} is not read; expected plain numbers"
            )
        chunks, shape = described["chunks"], described["shape"]
        size = np.prod(chunks, dtype=float) * dtype.itemsize
        if len(shape) != ndim or len(chunks) != ndim or min([*shape, *chunks]) < 1 or size > MAX_CHUNK:
            raise BundleError(
                f"{self.path}: array {name!r} has shape {shape} in chunks of {chunks}; expected {ndim}D in "
                f"chunks of at most {MAX_CHUNK} bytes"
            )
        for entry in self._entries.values():
            if entry.filename.startswith(f"{name}/") and entry.file_size > max(2 * size, MAX_METADATA):
                raise BundleError(
                    f"{self.path}: {entry.filename} claims {entry.file_size} bytes for a chunk of {size:.0f}"
                )
        found = self._root[name]
        if not isinstance(found, zarr.Array) or list(found.shape) != shape or list(found.chunks) != chunks:
            raise BundleError(f"{self.path}: {name!r} is described twice; {AGAIN}")
        return found

    def stored(self, name: str) -> tuple[int, int]:
        """Number of an array's chunks that are in the zip, and the bytes that they take unzipped."""
        sizes = [
            entry.file_size
            for key, entry in self._entries.items()
            if key.startswith(f"{name}/") and not key.endswith((*_METADATA, "/"))
        ]
        return len(sizes), sum(sizes)

    def values(
        self, name: str, *, ndim: int, rows: int | None = None, largest: int = MAX_CHUNK
    ) -> np.ndarray:
        """Reads an array whole.

        Args:
            name: Its path.
            ndim: Its number of dimensions.
            rows: Its length, where known.
            largest: Bytes that it may have.

        Raises:
            BundleError: As `array`, or of another length.
        """
        array = self.array(name, ndim=ndim)
        if rows is not None and array.shape[0] != rows:
            raise BundleError(f"{self.path}: array {name!r} has {array.shape[0]} rows, expected {rows}")
        if array.nbytes > largest:
            raise BundleError(f"{self.path}: array {name!r} of shape {array.shape} is too large")
        return np.asarray(array[...])


Opened = TypeVar("Opened", bound=ZarrZip)


@contextmanager
def open_zarr(path: Path, what: str, kind: type[Opened]) -> Iterator[Opened]:
    """Opens a zip of zarr in place.

    Args:
        path: The zip.
        what: What it holds, for messages.
        kind: How it is read.

    Raises:
        BundleNotFoundError: The file is not there.
        BundleError: No zip, truncated, damaged, or no zarr of format 2 in it.
    """
    with open_zip(path, what) as archive:
        if ".zgroup" not in archive.namelist():
            below = sorted({name.split("/")[0] for name in archive.namelist() if name.endswith("/.zgroup")})
            hint = f"; it holds one in the folder {below[0]!r}: zip that folder's content" if below else ""
            raise BundleError(f"{path} holds no zarr group of format 2 at its root{hint}")
        with named_after(path, f"a whole {path.name}"):
            opened = kind(path, archive)
            try:
                yield opened
            finally:
                opened.close()
