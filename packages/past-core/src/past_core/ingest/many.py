"""Slides at the same time, each in a process of its own that may die without harm to the others."""

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_all_start_methods, get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext

from past_core.ingest.outcome import Outcome, failed, ingest_row
from past_core.ingest.sheet import IngestRow

logger = logging.getLogger(__name__)

REPORT_S = 0.2
"""Time between two reports of a slide's progress."""
PATIENCE_S = 10.0
"""Time that processes get to clean up when the run is interrupted."""
PRELOAD = [
    "spatialdata",
    "past_core.ingest.write",
    "past_core.ingest.outlines",
    "past_core.ingest.records",
    "past_core.ingest.xenium",
    "past_core.ingest.hest",
    "past_core.ingest.spatialdata",
]
"""Modules that take seconds to import; none uses tensorstore by being imported, which a fork would break."""

Progress = Callable[[IngestRow, int, int], None]


def ingest_rows(
    rows: Sequence[IngestRow],
    *,
    jobs: int = 1,
    overwrite: bool = False,
    skip_absent: bool = False,
    progress: Progress | None = None,
) -> Iterator[Outcome]:
    """Ingests a sheet's rows, each in a process of its own.

    What a slide needed is the system's again when it is done. A process that dies, as when the system is out
    of memory, fails its row and nothing else.

    Args:
        rows: From `read_ingest_sheet`.
        jobs: Processes at the same time.
        overwrite: Make complete stores again.
        skip_absent: Skip rows whose files are not there; else they fail.
        progress: Called with a row, its image tiles written, and their number.

    Yields:
        Outcomes, as they come.
    """
    for row in (row for row in rows if row.request is None):
        yield ingest_row(row, skip_absent=skip_absent)
    waiting = [row for row in rows if row.request is not None]
    # Threads share the cores, so that many slides do not ask for many times the machine.
    threads = max(1, (os.cpu_count() or 1) // jobs)
    running: list[_Worker] = []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(_Worker(waiting.pop(0), overwrite=overwrite, threads=threads))
            ready = wait([worker.pipe for worker in running])
            for worker in [worker for worker in running if worker.pipe in ready]:
                outcome = worker.hear(progress)
                if outcome is not None:
                    running.remove(worker)
                    yield outcome
    finally:
        _dismiss(running)


class _Worker:
    """A process that ingests one row, and the pipe from it."""

    def __init__(self, row: IngestRow, *, overwrite: bool, threads: int) -> None:
        # Tensorstore does not survive the fork of a process that has used it: the fork server has not.
        context: ForkServerContext | SpawnContext = (
            get_context("forkserver") if "forkserver" in get_all_start_methods() else get_context("spawn")
        )
        context.set_forkserver_preload(PRELOAD)
        self.row, self.since = row, time.perf_counter()
        self.pipe, theirs = context.Pipe(duplex=False)
        self.process = context.Process(target=_work, args=(theirs, row, overwrite, threads))
        self.process.start()
        theirs.close()  # so that its end is heard when the process dies

    def hear(self, progress: Progress | None) -> Outcome | None:
        """The row's outcome if that is what came."""
        try:
            message = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join(PATIENCE_S)
            message = failed(
                self.row, _death(self.process.exitcode), seconds=time.perf_counter() - self.since
            )
        if isinstance(message, _Written):
            if progress is not None:
                progress(self.row, message.done, message.total)
            return None
        self.pipe.close()
        self.process.join(PATIENCE_S)
        return message


def _death(code: int | None) -> str:
    how = f"exit status {code}"
    if code is not None and code < 0:
        how = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return (
        f"its process died ({how}), perhaps for lack of memory; nothing is left half-written: run the sheet "
        "again with fewer --jobs"
    )


def _dismiss(workers: Sequence[_Worker]) -> None:
    """Ends all processes; each removes what it has written so far."""
    for worker in workers:
        if worker.process.pid is not None and worker.process.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker.process.pid, signal.SIGINT)
    end = time.monotonic() + PATIENCE_S
    for worker in workers:
        worker.process.join(max(0.1, end - time.monotonic()))
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        worker.pipe.close()


@dataclass(frozen=True)
class _Written:
    """Image tiles written, and in all."""

    done: int
    total: int


def _work(pipe: Connection, row: IngestRow, overwrite: bool, threads: int) -> None:
    """What a process does."""
    _end_with_parent()
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    last = 0.0

    def report(done: int, total: int) -> None:
        nonlocal last
        if done == total or time.monotonic() - last > REPORT_S:
            last = time.monotonic()
            pipe.send(_Written(done, total))

    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError, ConnectionResetError):
        pipe.send(ingest_row(row, overwrite=overwrite, progress=report))


def _end_with_parent() -> None:
    """Ends this process when the one that started it is gone, also if that was killed."""
    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
