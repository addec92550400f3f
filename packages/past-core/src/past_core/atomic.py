"""Outputs exist whole or not at all: written beside their place under another name, then renamed."""

import ctypes
import errno
import os
import re
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from past_core.errors import PastError

DAY = 24 * 3600.0
"""Age in seconds at which what another machine left is given up."""

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""What the system says where there is no room: on the disk, in the quota, in a file system's largest file."""
DENIED = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG}
"""What it says where the place itself is the trouble."""

_FULL_TEXT = re.compile(
    "|".join([*(re.escape(os.strerror(code)) for code in FULL), *(rf"err(no|or) ?=? ?{c}\b" for c in FULL)]),
    re.IGNORECASE,
)
_HOST = re.sub(r"[^A-Za-z0-9]", "", socket.gethostname())[:20] or "host"


class OutputWriteError(PastError, OSError):
    """An output cannot be written: no room, or no right to."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name for a file or folder that takes the place of `path` when the block ends well.

    What was there stays until then. Parent folders are made. What killed writers of the same output left
    behind is removed.

    Raises:
        OutputWriteError: the disk is full, or the folder cannot be written to, whatever the library in the
            block made of that.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refusal(error, path) or error from error
    sweep(path.parent, f".{path.stem}.", f".part{path.suffix}")
    # The suffix stays last, for writers that go by it.
    temporary = path.with_name(f".{path.stem}.{writer()}.part{path.suffix}")
    try:
        yield temporary
        if path.is_dir() and not path.is_symlink():
            if exchange(temporary, path):
                discard(temporary)
                return
            aside = temporary.with_name(f"{temporary.name}.old")
            path.rename(aside)  # a folder cannot be replaced in one step
            temporary.rename(path)
            discard(aside)
        else:
            os.replace(temporary, path)  # noqa: PTH105
    except BaseException as error:
        refused = refusal(error, path, written=_size(temporary))
        discard(temporary)
        if refused is not None:
            raise refused from error
        raise
    # Only now: until the new one stands, an old one that was set aside may be all there is.
    sweep(path.parent, f".{path.stem}.", f".part{path.suffix}.old")


def refusal(error: BaseException, path: Path, *, written: int = 0) -> OutputWriteError | None:
    """What to say of an error that the disk or the folder of an output caused; None for any other.

    Libraries report a full disk as they like: h5py, torch, safetensors and tensorstore as another type than
    OSError, with the system's words somewhere in the text.

    Args:
        error: what was raised while `path` was written.
        path: the output.
        written: bytes that there were of it.
    """
    folder, chain = path.parent, _chain(error)
    if isinstance(error, PastError):
        return None
    if any(getattr(each, "errno", None) in FULL or _FULL_TEXT.search(str(each)) for each in chain):
        return OutputWriteError(
            f"{path}: there is no room for it{_room(folder, written)}; nothing half-written is left, and "
            f"what was there before is untouched. Make room in {folder} and give the same command again"
        )
    for each in chain:
        if isinstance(each, OSError) and each.errno in DENIED and _concerns(each, path):
            return OutputWriteError(
                f"{path} cannot be written ({each.strerror}: {each.filename}); nothing was changed there. "
                "Choose another output, or make its folder one that can be written to"
            )
    return None


def _chain(error: BaseException | None) -> list[BaseException]:
    """An error and those that led to it."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def _concerns(error: OSError, path: Path) -> bool:
    """Whether it is about an output, its temporary names, or a folder that it is to be in."""
    if not isinstance(error.filename, str | bytes):
        return False
    named, own = (Path(os.path.abspath(os.fsdecode(each))) for each in (error.filename, path))  # noqa: PTH100
    if own.is_relative_to(named):
        return True
    own_name = named.relative_to(own.parent).parts[0] if named.is_relative_to(own.parent) else ""
    return bool(own_name) and (own_name == own.name or own_name.startswith(f".{own.stem}."))


def _room(folder: Path, written: int) -> str:
    """How far writing came, and how much is free now."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return ""
    return f" (writing broke off after {_bytes(written)}; {_bytes(free)} were free)"


def _bytes(size: float) -> str:
    power = max(0, min(int(size).bit_length() - 1, 40)) // 10
    digits = 1 if power else 0
    return f"{size / 1024**power:.{digits}f} {('bytes', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"


def _size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder, that are there."""
    try:
        files = [path, *path.rglob("*")] if path.is_dir() else [path]
        return sum(each.lstat().st_size for each in files if not each.is_dir())
    except OSError:
        return 0


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
    """Removes a file or folder if it is there; what the system does not let go stays for the next `sweep`."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with suppress(OSError):
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
