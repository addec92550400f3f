"""What else may be done to a bundle: text files, proteins, another segmentation, another system's files."""

import gzip
import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from scipy import sparse

from past_core.synthetic.bundle_tables import write_matrix, write_parquet
from past_core.synthetic.xenium_versions.arrays import CellsArchive, read_archive, write_archive

APPLE_DOUBLE = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        " + bytes(58)
"""The header of the files in which macOS keeps attributes on other file systems."""

PROTEINS = (
    "CD3E",
    "CD4",
    "CD8A",
    "CD20",
    "CD68",
    "PanCK",
    "Vimentin",
    "Ki-67",
    "PD-1",
    "PD-L1",
    "HLA-DR",
    "SMA",
)
PROTEIN_SCALING = 100.0


def write_text(directory: Path) -> None:
    """Writes the tables as .csv.gz and the matrix as a folder beside what is there."""
    for name in ("cells", "transcripts", "cell_boundaries", "nucleus_boundaries"):
        frame = pq.read_table(directory / f"{name}.parquet").to_pandas()
        for column in frame.select_dtypes(object):
            frame[column] = [v.decode() if isinstance(v, bytes) else v for v in frame[column]]
        frame.to_csv(directory / f"{name}.csv.gz", index=False, compression={"method": "gzip", "mtime": 0})
    counts, features, barcodes = _read_matrix(directory / "cell_feature_matrix.h5")
    folder = directory / "cell_feature_matrix"
    folder.mkdir(exist_ok=True)
    _write_gzip(folder / "barcodes.tsv.gz", "".join(f"{name}\n" for name in barcodes))
    rows = ("\t".join(row) + "\n" for row in features.itertuples(index=False))
    _write_gzip(folder / "features.tsv.gz", "".join(rows))
    entries = counts.tocoo()
    lines = [
        "%%MatrixMarket matrix coordinate integer general",
        '%metadata_json: {"software_version": "xenium", "format_version": 2}',
        f"{counts.shape[1]} {counts.shape[0]} {counts.nnz}",
    ]
    lines += map("{} {} {}".format, entries.col + 1, entries.row + 1, entries.data)
    _write_gzip(folder / "matrix.mtx.gz", "\n".join(lines) + "\n")


def text_only(directory: Path) -> None:
    """Leaves the tables and the matrix as text alone, as a download of the smaller files does."""
    write_text(directory)
    for name in ("cells", "transcripts", "cell_boundaries", "nucleus_boundaries"):
        (directory / f"{name}.parquet").unlink()
    (directory / "cell_feature_matrix.h5").unlink()


def zarr_matrix(directory: Path, *, only: bool = True) -> None:
    """Writes the matrix as cell_feature_matrix.zarr.zip, by feature, with the sum over genes as its last row.

    Args:
        directory: The bundle.
        only: Remove the other forms of the matrix.
    """
    counts, features, barcodes = _read_matrix(directory / "cell_feature_matrix.h5")
    genes = (features["feature_type"] == "Gene Expression").to_numpy()
    total = sparse.csr_matrix(counts[:, np.flatnonzero(genes)].sum(axis=1).astype(np.int64))
    by_feature = sparse.hstack([counts, total]).T.tocsr()
    by_feature.sort_indices()
    kinds = ["_".join(kind.lower().split()) for kind in features["feature_type"]]
    short = {"gene_expression": "gene", "protein_expression": "protein"}
    attributes = {
        "major_version": 3,
        "minor_version": 0,
        "number_cells": len(barcodes),
        "number_features": by_feature.shape[0],
        "feature_keys": [*features["name"], "Total transcripts"],
        "feature_ids": [*features["id"], "Total transcripts"],
        "feature_types": [*(short.get(kind, kind) for kind in kinds), "aggregate_gene"],
    }
    with h5py.File(directory / "cell_feature_matrix.h5") as file:
        if "protein_scaling_factor" in file.attrs:
            attributes["protein_scaling_factor"] = float(file.attrs["protein_scaling_factor"])
    arrays = {
        "cell_features/cell_id": read_archive(directory / "cells.zarr.zip").arrays["cell_id"],
        "cell_features/data": by_feature.data.astype(np.uint32),
        "cell_features/indices": by_feature.indices.astype(np.uint32),
        "cell_features/indptr": by_feature.indptr.astype(np.uint32),
    }
    chunks: dict[str, tuple[int, ...]] = {f"cell_features/{name}": (4096,) for name in ("data", "indices")}
    archive = CellsArchive({}, arrays, {}, chunks, {"cell_features": attributes})
    write_archive(directory / "cell_feature_matrix.zarr.zip", archive)
    if only:
        (directory / "cell_feature_matrix.h5").unlink()
        shutil.rmtree(directory / "cell_feature_matrix", ignore_errors=True)


def add_proteins(directory: Path, *, seed: int, number: int = len(PROTEINS)) -> pd.DataFrame:
    """Adds features of type Protein Expression to the matrix, stored as whole numbers times a factor.

    Args:
        directory: The bundle.
        seed: Of the intensities.
        number: How many proteins.

    Returns:
        (N, number) the mean intensities as a reader should find them.
    """
    path = directory / "cell_feature_matrix.h5"
    counts, features, barcodes = _read_matrix(path)
    rng = np.random.default_rng([seed, 0x50524F54])
    stored = np.rint(rng.lognormal(3, 0.8, (len(barcodes), number)) * PROTEIN_SCALING).astype(np.int32)
    names = list(PROTEINS[:number])
    more = pd.DataFrame({"id": names, "name": names, "feature_type": "Protein Expression"})
    both = sparse.hstack([counts, sparse.csr_matrix(stored)], format="csr")
    write_matrix(
        path, both, pd.concat([features, more], ignore_index=True), barcodes.astype("S"), genome="GRCh38"
    )
    with h5py.File(path, "r+") as file:
        file.attrs["protein_scaling_factor"] = PROTEIN_SCALING
    return pd.DataFrame(stored / PROTEIN_SCALING, index=barcodes, columns=names)


def resegment(directory: Path, *, seed: int) -> None:
    """Makes the bundle one that Xenium Ranger segmented again.

    Polygons stand in another order than the cells, the methods are another software's, and the manifest
    names the ranger, whose version counts.

    Args:
        directory: A bundle of version 2.0 or later.
        seed: Of the order.
    """
    path = directory / "cells.zarr.zip"
    archive = read_archive(path)
    arrays = archive.arrays
    n_cells = len(arrays["cell_id"])
    order = np.random.default_rng([seed, 0x52534547]).permutation(n_cells)
    label = np.zeros(n_cells + 1, dtype=np.uint32)
    label[order + 1] = np.arange(1, n_cells + 1)
    arrays["masks/1"] = label[arrays["masks/1"]]
    for name in ("cell_index", "method", "num_vertices", "vertices"):
        arrays[f"polygon_sets/1/{name}"] = arrays[f"polygon_sets/1/{name}"][order]
    archive.attributes["segmentation_methods"] = ["Imported segmentation"]
    write_archive(path, archive)
    boundaries = pq.read_table(directory / "cell_boundaries.parquet").to_pandas()
    boundaries["label_id"] = label[boundaries["label_id"]].astype(np.int32)
    boundaries = boundaries.sort_values("label_id", kind="stable")
    write_parquet(
        directory / "cell_boundaries.parquet", {name: boundaries[name].to_numpy() for name in boundaries}
    )
    cells = pq.read_table(directory / "cells.parquet").to_pandas()
    cells["segmentation_method"] = "Imported segmentation"
    write_parquet(directory / "cells.parquet", {name: cells[name].to_numpy() for name in cells})
    manifest = directory / "experiment.xenium"
    content = json.loads(manifest.read_text(encoding="utf-8"))
    content["xenium_ranger"] = {
        "version": "xenium-3.1.0.5",
        "command_line": "xeniumranger import-segmentation --id=again --xenium-bundle=.",
        "original_analysis_uuid": content["analysis_uuid"],
    }
    content["imported_cell_frac"] = 1.0
    manifest.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def add_apple_doubles(directory: Path) -> None:
    """Puts beside every file what macOS leaves on a disk of another system."""
    for path in [*directory.rglob("*")]:
        if path.is_file():
            path.with_name(f"._{path.name}").write_bytes(APPLE_DOUBLE)
        else:
            (path / ".DS_Store").write_bytes(b"\x00\x00\x00\x01Bud1" + bytes(24))
    (directory / ".DS_Store").write_bytes(b"\x00\x00\x00\x01Bud1" + bytes(24))


def _read_matrix(path: Path) -> tuple[sparse.csr_matrix, pd.DataFrame, np.ndarray]:
    with h5py.File(path) as file:
        matrix = file["matrix"]
        shape = tuple(matrix["shape"][...][::-1])
        parts = (matrix["data"][...], matrix["indices"][...], matrix["indptr"][...])
        features = {name: matrix["features"][name].asstr()[...] for name in ("id", "name", "feature_type")}
        barcodes = matrix["barcodes"].asstr()[...]
    return sparse.csr_matrix(parts, shape=shape), pd.DataFrame(features), barcodes


def _write_gzip(path: Path, text: str) -> None:
    path.write_bytes(gzip.compress(text.encode(), mtime=0))
