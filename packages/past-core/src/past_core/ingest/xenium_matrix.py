"""The 10x count matrix of a Xenium bundle, from HDF5, the Matrix Market folder, or the zip of zarr."""

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
from scipy.sparse import coo_matrix, csr_matrix

from past_core.ingest.xenium_files import BundleError, dataset, named_after, open_hdf5, require_file

MAX_FEATURES = 1_000_000
STEP = 2**22
"""Entries that are looked at in one go."""
MAX_LABELS = 2**30
"""Largest table of barcodes or features in bytes."""
SCALING = "protein_scaling_factor"
"""Root attribute of the HDF5 file by which intensities of proteins were multiplied."""


class Matrix(NamedTuple):
    """A count matrix before genes, proteins and controls are told apart.

    Attributes:
        counts: (N, F) cells x features, values as stored.
        features: (F rows) id, name, feature_type.
        barcodes: (N,) cell ids.
        protein_scale: What intensities of proteins are divided by.
    """

    counts: csr_matrix
    features: pd.DataFrame
    barcodes: np.ndarray
    protein_scale: float = 1.0


def read_matrix(path: Path, n_cells: int) -> Matrix:
    """Reads cell_feature_matrix.h5, the folder cell_feature_matrix, or cell_feature_matrix.zarr.zip.

    Sizes are checked before anything of that size is read.

    Args:
        path: The file or the folder.
        n_cells: Number of cells that the table of cells has.

    Raises:
        BundleNotFoundError: A file is not there.
        BundleError: Truncated, parts missing or of sizes that do not fit, or indices out of range.
    """
    if path.is_dir():
        return _read_folder(path, n_cells)
    if path.suffix == ".zip":
        from past_core.ingest.xenium_matrix_zarr import read_zarr_matrix

        return read_zarr_matrix(path, n_cells)
    return _read_hdf5(path, n_cells)


def _read_hdf5(path: Path, n_cells: int) -> Matrix:
    with open_hdf5(path, "the 10x count matrix") as file:
        group = file["matrix"]
        names = ("data", "indices", "indptr", "shape", "barcodes")
        parts: dict[str, h5py.Dataset] = {name: dataset(group, name, path) for name in names}
        labels = {name: dataset(group["features"], name, path) for name in ("id", "name", "feature_type")}
        n_features = labels["id"].size
        shape = tuple(parts["shape"][:2].tolist()) if parts["shape"].size == 2 else parts["shape"].shape
        same_number(path, parts["barcodes"].size, n_cells)
        stored = parts["data"].size
        fits = (
            n_features <= MAX_FEATURES
            and shape == (n_features, n_cells)
            and parts["indptr"].size == n_cells + 1
            and parts["indices"].size == stored <= n_cells * n_features
            and all(label.size == n_features for label in labels.values())
            and all(parts[name].dtype.kind in "iu" for name in ("indices", "indptr", "shape"))
            and parts["data"].dtype.kind in "iuf"
        )
        if not fits:
            sizes = ", ".join(f"{name} {part.size} {part.dtype}" for name, part in (parts | labels).items())
            raise BundleError(f"{path}: sizes do not fit a matrix of {shape} features x cells: {sizes}")
        data, indptr = parts["data"][...], parts["indptr"][...]
        indices = _narrow(parts["indices"], n_features)
        features = pd.DataFrame({name: _text(label) for name, label in labels.items()})
        barcodes = _text(parts["barcodes"])
        scale = _scale(file, path)
    check_entries(path, "matrix", data, indices, indptr, n_features)
    compressed = (data, indices, indptr.astype(np.int64))
    counts = csr_matrix(compressed, shape=(n_cells, n_features))
    return Matrix(counts, features, barcodes, scale)


def _narrow(indices: h5py.Dataset, columns: int) -> np.ndarray:
    """(E,) int32 columns of the values, which the file holds as int64; -1 for what is none."""
    found = np.empty(indices.size, np.int32)
    for start in range(0, len(found), STEP):
        part = indices[start : start + STEP]
        found[start : start + len(part)] = np.where((part >= 0) & (part < columns), part, -1)
    return found


def check_entries(
    path: Path, group: str, data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, columns: int
) -> None:
    """Checks the arrays of a compressed matrix.

    Args:
        path: The file, for messages.
        group: Where in it they are.
        data: (E,) values.
        indices: (E,) columns of the values.
        indptr: (rows + 1,) where each row begins.
        columns: Number of columns.

    Raises:
        BundleError: They do not fit, point outside the matrix, or store an entry twice.
    """
    stored = len(data)
    if (
        len(indices) != stored
        or int(indptr[0]) != 0
        or int(indptr[-1]) != stored
        or (indptr[1:] < indptr[:-1]).any()
        or (stored and not 0 <= int(indices.min()) <= int(indices.max()) < columns)
    ):
        raise BundleError(
            f"{path}: /{group}/indptr or /{group}/indices point outside the matrix; the file is damaged"
        )
    _no_repeats(path, group, indices, indptr.astype(np.int64))


def _no_repeats(path: Path, group: str, indices: np.ndarray, indptr: np.ndarray) -> None:
    """Refuses an entry that occurs twice, which would be summed: the instrument writes each once."""
    start = 0
    while start < len(indptr) - 1:
        # Some rows at a time: a slide has hundreds of millions of entries.
        stop = int(np.searchsorted(indptr, indptr[start] + STEP, side="right")) - 1
        stop = max(stop, start + 1)
        part = indices[indptr[start] : indptr[stop]].astype(np.int64)
        row = np.repeat(np.arange(start, stop), np.diff(indptr[start : stop + 1]))
        if ((np.diff(part) <= 0) & (np.diff(row) == 0)).any():
            order = np.lexsort((part, row))
            same = (np.diff(part[order]) == 0) & (np.diff(row[order]) == 0)
            if same.any():
                at = order[np.flatnonzero(same)[0]]
                raise BundleError(
                    f"{path}: entry {part[at]} of row {row[at]} of /{group} is stored twice; the file is "
                    "damaged"
                )
        start = stop


def _scale(file: h5py.File, path: Path) -> float:
    if SCALING not in file.attrs:
        return 1.0
    value = np.asarray(file.attrs[SCALING])
    if value.size != 1 or value.dtype.kind not in "iuf" or not 0 < float(value.item()) < np.inf:
        raise BundleError(f"{path}: attribute {SCALING} is {value.tolist()!r}, expected a positive number")
    return float(value.item())


def _text(values: h5py.Dataset) -> np.ndarray:
    return np.array(
        [v.decode("utf-8") if isinstance(v, bytes) else str(v) for v in values[...].tolist()], dtype=object
    )


def same_number(path: Path, found: int, n_cells: int) -> None:
    """Refuses a matrix of another number of cells.

    Raises:
        BundleError: It has.
    """
    if found != n_cells:
        raise BundleError(
            f"{path}: the matrix has {found} barcodes but the table of cells has {n_cells} rows; "
            "both must come from the same output bundle"
        )


def _read_folder(folder: Path, n_cells: int) -> Matrix:
    barcodes = _lines(folder, "barcodes.tsv", 1)[0]
    ids, names, kinds = _lines(folder, "features.tsv", 3)
    features = pd.DataFrame({"id": ids, "name": names, "feature_type": kinds})
    path = _packed(folder, "matrix.mtx")
    same_number(path, len(barcodes), n_cells)
    with named_after(path, "a whole Matrix Market file"), _open(path) as text:
        banner = text.readline(1000).decode("ascii").split()
        if banner[:3] != ["%%MatrixMarket", "matrix", "coordinate"] or banner[4:] != ["general"]:
            raise BundleError(f"{path} starts with {' '.join(banner)!r}, expected a Matrix Market table")
        line = text.readline(100_000)
        while line.startswith(b"%"):
            line = text.readline(100_000)
        rows, columns, stored = (int(part) for part in line.split())
        if (rows, columns) != (len(features), n_cells) or not 0 <= stored <= rows * columns:
            raise BundleError(
                f"{path} claims {stored} entries of {rows} features x {columns} cells; features.tsv has "
                f"{len(features)} rows and barcodes.tsv {n_cells}"
            )
        table = _entries(text, stored, path)
    feature, cell, value = table
    if stored and not (
        1 <= feature.min() <= feature.max() <= rows and 1 <= cell.min() <= cell.max() <= columns
    ):
        raise BundleError(f"{path}: an entry lies outside the {rows} features x {columns} cells")
    place = (cell - 1) * rows + (feature - 1)
    if len(np.unique(place)) != stored:
        raise BundleError(f"{path}: an entry occurs twice; the file is damaged")
    counts = coo_matrix((value, (cell - 1, feature - 1)), shape=(n_cells, rows)).tocsr()
    return Matrix(counts, features, barcodes)


def _entries(text: gzip.GzipFile, stored: int, path: Path) -> tuple[np.ndarray, ...]:
    """Rows of feature, cell and value, one-based."""
    if stored == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    kinds = {"feature": pa.int64(), "cell": pa.int64(), "value": pa.float64()}
    reader = pyarrow.csv.open_csv(
        text,
        read_options=pyarrow.csv.ReadOptions(column_names=list(kinds), use_threads=False),
        parse_options=pyarrow.csv.ParseOptions(delimiter=" "),
        convert_options=pyarrow.csv.ConvertOptions(column_types=kinds),
    )
    batches, found = [], 0
    for batch in reader:
        found += batch.num_rows
        if found > stored:
            break
        batches.append(batch)
    if found != stored:
        raise BundleError(f"{path} claims {stored} entries, but holds {'more' if found > stored else found}")
    table = pa.Table.from_batches(batches)
    if any(column.null_count for column in table.columns):
        raise BundleError(f"{path}: an entry has no value")
    return tuple(table[name].to_numpy() for name in kinds)


def _lines(folder: Path, name: str, n_columns: int) -> list[np.ndarray]:
    """Columns of a tab-separated file without a header."""
    path = _packed(folder, name)
    with named_after(path, "a whole table"), _open(path) as text:
        content = b"".join(_blocks(text, path))
        rows = [line.split("\t") for line in content.decode("utf-8").splitlines()]
    for number, row in enumerate(rows):
        if len(row) < n_columns:
            raise BundleError(f"{path}: row {number} has {len(row)} columns, expected {n_columns}")
    return [np.array([row[k] for row in rows], dtype=object) for k in range(n_columns)]


def _blocks(text: gzip.GzipFile, path: Path) -> Iterator[bytes]:
    """The content piece by piece, up to `MAX_LABELS` bytes."""
    size = 0
    while block := text.read(2**20):
        size += len(block)
        if size > MAX_LABELS:
            raise BundleError(f"{path} unpacks to more than {MAX_LABELS} bytes")
        yield block


def _packed(folder: Path, name: str) -> Path:
    plain, packed = folder / name, folder / f"{name}.gz"
    return require_file(plain if plain.is_file() else packed, "a part of the 10x count matrix")


def _open(path: Path) -> gzip.GzipFile:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]
