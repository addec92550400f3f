"""Sheets: tables (CSV, TSV) that people write, read with the number of every line."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from past_core.errors import PastError

MAX_BYTES = 64 * 2**20
"""Largest sheet: a million slides; what is larger is another file."""


class SheetError(PastError, ValueError):
    """A sheet that cannot be read or contradicts itself."""


class SheetNotFoundError(PastError, FileNotFoundError):
    """There is no sheet at that path."""


@dataclass(frozen=True)
class Line:
    """One row: the line in the file where it begins (the header's is 1), and its texts by column."""

    number: int
    cells: dict[str, str]


@dataclass(frozen=True)
class Sheet:
    """A sheet's columns in their order, and its rows but the blank ones."""

    columns: tuple[str, ...]
    lines: tuple[Line, ...]


def read_table(
    path: str | Path,
    *,
    required: tuple[str, ...] = (),
    expected: str = "",
    lower: bool = False,
    error: type[PastError] = SheetError,
    missing: type[PastError] = SheetNotFoundError,
) -> Sheet:
    """Reads a sheet: UTF-8 with or without a byte order mark, a header, fields between commas.

    Fields are between tabs in a `.tsv`, and between semicolons where the header has those and no comma, as
    some spreadsheets write. Texts are stripped, a short row's last cells are empty.

    Args:
        path: the file.
        required: columns that it must have.
        expected: what an error says of the columns; by default the required ones.
        lower: take the columns' names in lower case.
        error: raised for what is wrong with the sheet.
        missing: raised where there is none.

    Raises:
        SheetNotFoundError: no such file (or `missing`).
        SheetError: no text in UTF-8, an open quote, a row longer than the header, a column that is missing
            or there twice, or no rows (or `error`).
    """
    path = Path(path)
    if not path.is_file():
        raise missing(f"{path}: no such sheet")
    rows = _rows(path, error)
    if not rows:
        raise error(f"{path}: not a sheet (CSV with a header): the file is empty")
    names = [name.strip().lower() if lower else name.strip() for name in rows[0][1]]
    while names and not names[-1]:  # commas at the end of every line
        names.pop()
    for name in required:
        if name not in names:
            raise error(
                f"{path}: no column {name!r} among {', '.join(names)[:1000]}; "
                f"expected {expected or ', '.join(required)}"
            )
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        raise error(f"{path}, line {rows[0][0]}: the column {twice!r} is there twice; keep one of them")
    lines = []
    for number, texts in rows[1:]:
        cells = [text.strip() for text in texts]
        extra = [cell for cell in cells[len(names) :] if cell]
        if extra:
            raise error(
                f"{path}: not a sheet (CSV with a header): line {number} has {len(cells)} cells and the "
                f"header {len(names)} (the first too many is {extra[0]!r}); put what holds a comma in quotes"
            )
        cells += [""] * (len(names) - len(cells))
        if any(cells):
            lines.append(Line(number, {name: cell for name, cell in zip(names, cells, strict=False) if name}))
    if not lines:
        raise error(f"{path}: the sheet has no rows")
    return Sheet(tuple(name for name in names if name), tuple(lines))


def _rows(path: Path, error: type[PastError]) -> list[tuple[int, list[str]]]:
    """Rows that are not blank, with the line where each begins."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise error(f"{path}: {path.stat().st_size:,} bytes are no sheet; at most {MAX_BYTES:,} are read")
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        line = problem.object.count(b"\n", 0, problem.start) + 1
        raise error(
            f"{path}: not a sheet (CSV with a header): line {line} is no text in UTF-8 ({problem.reason}); "
            "save it as CSV in UTF-8"
        ) from None
    except OSError as problem:
        raise error(f"{path}: not a sheet (CSV with a header): {problem}") from problem
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise error(f"{path}: not a sheet (CSV with a header): line {line} holds binary data")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(path, text), strict=True)
    rows, begins = [], 1
    try:
        for row in reader:
            if row:
                rows.append((begins, row))
            begins = reader.line_num + 1
    except csv.Error as problem:
        raise error(f"{path}: not a sheet (CSV with a header): line {begins}: {problem}") from problem
    return rows


def _delimiter(path: Path, text: str) -> str:
    if path.suffix.lower() == ".tsv":
        return "\t"
    header = next((line for line in text.splitlines() if line.strip()), "")
    return ";" if ";" in header and "," not in header else ","
