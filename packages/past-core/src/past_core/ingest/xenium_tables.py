"""Tables of a Xenium bundle: manifest, cells, counts and outlines; columns are found by name."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csr_matrix

from past_core.ingest.xenium_files import BundleError, open_hdf5, read_json, read_table

GENE_EXPRESSION = "Gene Expression"
SUPPORTED = ((2, 0), (4, 0))
"""Versions of the analysis software that are read: from the first, up to the second."""
ORGANISMS = ("human", "mouse")
MAX_FEATURES = 10_000_000

_VERSION = re.compile(r"^[xX]enium-(\d+)\.(\d+)\.(\d+)")


@dataclass(frozen=True)
class Experiment:
    """The parts of experiment.xenium that the reader needs.

    Attributes:
        pixel_size: Micrometres of a pixel of masks and morphology image.
        version: Major and minor version of the software that made the bundle last, or None where the
            manifest does not tell.
        version_text: The version as written.
        region: Name of the region, empty where there is none.
        organism: Organism of the panel as written, empty where there is none.
    """

    pixel_size: float
    version: tuple[int, int] | None
    version_text: str
    region: str
    organism: str


def read_experiment(path: Path) -> Experiment:
    """Reads experiment.xenium.

    Raises:
        BundleNotFoundError: The file is not there.
        BundleError: It is no JSON object or its `pixel_size` is not a positive number.
    """
    content = read_json(path, "the manifest of a Xenium output bundle")
    pixel_size = content.get("pixel_size")
    if isinstance(pixel_size, bool) or not isinstance(pixel_size, int | float) or not 0 < pixel_size < np.inf:
        raise BundleError(
            f"{path}: pixel_size is {pixel_size!r}, expected a positive number of µm such as 0.2125"
        )
    # Xenium Ranger rewrites the bundle in its own version's layout and leaves the instrument's in place.
    ranger = content.get("xenium_ranger")
    text = ranger.get("version") if isinstance(ranger, dict) else None
    text = str(text or content.get("analysis_sw_version") or "")
    match = _VERSION.match(text)
    return Experiment(
        pixel_size=float(pixel_size),
        version=(int(match[1]), int(match[2])) if match else None,
        version_text=text,
        region=str(content.get("region_name") or ""),
        organism=str(content.get("panel_organism") or "").strip(),
    )


def read_cells(path: Path) -> pd.DataFrame:
    """Reads cells.parquet.

    Returns:
        One row a cell, indexed by cell id: x_centroid, y_centroid (µm) and, where the file has them,
        cell_area, nucleus_area (µm²), nucleus_count, segmentation_method.

    Raises:
        BundleNotFoundError: The file is not there.
        BundleError: Truncated, a column is missing, no cells, or an id is missing or repeated.
    """
    optional = ("cell_area", "nucleus_area", "nucleus_count", "segmentation_method")
    table = read_table(
        path, "the table of cells", required=("cell_id", "x_centroid", "y_centroid"), optional=optional
    )
    if table.num_rows == 0:
        raise BundleError(f"{path} holds no cells; check that the segmentation of this region found any")
    ids = strings(table["cell_id"])
    if ids.null_count:
        row = int(np.flatnonzero(ids.is_null().to_numpy(zero_copy_only=False))[0])
        raise BundleError(f"{path}: column cell_id has no value in row {row}")
    cells = table.drop_columns(["cell_id"]).to_pandas()
    cells.index = pd.Index(ids.to_numpy(zero_copy_only=False), name="cell_id")
    repeated = np.flatnonzero(cells.index.duplicated())
    if repeated.size:
        row = int(repeated[0])
        raise BundleError(
            f"{path}: column cell_id repeats {cells.index[row]!r} in row {row}; ids must be unique"
        )
    for column in cells.columns.difference(["segmentation_method"]):
        if not pd.api.types.is_numeric_dtype(cells[column]):
            raise BundleError(f"{path}: column {column} holds {cells[column].dtype}, expected numbers")
    return cells


def strings(column: pa.ChunkedArray) -> pa.Array:
    """Decodes a column of ids that some versions write as bytes or integers."""
    return pc.cast(column.combine_chunks(), pa.string())


class Matrix(NamedTuple):
    """Counts of cell_feature_matrix.h5 before controls are dropped.

    Attributes:
        counts: (N, F) cells x features, values as stored.
        features: (F rows) id, name, feature_type.
        barcodes: (N,) cell ids.
    """

    counts: csr_matrix
    features: pd.DataFrame
    barcodes: np.ndarray


def read_matrix(path: Path, n_cells: int) -> Matrix:
    """Reads the 10x HDF5 matrix, which is compressed by cell.

    Sizes are compared with each other before anything is read into memory.

    Args:
        path: The file cell_feature_matrix.h5.
        n_cells: Number of cells that the table of cells has.

    Raises:
        BundleNotFoundError: The file is not there.
        BundleError: Truncated, parts missing or of sizes that do not fit, or indices out of range.
    """
    with open_hdf5(path, "the 10x count matrix") as file:
        group = file["matrix"]
        names = ("data", "indices", "indptr", "shape", "barcodes")
        parts: dict[str, h5py.Dataset] = {name: group[name] for name in names}
        labels = {name: group["features"][name] for name in ("id", "name", "feature_type")}
        n_features = labels["id"].size
        shape = tuple(parts["shape"][:2].tolist()) if parts["shape"].size == 2 else parts["shape"].shape
        n_barcodes = parts["barcodes"].size
        if n_barcodes != n_cells:
            raise BundleError(
                f"{path}: the matrix has {n_barcodes} barcodes but cells.parquet has {n_cells} rows; "
                "both must come from the same output bundle"
            )
        stored = parts["data"].size
        fits = (
            n_features <= MAX_FEATURES
            and shape == (n_features, n_cells)
            and parts["indptr"].size == n_cells + 1
            and parts["indices"].size == stored <= n_cells * n_features
            and all(label.size == n_features for label in labels.values())
        )
        if not fits:
            sizes = ", ".join(f"{name} {part.size}" for name, part in (parts | labels).items())
            raise BundleError(f"{path}: sizes do not fit a matrix of {shape} features x cells: {sizes}")
        data, indices, indptr = (parts[name][...] for name in ("data", "indices", "indptr"))
        features = pd.DataFrame({name: _text(label) for name, label in labels.items()})
        barcodes = _text(parts["barcodes"])
    if (
        int(indptr[0]) != 0
        or int(indptr[-1]) != stored
        or (np.diff(indptr) < 0).any()
        or (stored and not 0 <= int(indices.min()) <= int(indices.max()) < n_features)
    ):
        raise BundleError(
            f"{path}: /matrix/indptr or /matrix/indices point outside the matrix; the file is damaged"
        )
    return Matrix(csr_matrix((data, indices, indptr), shape=(n_cells, n_features)), features, barcodes)


def _text(dataset: h5py.Dataset) -> np.ndarray:
    values = dataset[...]
    return np.array([v.decode() if isinstance(v, bytes) else str(v) for v in values.tolist()], dtype=object)


def genes_of(matrix: Matrix, path: Path) -> tuple[csr_matrix, pd.DataFrame, dict[str, int]]:
    """Keeps the genes of a matrix; controls and proteins are counted and dropped.

    Args:
        matrix: All features, counts already known to be whole.
        path: The file, for messages.

    Returns:
        Counts (N, G), genes indexed by Ensembl id with the column symbol, and the number of dropped features
        of each type.

    Raises:
        BundleError: There is no gene, or a gene id occurs twice.
    """
    kind = matrix.features["feature_type"]
    gene = (kind == GENE_EXPRESSION).to_numpy()
    if not gene.any():
        found = ", ".join(sorted(kind.unique())) or "nothing"
        raise BundleError(f"{path}: no feature has feature_type {GENE_EXPRESSION!r}; found {found}")
    features = matrix.features[gene]
    repeated = features["id"][features["id"].duplicated()]
    if len(repeated):
        raise BundleError(
            f"{path}: gene id {repeated.iloc[0]!r} occurs twice (second: feature {repeated.index[0]})"
        )
    genes = pd.DataFrame({"symbol": features["name"].to_numpy()}, index=pd.Index(features["id"].to_numpy()))
    dropped = {str(name): int(count) for name, count in kind[~gene].value_counts().sort_index().items()}
    return matrix.counts[:, np.flatnonzero(gene)], genes, dropped


def read_outlines(path: Path, cell_ids: pd.Index) -> pd.DataFrame:
    """Reads the vertices of cell_boundaries.parquet or nucleus_boundaries.parquet.

    Polygons are told apart by `label_id` (a cell may have several nuclei), in its absence by `cell_id`.

    Args:
        path: The file.
        cell_ids: (N,) ids of the table of cells.

    Returns:
        One row a vertex, polygons contiguous: polygon (int), cell_id, x, y in µm. Polygons of fewer than four
        vertices (the last repeats the first) are left out.

    Raises:
        BundleNotFoundError: The file is not there.
        BundleError: Truncated, a column is missing, an id is unknown, or a vertex is not a finite number.
    """
    required = ("cell_id", "vertex_x", "vertex_y")
    table = read_table(path, "a table of outlines", required=required, optional=("label_id",))
    owner = cell_ids.get_indexer(strings(table["cell_id"]).to_numpy(zero_copy_only=False))
    unknown = np.flatnonzero(owner < 0)
    if unknown.size:
        row = int(unknown[0])
        found = table["cell_id"][row].as_py()
        raise BundleError(
            f"{path}: column cell_id holds {found!r} in row {row}, which cells.parquet does not have"
        )
    vertices: dict[str, Any] = {}
    for axis in ("x", "y"):
        values = table[f"vertex_{axis}"].to_numpy().astype(np.float64)
        bad = np.flatnonzero(~np.isfinite(values))
        if bad.size:
            raise BundleError(
                f"{path}: column vertex_{axis} is {values[bad[0]]} in row {bad[0]}, expected µm"
            )
        vertices[axis] = values
    polygon = table["label_id"].to_numpy() if "label_id" in table.column_names else owner
    frame = pd.DataFrame({"polygon": polygon, "cell_id": cell_ids.to_numpy()[owner], **vertices})
    if not frame["polygon"].is_monotonic_increasing:
        frame = frame.sort_values("polygon", kind="stable", ignore_index=True)
    size = frame.groupby("polygon", sort=False)["x"].transform("size")
    return frame[size >= 4].reset_index(drop=True)
