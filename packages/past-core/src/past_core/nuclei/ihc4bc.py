"""Label files of IHC4BC (ihc4bc.github.io): the mean DAB of every nucleus of each patch.

A line has the image's name, a flag, the number of nuclei in the H&E patch, then one mean DAB for each nucleus
of the IHC patch, so lines differ in length. The two sections hold different nuclei: the H&E's number is the
denominator of the H-score, and may be less than the number of values.
"""

import math
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from past_core.errors import PastError

FLAGS = {"a": "reliable", "0": "set to zero", "d": "discarded"}
MAX_BYTES = 2**30
_NAME = re.compile(
    r"(?:(?P<prefix>.*)_)?(?P<case>[^_]+)_(?P<region>\d{1,9})_(?P<row>\d{1,9})_(?P<column>\d{1,9})"
)
_IMAGE = re.compile(r"\.(?:png|jpe?g|tiff?)$", re.IGNORECASE)


class IhcLabelError(PastError, ValueError):
    """A label file of IHC4BC that cannot be read."""


class IhcLabelNotFoundError(PastError, FileNotFoundError):
    """There is no label file at that path."""


class PatchName(NamedTuple):
    """The parts of `xxx_caseid_regionindex_rowindex_colindex.png`."""

    prefix: str
    case: str
    region: int
    row: int
    column: int


class IhcLabels(NamedTuple):
    """The labels of one patch.

    Attributes:
        name: of its image, as the file has it.
        case: the case that it belongs to; patches of one case overlap, so only cases may be split.
        flag: `a` reliable, `0` set to zero, `d` discarded.
        n_he: nuclei in the H&E patch.
        dab: `(N,)` mean DAB of each nucleus in the IHC patch.
    """

    name: str
    case: str
    flag: str
    n_he: int
    dab: np.ndarray


Ihc4bcLabels = IhcLabels


def patch_name(name: str) -> PatchName:
    """Takes the name of a patch apart, with or without its ending.

    Raises:
        IhcLabelError: it is no such name.
    """
    match = _NAME.fullmatch(_IMAGE.sub("", name))
    if match is None:
        raise IhcLabelError(f"{name[:80]!r}; expected such as xxx_caseid_regionindex_rowindex_colindex.png")
    return PatchName(
        match["prefix"] or "", match["case"], int(match["region"]), int(match["row"]), int(match["column"])
    )


def read_ihc4bc(path: str | Path) -> dict[str, IhcLabels]:
    """Reads a label file.

    Args:
        path: comma-separated, with or without a line of headings; lines may end in empty fields.

    Returns:
        labels by the image's name, in the file's order.

    Raises:
        IhcLabelNotFoundError: no such file.
        IhcLabelError: not text, no lines, or a line that is not as described, named by its number.
    """
    path = Path(path)
    if not path.is_file():
        raise IhcLabelNotFoundError(f"no label file at {path}; expected a CSV of IHC4BC")
    if path.stat().st_size > MAX_BYTES:
        raise IhcLabelError(f"{path}: {path.stat().st_size} bytes; expected at most {MAX_BYTES}")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise IhcLabelError(f"{path}: not text ({error}); expected a CSV of IHC4BC") from error
    found: dict[str, IhcLabels] = {}
    first = True
    for number, line in enumerate(lines, start=1):
        fields = [field.strip().strip('"').strip() for field in line.split(",")]
        if not any(fields):
            continue
        if first and _is_heading(fields):
            first = False
            continue
        first = False
        labels = _labels(f"{path}, line {number}", fields)
        if labels.name in found:
            raise IhcLabelError(f"{path}, line {number}: {labels.name} a second time")
        found[labels.name] = labels
    if not found:
        raise IhcLabelError(f"{path}: no lines; expected name, flag, nuclei in the H&E, DAB of each nucleus")
    return found


def _is_heading(fields: list[str]) -> bool:
    """Whether a line holds words where flag and number should be."""
    return (
        len(fields) >= 3
        and fields[1].lower() not in FLAGS
        and _IMAGE.search(fields[0]) is None
        and all(not any(letter.isdigit() for letter in field) for field in fields[1:3])
    )


def _labels(where: str, fields: list[str]) -> IhcLabels:
    while len(fields) > 3 and not fields[-1]:
        fields = fields[:-1]
    if len(fields) < 3:
        raise IhcLabelError(
            f"{where}: {len(fields)} fields; expected name, flag, nuclei in the H&E, DAB of each nucleus"
        )
    name, flag, count, *values = fields
    try:
        case = patch_name(name).case
    except IhcLabelError as error:
        raise IhcLabelError(f"{where}: {error}") from error
    if flag.lower() not in FLAGS:
        meaning = ", ".join(f"{key} ({value})" for key, value in FLAGS.items())
        raise IhcLabelError(f"{where}: the flag is {flag[:20]!r}; expected {meaning}")
    n_he = _number(count)
    if not (0 <= n_he <= 1e9 and n_he == int(n_he)):
        raise IhcLabelError(f"{where}: {count[:20]!r} nuclei in the H&E; expected a whole number")
    dab = [_number(value) for value in values]
    for place, value in enumerate(dab, start=4):
        if not math.isfinite(value):
            raise IhcLabelError(f"{where}, field {place}: {values[place - 4][:20]!r}; expected a DAB value")
    return IhcLabels(name, case, flag.lower(), int(n_he), np.array(dab, np.float64))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
