"""Reads matched points picked in several regions: the vendor's keypoints.csv, one file or column a region."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from past_core.errors import PastError
from past_core.ingest.xenium_alignment import KEYPOINT_COLUMNS

COLUMNS = ("fixedX", "fixedY", "alignmentX", "alignmentY")
REGION = "region"
MAX_BYTES = 2**24
"""Larger files are no keypoints."""


class KeypointError(PastError, ValueError):
    """A keypoint file that cannot be read or contradicts itself."""


class KeypointNotFoundError(PastError, FileNotFoundError):
    """There is no keypoint file at that path."""


@dataclass(frozen=True)
class KeypointSet:
    """The pairs of one region.

    Attributes:
        name: the region.
        fixed_px: (n, 2) x, y in morphology pixels.
        he_px: (n, 2) x, y in full-resolution H&E pixels.
        places: (n,) "FILE line K", for messages.
    """

    name: str
    fixed_px: np.ndarray
    he_px: np.ndarray
    places: tuple[str, ...]


def read_keypoints(paths: Sequence[Path | str]) -> list[KeypointSet]:
    """Reads one or more keypoint files.

    The header is `fixedX,fixedY,alignmentX,alignmentY` in any order, with or without `region`; without, a
    file is one region named after it (after its folder too where two files share a name).

    Args:
        paths: the files.

    Returns:
        the regions in order of appearance.

    Raises:
        KeypointNotFoundError: A file is not there.
        KeypointError: No files, or one given twice; a file that is no such table; a value that is no finite
            number; a landmark that occurs twice; a region in two files.
    """
    files = [Path(path) for path in paths]
    if not files:
        raise KeypointError("no keypoint files; give at least one")
    whole = [path.resolve() for path in files]
    twice = [path for path in files if whole.count(path.resolve()) > 1]
    if twice:
        raise KeypointError(f"{twice[0]} is given twice; each region's pairs count once")
    stems = [path.stem for path in files]
    sets: dict[str, tuple[Path, list[tuple[str, list[float]]]]] = {}
    for path in files:
        named = path.stem if stems.count(path.stem) == 1 else f"{path.resolve().parent.name}/{path.stem}"
        for region, place, values in _rows(path):
            name = named if region is None else region
            first, rows = sets.setdefault(name, (path, []))
            if first != path:
                raise KeypointError(f"region {name!r} is in {first} and in {path}; rename one of them")
            rows.append((place, values))
    _refuse_repeats([row for _, rows in sets.values() for row in rows])
    regions = []
    for name, (path, rows) in sets.items():
        if len(rows) < 2:
            raise KeypointError(
                f"{path}: region {name!r} has one pair; at least 2 fix its transform, and 4 show a wrong one"
            )
        pairs = np.array([numbers for _, numbers in rows])
        regions.append(KeypointSet(name, pairs[:, :2], pairs[:, 2:], tuple(place for place, _ in rows)))
    return regions


def _rows(path: Path) -> list[tuple[str | None, str, list[float]]]:
    """(region or None, place, [fixedX, fixedY, alignmentX, alignmentY]) of every row of a file."""
    lines = _lines(path)
    expected = f"expected a header with {','.join(COLUMNS)} and, for several regions, {REGION}"
    reader = csv.reader(lines)
    try:
        header = [cell.strip() for cell in next(reader, [])]
        numbered = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise KeypointError(f"{path}, line {reader.line_num}: not readable as CSV ({error})") from error
    body = [(line, row) for line, row in numbered if any(row)]
    missing = [column for column in COLUMNS if column not in header]
    if missing and len(header) == 1 and ";" in header[0]:
        raise KeypointError(
            f"{path} is separated by semicolons; save it separated by commas, with decimal points"
        )
    if missing and len(body) == 2 and len(header) == 3:
        raise KeypointError(f"{path} holds a 3x3 matrix, not keypoints; give it with --matrix. {expected}")
    if missing:
        found = ", ".join(header)[:1000]
        raise KeypointError(f"{path}: no column {', '.join(missing)} among {found}; {expected}")
    doubled = [column for column in (*KEYPOINT_COLUMNS, REGION) if header.count(column) > 1]
    if doubled:
        raise KeypointError(f"{path}: the column {doubled[0]} is there more than once; {expected}")
    if not body:
        raise KeypointError(f"{path} holds no pairs below its header; export the keypoints again")
    rows = []
    for line, cells in body:
        if len(cells) != len(header):
            raise KeypointError(
                f"{path}, line {line}: {len(cells)} values for {len(header)} columns; give one for each"
            )
        row = dict(zip(header, cells, strict=True))
        if row.get(REGION) == "":
            raise KeypointError(f"{path}, line {line}, column {REGION}: empty; name the region of this pair")
        values = [_number(row[column], path, line, column) for column in COLUMNS]
        rows.append((row.get(REGION), f"{path.name} line {line}", values))
    return rows


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise KeypointNotFoundError(f"{path}: no such file; expected keypoints exported by Xenium Explorer")
    if path.stat().st_size > MAX_BYTES:
        raise KeypointError(f"{path} has {path.stat().st_size:,} bytes; keypoints have at most {MAX_BYTES:,}")
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (UnicodeDecodeError, OSError) as error:
        raise KeypointError(f"{path} is not a text file ({error}); expected a CSV of keypoints") from error


def _number(cell: str, path: Path, line: int, column: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise KeypointError(
            f"{path}, line {line}, column {column}: {cell!r} is no finite number; correct or delete the line"
        )
    return value


def _refuse_repeats(rows: list[tuple[str, list[float]]]) -> None:
    """A landmark that occurs twice would count twice, and leave no set unseen when one is left out."""
    for columns, part in (("fixedX, fixedY", slice(0, 2)), ("alignmentX, alignmentY", slice(2, 4))):
        seen: dict[tuple[float, ...], str] = {}
        for place, values in rows:
            earlier = seen.setdefault(tuple(values[part]), place)
            if earlier != place:
                raise KeypointError(
                    f"{place} repeats {columns} of {earlier} ({values[part]}); delete or correct one of them"
                )
