"""The segmentation of a synthetic bundle: masks in the morphology frame, ids, centroids and areas."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from past_core.ingest.xenium_masks import cell_id_strings
from past_core.synthetic.bundle_frame import MorphologyFrame, pixels_by_label, resample_labels


@dataclass(frozen=True)
class Segmentation:
    """What the instrument's segmentation says of a synthetic tissue.

    Attributes:
        frame: The morphology frame.
        cell_mask: (H, W) uint32 in morphology pixels; label = row of the cell + 1.
        nucleus_mask: (H, W) uint32; label = position of the nucleus + 1. Some cells have no nucleus and
            some have two, so that a nucleus label is not its cell's label.
        nucleus_cell: (P,) uint32, the row of the cell that owns each nucleus.
        id_pairs: (N, 2) uint32 prefix and suffix of the cell ids.
        cell_ids: (N,) str, such as ffkpbaba-1.
        cell_pixels: indptr and flat pixel indices of the cell mask (see `pixels_by_label`).
        summary: (N rows) x_centroid, y_centroid, nucleus_x, nucleus_y in µm, cell_area, nucleus_area in
            µm² (NaN without nucleus), nucleus_count.
    """

    frame: MorphologyFrame
    cell_mask: np.ndarray
    nucleus_mask: np.ndarray
    nucleus_cell: np.ndarray
    id_pairs: np.ndarray
    cell_ids: np.ndarray
    cell_pixels: tuple[np.ndarray, np.ndarray]
    summary: pd.DataFrame


def segment(
    cell_labels: np.ndarray,
    nucleus_labels: np.ndarray,
    n_cells: int,
    frame: MorphologyFrame,
    *,
    rng: np.random.Generator,
    missed: float = 0.01,
    split: float = 0.01,
) -> Segmentation:
    """Moves the true masks into the morphology frame and errs on a few nuclei as segmentations do.

    Args:
        cell_labels: (H, W) labels of the cells in the H&E frame, row + 1.
        nucleus_labels: (H, W) labels of the nuclei, equal to their cells'.
        n_cells: Number of cells N.
        frame: The morphology frame.
        rng: Source of randomness.
        missed: Share of the nuclei that are not found.
        split: Share of the nuclei that are found as two (their cell is multinucleate).
    """
    cell_mask, nuclei = resample_labels((cell_labels, nucleus_labels), frame)
    indptr, pixels = pixels_by_label(cell_mask, n_cells)
    if (np.diff(indptr) == 0).any():
        raise ValueError(
            f"cell label {int(np.argmin(np.diff(indptr))) + 1} has no pixel in the morphology frame"
        )
    nucleus_mask, nucleus_cell = _relabel_nuclei(nuclei, n_cells, rng=rng, missed=missed, split=split)

    prefixes = _unique_prefixes(n_cells, rng)
    pairs = np.column_stack([prefixes, np.ones_like(prefixes)])
    x, y, area = _moments(indptr, pixels, frame)
    summary = pd.DataFrame({"x_centroid": x, "y_centroid": y, "cell_area": area})
    nucleus_indptr, nucleus_pixels = pixels_by_label(nucleus_mask, nucleus_cell.size)
    nucleus_x, nucleus_y, nucleus_area = _moments(nucleus_indptr, nucleus_pixels, frame)
    total = np.bincount(nucleus_cell, weights=nucleus_area, minlength=n_cells)
    summary["nucleus_count"] = np.bincount(nucleus_cell, minlength=n_cells)
    summary["nucleus_area"] = np.where(total > 0, total, np.nan)
    for column, values in (("nucleus_x", nucleus_x), ("nucleus_y", nucleus_y)):
        weighted = np.bincount(nucleus_cell, weights=values * nucleus_area, minlength=n_cells)
        summary[column] = np.divide(weighted, total, out=np.full(n_cells, np.nan), where=total > 0)
    return Segmentation(
        frame, cell_mask, nucleus_mask, nucleus_cell, pairs, cell_id_strings(pairs), (indptr, pixels), summary
    )


def _moments(indptr: np.ndarray, pixels: np.ndarray, frame: MorphologyFrame) -> tuple[np.ndarray, ...]:
    """Mean of the pixel centres (x, y) in µm and the area in µm² of every label."""
    count = np.diff(indptr)
    owner = np.repeat(np.arange(count.size), count)
    width = frame.shape[1]
    with np.errstate(invalid="ignore"):
        x = np.bincount(owner, weights=pixels % width, minlength=count.size) / count + 0.5
        y = np.bincount(owner, weights=pixels // width, minlength=count.size) / count + 0.5
    return x * frame.pixel_size, y * frame.pixel_size, count * frame.pixel_size**2


def _relabel_nuclei(
    nuclei: np.ndarray, n_cells: int, *, rng: np.random.Generator, missed: float, split: float
) -> tuple[np.ndarray, np.ndarray]:
    """Drops some nuclei, cuts some in two across their longer side, and numbers what is left 1..P."""
    indptr, pixels = pixels_by_label(nuclei, n_cells)
    present = np.diff(indptr) > 0
    draw = rng.random(n_cells)
    kept = np.flatnonzero(present & (draw >= missed))
    cut = np.flatnonzero(present & (draw >= missed) & (draw < missed + split) & (np.diff(indptr) > 8))
    lut = np.zeros(n_cells + 1, dtype=np.uint32)
    lut[kept + 1] = np.arange(1, kept.size + 1)
    mask = lut[nuclei]
    width = nuclei.shape[1]
    for extra, cell in enumerate(cut):
        own = pixels[indptr[cell] : indptr[cell + 1]]
        x, y = own % width, own // width
        longer = x if np.ptp(x) >= np.ptp(y) else y
        mask.ravel()[own[longer > np.median(longer)]] = kept.size + 1 + extra
    return mask, np.concatenate([kept, cut]).astype(np.uint32)


def _unique_prefixes(n: int, rng: np.random.Generator) -> np.ndarray:
    """(n,) distinct uint32 in random order."""
    drawn = np.unique(rng.integers(0, 2**32, size=n + n // 8 + 16, dtype=np.uint32))
    return rng.permutation(drawn)[:n]
