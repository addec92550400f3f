"""The AnnData-plus-image layout of HEST-1k, with one row a cell."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData

from past_core.errors import PastError
from past_core.foreign.sizes import check_hdf5
from past_core.ingest.assays import assay_token
from past_core.ingest.checks import SlideDataError, whole_counts
from past_core.ingest.genes import gene_table
from past_core.ingest.write import SlideData
from past_core.slides import Slide, open_slide, tissue_mask

logger = logging.getLogger(__name__)

COLUMN_PAIRS = (("pxl_col_in_fullres", "pxl_row_in_fullres"), ("x_pixel", "y_pixel"))
"""Columns of `obs` that hold x and y in pixels of the image, tried in this order after obsm["spatial"]."""

MPP_KEYS = ("pixel_size_um_estimated", "pixel_size_um_embedded", "mpp")
"""Keys under which a sample's JSON states um per pixel."""

TARGET_MPP = 0.5
MAX_UPSAMPLING = 2.0
CLEARLY_MORE = 0.05
"""Difference of two shares above which the better order of x and y is taken against the declared one."""


class HestError(PastError, ValueError):
    """An AnnData file or its image cannot be read as a slide."""


class HestNotFoundError(PastError, FileNotFoundError):
    """The AnnData file is not there."""


def read_hest(
    h5ad: Path,
    he: Path,
    *,
    mpp: float | None = None,
    swap_xy: bool | None = None,
    assay: str = "xenium",
    organism: str | None = None,
) -> SlideData:
    """Reads an AnnData of cells and its H&E.

    Positions come from `obsm["spatial"]` (x, y as HEST-1k has it) or from a pair of `obs` columns. In some
    exports `x_pixel` is the row and `y_pixel` the column: unless `swap_xy` says which, the order is taken
    that puts more cells into the image, and where both fit, onto tissue.

    Args:
        h5ad: AnnData with raw counts; genes by Ensembl id or symbol.
        he: The H&E image that the positions refer to.
        mpp: um per pixel of the image. None: from `NAME.json` beside the h5ad or in `../metadata`, else from
            the image.
        swap_xy: True if the first coordinate is the row, False if it is the column, None to find out.
        assay: Name of the assay.
        organism: `human` or `mouse`; None guesses from the genes.

    Returns:
        The slide, without outlines.

    Raises:
        HestNotFoundError: If the h5ad is missing (a missing image: SlideNotFoundError).
        HestError: If the h5ad is damaged, has no positions, or the pixel size is not known.
        SlideDataError: If counts are not whole numbers from 0.
        GeneTableError: If no gene is known.
    """
    table = _read_table(h5ad)
    slide = open_slide(he, mpp=mpp if mpp is not None else _stated_mpp(h5ad))
    if slide.mpp is None:
        raise HestError(
            f"neither {h5ad.with_suffix('.json').name} nor {he.name} states the pixel size; "
            "give --mpp, um per pixel of the image"
        )
    if slide.mpp > TARGET_MPP * MAX_UPSAMPLING:
        logger.warning(
            "%s has %g um/px: fields at %g um/px are upsampled %.1f x, more than %g x; nuclei are not "
            "resolved and what is learned says little about morphology",
            he.name,
            slide.mpp,
            TARGET_MPP,
            slide.mpp / TARGET_MPP,
            MAX_UPSAMPLING,
        )
    genes, keep, report = gene_table(table.var, h5ad.name, organism=organism)
    counts = whole_counts(table.X, h5ad.name, table.obs_names, table.var_names)[:, keep]
    positions, column = _positions(table, h5ad)
    order = _order(positions, slide, swap_xy, h5ad.name)
    centroids = positions[:, ::-1] if order["swap_xy"] else positions
    _warn_of_spots(table, h5ad.name)
    return SlideData(
        name=h5ad.stem,
        image=slide,
        mpp=slide.mpp,
        table=AnnData(X=counts, obs=table.obs.copy(), var=genes, obsm={"spatial": centroids}),
        assay=assay_token(assay),
        organism=str(report["organism"]),
        sources={h5ad.name: h5ad, he.name: he},
        report={"reader": "hest", "genes": report, "positions": {"from": column, **order}},
    )


def _read_table(h5ad: Path) -> AnnData:
    from anndata import read_h5ad

    if not h5ad.is_file():
        raise HestNotFoundError(f"no AnnData file at {h5ad}")
    try:
        check_hdf5(h5ad)
        table = read_h5ad(h5ad)
    except Exception as error:
        raise HestError(f"{h5ad} cannot be read as AnnData ({error}); is the file complete?") from error
    if table.n_obs == 0:
        raise SlideDataError(f"{h5ad.name}: there are no cells")
    if table.X is None:
        raise HestError(f"{h5ad} has no matrix X; raw counts are needed there")
    return table


def _stated_mpp(h5ad: Path) -> float | None:
    for path in (h5ad.with_suffix(".json"), h5ad.parent.parent / "metadata" / f"{h5ad.stem}.json"):
        try:
            stated = json.loads(path.read_text())
        except (OSError, ValueError, RecursionError):
            continue
        for key in MPP_KEYS:
            value = stated.get(key) if isinstance(stated, dict) else None
            if isinstance(value, (int, float)) and np.isfinite(value) and value > 0:
                logger.info("%s: %s is %g", path.name, key, value)
                return float(value)
    return None


def _positions(table: AnnData, h5ad: Path) -> tuple[np.ndarray, str]:
    if "spatial" in table.obsm:
        positions, name = np.asarray(table.obsm["spatial"], dtype=np.float64)[:, :2], 'obsm["spatial"]'
    else:
        pair = next((pair for pair in COLUMN_PAIRS if set(pair) <= set(table.obs.columns)), None)
        if pair is None:
            expected = " or ".join(", ".join(pair) for pair in COLUMN_PAIRS)
            raise HestError(
                f'{h5ad} has no positions: expected obsm["spatial"] or the obs columns {expected}; '
                f"found {', '.join(map(str, table.obs.columns)) or 'none'}"
            )
        positions, name = table.obs[list(pair)].to_numpy(np.float64), f"obs[{pair[0]}, {pair[1]}]"
    bad = np.flatnonzero(~np.isfinite(positions).all(axis=1))
    if len(bad):
        raise HestError(f"{h5ad}: {name} of cell {table.obs_names[bad[0]]!r} (row {bad[0]}) is not finite")
    return positions, name


def _order(positions: np.ndarray, slide: Slide, swap_xy: bool | None, name: str) -> dict[str, Any]:
    """Decides which coordinate is x, with the shares of cells in the image and on tissue that say so."""
    orders = {False: positions, True: positions[:, ::-1]}
    inside = {swapped: _share_inside(points, slide) for swapped, points in orders.items()}
    evidence: dict[str, Any] = {"inside": inside[False], "inside_swapped": inside[True]}
    if swap_xy is not None:
        return {"swap_xy": swap_xy, "decided_by": "option", **evidence}
    if abs(inside[True] - inside[False]) > CLEARLY_MORE:
        chosen, reason = inside[True] > inside[False], "image"
    else:
        mask, downsample = tissue_mask(slide)
        tissue = {swapped: _share_on(points / downsample, mask) for swapped, points in orders.items()}
        evidence |= {"on_tissue": tissue[False], "on_tissue_swapped": tissue[True]}
        chosen, reason = tissue[True] > tissue[False] + CLEARLY_MORE, "tissue"
    if chosen:
        logger.warning("%s: its first coordinate is the row, its second the column (by %s)", name, reason)
    return {"swap_xy": chosen, "decided_by": reason, **evidence}


def _share_inside(points: np.ndarray, slide: Slide) -> float:
    return float(((points >= 0) & (points < (slide.width, slide.height))).all(axis=1).mean())


def _share_on(points: np.ndarray, mask: np.ndarray) -> float:
    column, row = np.floor(points).astype(np.int64).T
    inside = (row >= 0) & (column >= 0) & (row < mask.shape[0]) & (column < mask.shape[1])
    return float(mask[row[inside], column[inside]].sum() / len(points))


def _warn_of_spots(table: AnnData, name: str) -> None:
    if {"array_row", "array_col"} <= set(table.obs.columns):
        logger.warning(
            "%s: its rows look like spots of an array, not cells; PAST is about single cells", name
        )
