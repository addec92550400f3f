"""Tables of a synthetic bundle: cells.parquet, cell_feature_matrix.h5 and transcripts.parquet."""

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import ndimage, sparse

from past_core.synthetic.bundle_cells import Segmentation

UNASSIGNED = "UNASSIGNED"
QV_THRESHOLD = 20.0
"""Transcripts below this Phred-scaled quality are listed but not counted."""

CODEWORD_CATEGORY = {
    "Gene Expression": "predesigned_gene",
    "Negative Control Probe": "negative_control_probe",
    "Negative Control Codeword": "negative_control_codeword",
    "Unassigned Codeword": "unassigned_codeword",
    "Deprecated Codeword": "deprecated_codeword",
    "Genomic Control": "genomic_control_probe",
}
COUNT_COLUMNS = {
    "transcript_counts": "Gene Expression",
    "control_probe_counts": "Negative Control Probe",
    "genomic_control_counts": "Genomic Control",
    "control_codeword_counts": "Negative Control Codeword",
    "unassigned_codeword_counts": "Unassigned Codeword",
    "deprecated_codeword_counts": "Deprecated Codeword",
}


def write_parquet(path: Path, columns: dict[str, pa.Array | np.ndarray]) -> None:
    """Writes columns as the instrument does: zstd, plain strings."""
    pq.write_table(pa.table(columns), path, compression="zstd", compression_level=1)


def cells_table(
    segmentation: Segmentation, counts: sparse.csr_matrix, features: pd.DataFrame, *, version: tuple[int, ...]
) -> dict[str, np.ndarray]:
    """Columns of cells.parquet; `genomic_control_counts` and `nucleus_count` from version 3."""
    feature_type = features["feature_type"].to_numpy()
    summary = segmentation.summary
    columns: dict[str, np.ndarray] = {
        "cell_id": segmentation.cell_ids,
        "x_centroid": summary["x_centroid"].to_numpy(),
        "y_centroid": summary["y_centroid"].to_numpy(),
    }
    for column, kind in COUNT_COLUMNS.items():
        columns[column] = np.asarray(counts[:, feature_type == kind].sum(axis=1)).ravel().astype(np.int64)
    columns["total_counts"] = np.asarray(counts.sum(axis=1)).ravel().astype(np.int64)
    columns["cell_area"] = summary["cell_area"].to_numpy()
    columns["nucleus_area"] = pa.array(summary["nucleus_area"].to_numpy(), from_pandas=True)
    columns["nucleus_count"] = summary["nucleus_count"].to_numpy(dtype=np.int64)
    columns["segmentation_method"] = np.where(
        columns["nucleus_count"] > 0,
        "Segmented by nucleus expansion of 5.0µm",
        "Segmented by interior stain (18S)",
    )
    if version < (3,):
        del columns["genomic_control_counts"], columns["nucleus_count"]
    return columns


def write_matrix(
    path: Path, counts: sparse.csr_matrix, features: pd.DataFrame, cell_ids: np.ndarray, *, genome: str
) -> None:
    """Writes the 10x HDF5 layout: features x cells by column, which is cells x features by row."""
    counts = counts.tocsr()
    counts.sort_indices()
    with h5py.File(path, "w", libver="latest") as file:
        file.attrs.update(
            filetype="matrix", version=2, chemistry_description="Xenium", software_version="xenium"
        )
        matrix = file.create_group("matrix")
        options = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
        matrix.create_dataset("barcodes", data=cell_ids.astype("S"))
        matrix.create_dataset("data", data=counts.data.astype(np.int32), **options)
        matrix.create_dataset("indices", data=counts.indices.astype(np.int64), **options)
        matrix.create_dataset("indptr", data=counts.indptr.astype(np.int64))
        matrix.create_dataset("shape", data=np.array(counts.shape[::-1], dtype=np.int32))
        group = matrix.create_group("features")
        for column in ("id", "name", "feature_type"):
            group.create_dataset(column, data=features[column].astype(str).to_numpy().astype("S"))
        group.create_dataset("genome", data=np.full(len(features), genome, dtype=f"S{len(genome)}"))
        group.create_dataset("_all_tag_keys", data=np.array(["genome"], dtype="S"))


def transcripts_table(
    segmentation: Segmentation,
    counts: sparse.csr_matrix,
    features: pd.DataFrame,
    *,
    rng: np.random.Generator,
    version: tuple[int, ...],
    low_quality: float = 0.1,
    unassigned: float = 0.06,
) -> dict[str, pa.Array | np.ndarray]:
    """Columns of transcripts.parquet: every count one molecule, and some that were not counted.

    A counted molecule lies anywhere in its cell's mask with equal probability and has qv >= 20. Beside
    them are molecules of low quality in cells and molecules outside all cells.

    Args:
        segmentation: The masks.
        counts: (N, F) the matrix as written.
        features: (F rows) name, feature_type.
        rng: Source of randomness.
        version: Format version; `codeword_category` and `is_gene` appear in 3.
        low_quality: Molecules in cells with qv < 20, as a share of the counted ones.
        unassigned: Molecules outside cells, as a share of the counted ones.
    """
    coo = counts.tocoo()
    cell, feature = (
        np.repeat(coo.row, coo.data).astype(np.int64),
        np.repeat(coo.col, coo.data).astype(np.int64),
    )
    counted = cell.size
    repeated = rng.integers(0, max(counted, 1), size=int(low_quality * counted))
    stray = feature[rng.integers(0, max(counted, 1), size=int(unassigned * counted))]
    cell = np.concatenate([cell, cell[repeated], np.full(stray.size, -1)])
    feature = np.concatenate([feature, feature[repeated], stray])
    qv = rng.uniform(QV_THRESHOLD, 40, size=cell.size)
    qv[counted : counted + repeated.size] = rng.uniform(5, QV_THRESHOLD - 0.1, size=repeated.size)
    qv[counted + repeated.size :: 4] = rng.uniform(
        5, QV_THRESHOLD - 0.1, size=qv[counted + repeated.size :: 4].size
    )

    pixel = _draw_pixels(segmentation, cell, rng)
    order = np.argsort(pixel, kind="stable")  # from top to bottom, as fields of view follow one another
    cell, feature, qv, pixel = cell[order], feature[order], qv[order], pixel[order]
    pixel_size, width = segmentation.frame.pixel_size, segmentation.frame.shape[1]
    # The jitter stays off the pixel's edge, so that rounding to float32 cannot move a molecule out of it.
    x = (pixel % width + rng.uniform(0.02, 0.98, size=pixel.size)) * pixel_size
    y = (pixel // width + rng.uniform(0.02, 0.98, size=pixel.size)) * pixel_size

    names = pa.array(features["name"].astype(str))
    kinds = features["feature_type"].map(CODEWORD_CATEGORY)
    fields = np.array(
        [f"{letter}{number}" for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" for number in range(1, 27)]
    )
    # Fields of view of 250 µm, named by row and column.
    field = np.minimum(y // 250, 25).astype(np.int64) * 26 + np.minimum(x // 250, 25).astype(np.int64)
    columns: dict[str, pa.Array | np.ndarray] = {
        "transcript_id": np.uint64(281_474_976_710_656) + np.arange(pixel.size, dtype=np.uint64),
        "cell_id": pa.array([*segmentation.cell_ids.tolist(), UNASSIGNED]).take(
            pa.array(cell % (counts.shape[0] + 1))
        ),
        "overlaps_nucleus": (segmentation.nucleus_mask.ravel()[pixel] > 0).astype(np.uint8),
        "feature_name": names.take(pa.array(feature)),
        "x_location": x.astype(np.float32),
        "y_location": y.astype(np.float32),
        "z_location": rng.uniform(10, 25, size=pixel.size).astype(np.float32),
        "qv": qv.astype(np.float32),
        "fov_name": pa.array(fields).take(pa.array(field)),
        "nucleus_distance": _nucleus_distance(segmentation, pixel).astype(np.float32),
        "codeword_index": feature.astype(np.int32),
    }
    if version >= (3,):
        columns["codeword_category"] = pa.array(kinds).take(pa.array(feature))
        columns["is_gene"] = (kinds == "predesigned_gene").to_numpy()[feature]
    return columns


def _draw_pixels(segmentation: Segmentation, cell: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A flat morphology pixel for every molecule: of its cell's mask, or of the background for cell -1."""
    indptr, pixels = segmentation.cell_pixels
    pixel = np.empty(cell.size, dtype=np.int64)
    assigned = cell >= 0
    start, count = indptr[cell[assigned]], np.diff(indptr)[cell[assigned]]
    pixel[assigned] = pixels[start + (rng.random(start.size) * count).astype(np.int64)]
    missing = np.flatnonzero(~assigned)
    while missing.size:  # draw again what fell into a cell
        pixel[missing] = rng.integers(0, segmentation.cell_mask.size, size=missing.size)
        missing = missing[segmentation.cell_mask.ravel()[pixel[missing]] > 0]
    return pixel


def _nucleus_distance(segmentation: Segmentation, pixel: np.ndarray) -> np.ndarray:
    """Distance from each flat pixel to the nearest nucleus in µm, to a quarter of the mask's resolution."""
    step = 4
    coarse = segmentation.nucleus_mask[::step, ::step] > 0
    distance = ndimage.distance_transform_edt(~coarse) * (step * segmentation.frame.pixel_size)
    width = segmentation.frame.shape[1]
    nearest = distance[pixel // width // step, pixel % width // step]
    return np.where(segmentation.nucleus_mask.ravel()[pixel] > 0, 0.0, nearest)
