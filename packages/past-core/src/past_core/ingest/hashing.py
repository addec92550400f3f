"""Hashes of source files for the manifest."""

import hashlib
from pathlib import Path


def sha256(source: Path) -> str:
    """SHA-256 of a file, read in pieces; of a folder, over its files' names and hashes in sorted order."""
    if source.is_file():
        with source.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    total = hashlib.sha256()
    for file in sorted(item for item in source.rglob("*") if item.is_file()):
        total.update(f"{file.relative_to(source).as_posix()}\0{sha256(file)}\n".encode())
    return total.hexdigest()
