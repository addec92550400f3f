"""Turns a bundle of version 2.0 or 3.0 into one of another version."""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from past_core.synthetic.bundle_polygons import VERTICES
from past_core.synthetic.bundle_tables import UNASSIGNED, write_parquet
from past_core.synthetic.xenium_versions.arrays import CellsArchive, read_archive, write_archive
from past_core.synthetic.xenium_versions.extras import (
    add_apple_doubles,
    add_proteins,
    resegment,
    text_only,
    write_text,
)
from past_core.synthetic.xenium_versions.layouts import LAYOUTS, Layout

TABLES = ("cells", "transcripts", "cell_boundaries", "nucleus_boundaries")
LATER_COLUMNS = ("segmentation_method", "nucleus_count", "genomic_control_counts", "label_id")
"""Columns that no version before 2.0 writes."""
FOCUS = "morphology_focus/morphology_focus_0000.ome.tif"


def finish(
    directory: Path,
    layout: Layout,
    *,
    seed: int,
    proteins: int = 0,
    resegmented: bool = False,
    text_tables: bool = False,
    appledouble: bool = False,
) -> None:
    """Makes a bundle of `layout.native` one of the layout, with what else was asked for.

    Args:
        directory: The bundle.
        layout: The layout wanted.
        seed: Of what is drawn.
        proteins: Number of protein features to add.
        resegmented: Import another segmentation.
        text_tables: Leave tables and matrix as text alone.
        appledouble: Add the files of macOS.
    """
    if layout != LAYOUTS[layout.native]:
        rewrite(directory, layout)
    if resegmented:
        resegment(directory, seed=seed)
    if proteins:
        add_proteins(directory, seed=seed, number=proteins)
    if text_tables:
        text_only(directory)
    if appledouble:
        add_apple_doubles(directory)


def rewrite(directory: Path, layout: Layout) -> None:
    """Rewrites the files of a bundle in place.

    Args:
        directory: A bundle as `write_bundle` writes `layout.native`.
        layout: The layout wanted.
    """
    if layout.one_nucleus:
        ids = pq.read_table(directory / "cells.parquet")["cell_id"].to_pylist()
        numbers = {name: number for number, name in enumerate(ids, start=1)} | {UNASSIGNED: -1}
        for name in TABLES:
            _rewrite_table(directory / f"{name}.parquet", layout, numbers)
        if layout.ids == "integers":
            _number_barcodes(directory / "cell_feature_matrix.h5", len(ids))
            _number_truth(directory / "truth.parquet", len(ids))
        _rewrite_masks(directory / "cells.zarr.zip", layout)
    images = _rewrite_images(directory, layout)
    path = directory / "experiment.xenium"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    major, minor, patch = layout.formats
    manifest |= {"major_version": major, "minor_version": minor, "patch_version": patch}
    manifest |= {"analysis_sw_version": layout.software}
    manifest["images"] = {"morphology_filepath": "morphology.ome.tif", **images}
    path.write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    if layout.text:
        write_text(directory)


def _rewrite_table(path: Path, layout: Layout, numbers: dict[str, int]) -> None:
    """Leaves out later columns and respells ids, and in the oldest versions names, which are bytes."""
    table = pq.read_table(path)
    columns = {name: table[name] for name in table.column_names if name not in LATER_COLUMNS}
    ids = columns["cell_id"].to_pylist()
    if layout.ids == "integers":
        kind = pa.int32() if path.stem == "transcripts" else pa.int64()
        columns["cell_id"] = pa.array([numbers[name] for name in ids], kind)
    elif layout.ids == "bytes":
        columns["cell_id"] = pa.array([name.encode() for name in ids], pa.binary())
    if layout.ids != "text" and "feature_name" in columns:
        columns["feature_name"] = columns["feature_name"].cast(pa.binary())
    write_parquet(path, columns)


def _number_barcodes(path: Path, n_cells: int) -> None:
    with h5py.File(path, "r+") as file:
        del file["matrix/barcodes"]
        file["matrix"].create_dataset("barcodes", data=np.arange(1, n_cells + 1).astype("S"))


def _number_truth(path: Path, n_cells: int) -> None:
    truth = pq.read_table(path)
    ids = pa.array(np.arange(1, n_cells + 1).astype(str))
    pq.write_table(truth.set_column(truth.column_names.index("cell_id"), "cell_id", ids), path)


def _rewrite_masks(path: Path, layout: Layout) -> None:
    """Nuclei take their cells' labels, polygons lie in one array for both kinds."""
    old = read_archive(path)
    n_cells = len(old.arrays["cell_id"])
    owner = old.arrays["polygon_sets/0/cell_index"].astype(np.int64)
    labels = np.append(0, owner + 1).astype(np.uint32)
    arrays = {
        "cell_id": old.arrays["cell_id"],
        "cell_summary": old.arrays["cell_summary"][:, :7],
        "masks/0": labels[old.arrays["masks/0"]],
        "masks/1": old.arrays["masks/1"],
        "masks/homogeneous_transform": old.arrays["masks/homogeneous_transform"],
    }
    vertices = np.zeros((2, n_cells, 2 * VERTICES), dtype=np.float32)
    vertices[0, owner], vertices[1] = (old.arrays[f"polygon_sets/{kind}/vertices"] for kind in (0, 1))
    number = np.full((2, n_cells), VERTICES, dtype=np.int32)
    number[0, np.setdiff1d(np.arange(n_cells), owner)] = 0
    arrays |= {"polygon_vertices": vertices, "polygon_num_vertices": number}
    if layout.masks == "plain":
        arrays["cell_id"] = np.arange(1, n_cells + 1, dtype=np.uint32)
    else:
        arrays["seg_mask_value"] = np.arange(1, n_cells + 1, dtype=np.uint32)
    summary = {name: texts[:7] for name, texts in old.array_attributes["cell_summary"].items()}
    later = ("segmentation_methods", "polygon_set_display_names")
    attributes = {name: value for name, value in old.attributes.items() if name not in later}
    attributes |= {"major_version": 5, "minor_version": 0}
    chunks = {name: old.chunks[name] for name in ("masks/0", "masks/1")}
    write_archive(path, CellsArchive(attributes, arrays, {"cell_summary": summary}, chunks))


def _rewrite_images(directory: Path, layout: Layout) -> dict[str, str]:
    """Moves the image in focus to its place; returns the manifest's entries."""
    if layout.images == "folder":
        return {"morphology_focus_filepath": FOCUS}
    if layout.images == "named":
        named = "morphology_focus/ch0000_dapi.ome.tif"
        (directory / FOCUS).replace(directory / named)
        return {"morphology_focus_filepath": named}
    files = ("morphology_focus.ome.tif", "morphology_mip.ome.tif")
    (directory / FOCUS).replace(directory / files[0])
    (directory / FOCUS).parent.rmdir()
    shutil.copyfile(directory / files[0], directory / files[1])
    return {"morphology_focus_filepath": files[0], "morphology_mip_filepath": files[1]}
