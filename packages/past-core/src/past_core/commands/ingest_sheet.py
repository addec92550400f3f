"""`past ingest SHEET.csv`: every slide of a sheet, here or on a Dask cluster."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from past_core.ingest.run import IngestError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from past_core.ingest.outcome import Outcome
    from past_core.ingest.sheet import IngestRow

COLOURS = {"done": "green", "skipped": "dim", "failed": "red"}


def ingest_sheet(
    sheet: Path,
    folder: Path,
    sources: dict[str, Path | None],
    options: dict[str, Any],
    common: dict[str, Any],
    *,
    jobs: int,
    dask: str | None,
    skip_missing: bool,
) -> None:
    """Ingests a sheet's slides, shows how it goes, and writes FOLDER/outcomes.csv.

    Args:
        sheet: CSV or TSV.
        folder: Of the stores.
        sources: Of a single slide; none of them may be given.
        options: Of the sources, for all rows.
        common: Fields of every request.
        jobs: Slides at the same time.
        dask: A scheduler, to run there.
        skip_missing: Skip rows whose files are not there.

    Raises:
        IngestError: Options that are for a single slide, or a folder that cannot be one.
        SheetError: A sheet that cannot be read.
        DaskError: No cluster that could do it.
        Exit: With status 1, where a row failed.
    """
    from past_core.ingest.outcome import write_outcomes
    from past_core.ingest.sheet import read_ingest_sheet

    given = [source for source, path in sources.items() if path is not None]
    given += ["--name"] if common["name"] is not None else []
    if given:
        raise IngestError(f"{given[0]} is for a single slide; {sheet.name} says it of each, in a column")
    if dask is not None and jobs != 1:
        raise IngestError("--jobs is for this machine; on a Dask cluster its workers set how many at a time")
    rows = read_ingest_sheet(sheet, folder, options=options, common=common)
    if folder.exists() and (not folder.is_dir() or (folder / "zarr.json").exists()):
        raise IngestError(f"{folder} is not a folder for stores; give one with --output, such as stores/")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise IngestError(f"{folder} cannot be made ({error}); choose another --output") from error
    outcomes: list[Outcome] = []
    try:
        # One by one, for what an interruption leaves.
        outcomes.extend(
            _shown(rows, jobs=jobs, dask=dask, overwrite=common["overwrite"], skip_missing=skip_missing)
        )
    except KeyboardInterrupt:
        typer.secho("Interrupted; the same command goes on from here.", err=True, fg="yellow")
        raise typer.Exit(130) from None
    finally:
        if outcomes:
            write_outcomes(outcomes, folder)
    _table(outcomes, folder)
    if any(outcome.status == "failed" for outcome in outcomes):
        raise typer.Exit(1)


def _shown(
    rows: list["IngestRow"], *, jobs: int, dask: str | None, overwrite: bool, skip_missing: bool
) -> Iterator["Outcome"]:
    """Outcomes as they come, with a bar for all slides and one for each that is being written."""
    from past_core.commands.progress import progress_bar

    with progress_bar() as bar:
        slides = bar.add_task("slides", total=len(rows))
        if dask is None:
            from past_core.ingest.many import ingest_rows

            found = ingest_rows(
                rows, jobs=jobs, overwrite=overwrite, skip_absent=skip_missing, progress=_Bars(bar)
            )
        else:
            from past_core.ingest.dask import ingest_on_dask

            found = ingest_on_dask(rows, dask, overwrite=overwrite, skip_absent=skip_missing)
        for outcome in found:
            bar.advance(slides)
            message = f": {outcome.message}" if outcome.message else ""
            bar.console.print(
                f"{outcome.slide}: {outcome.status}{message}", style=COLOURS[outcome.status], markup=False
            )
            yield outcome


class _Bars:
    """A bar for each slide that is being written."""

    def __init__(self, bar: "Progress") -> None:
        self.bar = bar
        self.tasks: dict[str, TaskID] = {}

    def __call__(self, row: "IngestRow", done: int, total: int) -> None:
        if row.slide not in self.tasks:
            self.tasks[row.slide] = self.bar.add_task(f"writing {row.slide}", total=total)
        if done >= total:
            self.bar.remove_task(self.tasks.pop(row.slide))
        else:
            self.bar.update(self.tasks[row.slide], completed=done, total=total)


def _table(outcomes: list["Outcome"], folder: Path) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from past_core.ingest.outcome import OUTCOMES

    table = Table()
    for name in ("slide", "status", "cells", "passed", "genes", "seconds"):
        table.add_column(name, justify="left" if name in ("slide", "status") else "right")
    table.add_column("message", overflow="fold")
    for outcome in sorted(outcomes, key=lambda outcome: outcome.line):
        numbers = (outcome.cells, outcome.passed, outcome.genes)
        table.add_row(
            Text(outcome.slide),
            Text(outcome.status, style=COLOURS[outcome.status]),
            *("" if number is None else f"{number:,}" for number in numbers),
            f"{outcome.seconds:.1f}",
            Text(outcome.message),
        )
    Console().print(table)
    count = {status: sum(outcome.status == status for outcome in outcomes) for status in COLOURS}
    typer.echo(", ".join(f"{number} {status}" for status, number in count.items()) + f"; {folder / OUTCOMES}")
