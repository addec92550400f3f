"""Computes the cells of a matrix that are not there yet, in one process or several."""

import logging
import multiprocessing
import os
import threading
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from past_core.errors import PastError
from past_surv.evaluation.cells import Cell, CellResult, compute, read

logger = logging.getLogger(__name__)

Progress = Callable[[Cell, int, int], None]
"""Called when a cell is done, with how many are done of how many that were to be computed."""
CHANGED = "the software changed since the run began; run it again"
DIED = "its process ended without a word, perhaps for want of memory; try fewer --jobs"


@dataclass(frozen=True, kw_only=True)
class Run:
    """What came of the cells.

    Attributes:
        results: of all cells that there are now, in the order asked for.
        failed: cells without one, and why.
        computed: how many were computed now.
        kept: how many were there.
    """

    results: list[CellResult]
    failed: list[tuple[Cell, str]]
    computed: int
    kept: int


def run_cells(cells: Sequence[Cell], folder: Path, *, jobs: int = 1, progress: Progress | None = None) -> Run:
    """Computes what is missing; a cell that fails does not stop the others.

    Args:
        cells: of the matrix.
        folder: of results; complete cells in it whose key fits are kept.
        jobs: processes at a time, started anew (spawned); 1 computes in this one.
        progress: told of each cell.
    """
    missing = [cell for cell in cells if read(cell, folder) is None]
    order = {id(cell): number for number, cell in enumerate(missing)}
    reasons: dict[int, str] = {}

    def done(cell: Cell, reason: str | None) -> None:
        if reason is not None:
            reasons[order[id(cell)]] = reason
            logger.warning("%s failed: %s", cell, reason)
        finished.append(cell)
        if progress is not None:
            progress(cell, len(finished), len(missing))

    finished: list[Cell] = []
    if jobs <= 1 or len(missing) <= 1:
        for cell in missing:
            done(cell, attempt(cell, folder, cell.key()))
    else:
        _in_processes(missing, folder, min(jobs, len(missing)), done)
    results, failures = [], []
    for cell in cells:
        result = read(cell, folder)
        if result is None:
            failures.append((cell, reasons.get(order.get(id(cell), -1), "its file is gone")))
        else:
            results.append(result)
    return Run(
        results=results,
        failed=failures,
        computed=len(missing) - len(reasons),
        kept=len(cells) - len(missing),
    )


def attempt(cell: Cell, folder: Path, key: str) -> str | None:
    """Computes a cell; why it failed, or None.

    Args:
        cell: what to compute.
        folder: of results.
        key: the cell's, as the run began.
    """
    if cell.key() != key:
        return CHANGED
    try:
        compute(cell, folder)
    except PastError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - one cell's failure, whatever it is, must not stop the others
        logger.info("%s", traceback.format_exc())
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {error} ({Path(where.filename).name}, line {where.lineno})"
    return None


def _in_processes(
    cells: Sequence[Cell], folder: Path, jobs: int, done: Callable[[Cell, str | None], None]
) -> None:
    """At most `jobs` cells are under way: a process that dies takes few with it, and each is tried alone."""
    queue = list(reversed(cells))
    suspects: list[Cell] = []
    while queue:
        with _pool(jobs) as pool:
            running: dict[Future, Cell] = {}
            try:
                while queue or running:
                    while queue and len(running) < jobs:
                        cell = queue[-1]  # it stays in the queue if the pool is found broken
                        running[pool.submit(attempt, cell, folder, cell.key())] = cell
                        queue.pop()
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        reason = future.result()
                        done(running.pop(future), reason)
            except BrokenProcessPool:
                suspects += running.values()
    for cell in suspects:
        if read(cell, folder) is not None:
            done(cell, None)
            continue
        with _pool(1) as pool:
            try:
                reason = pool.submit(attempt, cell, folder, cell.key()).result()
            except BrokenProcessPool:
                reason = DIED
        done(cell, reason)


def _pool(jobs: int) -> ProcessPoolExecutor:
    # Spawned: a fork after torch or tensorstore has started threads may hang.
    return ProcessPoolExecutor(
        jobs,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start,
        initargs=(logging.getLogger().getEffectiveLevel(),),
    )


def _start(level: int) -> None:
    """One thread a process, and an end with the parent's, also where that is killed."""
    logging.basicConfig(level=level, format="%(levelname)s %(message)s")
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch

    torch.set_num_threads(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
