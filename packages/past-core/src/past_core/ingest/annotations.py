"""Reference annotations of cells, such as cell types, from a table into a slide's `obs`."""

import logging
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from past_core.errors import PastError
from past_core.foreign.tables import read_csv
from past_core.ingest.write import SlideData

logger = logging.getLogger(__name__)

ID_COLUMNS = ("cell_id", "Barcode", "barcode")
"""How tables call the cells' ids; in one with none of these the first column holds them."""
UNANNOTATED = "unannotated"
"""The category of cells that a table says nothing about."""
RESERVED = frozenset({"cell_id", "region", "n_counts", "n_genes", "qc_pass", "qc_reason"})
"""Columns that every store's `obs` has of its own."""
SUFFIXES = {".csv": ",", ".tsv": "\t", ".txt": "\t", ".parquet": None}
MAX_BYTES = 4 * 2**30
"""Kinds of files, and what separates their columns."""


class AnnotationError(PastError, ValueError):
    """A table of annotations that cannot be read, or does not belong to the slide."""


class AnnotationNotFoundError(PastError, FileNotFoundError):
    """No table of annotations is there."""


def add_annotations(data: SlideData, file: Path | str, *, columns: Sequence[str] | None = None) -> SlideData:
    """Joins a table of annotations on the cells' ids: a categorical column of `obs` for each of its columns.

    Cells that the table lacks, or has without a value, are "unannotated"; how many, and how many of the
    table's ids are no cell's, goes into the slide's report, the table into its sources.

    Args:
        data: the slide, changed in place.
        file: `.csv`, `.tsv` (both also `.gz`) or `.parquet`; ids in `cell_id`, `Barcode`, `barcode` or else
            the first column.
        columns: which annotations; by default every column but those of numbers with fractions.

    Returns:
        `data`.

    Raises:
        AnnotationNotFoundError: no such file.
        AnnotationError: another kind of file, a damaged one, no annotation in it, an id twice, a column that
            `obs` has already, or not one id that is a cell's.
    """
    file = Path(file)
    table, ids = _read(file)
    names = list(table.columns) if columns is None else list(columns)
    absent = [name for name in names if name not in table]
    if absent:
        raise AnnotationError(f"{file} has no column {absent[0]!r}; it has {', '.join(table.columns)}")
    texts = {name: _text(table[name]) for name in names}
    if columns is None:
        skipped = [name for name, text in texts.items() if text is None]
        if skipped:
            logger.warning("%s: left out, for they hold numbers with fractions: %s", file, ", ".join(skipped))
    named = {
        name: table[name].astype(str) if text is None and columns else text for name, text in texts.items()
    }
    known = {name: text for name, text in named.items() if text is not None}
    if not known:
        raise AnnotationError(
            f"{file} holds no annotation beside the ids in {ids!r}; expected one or more columns of names"
        )
    taken = [name for name in known if name in RESERVED or name in data.table.obs]
    if taken:
        raise AnnotationError(
            f"{file}: obs has a column {taken[0]!r} of its own; give the annotation another name"
        )
    cells = data.table.obs_names.astype(str)
    matched = cells.isin(table.index)
    unknown = int((~table.index.isin(cells)).sum())
    if not matched.any():
        raise AnnotationError(
            f"{file}: none of its {len(table)} ids in {ids!r} ({_some(table.index)}) is a cell of "
            f"{data.name} ({_some(cells)}); give the ids that the slide has"
        )
    if unknown:
        logger.warning("%s: %d of %d ids are no cell of %s", file, unknown, len(table), data.name)
    report = {}
    for name, text in known.items():
        values = text.reindex(cells)
        missing = int(values.isna().sum())
        kinds = sorted(set(values.dropna()))
        values = pd.Categorical(
            values.fillna(UNANNOTATED), [*(k for k in kinds if k != UNANNOTATED), UNANNOTATED]
        )
        data.table.obs[name] = values.remove_unused_categories()
        report[name] = {"categories": len(kinds), "unannotated": missing}
    data.report = {
        **data.report,
        "annotations": {
            "file": file.name,
            "matched": int(matched.sum()),
            "unknown_ids": unknown,
            "columns": report,
        },
    }
    data.sources = {**data.sources, file.name: file}
    return data


def _read(file: Path) -> tuple[pd.DataFrame, str]:
    """A table of annotations by cell id, and which column held the ids."""
    if not file.is_file():
        raise AnnotationNotFoundError(f"no annotations at {file}; give a table of cell ids and annotations")
    suffix = Path(file.stem).suffix if file.suffix == ".gz" else file.suffix
    if suffix not in SUFFIXES:
        raise AnnotationError(
            f"{file}: annotations are read from {', '.join(SUFFIXES)}, not {suffix or 'this'}"
        )
    try:
        if suffix == ".parquet":
            table = pd.read_parquet(file)
            if not isinstance(table.index, pd.RangeIndex):  # the ids are the index
                table = table.reset_index()
        else:
            table = read_csv(file, max_bytes=MAX_BYTES, sep=SUFFIXES[suffix], dtype=str)
    except Exception as error:  # whatever pandas and pyarrow raise on foreign data
        raise AnnotationError(f"{file} cannot be read as {suffix} ({error})") from error
    table.columns = table.columns.astype(str)
    ids = next((name for name in ID_COLUMNS if name in table), None)
    if ids is None:
        ids = str(table.columns[0]) if len(table.columns) else ""
    if not len(table) or len(table.columns) < 2:
        found = ", ".join(table.columns)[:1000] or "(none)"
        raise AnnotationError(
            f"{file} has {len(table)} rows and the columns {found}; expected "
            "a row a cell, with its id and one or more annotations"
        )
    table[ids] = [v.decode() if isinstance(v, bytes) else str(v) for v in table[ids]]
    twice = table[ids][table[ids].duplicated()]
    if len(twice):
        raise AnnotationError(f"{file}: id {twice.iloc[0]!r} is there more than once in column {ids!r}")
    return table.set_index(ids), ids


def _text(values: pd.Series) -> pd.Series | None:
    """A column as names, NaN where it is empty; None for numbers with fractions."""
    present = values.dropna()
    numbers = pd.to_numeric(present, errors="coerce") if present.dtype != bool else pd.Series(dtype=float)
    if len(numbers) and numbers.notna().all():
        whole = numbers.astype("float64")
        if (whole % 1 != 0).any():
            return None
        present = whole.astype("int64")  # "3" and, where a row lacks one, "3.0"
    out = pd.Series(index=values.index, dtype=object)
    out.loc[present.index] = present.astype(str).str.strip()
    return out.where(out != "")


def _some(ids: pd.Index) -> str:
    return ", ".join(repr(str(name)) for name in ids[:3])
