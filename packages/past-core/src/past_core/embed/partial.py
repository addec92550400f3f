"""Vectors of a run that was interrupted, kept beside the output until that is complete.

A file `.OUTPUT.KEY.partial` holds records one after another: how many vectors, a checksum, their indices, the
vectors. It is only ever appended to, and its name and first bytes are a hash of all that determines the
vectors, so that another encoder, setting or slide never takes it up. What a kill cut short fails its checksum
and is dropped.
"""

import hashlib
import json
import logging
import os
import struct
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from past_core.atomic import FULL, discard, refusal
from past_core.errors import PastError
from past_core.locks import try_lock

logger = logging.getLogger(__name__)

FLUSH_BATCHES = 64
"""Most batches that a kill can cost,"""
FLUSH_SECONDS = 10.0
"""or, of slow encoders, most seconds of work."""

_MAGIC = b"PASTPRT1"
_RECORD = struct.Struct("<QI")


class PartialError(PastError, OSError):
    """Another run writes the same output, or what is done cannot be kept beside it."""


class PartialBusyError(PartialError):
    """Another run is making the same."""


class Vectors:
    """Vectors that are made batch by batch, and survive a kill where they have a file.

    Attributes:
        values: `(n, dim)` float32; only rows of `done` are meant.
        done: `(n,)` bool.
    """

    def __init__(self, n: int, dim: int, file: IO[bytes] | None = None) -> None:
        self.values = np.empty((n, dim), np.float32)
        self.done = np.zeros(n, bool)
        self._file = file
        self._waiting: list[tuple[np.ndarray, np.ndarray]] = []
        self._flushed = time.monotonic()

    def add(self, index: np.ndarray, vectors: np.ndarray) -> None:
        """Takes the vectors of a batch: rows `index` `(B,)`, `(B, dim)`."""
        self.values[index] = vectors
        self.done[index] = True
        if self._file is None:
            return
        self._waiting.append((index, vectors))
        late = time.monotonic() - self._flushed >= FLUSH_SECONDS
        if late or len(self._waiting) >= FLUSH_BATCHES:
            self.flush()

    def flush(self) -> None:
        """Appends what is waiting as one record, and has it on the disk when it returns."""
        if self._file is not None and self._waiting:
            index = np.concatenate([part for part, _ in self._waiting]).astype("<i8")
            vectors = np.concatenate([part for _, part in self._waiting]).astype("<f4")
            self._waiting.clear()  # also where this fails: what follows half a record would never be read
            content = index.tobytes() + vectors.tobytes()
            _append(self._file, _RECORD.pack(len(index), zlib.crc32(content)) + content)
        self._flushed = time.monotonic()

    def recover(self, start: int) -> int:
        """Takes the whole records of its file from position `start` on; returns where they end."""
        n, dim = self.values.shape
        end, file = start, self._file
        if file is None:
            return end
        file.seek(start)
        while len(head := file.read(_RECORD.size)) == _RECORD.size:
            count, checksum = _RECORD.unpack(head)
            if not 0 < count <= n:
                break
            content = file.read(count * (8 + 4 * dim))
            if len(content) < count * (8 + 4 * dim) or zlib.crc32(content) != checksum:
                break
            index = np.frombuffer(content, "<i8", count)
            if index.min() < 0 or index.max() >= n:
                break
            self.values[index] = np.frombuffer(content, "<f4", offset=8 * count).reshape(count, dim)
            self.done[index] = True
            end = file.tell()
        return end


def _append(file: IO[bytes], record: bytes) -> None:
    """Puts a record at the end, whole or not at all."""
    end, rest = file.seek(0, os.SEEK_END), memoryview(record)
    try:
        while rest:  # a nearly full disk takes a part, then refuses
            rest = rest[file.write(rest) :]
        os.fsync(file.fileno())
    except OSError:
        with suppress(OSError):
            file.truncate(end)
        raise


@contextmanager
def partial_vectors(output: str | Path | None, key: Mapping[str, Any], n: int, dim: int) -> Iterator[Vectors]:
    """Vectors of `n` items, those of an interrupted run already done.

    The file stays, also when the block ends well, until `sweep` removes it: then the output is complete.

    Args:
        output: what will be written in the end; None keeps nothing.
        key: all that determines the vectors.
        n: how many.
        dim: their length.

    Raises:
        PartialBusyError: another run is making the same.
        PartialError: the disk is full; what was kept until then is whole.
    """
    if output is None:
        yield Vectors(n, dim)
        return
    output = Path(output)
    digest = hashlib.sha256(json.dumps([key, n, dim], sort_keys=True, default=str).encode())
    path = output.with_name(f".{output.name}.{digest.hexdigest()[:16]}.partial")
    head = _MAGIC + digest.digest()
    with _explained(output), _opened(path) as file:
        if not try_lock(file.fileno()):
            raise PartialBusyError(
                f"{output}: another run is making this output; wait for it or choose another name"
            )
        vectors = Vectors(n, dim, file)
        file.seek(0)
        known = file.read(len(head)) == head
        file.truncate(vectors.recover(len(head)) if known else 0)
        if not known:
            file.write(head)
            os.fsync(file.fileno())
            _sync_folder(path.parent)
        elif vectors.done.any():
            logger.info("%s: goes on after %d of %d", output, np.count_nonzero(vectors.done), n)
        try:
            yield vectors
        finally:
            vectors.flush()


def sweep(output: str | Path) -> None:
    """Removes what interrupted runs kept beside an output."""
    output = Path(output)
    prefix = f".{output.name}."
    for path in output.parent.iterdir() if output.parent.is_dir() else ():
        if path.name.startswith(prefix) and path.suffix == ".partial":
            discard(path)


def _opened(path: Path) -> IO[bytes]:
    """Open for appending, and without a buffer: what a full disk refuses is not tried again on closing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("a+b", buffering=0)


@contextmanager
def _explained(output: Path) -> Iterator[None]:
    """Says of a full disk or a read-only folder what is kept and what to do."""
    try:
        yield
    except OSError as error:
        refused = refusal(error, output)
        if refused is None:
            raise
        full = error.errno in FULL
        raise PartialError(
            f"{output}: what is embedded cannot be kept beside it ({error.strerror}); what was kept before "
            f"is whole. {'Make room in' if full else 'Make it possible to write to'} {output.parent} and "
            "give the same command again, which goes on from there, or choose another output"
        ) from error


def _sync_folder(folder: Path) -> None:
    with suppress(OSError, AttributeError):  # where folders cannot be opened
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
