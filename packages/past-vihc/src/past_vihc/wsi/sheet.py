"""Many slides from a sheet: one after the other, or on workers of Dask."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from past_core.embed.sheet import Outcome, SheetError, SheetRow
from past_core.errors import PastError
from past_vihc.wsi.describe import read_record
from past_vihc.wsi.loading import load_stainer, model_name
from past_vihc.wsi.output import StainExistsError, plan_outputs
from past_vihc.wsi.settings import StainSettings
from past_vihc.wsi.stainer import Progress, expected_record, stain_slide

if TYPE_CHECKING:
    from past_core.frozen import FrozenEncoder
    from past_vihc.files import StainModel

logger = logging.getLogger(__name__)


class DaskMissingError(PastError, ImportError):
    """Dask's distributed scheduler is not installed."""


class DaskError(PastError, RuntimeError):
    """No scheduler answers, or the workers' settings contradict each other."""


@dataclass(frozen=True)
class SheetJob:
    """What is done with every row; plain values, so that it travels to other machines.

    Attributes:
        model: "demo" or a generator's file, which every worker can read.
        device: on which each worker stains.
        precision: see `load_stainer`.
        encoder: likewise.
        settings: how slides are stained.
        mpp: µm per pixel of slides for which neither file nor sheet states it.
        tiff: layout, compression and quality, as `plan_outputs` takes them.
        overwrite: make again what is there.
    """

    model: str
    device: str = "auto"
    precision: str = "32"
    encoder: str | None = None
    settings: StainSettings = field(default_factory=StainSettings)
    mpp: float | None = None
    tiff: dict[str, Any] = field(default_factory=dict)
    overwrite: bool = False


@lru_cache(maxsize=1)
def _loaded(
    model: str, device: str, precision: str, encoder: str | None
) -> "tuple[StainModel, FrozenEncoder | None]":
    return load_stainer(model, device=device, precision=precision, encoder=encoder)


def stain_row(row: SheetRow, job: SheetJob, progress: Progress | None = None) -> Outcome:
    """Stains one row's slide; what PAST refuses is the row's failure."""
    try:
        if row.problem is not None:
            raise SheetError(row.problem)
        model, encoder = _loaded(job.model, job.device, job.precision, job.encoder)
        options: dict[str, Any] = {
            "name": model_name(job.model),
            "settings": job.settings,
            "mpp": job.mpp if row.mpp is None else row.mpp,
        }
        if row.output.exists() and not job.overwrite:
            _check_same(row.output, expected_record(row.path, model, encoder, **options))
            return Outcome(row, "skipped", "complete")
        outputs = plan_outputs(row.output, overwrite=job.overwrite, **job.tiff)
        stain_slide(row.path, outputs, model, encoder, progress=progress, **options)
    except PastError as error:
        return Outcome(row, "failed", str(error))
    return Outcome(row, "done")


def _check_same(output: Path, expected: dict[str, Any]) -> None:
    """Refuses an output that was made otherwise than it would be now."""
    found = read_record(output)
    if found is None:
        raise StainExistsError(f"{output} exists and is no virtual stain; choose another folder")
    different = [name for name, value in expected.items() if name != "software" and found.get(name) != value]
    if different:
        name = different[0]
        raise StainExistsError(
            f"{output} exists, made with another {', '.join(different)} ({found.get(name)}, now "
            f"{expected[name]}); pass --overwrite or choose another folder"
        )


def stain_rows(
    rows: Sequence[SheetRow],
    job: SheetJob,
    *,
    progress: Progress | None = None,
    report: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """Stains a sheet's slides one after the other; see `stain_row`."""
    outcomes = []
    for row in rows:
        outcomes.append(stain_row(row, job, progress))
        if report is not None:
            report(outcomes[-1])
    return outcomes


def stain_rows_on_dask(
    rows: Sequence[SheetRow],
    job: SheetJob,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    report: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """Stains a sheet's slides on Dask, a slide a task.

    A worker that dies has its slide done again by another, from the strips that it left.

    Args:
        rows: the slides; paths as the workers see them.
        job: what is done.
        workers: start this many processes on this machine.
        scheduler: or use the workers of a running scheduler, such as `tcp://host:8786`.
        report: called after every row, in the order in which they end.

    Raises:
        DaskMissingError: Dask is not installed.
        DaskError: no scheduler answers.
    """
    try:
        from distributed import as_completed
    except ImportError as error:
        raise DaskMissingError(
            "Dask is not installed: `pip install past-vihc[dask]`, or leave --jobs and --dask out to "
            "stain one slide after the other"
        ) from error
    outcomes: dict[int, Outcome] = {}
    with _client(workers, scheduler) as client:
        # One thread computes at a time in a worker: torch has its own.
        futures = {
            client.submit(stain_row, row, job, pure=False, retries=1): number
            for number, row in enumerate(rows)
        }
        for future in as_completed(futures):
            number = futures[future]
            fault = future.exception()
            outcome = future.result() if fault is None else Outcome(rows[number], "failed", _text(fault))
            outcomes[number] = outcome
            if report is not None:
                report(outcome)
    return [outcomes[number] for number in range(len(rows))]


@contextmanager
def _client(workers: int | None, scheduler: str | None) -> Iterator[Any]:
    from distributed import Client, LocalCluster

    if (workers is None) == (scheduler is None):
        raise DaskError("give either a number of workers or a scheduler's address")
    if scheduler is not None:
        try:
            client = Client(scheduler, timeout="10s")
        except (OSError, ValueError) as error:
            raise DaskError(
                f"{scheduler}: no Dask scheduler answers there ({error}); start one with `dask scheduler`, "
                "and workers with `dask worker ADDRESS`"
            ) from error
        with client:
            yield client
        return
    with (
        LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
