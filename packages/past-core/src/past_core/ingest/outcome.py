"""What became of a sheet's slides: one outcome a row, kept as a table."""

import csv
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from past_core.atomic import replacing
from past_core.errors import PastError
from past_core.ingest.sheet import IngestRow

if TYPE_CHECKING:
    from past_core.ingest.run import IngestRequest
    from past_core.ingest.store import SlideStore

logger = logging.getLogger(__name__)

OUTCOMES = "outcomes.csv"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a row.

    Attributes:
        slide: Its name.
        status: "done", "skipped" (complete already, or its files are not there) or "failed".
        cells: In the store, if there is one.
        passed: Of these, those that pass QC.
        genes: In the store.
        seconds: That it took.
        message: Why it was skipped or failed, or what to look at.
        line: Of the sheet.
    """

    slide: str
    status: Literal["done", "skipped", "failed"]
    cells: int | None = None
    passed: int | None = None
    genes: int | None = None
    seconds: float = 0.0
    message: str = ""
    line: int = 0


def ingest_row(
    row: IngestRow,
    *,
    overwrite: bool = False,
    skip_absent: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Outcome:
    """Makes a row's store unless it is complete; whatever goes wrong is the row's outcome.

    Args:
        row: Of a sheet.
        overwrite: Make it again if it is there.
        skip_absent: Skip a row whose files are not there; else it fails.
        progress: Called with image tiles written and tiles in all.
    """
    from past_core.ingest.records import begin, finish, is_complete
    from past_core.ingest.run import ingest_slide
    from past_core.ingest.store import SlideStore

    started = time.perf_counter()
    if row.request is None:
        skipped = row.absent and skip_absent
        return Outcome(
            slide=row.slide,
            status="skipped" if skipped else "failed",
            message=row.problem or "the row says nothing",
            line=row.line,
        )
    try:
        complete = not overwrite and is_complete(row.request)
        if not complete:
            begin(row.request)
            ingest_slide(replace(row.request, overwrite=overwrite), progress=progress)
            finish(row.request)
        store = SlideStore(row.request.output)
        said = ["complete"] if complete else []
        return Outcome(
            slide=row.slide,
            status="skipped" if complete else "done",
            cells=store.n_cells,
            passed=int(store.passed.sum()),
            genes=len(store.genes),
            seconds=time.perf_counter() - started,
            message="; ".join(said + _doubts(store, row.request)),
            line=row.line,
        )
    except PastError as error:
        message = str(error)
    except MemoryError:
        message = "out of memory; run it with fewer --jobs, or on a machine with more"
    except Exception as error:  # what one slide meets must not stop the others
        logger.debug("%s", row.slide, exc_info=True)
        message = f"unexpected {type(error).__name__}: {error}; please report it (past -v ingest says more)"
    return failed(row, message, seconds=time.perf_counter() - started)


def _doubts(store: "SlideStore", request: "IngestRequest") -> list[str]:
    """What is to be said of the registration of a store that is there: nothing of a good one."""
    from past_core.ingest.keypoints import registration_folder

    record = store.manifest.get("registration") or {}
    if record.get("verdict") != "check":
        return []
    page = registration_folder(request) / "report.html"
    look = f" (look at {page})" if request.options.get("keypoints") else ""
    return [f"registration: check{look}: {'; '.join(record.get('reasons') or ())}"]


def failed(row: IngestRow, message: str, *, seconds: float = 0.0) -> Outcome:
    """The outcome of a row that could not be."""
    return Outcome(slide=row.slide, status="failed", seconds=seconds, message=message, line=row.line)


def write_outcomes(outcomes: Iterable[Outcome], folder: Path) -> Path:
    """Writes FOLDER/outcomes.csv, rows in the sheet's order."""
    path = folder / OUTCOMES
    names = [item.name for item in fields(Outcome)]
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, names)
        table.writeheader()
        for outcome in sorted(outcomes, key=lambda outcome: outcome.line):
            values = {name: "" if value is None else value for name, value in asdict(outcome).items()}
            table.writerow(values | {"seconds": f"{outcome.seconds:.1f}"})
    return path
