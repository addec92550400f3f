"""Reads columns of a bundle's tables, parquet or CSV, by name."""

import gzip
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from past_core.ingest.xenium_files import BundleError, named_after, require_file

UNASSIGNED = ("UNASSIGNED", "-1", "")
"""How versions spell that a row belongs to no cell."""
ROWS = 2**20
"""Rows of a parquet file that are read at a time."""
BLOCK = 2**24
"""Bytes of text that are parsed at a time."""


def read_table(
    path: Path, what: str, *, required: tuple[str, ...], optional: tuple[str, ...] = (), max_rows: int
) -> pa.Table:
    """Reads columns of a parquet file or a CSV (`.csv.gz`, `.csv`) by name; see `read_batches`."""
    schema, batches = read_batches(path, what, required=required, optional=optional, max_rows=max_rows)
    return pa.Table.from_batches(list(batches), schema=schema)


def read_batches(
    path: Path, what: str, *, required: tuple[str, ...], optional: tuple[str, ...] = (), max_rows: int
) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Reads columns of a parquet file or a CSV (`.csv.gz`, `.csv`) by name, some rows at a time.

    Args:
        path: The file.
        what: What it is, for messages.
        required: Columns that must be there.
        optional: Columns that are read where they exist.
        max_rows: More rows than this are taken for a damaged file, before they are read.

    Returns:
        The columns that are read, and their rows, which are read when asked for.

    Raises:
        BundleNotFoundError: The file is not there.
        BundleError: Damaged or truncated, without a column, or of more rows than it can have; also while the
            rows are read.
    """
    require_file(path, what)
    read = _parquet if path.suffix == ".parquet" else _csv
    found = read(path, what, required, optional, max_rows)
    schema = next(found)
    return schema, found


def _parquet(
    path: Path, what: str, required: tuple[str, ...], optional: tuple[str, ...], max_rows: int
) -> Iterator[pa.Schema | pa.RecordBatch]:
    """The schema of the columns, then the rows."""
    with named_after(path, "a whole parquet file"), pq.ParquetFile(path) as file:
        columns = _present(path, file.schema_arrow.names, what, required, optional)
        rows = file.metadata.num_rows
        if not 0 <= rows <= max_rows:
            raise BundleError(f"{path} claims {rows} rows, expected at most {max_rows}: {what}")
        yield pa.schema([file.schema_arrow.field(column) for column in columns])
        for batch in file.iter_batches(ROWS, columns=columns, use_threads=False):
            yield batch.select(columns)


def _csv(
    path: Path, what: str, required: tuple[str, ...], optional: tuple[str, ...], max_rows: int
) -> Iterator[pa.Schema | pa.RecordBatch]:
    """The same; a file that unpacks to far more than it can hold is given up early."""
    with (
        named_after(path, "a whole CSV table"),
        gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as text,
    ):
        header = text.readline(BLOCK).decode("utf-8").strip().replace('"', "").split(",")
        columns = _present(path, header, what, required, optional)
        types = {column: pa.string() if column == "cell_id" else None for column in columns}
        options = pyarrow.csv.ConvertOptions(
            include_columns=columns,
            column_types={column: kind for column, kind in types.items() if kind is not None},
        )
        reader = pyarrow.csv.open_csv(
            text,
            read_options=pyarrow.csv.ReadOptions(column_names=header, block_size=BLOCK, use_threads=False),
            convert_options=options,
        )
        yield reader.schema
        rows = 0
        for batch in reader:
            rows += batch.num_rows
            if rows > max_rows:
                raise BundleError(f"{path} has more than {max_rows} rows: {what}")
            yield batch


def _present(
    path: Path, found: list[str], what: str, required: tuple[str, ...], optional: tuple[str, ...]
) -> list[str]:
    """The columns to read."""
    missing = [column for column in required if column not in found]
    if missing:
        raise BundleError(
            f"{path} has no column {', '.join(map(repr, missing))}: expected {what} with "
            f"{', '.join(required)}; found {', '.join(found)[:500]}"
        )
    columns = [*required, *(column for column in optional if column in found)]
    twice = [column for column in columns if found.count(column) > 1]
    if twice:
        raise BundleError(f"{path} has more than one column {twice[0]!r}: {what}")
    return columns


def strings(column: pa.ChunkedArray, path: Path) -> pa.Array:
    """Decodes a column of ids that some versions write as bytes or integers; floats are no ids.

    Raises:
        BundleError: They are no text, or bytes that are not UTF-8.
    """
    values = column.combine_chunks()
    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks)
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    kind = values.type
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    binary = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)
    if not (text or binary or pa.types.is_integer(kind) or pa.types.is_null(kind)):
        raise BundleError(f"{path}: column cell_id holds {kind}, expected text or whole numbers")
    with named_after(path, "a table of cell ids in UTF-8"):
        if pa.types.is_fixed_size_binary(kind):
            values = pc.cast(values, pa.binary())
        found = pc.cast(values, pa.string())
        found.validate(full=True)
    return found


def numbers(column: pa.ChunkedArray, name: str, path: Path) -> np.ndarray:
    """(rows,) float64, NaN where there is no value.

    Raises:
        BundleError: They are no numbers.
    """
    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)):
        raise BundleError(f"{path}: column {name} holds {kind}, expected numbers")
    with named_after(path, f"a table with numbers in {name}"):
        return np.asarray(pc.cast(column, pa.float64(), safe=False).to_numpy(), dtype=np.float64)
