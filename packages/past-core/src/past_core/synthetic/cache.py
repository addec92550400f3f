"""Where the embedded defaults are kept, and how they are made once: a key, a lock and fresh processes."""

import hashlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import platformdirs

from past_core.errors import PastError

logger = logging.getLogger(__name__)

CACHE_VARIABLE = "PAST_CACHE"
WORKERS = 2

Job = TypeVar("Job")
Progress = Callable[[str], None]


class DefaultSlidesError(PastError, RuntimeError):
    """The synthetic slides could not be made."""


def cache_folder(cache: Path | str | None = None) -> Path:
    """The folder given, else that of the environment variable PAST_CACHE, else the user's cache folder."""
    return Path(cache or os.environ.get(CACHE_VARIABLE) or platformdirs.user_cache_dir("past"))


def key(parts: dict[str, Any], *, without: Collection[str] = ()) -> str:
    """Short hash of what was asked for and of the simulator's sources.

    A changed simulator whose version was forgotten must not meet its old slides.

    Args:
        parts: What else decides the output; JSON values.
        without: Names of source files that have no part in it.
    """
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    for source in sorted(Path(__file__).resolve().parent.glob("*.[pt]*")):
        if source.name not in without:
            digest.update(source.name.encode() + source.read_bytes())
    return digest.hexdigest()[:16]


@contextmanager
def alone_in(root: Path) -> Iterator[None]:
    """Makes a folder and holds its lock, which ends with the process.

    Where locks are unknown, two callers do the same work.

    Raises:
        DefaultSlidesError: The folder cannot be written.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        file = (root / "lock").open("w")
    except OSError as error:
        raise DefaultSlidesError(
            f"the cache {root} cannot be written ({error}); set {CACHE_VARIABLE} to a folder that can"
        ) from error
    with file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        except (ImportError, OSError) as error:
            logger.info("no lock on %s (%s)", root, error)
        yield


def in_parallel(jobs: list[Job], run: Callable[[list[Job], Progress], None], progress: Progress) -> None:
    """Shares jobs out to `WORKERS` threads, each of which runs one process.

    Args:
        jobs: What there is to do.
        run: Does a share of the jobs, and calls its second argument with each one's name when it is done.
        progress: Called with these names, by one thread at a time.
    """
    lock = threading.Lock()

    def report(name: str) -> None:
        with lock:
            progress(name)

    shares = [share for share in (jobs[number::WORKERS] for number in range(WORKERS)) if share]
    with ThreadPoolExecutor(len(shares)) as pool:
        for future in [pool.submit(run, share, report) for share in shares]:
            future.result()


def run_module(module: str, jobs: list[Any], progress: Progress) -> None:
    """Runs a module as a program: unlike spawned pool workers it does not import the caller's script.

    Args:
        module: Its full name. It takes one argument, the jobs as JSON, and prints a line after each.
        jobs: JSON values.
        progress: Called with each line.

    Raises:
        DefaultSlidesError: The program failed.
    """
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(  # noqa: S603  (our own interpreter and module)
            [sys.executable, "-m", module, json.dumps(jobs)],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        with process:
            for line in process.stdout or ():
                progress(line.strip())
        if process.returncode:
            errors.seek(0)
            raise DefaultSlidesError(
                f"making synthetic slides failed with status {process.returncode}:\n{errors.read()[-2000:]}"
            )
