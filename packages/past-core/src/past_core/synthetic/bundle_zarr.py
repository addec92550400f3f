"""Outlines of a synthetic bundle: cells.zarr.zip and the two boundary tables."""

import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import zarr
from numcodecs import Blosc

from past_core.synthetic.bundle_cells import Segmentation
from past_core.synthetic.bundle_polygons import VERTICES, trace_polygons
from past_core.synthetic.bundle_tables import write_parquet

MASK_CHUNK = 1024
SUMMARY_COLUMNS = {
    "cell_centroid_x": "Cell centroid in X",
    "cell_centroid_y": "Cell centroid in Y",
    "cell_area": "Cell area",
    "nucleus_centroid_x": "Nucleus centroid in X",
    "nucleus_centroid_y": "Nucleus centroid in Y",
    "nucleus_area": "Nucleus area",
    "z_level": "Optimal z-level",
    "nucleus_count": "Number of nuclei",
}


def write_boundaries(path: Path, polygons: np.ndarray, owners: np.ndarray, cell_ids: np.ndarray) -> None:
    """Writes one row per vertex: cell_id, vertex_x, vertex_y in µm, label_id (1-based position)."""
    rows = np.repeat(np.arange(len(polygons)), VERTICES)
    vertices = polygons.reshape(-1, 2).astype(np.float32)
    columns = {
        "cell_id": pa.array(cell_ids).take(pa.array(owners[rows])),
        "vertex_x": vertices[:, 0],
        "vertex_y": vertices[:, 1],
        "label_id": (rows + 1).astype(np.int32),
    }
    write_parquet(path, columns)


def write_outlines(directory: Path, segmentation: Segmentation) -> None:
    """Traces both masks and writes cell_boundaries.parquet, nucleus_boundaries.parquet, cells.zarr.zip."""
    n_cells, pixel_size = segmentation.cell_ids.size, segmentation.frame.pixel_size
    owners = (segmentation.nucleus_cell, np.arange(n_cells, dtype=np.uint32))
    masks = (segmentation.nucleus_mask, segmentation.cell_mask)
    polygons = tuple(trace_polygons(m, o.size) * pixel_size for m, o in zip(masks, owners, strict=True))
    for kind, outlines, owner in zip(("nucleus", "cell"), polygons, owners, strict=True):
        write_boundaries(directory / f"{kind}_boundaries.parquet", outlines, owner, segmentation.cell_ids)
    write_cells_zarr(directory / "cells.zarr.zip", segmentation, polygons)


def write_cells_zarr(path: Path, segmentation: Segmentation, polygons: tuple[np.ndarray, np.ndarray]) -> None:
    """Writes ids, summary, masks (0 nucleus, 1 cell) and polygon sets as zarr format 2 in a zip.

    Args:
        path: The zip file.
        segmentation: The masks.
        polygons: Outlines of the nuclei and the cells in µm, each (P, VERTICES, 2).
    """
    store = zarr.storage.MemoryStore()
    attributes = {
        "major_version": 6,
        "minor_version": 2,
        "name": "CellSegmentationDataset",
        "number_cells": int(segmentation.cell_ids.size),
        "polygon_set_names": ["nucleus", "cell"],
        "polygon_set_display_names": ["Nucleus boundaries", "Cell boundaries"],
        "polygon_set_descriptions": ["Nuclei found in the DAPI image", "Cells grown from the nuclei"],
        "segmentation_methods": ["Segmented by nucleus expansion of 5.0µm"],
        "spatial_units": "microns",
    }
    root = zarr.create_group(store, zarr_format=2, attributes=attributes)
    _array(root, "cell_id", segmentation.id_pairs)
    summary = segmentation.summary
    table = np.column_stack(
        [
            *(summary[c] for c in ("x_centroid", "y_centroid", "cell_area", "nucleus_x", "nucleus_y")),
            summary["nucleus_area"].fillna(0.0),
            np.zeros(len(summary)),
            summary["nucleus_count"],
        ]
    )
    names = {"column_names": list(SUMMARY_COLUMNS), "column_descriptions": list(SUMMARY_COLUMNS.values())}
    _array(root, "cell_summary", table.astype(np.float64), attributes=names)
    masks = root.create_group("masks")
    for index, mask in enumerate((segmentation.nucleus_mask, segmentation.cell_mask)):
        _array(masks, str(index), mask, chunks=(MASK_CHUNK, MASK_CHUNK))
    scale = 1 / segmentation.frame.pixel_size
    _array(masks, "homogeneous_transform", np.diag([scale, scale, 1, 1]).astype(np.float32))
    sets = root.create_group("polygon_sets")
    for index, outlines in enumerate(polygons):
        group = sets.create_group(str(index))
        owners = segmentation.nucleus_cell if index == 0 else np.arange(len(outlines), dtype=np.uint32)
        _array(group, "cell_index", owners)
        _array(group, "method", np.zeros(len(outlines), dtype=np.uint32))
        _array(group, "num_vertices", np.full(len(outlines), VERTICES, dtype=np.int32))
        _array(group, "vertices", outlines.reshape(len(outlines), -1).astype(np.float32))
    # Chunks are compressed already, so the archive only stores them.
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for key, value in sorted(store._store_dict.items()):
            archive.writestr(key, value.to_bytes())


def _array(
    group: zarr.Group,
    name: str,
    data: np.ndarray,
    *,
    chunks: tuple[int, ...] | None = None,
    attributes: dict[str, list[str]] | None = None,
) -> None:
    array = group.create_array(
        name,
        shape=data.shape,
        dtype=data.dtype,
        chunks=chunks or tuple(max(1, n) for n in data.shape),
        compressors=Blosc(cname="lz4", clevel=3, shuffle=Blosc.SHUFFLE),
        fill_value=0,
        attributes=attributes,
    )
    array[...] = data
