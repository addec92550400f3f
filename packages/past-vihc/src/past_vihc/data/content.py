"""Telling images apart by their content."""

import filecmp
import hashlib
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

HEAD = 2**20
"""Bytes of a file's beginning, and of its end, that are hashed."""


def content_key(path: Path) -> str:
    """A hash of a file: its size, first and last megabyte; of a folder: its metadata and place.

    Keys of different images differ but for files that were built to agree; a moved file keeps its key.
    """
    if path.is_dir():
        from past_core.slides.identity import source_key

        return hashlib.sha256(f"{path.resolve()} {source_key(path)}".encode()).hexdigest()
    found = path.stat()
    return _key(path, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=2**16)  # asked several times in a run; a changed file has another time
def _key(path: Path, size: int, _time: int) -> str:
    digest = hashlib.sha256(f"{size} bytes".encode())
    with path.open("rb") as file:
        digest.update(file.read(HEAD))
        if size > 2 * HEAD:
            file.seek(-HEAD, 2)
        digest.update(file.read())
    return digest.hexdigest()


def duplicates(paths: Iterable[Path]) -> list[tuple[Path, Path]]:
    """Pairs of different paths with one content, each later one with the first of its kind.

    Files whose keys agree are compared byte by byte: two scans may begin and end in the same white.
    """
    unique = list(dict.fromkeys(path.resolve() for path in paths))
    sizes = Counter(path.stat().st_size for path in unique)
    first: dict[str, list[Path]] = {}
    found = []
    for path in unique:
        if sizes[path.stat().st_size] == 1:
            continue  # most images are told apart without being read
        same = first.setdefault(content_key(path), [])
        twin = next(
            (other for other in same if other.is_file() and filecmp.cmp(other, path, shallow=False)), None
        )
        if twin is None:
            same.append(path)
        else:
            found.append((twin, path))
    return found
