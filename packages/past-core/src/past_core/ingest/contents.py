"""What a slide store holds: its files, listed once, and its table as zarr reads it, also behind a URL."""

import asyncio
import os
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype

from past_core.ingest.layout import StoreError, count_chunks, parse_json, read_json
from past_core.remote import Location, RemotePath, open_kvstore

METADATA = "zarr.json"
_CHUNK = re.compile(r"(.+)/c(?:/\d+)+")


class Contents:
    """The files in some folders of a store, as they were when it was opened.

    Behind a URL that is one listing, of a thousand keys a request, and one read of each piece of metadata,
    all at once. Plain HTTP servers have no listing: then a chunk that lacks is found when it is read.

    Args:
        root: The store.
        folders: The folders in it that count.

    Raises:
        RemoteError: The server cannot be reached, or refuses.
    """

    def __init__(self, root: Location, folders: Sequence[str]) -> None:
        self.root = root
        self.listed = not isinstance(root, RemotePath) or root.listable
        self.keys: frozenset[str] = frozenset()
        self._metadata: dict[str, bytes] = {}
        if isinstance(root, RemotePath):
            if self.listed:
                self._read_remote(root, folders)
        else:
            self.keys = frozenset(
                f"{below}/{file}"
                for folder in folders
                for at, _, files in os.walk(root / folder)
                for below in [Path(at).relative_to(root).as_posix()]
                for file in files
            )
        self._nodes = sorted(key for key in self.keys if key.rsplit("/", 1)[-1] == METADATA)
        self._chunks = Counter(match[1] for key in self.keys if (match := _CHUNK.fullmatch(key)))

    def _read_remote(self, root: RemotePath, folders: Sequence[str]) -> None:
        listings = {folder: open_kvstore(root / folder).list() for folder in folders}
        self.keys = frozenset(
            f"{folder}/{key.decode()}" for folder in folders for key in root.wait(listings[folder])
        )
        store = open_kvstore(root)
        reads = {key: store.read(key) for key in self.keys if key.rsplit("/", 1)[-1] == METADATA}
        self._metadata = {key: root.wait(read).value for key, read in reads.items()}

    def metadata(self, folder: str) -> dict[str, Any]:
        """The zarr metadata of a group or array.

        Raises:
            StoreError: It is missing or damaged.
        """
        key = f"{folder}/{METADATA}"
        if key in self._metadata:
            return parse_json(self._metadata[key], self.root / key)
        return read_json(self.root / key)

    def missing(self, folder: str) -> tuple[str, int] | None:
        """The first array in a folder, or the folder itself, that lacks chunks, and how many.

        An absent chunk reads as the fill value. The writer stores every chunk, so one that lacks is lost.

        Raises:
            StoreError: The folder's own metadata are missing, or any are damaged.
        """
        self.metadata(folder)
        below = f"{folder}/"
        for key in self._nodes:
            if not key.startswith(below):
                continue
            array = key.removesuffix(f"/{METADATA}")
            lacking = count_chunks(self.metadata(array)) - self._chunks[array]
            if lacking > 0:
                return array, lacking
        return None

    def table(self, folder: str) -> "Location | TableStore":
        """What zarr opens to read the group in `folder`."""
        if not isinstance(self.root, RemotePath):
            return self.root / folder
        below = f"{folder}/"
        return TableStore(
            self.root / folder,
            {key.removeprefix(below) for key in self.keys if key.startswith(below)} if self.listed else None,
            {key.removeprefix(below): text for key, text in self._metadata.items() if key.startswith(below)},
        )


class TableStore(Store):
    """A group behind a URL, for zarr to read; what the listing does not have is not asked for.

    Args:
        location: The group.
        keys: Every key below it, None where they cannot be listed.
        metadata: The zarr metadata that were read already.
    """

    def __init__(self, location: RemotePath, keys: Iterable[str] | None, metadata: dict[str, bytes]) -> None:
        super().__init__(read_only=True)
        self._is_open = True
        self._location = location
        self._keys = None if keys is None else frozenset(keys)
        self._metadata = metadata
        self._ahead: dict[str, bytes] = {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TableStore) and self._location == other._location

    def __hash__(self) -> int:
        return hash(self._location)

    def __str__(self) -> str:
        return str(self._location)

    supports_writes = False
    supports_deletes = False

    @property
    def supports_listing(self) -> bool:
        """Whether the keys are known."""
        return self._keys is not None

    def read_ahead(self, folder: str) -> None:
        """Reads everything in a folder at once, rather than array by array, until the next call.

        Raises:
            RemoteError: The server cannot be reached, or refuses.
        """
        self._ahead = {}
        store = open_kvstore(self._location)
        wanted = [key for key in self._keys or () if f"{key}/".startswith(f"{folder}/")]
        reads = {key: store.read(key) for key in wanted if key not in self._metadata}
        found = {key: self._location.wait(read) for key, read in reads.items()}
        self._ahead = {key: read.value for key, read in found.items() if read.state != "missing"}

    def forget(self) -> None:
        """Drops what was read ahead."""
        self._ahead = {}

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """The value of a key, None where there is none; see `zarr.abc.store.Store.get`.

        Raises:
            StoreError: A chunk is lost.
            RemoteError: The server cannot be reached, or refuses.
        """
        value = self._metadata.get(key, self._ahead.get(key))
        if value is None and (self._keys is None or key in self._keys):
            reading = open_kvstore(self._location).read(key)
            found = await asyncio.to_thread(self._location.wait, reading)
            value = None if found.state == "missing" else found.value
        if value is None:
            if _CHUNK.fullmatch(f"/{key}"):
                raise StoreError(f"{self._location / key} is missing; the store is damaged, upload it again")
            return None
        return prototype.buffer.from_bytes(value[_slice(byte_range)])

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """The values of several keys."""
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    async def exists(self, key: str) -> bool:
        """Whether there is a value."""
        if self._keys is not None:
            return key in self._keys
        return key in self._metadata or (self._location / key).is_file()

    async def set(self, key: str, value: Buffer) -> NoReturn:
        """Refuses: what lies behind a URL is only read."""
        self._check_writable()
        raise NotImplementedError

    async def delete(self, key: str) -> NoReturn:
        """Refuses: what lies behind a URL is only read."""
        self._check_writable()
        raise NotImplementedError

    async def list(self) -> AsyncIterator[str]:
        """All keys."""
        for key in sorted(self._known()):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """All keys with a prefix."""
        for key in sorted(key for key in self._known() if key.startswith(prefix)):
            yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """The names right below a folder."""
        below = f"{prefix.rstrip('/')}/" if prefix else ""
        for name in sorted({k[len(below) :].split("/")[0] for k in self._known() if k.startswith(below)}):
            yield name

    def _known(self) -> frozenset[str]:
        if self._keys is None:
            raise StoreError(f"{self._location}: plain HTTP servers list nothing; use s3:// or gs://")
        return self._keys


def _slice(wanted: ByteRequest | None) -> slice:
    """A byte range as a slice."""
    if isinstance(wanted, RangeByteRequest):
        return slice(wanted.start, wanted.end)
    if isinstance(wanted, OffsetByteRequest):
        return slice(wanted.offset, None)
    if isinstance(wanted, SuffixByteRequest):
        return slice(-wanted.suffix, None) if wanted.suffix else slice(0, 0)
    return slice(None)
