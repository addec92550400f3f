"""Slides to ingest from a sheet: one request a row, what is wrong with a row is that row's problem."""

import glob
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from past_core.ingest.run import SOURCES, IngestError, IngestRequest, one_source, options_of
from past_core.sheets import Line, SheetError, read_table

logger = logging.getLogger(__name__)

SOURCE_COLUMNS = {"bundle": "BUNDLE", "hest": "--hest", "spatialdata": "--spatialdata"}
"""Columns of which every row fills one, and the source that each is."""
ALIASES = {"cancer": "cancer_type"}
NOTES = (
    "organ",
    "cancer_name",
    "disease",
    "species",
    "panel",
    "features",
    "preservation",
    "title",
    "licence",
    "license",
    "source",
    "note",
)
"""Columns for people, such as `past catalogue` writes; ingest does not use them."""
OWN = {"output", "source", "path", "options", "overwrite", "quality", "quality_report"}
"""Fields of a request that are the same for all rows, or follow from other columns."""
TRUE, FALSE = ("true", "yes", "1"), ("false", "no", "0")
FILES = ("he", "alignment", "registration", "annotations")
"""Columns that name a file or folder."""
SEPARATOR = ";"
"""Stands between several files of keypoints in one cell."""
NUMBERS = {"mpp": float, "target_mpp": float, "max_outside": float, "k": int}
SWITCHES = ("swap_xy", "overwrite")
MAX_NAME = 150
"""Longest name of a slide, so that temporary names beside its store stay within a file system's 255."""


@dataclass(frozen=True)
class IngestRow:
    """One slide of a sheet.

    Attributes:
        line: Its line in the file (the header is line 1).
        slide: Its name.
        output: The store to make.
        request: What to ingest; None where the row cannot be.
        problem: What is wrong with the row, with the sheet and the line.
        absent: Whether the problem is but that files are not there (yet).
    """

    line: int
    slide: str
    output: Path
    request: IngestRequest | None = None
    problem: str | None = None
    absent: bool = False


class AbsentFileError(IngestError):
    """A row's file is not there."""


def columns() -> dict[str, str]:
    """Every column that is used, and what it says: a source, an option of sources, a field of the request."""
    options = {option: "option" for taken in SOURCES.values() for option in sorted(taken)}
    common = {item.name: "field" for item in fields(IngestRequest) if item.name not in OWN | {"name"}}
    known = {"slide": "name"} | dict.fromkeys(SOURCE_COLUMNS, "source") | options | common
    return known | {alias: known[name] for alias, name in ALIASES.items()}


def read_ingest_sheet(
    path: str | Path,
    folder: str | Path,
    *,
    options: Mapping[str, Any] | None = None,
    common: Mapping[str, Any] | None = None,
) -> list[IngestRow]:
    """Reads a sheet: a CSV with the column `slide`, a source and any option of `past ingest`.

    Args:
        path: The sheet; relative paths in it count from its folder. A path with `*` or `?` stands for the
            one file that fits, in the column `keypoints` for all that fit.
        folder: Where the stores go, as SLIDE.zarr.
        options: Of sources, for every row that does not say otherwise and whose source takes them.
        common: Fields of every request, where the row does not say otherwise.

    Raises:
        SheetNotFoundError: No such file.
        SheetError: Not a sheet, no rows, no column `slide` or no source, two rows of one name, or an option
            that no row's source takes.
    """
    path, folder = Path(path), Path(folder)
    options = {name: value for name, value in (options or {}).items() if value is not None}
    common = dict(common or {})
    known = columns()
    sheet = read_table(
        path,
        required=("slide",),
        expected=f"slide, one of {', '.join(SOURCE_COLUMNS)}, and options",
        lower=True,
    )
    if not set(sheet.columns) & set(SOURCE_COLUMNS):
        raise SheetError(
            f"{path}: no column that names the slides' files among {', '.join(sheet.columns)}; expected "
            f"one or more of {', '.join(SOURCE_COLUMNS)}"
        )
    for alias, name in ALIASES.items():
        if {alias, name} <= set(sheet.columns):
            raise SheetError(f"{path}: the columns {alias!r} and {name!r} are the same; keep one of them")
    ignored = [name for name in sheet.columns if name not in known and name not in NOTES]
    if ignored:
        logger.warning("%s: columns that are not used: %s", path, ", ".join(ignored))
    rows = [_row(path, line, folder, options, common) for line in sheet.lines]
    _refuse_twice(path, rows)
    taken = set().union(*(SOURCES[row.request.source] for row in rows if row.request))
    idle = [name for name in options if name not in taken]
    if idle and any(row.request for row in rows):
        raise SheetError(
            f"{path}: --{idle[0].replace('_', '-')} goes with none of the sheet's sources; leave it out"
        )
    return rows


def _refuse_twice(path: Path, rows: list[IngestRow]) -> None:
    seen: dict[Path, IngestRow] = {}
    for row in rows:
        other = seen.setdefault(row.output, row)
        if other is not row:
            raise SheetError(
                f"{path}: lines {other.line} and {row.line} would both make {row.output.name}; "
                "give every slide a name of its own"
            )


def _row(path: Path, line: Line, folder: Path, options: dict[str, Any], common: dict[str, Any]) -> IngestRow:
    where = f"{path.name}, line {line.number}"
    cells = {ALIASES.get(name, name): text for name, text in line.cells.items() if text}
    slide = cells.get("slide", "").removesuffix(".zarr")
    try:
        _check_name(slide)
    except IngestError as error:
        # A name that no file has: it never meets another row's.
        output = folder / f".line-{line.number}.zarr"
        return IngestRow(line.number, slide or f"line {line.number}", output, problem=f"{where}: {error}")
    output = folder / f"{slide}.zarr"
    try:
        request = _request(path.parent, slide, output, cells, options, common)
    except IngestError as error:
        return IngestRow(
            line.number, slide, output, problem=f"{where}: {error}", absent=isinstance(error, AbsentFileError)
        )
    return IngestRow(line.number, slide, output, request)


def _check_name(slide: str) -> None:
    """Refuses what cannot be the name of a folder in the output folder."""
    if not slide:
        raise IngestError("the column 'slide' is empty; expected the slide's name")
    if any(letter in slide for letter in '/\\:*?"<>|') or not slide.isprintable() or slide.startswith("."):
        raise IngestError(
            f"the slide's name {slide!r} cannot be that of a store; expected a plain name without slashes, "
            'any of :*?"<>| or a dot in front'
        )
    if len(slide.encode()) > MAX_NAME:
        raise IngestError(f"the slide's name {slide[:30]!r}... is longer than {MAX_NAME} bytes; shorten it")


def _request(
    base: Path,
    slide: str,
    output: Path,
    cells: dict[str, str],
    options: dict[str, Any],
    common: dict[str, Any],
) -> IngestRequest:
    known = columns()
    given = {source: cells.get(column) for column, source in SOURCE_COLUMNS.items()}
    try:
        source, text = one_source(given)
    except IngestError:
        filled = [column for column in SOURCE_COLUMNS if cells.get(column)]
        raise IngestError(
            f"expected exactly one of the columns {', '.join(SOURCE_COLUMNS)} filled; found "
            f"{' and '.join(filled) or 'none'}"
        ) from None
    where = _path(base, next(column for column, key in SOURCE_COLUMNS.items() if key == source), str(text))
    wanted = {name: text for name, text in cells.items() if known.get(name) in ("option", "field")}
    values = {name: _value(base, name, text) for name, text in wanted.items()}
    ours = {name: value for name, value in values.items() if known[name] == "option"}
    theirs = {name: value for name, value in options.items() if name in SOURCES[source]}
    request = {
        **common,
        **{name: value for name, value in values.items() if known[name] == "field"},
        "name": slide,
    }
    return IngestRequest(
        output=output, source=source, path=where, options=options_of(source, theirs | ours), **request
    )


def _value(base: Path, name: str, text: str) -> Any:
    """A cell as the option's own type."""
    if name in FILES:
        return _path(base, name, text)
    if name == "keypoints":
        return keypoint_files(text.split(SEPARATOR), base)
    if name in SWITCHES:
        if text.lower() not in TRUE + FALSE:
            raise IngestError(f"{name} {text!r} is neither yes nor no")
        return text.lower() in TRUE
    if name not in NUMBERS:
        return text
    try:
        number = NUMBERS[name](text)
    except ValueError:
        number = math.nan
    low = 0 if name == "max_outside" else 1 if name == "k" else math.ulp(0.0)
    high = 1 if name == "max_outside" else math.inf
    if not (math.isfinite(number) and low <= number <= high):
        expected = {
            "k": "a whole number from 1",
            "max_outside": "a share from 0 to 1",
        }.get(name, "a positive number of µm per pixel")
        raise IngestError(f"{name} {text!r} is not {expected}")
    return number


def keypoint_files(texts: Sequence[str], base: Path = Path()) -> tuple[Path, ...]:
    """Files of keypoints: each text is a path, or a pattern with `*` or `?` for all files that fit it.

    Raises:
        AbsentFileError: One is not there, or nothing fits a pattern.
        IngestError: No path at all.
    """
    found: list[Path] = []
    for text in filter(None, (text.strip() for text in texts)):
        found += _fitting(base, "keypoints", text)
    if not found:
        raise IngestError("keypoints: no file is named; expected one or several, separated by ;")
    return tuple(found)


def _path(base: Path, name: str, text: str) -> Path:
    """A path of a row; a pattern is the one that fits it."""
    found = _fitting(base, name, text)
    if len(found) > 1:
        names = ", ".join(item.name for item in found[:3])
        raise IngestError(f"{name}: {len(found)} files fit {base / text} ({names}, ...); name one of them")
    return found[0]


def _fitting(base: Path, name: str, text: str) -> list[Path]:
    """The path itself where it is there, else all that fit it as a pattern, in the order of their names.

    Raises:
        AbsentFileError: Nothing.
    """
    path = base / text
    if path.exists():
        return [path]
    if "*" not in text and "?" not in text:
        raise AbsentFileError(f"{name}: nothing at {path}")
    # Brackets are part of names, not of patterns.
    found = sorted(glob.glob(glob.escape(f"{base}/") + text.replace("[", "[[]")))  # noqa: PTH207
    if Path(text).is_absolute():
        found = sorted(glob.glob(text.replace("[", "[[]")))  # noqa: PTH207
    if not found:
        raise AbsentFileError(f"{name}: nothing fits {path}")
    return [Path(item) for item in found]
