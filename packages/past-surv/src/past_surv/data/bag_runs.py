"""Bags of many slides: which, in which order, by how many processes, and what became of each."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from past_core.errors import PastError
from past_core.remote import Location, locate
from past_core.sheets import read_table
from past_surv.data.bag_files import BagError
from past_surv.data.bag_making import BagSettings, is_complete, make_bag
from past_surv.data.bags import SLIDES, read_bag, slide_name

if TYPE_CHECKING:
    from past_core.frozen import FrozenEncoder

logger = logging.getLogger(__name__)

COLUMNS = ("slide", "mpp")


class SlideSheetError(PastError, ValueError):
    """Slides that cannot be listed, or of which two would make one bag."""


class SlideSheetNotFoundError(PastError, FileNotFoundError):
    """There is no sheet or slide at that path."""


@dataclass(frozen=True, kw_only=True)
class SlideJob:
    """One slide to embed.

    Attributes:
        slide: where it lies.
        output: of its bag.
        mpp: µm per pixel, where the sheet says it.
        problem: what is wrong with its row of the sheet.
    """

    slide: Location
    output: Path
    mpp: float | None = None
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class BagOutcome:
    """What became of a slide: `done`, `skipped` or `failed` with the reason; the number of its patches."""

    job: SlideJob
    status: Literal["done", "skipped", "failed"]
    patches: int = 0
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class EncoderSource:
    """How a process loads the encoder."""

    name: str
    weights: str | None = None
    space: str = "features"
    device: str = "auto"
    precision: str = "32"
    download: bool = False

    def load(self) -> "FrozenEncoder":
        """The encoder on its device."""
        from past_core.encoders import load_image_encoder, resolve_device
        from past_core.frozen import check_space

        device = resolve_device(self.device)
        space = check_space(self.space)
        encoder = load_image_encoder(self.name, space, weights=self.weights, download=self.download)
        return encoder.to(device, self.precision)


def list_slides(sources: Sequence[str | Path], folder: str | Path) -> list[SlideJob]:
    """The slides of a sheet, of a folder, or given one by one.

    Args:
        sources: CSVs with the column `slide` and optionally `mpp` (relative paths count from the CSV's
            folder), folders (all slides in them, at any depth, as the GDC's client lays them), and slides.
        folder: of the bags, which are named after the slides.

    Raises:
        SlideSheetNotFoundError: nothing is there.
        SlideSheetError: a sheet without the column or without rows, a folder without slides, or two slides of
            one name.
    """
    folder, jobs = Path(folder), []
    for source in sources:
        where = locate(source)
        if isinstance(where, Path) and where.suffix.lower() == ".csv":
            jobs += _sheet(where, folder)
        elif isinstance(where, Path) and where.is_dir() and not where.name.lower().endswith(".zarr"):
            found = sorted(_slides_in(where))
            if not found:
                raise SlideSheetError(f"{where}: no slides in it; expected files such as X.svs or X.tif")
            jobs += [_job(slide, folder) for slide in found]
        elif isinstance(where, Path) and not where.exists():
            raise SlideSheetNotFoundError(f"{where}: no such slide, folder or sheet")
        else:
            jobs.append(_job(where, folder))
    seen: dict[Path, SlideJob] = {}
    for job in (job for job in jobs if job.problem is None):
        other = seen.setdefault(job.output, job)
        if other is not job:
            raise SlideSheetError(
                f"{other.slide} and {job.slide} would both write {job.output}; slides of one name go into "
                "folders of their own"
            )
    return jobs


def make_bags(
    jobs: Sequence[SlideJob],
    source: EncoderSource,
    settings: BagSettings,
    *,
    mpp: float | None = None,
    processes: int = 1,
    overwrite: bool = False,
    encoder: "FrozenEncoder | None" = None,
    progress: Callable[[SlideJob, int, int], None] | None = None,
) -> Iterator[BagOutcome]:
    """Embeds slides; one that fails does not stop the rest, and a bag that is complete is left as it is.

    Args:
        jobs: the slides.
        source: of the encoder.
        settings: which patches.
        mpp: of slides that do not state it and whose row does not.
        processes: that embed at the same time, each with an encoder of its own.
        overwrite: make complete bags again.
        encoder: one that is loaded already, for a single process.
        progress: called with a job, its patches done since the last call, and their number; of a single
            process only.

    Yields:
        outcomes, as they come.
    """
    if processes == 1:
        encoder = encoder or source.load()
        for job in jobs:
            report = None if progress is None else (lambda done, of, job=job: progress(job, done, of))
            yield _one(job, encoder, settings, mpp, overwrite, report)
        return
    context = get_context("spawn")  # CUDA and tensorstore do not live on after a fork
    threads = max(1, (os.cpu_count() or 1) // processes)
    with ProcessPoolExecutor(processes, context, _start, (source, threads)) as pool:
        waiting = {pool.submit(_work, job, settings, mpp, overwrite): job for job in jobs}
        for future in as_completed(waiting):
            try:
                yield future.result()
            except BrokenProcessPool:
                yield BagOutcome(
                    job=waiting[future],
                    status="failed",
                    message="a process died, perhaps of memory; run again with fewer --jobs: bags stay",
                )


def _one(
    job: SlideJob,
    encoder: "FrozenEncoder",
    settings: BagSettings,
    mpp: float | None,
    overwrite: bool,
    progress: Callable[[int, int], None] | None = None,
) -> BagOutcome:
    scale = mpp if job.mpp is None else job.mpp
    try:
        if job.problem is not None:
            raise BagError(job.problem)
        skip = not overwrite and is_complete(job.output, job.slide, encoder, settings, mpp=scale)
        if not skip:
            make_bag(job.slide, encoder, job.output, settings, mpp=scale, progress=progress)
        return BagOutcome(job=job, status="skipped" if skip else "done", patches=read_bag(job.output).patches)
    except (PastError, OSError) as error:  # also a full disk
        return BagOutcome(job=job, status="failed", message=str(error))


_ENCODER: Any = None


def _start(source: EncoderSource, threads: int) -> None:
    """Loads a process's encoder, once for all its slides."""
    global _ENCODER  # noqa: PLW0603
    import torch

    torch.set_num_threads(threads)
    _ENCODER = source.load()


def _work(job: SlideJob, settings: BagSettings, mpp: float | None, overwrite: bool) -> BagOutcome:
    return _one(job, _ENCODER, settings, mpp, overwrite)


def _job(slide: Location, folder: Path, **options: Any) -> SlideJob:
    return SlideJob(slide=slide, output=folder / f"{slide_name(slide.name)}.h5", **options)


def _slides_in(folder: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        stores = [name for name in folders if name.lower().endswith(".zarr")]
        # What is in a store is no slide of its own; hidden folders hold what is not finished.
        folders[:] = sorted(name for name in folders if name not in stores and not name.startswith("."))
        for name in [*files, *stores]:
            if name.lower().endswith(SLIDES) and not name.startswith("."):
                yield Path(root) / name


def _sheet(path: Path, folder: Path) -> list[SlideJob]:
    sheet = read_table(
        path,
        required=("slide",),
        expected=" and ".join(COLUMNS),
        error=SlideSheetError,
        missing=SlideSheetNotFoundError,
    )
    return [_row(path, line.number, line.cells, folder) for line in sheet.lines]


def _row(path: Path, line: int, cells: dict[str, str], folder: Path) -> SlideJob:
    where = f"{path.name}, line {line}"
    if not cells["slide"]:
        missing = f"{where}: the column 'slide' is empty"
        return SlideJob(slide=path, output=folder / f"line-{line}.h5", problem=missing)
    slide = locate(cells["slide"])
    slide = path.parent / slide if isinstance(slide, Path) else slide
    mpp, problem = None, None
    if cells.get("mpp"):
        try:
            mpp = float(cells["mpp"])
        except ValueError:
            mpp = float("nan")
        if not (np.isfinite(mpp) and mpp > 0):
            problem = f"{where}: mpp {cells['mpp']!r} is not a positive number of µm per pixel"
    return _job(slide, folder, mpp=mpp, problem=problem)
