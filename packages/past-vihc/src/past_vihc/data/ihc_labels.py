"""IHC4BC's label files: what is known of each patch without its image."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from past_core.errors import PastError

FLAGS = ("a", "0", "d")


class IhcLabelError(PastError, ValueError):
    """A label file that cannot be read."""


@dataclass(frozen=True, eq=False)
class IhcLabels:
    """Labels of one patch.

    Attributes:
        flag: `a` reliable, `0` forced to no staining, `d` discarded.
        nuclei: number of nuclei in the H&E patch, the denominator of its score.
        dab: `(n,)` float64 mean DAB of each nucleus of the IHC patch; the two sections hold different nuclei,
            so n may exceed `nuclei`.
    """

    flag: Literal["a", "0", "d"]
    nuclei: int
    dab: np.ndarray


def read_ihc_labels(path: str | Path) -> dict[str, IhcLabels]:
    """Reads a label file: on each line a patch's name, flag, number of nuclei, and one DAB value a nucleus.

    Lines differ in length. A first line of names is passed over. A discarded patch needs no numbers.

    Args:
        path: the CSV.

    Returns:
        labels by the name of the patch's image.

    Raises:
        IhcLabelError: not text, no lines, or a line that cannot be, by number.
    """
    path = Path(path)
    found: dict[str, IhcLabels] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            for number, cells in enumerate(csv.reader(file), start=1):
                fields = [cell.strip() for cell in cells]
                while fields and not fields[-1]:
                    fields.pop()  # tables are padded to their longest line
                header = number == 1 and len(fields) > 1 and fields[1].lower() not in FLAGS
                if fields and not header:
                    name, labels = _line(fields, f"{path}, line {number}")
                    if name in found:
                        raise IhcLabelError(f"{path}, line {number}: {name} has a line already; keep one")
                    found[name] = labels
    except (OSError, UnicodeError, csv.Error) as error:
        raise IhcLabelError(f"{path}: cannot be read as CSV: {error}") from error
    if not found:
        raise IhcLabelError(f"{path}: no labels in it; expected lines of name, flag, nuclei, DAB, DAB, ...")
    return found


def _line(fields: list[str], where: str) -> tuple[str, IhcLabels]:
    if len(fields) < 2 or not fields[0] or fields[1].lower() not in FLAGS:
        raise IhcLabelError(
            f"{where}: {', '.join(fields[:3])!r}; expected a name and a flag, one of {', '.join(FLAGS)}"
        )
    flag = fields[1].lower()
    if flag == "d":
        return fields[0], IhcLabels("d", 0, np.zeros(0))
    try:
        nuclei, dab = int(fields[2]), np.array([float(value) for value in fields[3:]], np.float64)
    except (IndexError, ValueError) as error:
        raise IhcLabelError(
            f"{where}: {fields[0]} has no whole number of nuclei followed by DAB values ({error})"
        ) from error
    if nuclei < 0 or not np.isfinite(dab).all():
        raise IhcLabelError(f"{where}: {fields[0]} has {nuclei} nuclei, or DAB that is not finite")
    return fields[0], IhcLabels(flag, nuclei, dab)
