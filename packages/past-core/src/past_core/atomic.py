"""Outputs exist whole or not at all: written beside their place under another name, then renamed."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name for a file or folder that takes the place of `path` when the block ends well.

    What was there stays until then. Parent folders are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last, for writers that go by it.
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}.part{path.suffix}")
    try:
        yield temporary
        if path.is_dir() and not path.is_symlink():
            aside = temporary.with_name(f"{temporary.name}.old")
            path.rename(aside)  # a folder cannot be replaced in one step
            temporary.rename(path)
            shutil.rmtree(aside)
        else:
            os.replace(temporary, path)  # noqa: PTH105
    except BaseException:
        discard(temporary)
        raise


def discard(path: Path) -> None:
    """Removes a file or folder if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
