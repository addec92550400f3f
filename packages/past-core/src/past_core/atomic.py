"""Outputs exist whole or not at all: written beside their place under another name, then renamed."""

import ctypes
import os
import re
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DAY = 24 * 3600.0
"""Age in seconds at which what another machine left is given up."""

_HOST = re.sub(r"[^A-Za-z0-9]", "", socket.gethostname())[:20] or "host"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name for a file or folder that takes the place of `path` when the block ends well.

    What was there stays until then. Parent folders are made. What killed writers of the same output left
    behind is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent, f".{path.stem}.", f".part{path.suffix}")
    # The suffix stays last, for writers that go by it.
    temporary = path.with_name(f".{path.stem}.{writer()}.part{path.suffix}")
    try:
        yield temporary
        if path.is_dir() and not path.is_symlink():
            if exchange(temporary, path):
                shutil.rmtree(temporary)
                return
            aside = temporary.with_name(f"{temporary.name}.old")
            path.rename(aside)  # a folder cannot be replaced in one step
            temporary.rename(path)
            shutil.rmtree(aside)
        else:
            os.replace(temporary, path)  # noqa: PTH105
    except BaseException:
        discard(temporary)
        raise
    # Only now: until the new one stands, an old one that was set aside may be all there is.
    sweep(path.parent, f".{path.stem}.", f".part{path.suffix}.old")


def exchange(new: Path, old: Path) -> bool:
    """Swaps two files or folders of one file system in one step: at no moment is either name without one.

    Returns:
        whether it was done; False where the system cannot (renameat2 of Linux and most of its file systems).
    """
    if sys.platform != "linux":
        return False
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return renameat2(here, os.fsencode(new), here, os.fsencode(old), swap) == 0


def discard(path: Path) -> None:
    """Removes a file or folder if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def writer() -> str:
    """Marks a temporary name as this process's; unique."""
    return f"{_HOST}-{os.getpid()}-{secrets.token_hex(4)}"


def sweep(folder: Path, before: str, after: str) -> list[Path]:
    """Removes what killed writers left: temporary names whose process on this machine is gone, or a day old.

    Args:
        folder: Where to look.
        before: How the names begin, up to the mark of `writer`.
        after: How they end, after it.

    Returns:
        What was removed.
    """
    mark = r"(?:(?P<host>[A-Za-z0-9]+)-)?(?P<pid>[0-9]+)-[0-9a-f]{8}"
    pattern = re.compile(re.escape(before) + mark + re.escape(after))
    gone = []
    for path in folder.iterdir() if folder.is_dir() else ():
        match = pattern.fullmatch(path.name)
        if match and _abandoned(path, match["host"], int(match["pid"])):
            discard(path)
            gone.append(path)
    return gone


def _abandoned(path: Path, host: str | None, pid: int) -> bool:
    if host == _HOST:
        if not _runs(pid):
            return True
        if pid == os.getpid():
            return False  # another thread's
    try:
        return time.time() - path.lstat().st_mtime > DAY
    except OSError:
        return False  # its writer was quicker


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # another user's
    return True
