"""Many slides from a sheet: one output a row, what is complete is skipped, one failure stops nothing else."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from past_core.embed import SUFFIXES, EmbedError, read_manifest
from past_core.errors import PastError
from past_core.remote import Location, locate
from past_core.sheets import SheetError, SheetNotFoundError, read_table
from past_core.slides.identity import source_key

logger = logging.getLogger(__name__)

__all__ = [
    "Outcome",
    "SheetError",
    "SheetNotFoundError",
    "SheetRow",
    "is_complete",
    "read_sheet",
    "run_sheet",
]

COLUMNS = ("path", "name", "mpp", "output")


@dataclass(frozen=True)
class SheetRow:
    """One slide of a sheet; `line` is its line in the file (the header is line 1)."""

    line: int
    path: Location
    output: Path
    mpp: float | None
    problem: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a row: "done", "skipped" or "failed", with the reason."""

    row: SheetRow
    status: str
    message: str = ""


def read_sheet(
    path: str | Path, folder: str | Path, *, suffix: str = ".h5ad", suffixes: tuple[str, ...] = SUFFIXES
) -> list[SheetRow]:
    """Reads a CSV with the column `path` (paths or URLs) and optionally `name`, `mpp` and `output`.

    Args:
        path: the sheet; relative slide paths count from its folder.
        folder: where outputs go: `output`, else NAME (or the slide's file name) and `suffix`.
        suffix: of outputs that are not named.
        suffixes: those that outputs may have.

    Returns:
        the rows; what is wrong with a single row is its `problem`.

    Raises:
        SheetNotFoundError: no such file.
        SheetError: not a CSV, no rows, no column `path`, or two rows with one output.
    """
    path, folder = Path(path), Path(folder)
    sheet = read_table(path, required=("path",), expected=", ".join(COLUMNS))
    ignored = [column for column in sheet.columns if column not in COLUMNS]
    if ignored:
        logger.warning("%s: columns that are not used: %s", path, ", ".join(ignored))
    rows = [_row(line.number, line.cells, path.parent, folder, suffix, suffixes) for line in sheet.lines]
    seen: dict[Path, int] = {}
    for row in rows:
        if row.problem is None and seen.setdefault(row.output, row.line) != row.line:
            raise SheetError(
                f"{path}: rows {seen[row.output]} and {row.line} would both write {row.output}; "
                "give them different names in a column 'name'"
            )
    return rows


def _row(
    line: int, cells: dict[str, str], base: Path, folder: Path, suffix: str, suffixes: tuple[str, ...]
) -> SheetRow:
    slide = locate(cells["path"])
    slide = base / slide if isinstance(slide, Path) else slide
    name = cells.get("name") or Path(cells["path"]).name.split(".")[0]
    output = folder / (cells.get("output") or f"{name}{suffix}")
    problem, mpp = None, None
    if not cells["path"]:
        problem = "the column 'path' is empty"
    elif not output.name.lower().endswith(suffixes):
        problem = f"output {output.name!r} should end in {' or '.join(suffixes)}"
    elif not output.resolve().is_relative_to(folder.resolve()):
        problem = f"output {str(output)!r} lies outside {folder}"
    if cells.get("mpp"):
        try:
            mpp = float(cells["mpp"])
        except ValueError:
            mpp = float("nan")
        if not (np.isfinite(mpp) and mpp > 0):
            problem = problem or f"mpp {cells['mpp']!r} is not a positive number of µm per pixel"
    return SheetRow(line, slide, output, mpp, problem)


def run_sheet(
    rows: list[SheetRow],
    work: Callable[[SheetRow], None],
    key: dict[str, Any],
    *,
    overwrite: bool = False,
    report: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """Works through a sheet.

    Args:
        rows: what to do.
        work: embeds a row and writes its output; a PastError is that row's failure.
        key: what a complete output's manifest must say to be skipped: fingerprints and settings.
        overwrite: redo everything.
        report: called after every row.
    """
    outcomes = []
    for row in rows:
        try:
            if row.problem is not None:
                raise SheetError(row.problem)
            if not overwrite and is_complete(row, key):
                outcome = Outcome(row, "skipped", "complete")
            else:
                work(row)
                outcome = Outcome(row, "done")
        except (PastError, OSError) as error:  # also a name that is too long
            outcome = Outcome(row, "failed", str(error))
        outcomes.append(outcome)
        if report is not None:
            report(outcome)
    return outcomes


def is_complete(row: SheetRow, key: dict[str, Any]) -> bool:
    """Whether a row's output exists and was made as `key` says.

    Raises:
        EmbedError: it was made otherwise, or something else is there.
    """
    manifest = read_manifest(row.output)
    if manifest is None:
        return False
    key = key | {"source": source_key(row.path)} | ({} if row.mpp is None else {"slide_mpp": row.mpp})
    different = [name for name, value in key.items() if manifest.get(name, value) != value]
    if different:
        raise EmbedError(
            f"{row.output} exists, made with another {', '.join(different)} "
            f"({manifest[different[0]]}, now {key[different[0]]}); pass --overwrite or choose another folder"
        )
    return True
