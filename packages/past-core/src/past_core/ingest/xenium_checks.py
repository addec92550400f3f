"""Whether the files of a bundle tell of the same cells: positions, areas, outlines and counts agree.

The instrument writes the same facts more than once: a cell's position as its mask, its outline and its
centroid in the table; its area as the mask's pixels and in the table; its counts as the matrix and as their
sum in the table. Files that are swapped, mixed or damaged without losing their form are found because these
disagree. What is swapped in every file alike, and what is written once (the text of gene ids, the exact
course of an outline, a segmentation method), cannot be found in this way.
"""

import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from past_core.ingest.checks import cell_totals
from past_core.ingest.xenium_files import BundleError
from past_core.ingest.xenium_masks import MaskCentroids
from past_core.ingest.xenium_outlines import Outlines

logger = logging.getLogger(__name__)

FAR_UM = 2.0
"""A mask's centroid farther than this from the table's counts as a disagreement."""
MAX_WRONG = 0.01
"""Share of cells of which two files may tell what cannot both be true."""
MAX_SPREAD = 0.2
"""Distance between the quartiles of the areas' ratios, above which they are not those of the same cells."""
DEFAULT_RADIUS_UM = 5.0


class Positions(NamedTuple):
    """Where the cells are.

    Attributes:
        pixels: (N, 2) centroids in morphology pixels.
        radius_um: (N,) radius of a disc of each cell's area.
        without_mask: Cells that take the table's centroid because the mask has no pixel of them.
        disagree: Cells whose two centroids lie more than `FAR_UM` apart.
    """

    pixels: np.ndarray
    radius_um: np.ndarray
    without_mask: int
    disagree: int


def locate(
    masks: MaskCentroids | None,
    cells: pd.DataFrame,
    pixel_size: float,
    cells_path: Path,
    masks_path: Path | None,
) -> Positions:
    """Positions from the masks, in their absence from the table, once both agree.

    Args:
        masks: Centroids and sizes of the masks, or None.
        cells: The table of cells.
        pixel_size: µm of a morphology pixel.
        cells_path: The table's file, for messages.
        masks_path: The masks' file.

    Raises:
        BundleError: A cell has neither position, or mask and table contradict each other.
    """
    table = cells[["x_centroid", "y_centroid"]].to_numpy(dtype=np.float64) / pixel_size
    finite = np.isfinite(table).all(axis=1)
    area = cells["cell_area"].to_numpy() if "cell_area" in cells else np.full(len(cells), np.nan)
    n_pixels = np.zeros(len(cells)) if masks is None else masks.n_pixels
    without = n_pixels == 0
    lost = np.flatnonzero(without & ~finite)
    if lost.size:
        raise BundleError(
            f"cell {cells.index[lost[0]]!r} (row {lost[0]}) has neither a pixel in the cell mask nor a "
            f"finite x_centroid and y_centroid in {cells_path}"
        )
    known = np.where(without, np.nan_to_num(area), n_pixels * pixel_size**2)
    radius = np.where(known > 0, np.sqrt(known / np.pi), DEFAULT_RADIUS_UM)
    if masks is None or masks_path is None:
        return Positions(table, radius, len(cells), 0)
    _same_places(masks.xy, table, radius, cells, pixel_size, cells_path, masks_path)
    partial = _same_areas(n_pixels, area, cells, pixel_size, cells_path, masks_path)
    far = np.hypot(*(masks.xy - table).T) * pixel_size > FAR_UM
    if without.any():
        logger.warning(
            "%d of %d cells have no pixel in the mask; takes the table's centroids", without.sum(), len(far)
        )
    if far.any():
        logger.warning(
            "%d of %d cells lie more than %g µm from the table's centroids; takes the masks'",
            far.sum(), len(far), FAR_UM,
        )  # fmt: skip
    from_table = without | (partial & finite)
    return Positions(
        np.where(from_table[:, None], table, masks.xy), radius, int(without.sum()), int(far.sum())
    )


def _same_places(
    mask: np.ndarray,
    table: np.ndarray,
    radius: np.ndarray,
    cells: pd.DataFrame,
    pixel_size: float,
    cells_path: Path,
    masks_path: Path,
) -> None:
    """Refuses two centroids of one cell of which the one cannot lie in the cell around the other."""
    apart = np.hypot(*(mask - table).T) * pixel_size
    wrong = np.flatnonzero(apart > FAR_UM + radius)
    if len(wrong) <= MAX_WRONG * len(cells):
        return
    row = wrong[0]
    swapped = np.hypot(*(mask - table[:, ::-1]).T)[wrong] * pixel_size < FAR_UM
    hint = "; x and y are swapped in one of them" if swapped.mean() > 0.9 else ""
    raise BundleError(
        f"{masks_path} and {cells_path} put {len(wrong)} of {len(cells)} cells at different places, first "
        f"{cells.index[row]!r} (row {row}): {apart[row]:.1f} µm apart{hint}. Both must be of the same "
        "segmentation: copy the bundle again, or leave out the file that is wrong where it is the masks"
    )


def _same_areas(
    n_pixels: np.ndarray,
    area: np.ndarray,
    cells: pd.DataFrame,
    pixel_size: float,
    cells_path: Path,
    masks_path: Path,
) -> np.ndarray:
    """(N,) whether a cell's mask is only a part of it.

    The table's area is the number of the mask's pixels times a pixel's area. Where it is so for most cells, a
    mask of another size is damaged. Where all differ alike, the area was computed in another way; where they
    differ each in its own way, the areas are those of other cells.
    """
    checked = (n_pixels > 0) & (area > 0)
    if not checked.any():
        return np.zeros(len(cells), dtype=bool)
    ratio = np.divide(n_pixels * pixel_size**2, area, out=np.ones(len(cells)), where=checked)
    middle = float(np.median(ratio[checked]))
    if not 0.5 < middle < 2:
        raise BundleError(
            f"{cells_path}: cell_area is typically {1 / middle:.3g} times the cell's area in {masks_path}; "
            "expected µm² of the same segmentation"
        )
    differs = checked & (np.abs(ratio - 1) > 0.02)
    low, high = np.quantile(ratio[checked], [0.25, 0.75])
    mixed = high - low > MAX_SPREAD
    if not mixed and (abs(middle - 1) > 0.01 or differs.mean() > 0.5):
        return np.zeros(len(cells), dtype=bool)
    if differs.mean() > MAX_WRONG:
        row = int(np.flatnonzero(differs)[0])
        raise BundleError(
            f"{cells_path} and {masks_path} give different areas to {differs.sum()} of {len(cells)} cells, "
            f"first {cells.index[row]!r} (row {row}): {area[row]:.1f} and "
            f"{n_pixels[row] * pixel_size**2:.1f} µm²; a part of the mask lacks or the files are mixed"
        )
    return differs


def check_outlines(
    outlines: Outlines, positions_um: np.ndarray, reach_um: np.ndarray, cell_ids: pd.Index, path: Path
) -> None:
    """Refuses outlines that lie elsewhere than their cells.

    Args:
        outlines: Of a boundary table.
        positions_um: (N, 2) the cells' centroids.
        reach_um: (N,) how far an outline's middle may lie from its cell's centroid.
        cell_ids: (N,) ids for the message.
        path: The file.

    Raises:
        BundleError: More than `MAX_WRONG` of them do.
    """
    if not len(outlines):
        return
    cell, first = outlines.cell, outlines.start[:-1]
    low, high = (extreme.reduceat(outlines.points, first, axis=0) for extreme in (np.minimum, np.maximum))
    xy = (low.astype(np.float64) + high) / 2
    apart = np.hypot(*(xy - positions_um[cell]).T)
    wrong = np.flatnonzero(apart > reach_um[cell])
    if len(wrong) > MAX_WRONG * len(cell):
        row = wrong[0]
        swapped = np.hypot(*(xy[:, ::-1] - positions_um[cell]).T) <= reach_um[cell]
        hint = "; x and y are swapped" if swapped[wrong].mean() > 0.9 else ""
        raise BundleError(
            f"{path}: {len(wrong)} of {len(cell)} outlines lie elsewhere than their cells, first that of "
            f"{cell_ids[cell[row]]!r}, {apart[row]:.1f} µm away{hint}. Copy the file again, or leave it "
            "out: the slide is then read without these outlines"
        )


def check_counts(counts: csr_matrix, cells: pd.DataFrame, cells_path: Path, matrix_path: Path) -> int:
    """Number of cells whose counts of genes do not add up to the table's transcript_counts.

    Raises:
        BundleError: More than `MAX_WRONG` of them.
    """
    if "transcript_counts" not in cells:
        return 0
    stated = cells["transcript_counts"].to_numpy()
    found = cell_totals(counts)[0]
    wrong = np.flatnonzero(np.isfinite(stated) & (found != stated))
    if len(wrong) > MAX_WRONG * len(cells):
        row = wrong[0]
        raise BundleError(
            f"{matrix_path} and {cells_path} disagree on the counts of {len(wrong)} of {len(cells)} cells, "
            f"first {cells.index[row]!r} (row {row}): {found[row]} transcripts of genes against "
            f"transcript_counts {stated[row]:.0f}; both must come from the same output bundle"
        )
    if len(wrong):
        logger.warning("%s: the counts of %d cells do not add up to the table's", matrix_path, len(wrong))
    return len(wrong)
