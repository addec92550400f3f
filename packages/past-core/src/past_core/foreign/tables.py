"""CSV tables from elsewhere, plain or compressed, through pandas; what they unpack to is bounded."""

import bz2
import gzip
import io
import lzma
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from past_core.foreign.errors import ForeignError, reason

if TYPE_CHECKING:
    import pandas as pd

MAX_BYTES = 2**28
"""Most bytes of text that are read; a table of cells is told with another number."""
_UNPACKERS: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


def read_csv(path: Path, *, max_bytes: int = MAX_BYTES, **options: Any) -> "pd.DataFrame":
    """`pandas.read_csv` of a `.csv`, `.tsv` or the like, or one of them in `.gz`, `.bz2`, `.xz` or `.zip`.

    Args:
        path: the file.
        max_bytes: of its text, unpacked.
        options: of pandas.

    Raises:
        FileNotFoundError: nothing is there.
        ForeignError: no such table, damaged, several files in the zip, or more text than that.
    """
    import pandas as pd

    try:
        with opened(path, max_bytes=max_bytes) as text:
            return pd.read_csv(text, **options)
    except (ForeignError, FileNotFoundError):
        raise
    except Exception as error:  # pandas and the unpackers raise their own, and MemoryError
        raise ForeignError(reason(error)) from error


@contextmanager
def opened(path: Path, *, max_bytes: int = MAX_BYTES) -> Iterator[IO[bytes]]:
    """The bytes of a file, unpacked by its ending; reading more than `max_bytes` raises.

    Raises:
        FileNotFoundError: nothing is there.
        ForeignError: see `read_csv`.
    """
    suffix = path.suffix.lower()
    if suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            if len(members) != 1:
                raise ForeignError(f"a zip of {len(members)} files; expected one table in it")
            with archive.open(members[0]) as raw:
                yield _bounded(raw, max_bytes)
        return
    with _UNPACKERS.get(suffix, lambda file: file.open("rb"))(path) as raw:
        yield _bounded(raw, max_bytes)


def _bounded(raw: IO[bytes], most: int) -> IO[bytes]:
    return io.BufferedReader(_Bounded(raw, most), 2**20)


class _Bounded(io.RawIOBase):
    """A stream that ends in an error where it is longer than it may be."""

    def __init__(self, raw: IO[bytes], most: int) -> None:
        self._raw, self._most, self._read = raw, most, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._raw.read(len(buffer))
        self._read += len(data)
        if self._read > self._most:
            raise ForeignError(f"more than {self._most:,} bytes of text; is it the right file?")
        buffer[: len(data)] = data
        return len(data)
