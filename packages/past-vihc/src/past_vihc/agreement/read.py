"""Reads a table of pairs of numbers; what is wrong with it is said by column and row."""

import csv
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from past_core.errors import PastError

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "-", "."})
"""Cells that say that there is no value, in any case of letters."""
PREFERRED = ("expert", "predicted")
SHOWN = 8


class AgreementTableError(PastError, ValueError):
    """A table that pairs cannot be read from."""


class AgreementTableNotFoundError(PastError, FileNotFoundError):
    """There is no table at that path."""


@dataclass(frozen=True)
class PairTable:
    """Pairs of numbers.

    Attributes:
        path: of the table.
        x_name: column of the reference.
        y_name: column of what is compared with it.
        x: `(N,)` float64.
        y: `(N,)` float64.
        ids: `(N,)` names of rows; their line in the file without an id column.
        group: `(N,)` names of groups, or None.
        cluster: `(N,)` names of clusters, or None.
        missing: rows left out for a missing value, as text: which, and what is missing.
        notes: what was decided about the columns.
    """

    path: Path
    x_name: str
    y_name: str
    x: np.ndarray
    y: np.ndarray
    ids: list[str]
    group: list[str] | None
    cluster: list[str] | None
    missing: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_pairs(
    path: Path,
    *,
    x: str | None = None,
    y: str | None = None,
    id_column: str | None = None,
    group: str | None = None,
    cluster: str | None = None,
) -> PairTable:
    """Reads a CSV (comma or semicolon) or TSV with a header.

    Args:
        path: of the table.
        x: column of the reference; by default `expert`, or the first of exactly two numeric columns.
        y: column of what is compared with it; by default `predicted`, or the second of exactly two.
        id_column: column that names rows, each once (within its group).
        group: column that parts the rows.
        cluster: column of the patient of each row.

    Raises:
        AgreementTableNotFoundError: no such file.
        AgreementTableError: no table, columns that are missing, cells that are no numbers, or ids twice.
    """
    header, rows = _rows(path)
    for option, name in (("x", x), ("y", y), ("id", id_column), ("group", group), ("cluster", cluster)):
        if name is not None and name not in header:
            raise AgreementTableError(
                f"{path} has no column {name!r} (--{option}); it has {', '.join(header)}"
            )
    labels = {name for name in (id_column, group, cluster) if name is not None}
    x, y, notes = _columns(path, header, rows, x, y, labels)
    if x == y:
        raise AgreementTableError(f"{path}: --x and --y are both {x!r}; expected two columns")
    at = {name: header.index(name) for name in header}
    kept, missing, bad = [], [], []
    values: list[tuple[float, float]] = []
    for line, cells in rows:
        name = f"line {line}" if id_column is None else f"{cells[at[id_column]]} (line {line})"
        first, second = pair = [_number(cells[at[column]]) for column in (x, y)]
        wrong = [c for c, v in zip((x, y), pair, strict=True) if v is not None and not math.isfinite(v)]
        absent = [c for c, v in zip((x, y), pair, strict=True) if v is None]
        bad += [f"line {line}, {c}: {cells[at[c]]!r}" for c in wrong]
        if absent:
            missing.append(f"{name}: no {' and '.join(absent)}")
        elif not wrong and first is not None and second is not None:
            kept.append((line, cells))
            values.append((first, second))
    if bad:
        raise AgreementTableError(
            f"{path}: {len(bad)} cells are no numbers: {_some(bad)}; expected numbers with a decimal "
            "point, or an empty cell for a missing value"
        )
    if id_column is not None:
        _check_ids(path, kept, at, id_column, group)
    ids = [f"line {line}" if id_column is None else cells[at[id_column]] for line, cells in kept]
    found = np.array(values, np.float64).reshape(-1, 2)
    return PairTable(
        path=path,
        x_name=x,
        y_name=y,
        x=found[:, 0],
        y=found[:, 1],
        ids=ids,
        group=_labels(path, kept, at, group),
        cluster=_labels(path, kept, at, cluster),
        missing=missing,
        notes=notes,
    )


def _rows(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    if not path.is_file():
        raise AgreementTableNotFoundError(f"no table at {path}; expected a CSV with a row for each case")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise AgreementTableError(
            f"{path}: not UTF-8 text ({error.reason}); export the sheet as CSV in UTF-8"
        ) from error
    lines = text.splitlines()
    if not lines:
        raise AgreementTableError(f"{path} is empty; expected a header and a row for each case")
    delimiter = max(",;\t", key=lambda mark: (lines[0].count(mark), mark == ","))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        table = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise AgreementTableError(f"{path}, line {reader.line_num}: {error}") from error
    header, rows = table[0][1], [row for row in table[1:] if any(row[1])]
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        raise AgreementTableError(f"{path}: column {twice[0]!r} comes {header.count(twice[0])} times")
    for line, cells in rows:
        if len(cells) != len(header):
            raise AgreementTableError(
                f"{path}, line {line}: {len(cells)} cells, the header has {len(header)}: {', '.join(header)}"
            )
    return header, rows


def _columns(
    path: Path,
    header: Sequence[str],
    rows: Sequence[tuple[int, list[str]]],
    x: str | None,
    y: str | None,
    labels: set[str],
) -> tuple[str, str, list[str]]:
    if x is not None and y is not None:
        return x, y, []
    free = [name for name in header if name not in labels]
    if x is None and y is None and all(name in free for name in PREFERRED):
        return *PREFERRED, ["x is expert, y is predicted: the columns of these names"]
    numeric = [name for name in free if _is_numeric(rows, header.index(name))]
    rest = [name for name in numeric if name not in (x, y)]
    wanted = 2 if x is None and y is None else 1
    if len(rest) != wanted:
        raise AgreementTableError(
            f"{path}: name the two columns with --x and --y; {len(numeric)} are numeric "
            f"({', '.join(numeric) or 'none'}) of {', '.join(header)}"
        )
    chosen = (x or rest[0], y or rest[-1])
    return *chosen, [f"x is {chosen[0]}, y is {chosen[1]}: the two numeric columns"]


def _is_numeric(rows: Sequence[tuple[int, list[str]]], at: int) -> bool:
    values = [_number(cells[at]) for _, cells in rows]
    known = [value for value in values if value is not None]
    return bool(known) and all(map(math.isfinite, known))


def _number(cell: str) -> float | None:
    """The cell's number; None where it is missing, NaN where it is no number."""
    if cell.lower() in MISSING:
        return None
    try:
        return float(cell) if "_" not in cell else math.nan
    except ValueError:
        return math.nan


def _labels(
    path: Path, rows: Sequence[tuple[int, list[str]]], at: dict[str, int], column: str | None
) -> list[str] | None:
    if column is None:
        return None
    empty = [f"line {line}" for line, cells in rows if not cells[at[column]]]
    if empty:
        raise AgreementTableError(f"{path}: {column} is empty in {_some(empty)}; fill it in")
    return [cells[at[column]] for _, cells in rows]


def _check_ids(
    path: Path,
    rows: Sequence[tuple[int, list[str]]],
    at: dict[str, int],
    id_column: str,
    group: str | None,
) -> None:
    lines: dict[tuple[str, str], list[int]] = {}
    for line, cells in rows:
        key = cells[at[id_column]], "" if group is None else cells[at[group]]
        lines.setdefault(key, []).append(line)
    twice = [
        f"{name or '(empty)'} in lines {', '.join(map(str, own))}"
        for (name, _), own in lines.items()
        if len(own) > 1
    ]
    if twice:
        where = "" if group is None else f" within a {group}"
        raise AgreementTableError(
            f"{path}: {len(twice)} values of {id_column} come more than once{where}: {_some(twice)}; keep "
            f"one row for each, or give another --id, and --cluster {id_column} for several rows of a patient"
        )


def _some(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
    return "; ".join(texts[:SHOWN]) + more
