"""The tests of a cell that look at the H&E, and the one that compares all cells: tissue, focus, doublets."""

import contextlib
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from past_core.ingest.quality.cells import Cells, Quantity, Skipped
from past_core.ingest.quality.focus import MAX_MPP, focus_limit, focus_scores
from past_core.ingest.quality.haematoxylin import RADIUS_UM, Outlines, discs, nucleus_haematoxylin
from past_core.ingest.quality.options import QualityOptions
from past_core.slides import Slide, tissue_mask

LEAST_CELLS = 100
"""Fewer cells (with genes) are no slide to compare a cell with."""
LEAST_GENES = 20

Found = tuple[Quantity, dict[str, np.ndarray], dict[str, Any]]
"""A quantity, further obs columns, and figures of the slide."""


def outside_tissue(cells: Cells, slide: Slide, options: QualityOptions) -> Found:
    """The centroid lies on glass, more than `tissue_margin` µm from tissue; outside the image is no tissue.

    Raises:
        Skipped: There is no tissue anywhere, so that colour tells nothing.
    """
    from scipy.ndimage import distance_transform_edt

    mask, downsample = tissue_mask(slide)
    if not mask.any():
        raise Skipped("no tissue is found by colour anywhere in the image")
    distance = distance_transform_edt(~mask) * downsample * cells.mpp
    column, row = np.floor(cells.xy / downsample).astype(np.int64).T
    inside = ((cells.xy >= 0) & (cells.xy < cells.size[::-1])).all(axis=1)
    row, column = np.clip(row, 0, mask.shape[0] - 1), np.clip(column, 0, mask.shape[1] - 1)
    away = np.where(inside, distance[row, column], np.nan)
    quantity = Quantity(
        "outside_tissue",
        "distance to tissue (µm)",
        None,
        inside & (away > options.tissue_margin),
        high=options.tissue_margin,
    )
    return quantity, {}, {"tissue_share": float(mask.mean())}


def out_of_focus(cells: Cells, slide: Slide, options: QualityOptions) -> Found:
    """The image is blurred around the cell.

    Raises:
        Skipped: The image is too coarse to tell.
    """
    _resolved(cells.mpp, "blur")
    scores = focus_scores(slide, cells.mpp, cells.xy)
    limit = focus_limit(scores, z=options.focus_z, floor=options.focus_floor, clear=options.focus_clear)
    with np.errstate(invalid="ignore"):
        failed = scores < limit
    quantity = Quantity("out_of_focus", "sharpness", scores, failed, low=limit, column="qc_focus")
    known = scores[np.isfinite(scores)]
    figures = {"limit": limit, "median": float(np.median(known)) if known.size else None}
    return quantity, {}, figures


def no_haematoxylin(
    cells: Cells, slide: Slide, options: QualityOptions, nuclei: Outlines | None = None
) -> Found:
    """Not more haematoxylin in the nucleus than displaced nuclei have.

    Nuclei without outlines are discs of their area around the cell's centroid, of 3 µm radius where that
    is not known either. Cells without a nucleus, and nuclei of a few pixels or with no room around them, are
    not measured and pass.

    Raises:
        Skipped: The image does not resolve nuclei, or there are too few.
    """
    _resolved(cells.mpp, "nuclei")
    if nuclei is None or not len(nuclei.cell):
        nuclei = discs(cells.xy, _radius_um(cells) / cells.mpp)
    found = nucleus_haematoxylin(slide, cells.mpp, cells.xy, nuclei, seed=options.seed)
    measured = int(np.isfinite(found.contrast).sum())
    if measured < LEAST_CELLS:
        raise Skipped(f"only {measured} nuclei can be measured; {LEAST_CELLS} are needed to compare them")
    bound = found.threshold(options.haematoxylin_level)
    with np.errstate(invalid="ignore"):
        failed = found.contrast <= bound
    label = "haematoxylin of the nucleus over its surroundings (OD)"
    quantity = Quantity(
        "no_haematoxylin", label, found.contrast, failed, low=bound, column="qc_nucleus_contrast"
    )
    columns = {"qc_nucleus_od": found.inside}
    return quantity, columns, found.figures(options.haematoxylin_level)


def doublet(cells: Cells, counts: csr_matrix, options: QualityOptions) -> Found:
    """Scrublet's score: how alike a cell is to simulated sums of two others.

    Raises:
        Skipped: scanpy is not installed, there is too little data, or Scrublet finds no threshold.
    """
    rows = np.flatnonzero(cells.counts > 0)
    genes = np.flatnonzero(np.asarray((counts[rows] > 0).sum(axis=0)).ravel() >= 3)
    if len(rows) < LEAST_CELLS or len(genes) < LEAST_GENES:
        raise Skipped(
            f"{len(rows)} cells with transcripts and {len(genes)} genes in three cells or more; Scrublet "
            f"needs {LEAST_CELLS} and {LEAST_GENES}"
        )
    scores, bound = _scrublet(counts[rows][:, genes], options)
    if bound is None:
        raise Skipped("Scrublet finds no threshold on these cells; give max_doublet_score")
    values = np.full(len(cells), np.nan)
    values[rows] = scores
    with np.errstate(invalid="ignore"):
        failed = values > bound
    quantity = Quantity("doublet", "Scrublet's score", values, failed, high=bound, column="qc_doublet_score")
    return quantity, {}, {"limit": bound}


def _scrublet(counts: csr_matrix, options: QualityOptions) -> tuple[np.ndarray, float | None]:
    import logging
    import warnings

    try:
        import scanpy
    except ImportError:
        raise Skipped("scanpy is not installed (pip install 'past-core[ingest]')") from None
    from anndata import AnnData

    table = AnnData(counts.astype(np.float32))
    logger = logging.getLogger("scanpy")
    with warnings.catch_warnings(), _sparse_matrices():
        warnings.simplefilter("ignore")
        components = min(30, min(table.shape) - 1)
        try:
            scanpy.pp.scrublet(
                table,
                n_prin_comps=components,
                threshold=options.max_doublet_score,
                random_state=options.seed,
                verbose=False,
            )
        except Exception as error:  # whatever it is, the other tests stand
            logger.debug("scrublet failed", exc_info=True)
            raise Skipped(f"Scrublet fails on these cells ({error})") from error
    bound = options.max_doublet_score
    if bound is None:
        bound = table.uns["scrublet"].get("threshold")
    scores = table.obs["doublet_score"].to_numpy(np.float64)
    return scores, None if bound is None else float(bound)


def _sparse_matrices() -> contextlib.AbstractContextManager[None]:
    """Scanpy 1.11 breaks on the sparse arrays that scikit-learn gives from 1.9 on; it can give matrices."""
    import sklearn

    if "sparse_interface" not in sklearn.get_config():
        return contextlib.nullcontext()
    return sklearn.config_context(sparse_interface="spmatrix")


def _resolved(mpp: float, what: str) -> None:
    if mpp > MAX_MPP:
        raise Skipped(f"the image has {mpp:.3g} µm per pixel, which does not show {what} ({MAX_MPP} needed)")


def _radius_um(cells: Cells) -> np.ndarray:
    """(N,) radius of the disc that stands for each nucleus; 0 where there is none."""
    radius = np.full(len(cells), RADIUS_UM)
    with contextlib.suppress(Skipped):
        area = cells.column("nucleus_area_um2")
        radius = np.where(area > 0, np.sqrt(np.where(area > 0, area, 0) / np.pi), radius)
    with contextlib.suppress(Skipped):
        radius = np.where(cells.column("nucleus_count") > 0, radius, 0.0)
    return radius
