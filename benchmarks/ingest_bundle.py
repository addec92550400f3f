"""Xenium bundles of any size for the benchmark of ingest: one simulated block of tissue, repeated.

The block is 2,176 px of 0.25 µm, which is 2,560 px of a morphology image exactly, so that masks repeat
without being resampled, and 17 x 17 JPEG tiles of 256 px are all that the H&E consists of. Files have the
instrument's formats (see `past_core.synthetic.bundle`); images that no reader of cells asks for (morphology)
and the table of transcripts are left out.
"""

import dataclasses
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pandas as pd
import tifffile
import zarr
from numcodecs import Blosc
from scipy import sparse

from past_core.ingest.xenium_masks import cell_id_strings
from past_core.synthetic.bundle_cells import Segmentation, segment
from past_core.synthetic.bundle_frame import PIXEL_SIZE, MorphologyFrame
from past_core.synthetic.bundle_manifest import experiment, write_json
from past_core.synthetic.bundle_polygons import trace_polygons
from past_core.synthetic.bundle_tables import cells_table, write_matrix, write_parquet
from past_core.synthetic.bundle_zarr import SUMMARY_COLUMNS, write_boundaries
from past_core.synthetic.cohort import TissueConfig
from past_core.synthetic.expression import simulate_expression
from past_core.synthetic.render import render_he
from past_core.synthetic.tissue import simulate_tissue

MPP = 0.25
BLOCK = 2176
"""Side of the repeated block in H&E pixels: 17 x 128."""
MORPHOLOGY_BLOCK = 2560
"""The same in morphology pixels: 20 x 128."""
TILE = 256
QUALITY = 90
LEAST_LEVEL = 256
"""The H&E's pyramid ends with the first level whose side is at most this many pixels."""
MASK_CHUNK = 1024
HE_NAME = "large_he_image.ome.tif"


def large_bundle(directory: Path, side_px: int, n_cells: int, *, seed: int = 0) -> Path:
    """Writes a bundle with a square H&E; memory does not grow with its pixels.

    Args:
        directory: The bundle's folder, made.
        side_px: Side of the H&E, at least `BLOCK`; what is left beyond whole blocks has tissue but no cells.
        n_cells: Cells in all, rounded up to the same number in each block.
        seed: Seed of the tissue.

    Returns:
        The folder; the H&E in it is `HE_NAME`, with its alignment beside it.

    Raises:
        ValueError: The slide is smaller than a block, or a block does not hold so many cells.
    """
    across = side_px // BLOCK
    if across < 1:
        raise ValueError(f"side_px is {side_px}, expected at least {BLOCK}")
    per_block = -(-n_cells // across**2)
    config = TissueConfig(patient="large", cancer_type="breast", seed=seed, size_um=BLOCK * MPP, mpp=MPP)
    tissue = simulate_tissue(config)
    if per_block > len(tissue.cells):
        raise ValueError(
            f"{n_cells} cells are {per_block} a block of {BLOCK} px, which has {len(tissue.cells)}; "
            "expected fewer cells or a larger slide"
        )
    directory.mkdir(parents=True)
    rng = np.random.default_rng([seed, 0x4C41])
    kept = np.sort(rng.choice(len(tissue.cells), per_block, replace=False))
    number = np.zeros(len(tissue.cells) + 1, np.uint32)
    number[kept + 1] = np.arange(1, per_block + 1)
    scale = MORPHOLOGY_BLOCK / BLOCK
    frame = MorphologyFrame(np.diag([scale, scale, 1.0]), (MORPHOLOGY_BLOCK, MORPHOLOGY_BLOCK))
    block = segment(number[tissue.cell_labels], number[tissue.nucleus_labels], per_block, frame, rng=rng)
    measured = simulate_expression(tissue)
    shifts = np.stack(np.meshgrid(range(across), range(across)), axis=-1).reshape(-1, 2) * BLOCK * MPP
    cells = _repeated(block, shifts)
    own = measured.counts.tocsr()[kept]
    # Rows are rolled from block to block, so that no two places hold the same cells side by side.
    rows = np.arange(per_block)
    counts = sparse.vstack([own[np.roll(rows, shift)] for shift in range(len(shifts))], format="csr")

    columns = cells_table(cells, counts, measured.features, version=(3, 0))
    write_parquet(directory / "cells.parquet", columns)
    write_matrix(
        directory / "cell_feature_matrix.h5", counts, measured.features, cells.cell_ids, genome="GRCh38"
    )
    _write_outlines(directory, block, cells, shifts, -(-side_px * MORPHOLOGY_BLOCK // BLOCK))
    _write_he(directory / HE_NAME, render_he(tissue), side_px)
    alignment = HE_NAME.removesuffix(".ome.tif") + "alignment.csv"
    np.savetxt(directory / alignment, frame.matrix, delimiter=",", fmt="%.17g")
    manifest = experiment(
        config,
        cells,
        name="large",
        version="3.0",
        n_genes=int((measured.features["feature_type"] == "Gene Expression").sum()),
        cell_columns=columns,
        transcript_columns={"qv": [], "overlaps_nucleus": []},
    )
    write_json(directory / "experiment.xenium", manifest)
    return directory


def _repeated(block: Segmentation, shifts: np.ndarray) -> Segmentation:
    """The tables of all blocks; masks stay those of the one block."""
    per_block, n_blocks = len(block.summary), len(shifts)
    summary = pd.concat([block.summary] * n_blocks, ignore_index=True)
    for axis, column in enumerate(("x", "y")):
        for name in (f"{column}_centroid", f"nucleus_{column}"):
            summary[name] += np.repeat(shifts[:, axis], per_block)
    # Multiplied by an odd number, prefixes are distinct and do not look like a count.
    prefixes = (np.arange(1, len(summary) + 1, dtype=np.uint64) * 2_654_435_761) % 2**32
    pairs = np.column_stack([prefixes, np.ones_like(prefixes)]).astype(np.uint32)
    owners = (np.arange(n_blocks)[:, None] * per_block + block.nucleus_cell).ravel().astype(np.uint32)
    return dataclasses.replace(
        block, summary=summary, id_pairs=pairs, cell_ids=cell_id_strings(pairs), nucleus_cell=owners
    )


def _write_outlines(
    directory: Path, block: Segmentation, cells: Segmentation, shifts: np.ndarray, side: int
) -> None:
    """Writes both boundary tables and cells.zarr.zip, its masks of `side` pixels chunk by chunk."""
    store = zarr.storage.MemoryStore()  # of compressed chunks, a small part of the masks
    attributes = {
        "major_version": 6,
        "minor_version": 2,
        "name": "CellSegmentationDataset",
        "number_cells": len(cells.summary),
        "polygon_set_names": ["nucleus", "cell"],
        "spatial_units": "microns",
    }
    root = zarr.create_group(store, zarr_format=2, attributes=attributes)
    _array(root, "cell_id", cells.id_pairs)
    names = (
        "x_centroid",
        "y_centroid",
        "cell_area",
        "nucleus_x",
        "nucleus_y",
        "nucleus_area",
        "nucleus_count",
    )
    table = cells.summary[list(names)].to_numpy(np.float64)
    table = np.column_stack([table[:, :6], np.zeros(len(table)), table[:, 6]])
    _array(root, "cell_summary", np.nan_to_num(table)).attrs["column_names"] = list(SUMMARY_COLUMNS)
    masks, sets = root.create_group("masks"), root.create_group("polygon_sets")
    scale = 1 / PIXEL_SIZE
    _array(masks, "homogeneous_transform", np.diag([scale, scale, 1, 1]).astype(np.float32))
    sources = (
        ("nucleus", block.nucleus_mask, len(block.nucleus_cell), cells.nucleus_cell),
        ("cell", block.cell_mask, len(block.summary), np.arange(len(cells.summary), dtype=np.uint32)),
    )
    for index, (kind, mask, per_block, owners) in enumerate(sources):
        polygons = trace_polygons(mask, per_block) * PIXEL_SIZE
        polygons = (polygons + shifts[:, None, None, :]).reshape(-1, *polygons.shape[1:])
        write_boundaries(directory / f"{kind}_boundaries.parquet", polygons, owners, cells.cell_ids)
        group = sets.create_group(str(index))
        _array(group, "cell_index", owners)
        _array(group, "method", np.zeros(len(owners), np.uint32))
        _array(group, "num_vertices", np.full(len(owners), polygons.shape[1], np.int32))
        _array(group, "vertices", polygons.reshape(len(owners), -1).astype(np.float32))
        _write_mask(masks, str(index), mask, per_block, side, round(len(shifts) ** 0.5))
    with zipfile.ZipFile(directory / "cells.zarr.zip", "w", zipfile.ZIP_STORED) as archive:
        for key, value in sorted(store._store_dict.items()):
            archive.writestr(key, value.to_bytes())


def _write_mask(group: Any, name: str, mask: np.ndarray, per_block: int, side: int, across: int) -> None:
    """Repeats a mask over whole blocks, labels going on from block to block; the rest is background."""
    array = group.create_array(
        name,
        shape=(side, side),
        dtype=np.uint32,
        chunks=(MASK_CHUNK, MASK_CHUNK),
        compressors=Blosc(cname="lz4", clevel=3, shuffle=Blosc.SHUFFLE),
        fill_value=0,
    )
    for top in range(0, side, MASK_CHUNK):
        for left in range(0, side, MASK_CHUNK):
            y = np.arange(top, min(top + MASK_CHUNK, side))[:, None]
            x = np.arange(left, min(left + MASK_CHUNK, side))
            labels = mask[y % len(mask), x % len(mask)]
            row, column = y // len(mask), x // len(mask)
            whole = (labels > 0) & (row < across) & (column < across)
            first = ((row * across + column) * per_block).astype(np.uint32)
            array[top : top + len(y), left : left + len(x)] = np.where(whole, labels + first, 0)


def _array(group: Any, name: str, data: np.ndarray) -> Any:
    array = group.create_array(
        name,
        shape=data.shape,
        dtype=data.dtype,
        chunks=data.shape,
        compressors=Blosc(cname="lz4", clevel=3, shuffle=Blosc.SHUFFLE),
        fill_value=0,
    )
    array[...] = data
    return array


def _write_he(path: Path, block: np.ndarray, side: int) -> None:
    """A pyramidal OME-TIFF of JPEG tiles, its coarser levels as SubIFDs."""
    sides = [side]
    while sides[-1] > LEAST_LEVEL:
        sides.append(-(-sides[-1] // 2))
    with tifffile.TiffWriter(path, ome=True, bigtiff=True) as writer:
        for number, size in enumerate(sides):
            density = 1e4 / (MPP * 2**number)
            writer.write(
                _tiles(block, size),
                shape=(size, size, 3),
                dtype=np.uint8,
                tile=(TILE, TILE),
                photometric="ycbcr",
                subsampling=(2, 2),
                compression="jpeg",
                resolution=(density, density),
                resolutionunit="CENTIMETER",
                subifds=0 if number else len(sides) - 1,
                subfiletype=1 if number else 0,
                metadata=None if number else _OME,
            )
            if number + 1 < len(sides):
                half = len(block) // 2
                means = block[: 2 * half, : 2 * half].reshape(half, 2, half, 2, 3).mean(axis=(1, 3))
                block = np.rint(means).astype(np.uint8)


_OME = {
    "axes": "YXS",
    "PhysicalSizeX": MPP,
    "PhysicalSizeXUnit": "µm",
    "PhysicalSizeY": MPP,
    "PhysicalSizeYUnit": "µm",
    "Channel": {"Name": "H&E"},
}


def _tiles(block: np.ndarray, side: int) -> Iterator[bytes]:
    """The encoded tiles of a level, row by row; each that recurs is encoded once."""
    known: dict[tuple[int, int], bytes] = {}
    count = -(-side // TILE)
    for row in range(count):
        for column in range(count):
            key = row * TILE % len(block), column * TILE % len(block)
            if key not in known:
                rows, columns = ((np.arange(TILE) + start) % len(block) for start in key)
                known[key] = imagecodecs.jpeg8_encode(
                    np.ascontiguousarray(block[rows][:, columns]),
                    level=QUALITY,
                    colorspace="RGB",
                    outcolorspace="YCBCR",
                    subsampling="420",
                )
            yield known[key]
