"""One writer an output: locks that the operating system drops with the process that held them."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from past_core.atomic import refusal, writer
from past_core.errors import PastError
from past_core.remote import require_local

logger = logging.getLogger(__name__)


class OutputBusyError(PastError, OSError):
    """Another run is making the same output."""


@contextmanager
def claimed(output: str | Path) -> Iterator[None]:
    """Holds an output, file or folder, for this run; to be held before looking whether it exists.

    The lock is on a file `.NAME.lock` beside the output, which is removed in the end. One that a killed run
    left holds nobody up: the lock itself ended with that run. Parent folders are made, and those that stay
    empty removed again. Where the system or the file system has no locks, nothing is held.

    Args:
        output: what will be written.

    Raises:
        OutputBusyError: another run, or another thread of this one, holds it.
        OutputWriteError: the folder cannot be written.
        RemoteError: a URL.
    """
    path = Path(os.path.abspath(require_local(output)))  # noqa: PTH100 - resolves `..` but no links
    if not path.name:  # the root of the file system; whoever writes says what is wrong with it
        yield
        return
    lock = path.with_name(f".{path.name}.lock")
    made = _missing(path.parent)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = _open_locked(lock, output)
    except OSError as error:
        raise refusal(error, path) or error from error
    try:
        with suppress(OSError):  # a full disk, or a file system that only lets us lock it
            os.ftruncate(handle, 0)
            os.write(handle, writer().encode())
        yield
    finally:
        # While the lock is held: whoever waits for the file then finds that it is not the one there any more.
        with suppress(OSError):
            lock.unlink()
        unlock(handle)
        os.close(handle)
        for folder in made:
            with suppress(OSError):  # there is something in it
                folder.rmdir()


def try_lock(file: int, *, shared: bool = False) -> bool:
    """Locks an open file without waiting.

    Args:
        file: its descriptor.
        shared: together with others who share it.

    Returns:
        False where another process holds it; True also where there are no locks.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # a file system without locks
        logger.debug("not locked: %s", error)
    return True


def unlock(file: int) -> None:
    """Gives a lock back, also where a child that was forked meanwhile still has the file open."""
    with suppress(ImportError, OSError):
        import fcntl

        fcntl.flock(file, fcntl.LOCK_UN)


def _open_locked(lock: Path, output: str | Path) -> int:
    """The descriptor of the lock file, locked, while that is the file of this name.

    Raises:
        OutputBusyError: see `claimed`.
    """
    while True:
        try:
            handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        except PermissionError:
            if not lock.exists():
                raise
            handle = os.open(lock, os.O_RDONLY)  # another user's
        try:
            if not try_lock(handle):
                raise OutputBusyError(
                    f"{output}: another run{_holder(lock)} is making this output; wait for it, or choose "
                    "another name"
                )
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), os.stat(lock)):  # noqa: PTH116
                    return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # its holder removed it between the two looks


def _holder(lock: Path) -> str:
    """The process and machine that the holder wrote down, where it could."""
    try:
        host, process, _ = lock.read_text().split("-")
    except (OSError, ValueError):
        return ""
    return f" (process {process} on {host})"


def _missing(folder: Path) -> list[Path]:
    """The folders that making `folder` would make, from the deepest up."""
    found = []
    while not folder.exists() and folder != folder.parent:
        found.append(folder)
        folder = folder.parent
    return found
