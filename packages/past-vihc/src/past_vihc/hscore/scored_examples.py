"""The table of scored examples that `past calibrate` reads."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from past_core.foreign.errors import ForeignError
from past_core.foreign.tables import read_csv
from past_vihc.hscore.calibrate import CalibrationError, Example

CLASS_COLUMNS = ("negative", "weak", "moderate", "strong")
MAX_BYTES = 4 * 2**30
"""Largest table of nuclei."""


class ExamplesNotFoundError(CalibrationError, FileNotFoundError):
    """There is no table at that path, or a file that it names is missing."""


def read_examples(path: Path, measure: Callable[[Path, float | None], np.ndarray]) -> list[Example]:
    """Reads a CSV with a row an example.

    Columns: `nuclei` (a table with `dab_od`, as `past hscore` writes) or `image` (an IHC, with `mpp` where
    its file does not say); and `h_score`, or the percentages `negative`, `weak`, `moderate`, `strong`. Paths
    are relative to the table.

    Args:
        path: the CSV.
        measure: DAB of the nuclei of an image.

    Raises:
        ExamplesNotFoundError: no such file.
        CalibrationError: columns are missing, or values that are no numbers.
    """
    if not path.is_file():
        raise ExamplesNotFoundError(f"no table at {path}; expected a CSV of scored examples")
    try:
        table = read_csv(path)
    except (OSError, ForeignError) as error:
        raise CalibrationError(f"{path}: not a CSV ({error})") from error
    source = next((name for name in ("nuclei", "image") if name in table), None)
    by_class = all(name in table for name in CLASS_COLUMNS)
    if source is None or not (by_class or "h_score" in table):
        raise CalibrationError(
            f"{path}: its columns are {', '.join(map(str, table.columns))}; expected nuclei or image, and "
            f"h_score or {', '.join(CLASS_COLUMNS)}"
        )
    examples = []
    for line, row in enumerate(table.to_dict("records"), 2):
        file = path.parent / str(row[source])
        if not file.is_file():
            raise ExamplesNotFoundError(f"{path}, line {line}: there is no {file}")
        try:
            percent = np.array([float(row[name]) for name in CLASS_COLUMNS]) if by_class else None
            h = float(row["h_score"]) if percent is None else float(percent @ np.arange(4) / 100 * 100)
            mpp = float(row["mpp"]) if pd.notna(row.get("mpp")) else None
        except (TypeError, ValueError) as error:
            raise CalibrationError(f"{path}, line {line}: {error}; expected numbers") from error
        if not np.isfinite(h):
            raise CalibrationError(f"{path}, line {line}: no score; expected numbers in all columns")
        dab = _dab(file) if source == "nuclei" else measure(file, mpp)
        examples.append(Example(str(row[source]), dab, h, percent))
    return examples


def _dab(file: Path) -> np.ndarray:
    try:
        table = read_csv(file, max_bytes=MAX_BYTES)
        return pd.to_numeric(table["dab_od"]).to_numpy(np.float64)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CalibrationError(
            f"{file}: no table of nuclei ({error!r}); expected the column dab_od, as past hscore writes it"
        ) from error
