"""Reads a Xenium output bundle and its H&E into one slide: masks, raw counts, outlines, alignment."""

import logging
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

from past_core.ingest.checks import SlideDataError, whole_counts
from past_core.ingest.write import SlideData
from past_core.ingest.xenium_alignment import Alignment
from past_core.ingest.xenium_files import BundleError, BundleNotFoundError
from past_core.ingest.xenium_frame import register_slide
from past_core.ingest.xenium_masks import CELL, NUCLEUS, MaskCentroids, open_cells
from past_core.ingest.xenium_tables import (
    ORGANISMS,
    SUPPORTED,
    Experiment,
    genes_of,
    read_cells,
    read_experiment,
    read_matrix,
    read_outlines,
)
from past_core.slides import Slide, open_slide

logger = logging.getLogger(__name__)

MAX_OUTSIDE = 0.01
"""Share of cells outside the H&E above which the alignment is taken to be wrong."""
FAR_UM = 2.0
"""A mask's centroid farther than this from the table's counts as a disagreement."""

FILES = {
    "experiment": "experiment.xenium",
    "cells": "cells.parquet",
    "matrix": "cell_feature_matrix.h5",
    "masks": "cells.zarr.zip",
    "cell_boundaries": "cell_boundaries.parquet",
    "nucleus_boundaries": "nucleus_boundaries.parquet",
}


def read_bundle(
    bundle: Path | str,
    he: Path | str,
    *,
    alignment: Path | str | None = None,
    name: str | None = None,
    patient: str | None = None,
    cancer_type: str | None = None,
    organism: str | None = None,
    mpp: float | None = None,
    max_outside: float = MAX_OUTSIDE,
) -> SlideData:
    """Reads a bundle of Xenium 2.0 to 3.x and the H&E of the same section.

    A cell's position is the mean of its mask's pixel centres, carried to the H&E by the inverse alignment;
    a cell without a pixel takes the table's centroid and is counted in the report. Both frames have their
    origin at the outer corner of the first pixel. Genes are the features of type Gene Expression, counts raw.

    Args:
        bundle: The output folder with experiment.xenium.
        he: The H&E image, of any kind that `open_slide` reads; its pixels are read later, tile by tile.
        alignment: CSV with the 3x3 matrix from full-resolution H&E pixels to morphology pixels. By default
            the file that the vendor puts beside the image: X.ome.tif -> Xalignment.csv.
        name: The slide's name; by default the region's, else the folder's.
        patient: The patient, if known.
        cancer_type: The cancer type, if known.
        organism: "human" or "mouse", where the panel does not say.
        mpp: µm per H&E pixel, overriding what the image states.
        max_outside: Largest share of cells outside the H&E.

    Returns:
        The slide, with the image still lazy.

    Raises:
        BundleNotFoundError: The bundle, one of its files, or the alignment is not there.
        BundleError: A file is damaged, files contradict one another, the version is not read, counts are not
            whole numbers, or too many cells lie outside the H&E.
        SlideNotFoundError: The H&E is not there.
        SlideError: The H&E is damaged or not an RGB image.
    """
    bundle, he = Path(bundle), Path(he)
    if not bundle.is_dir():
        raise BundleNotFoundError(
            f"{bundle} is not a folder: expected a Xenium output bundle with experiment.xenium"
        )
    paths = {label: bundle / file for label, file in FILES.items()}
    experiment = read_experiment(paths["experiment"])
    organism = _organism(experiment, organism, paths["experiment"])
    image = open_slide(he, mpp=mpp)
    registered = register_slide(image, he, alignment=alignment, pixel_size=experiment.pixel_size)
    frame = registered.frame
    paths |= {"he": he, "alignment": registered.path}

    cells = read_cells(paths["cells"])
    matrix = read_matrix(paths["matrix"], len(cells))
    _same_ids(cells.index, matrix.barcodes, paths["cells"], f"{paths['matrix']} (/matrix/barcodes)")
    masks = _read_masks(paths["masks"], paths["cells"], cells, experiment)
    try:
        whole = whole_counts(
            matrix.counts, str(paths["matrix"]), cells.index, pd.Index(matrix.features["id"])
        )
    except SlideDataError as error:
        raise BundleError(str(error)) from error
    counts, genes, dropped = genes_of(matrix._replace(counts=whole), paths["matrix"])

    pixels, n_fallback, n_far = _positions(masks, cells, experiment.pixel_size)
    centroids = frame.to_image(pixels)
    n_outside = _check_inside(centroids, image, he, registered.path, max_outside)

    obs = _observations(cells, np.asarray(whole.sum(axis=1) - counts.sum(axis=1)).ravel())
    outlines = {}
    for label in ("cell_boundaries", "nucleus_boundaries"):
        outlines[label] = _polygons(paths[label], cells.index, frame, experiment.pixel_size)
    logger.info(
        "%s: %d cells, %d genes, %s features dropped", bundle, len(cells), len(genes), sum(dropped.values())
    )
    return SlideData(
        name=name or experiment.region or bundle.name,
        image=image,
        mpp=registered.mpp,
        table=AnnData(X=counts, obs=obs, var=genes, obsm={"spatial": centroids}),
        cell_boundaries=outlines["cell_boundaries"].set_index("cell_id"),
        nucleus_boundaries=outlines["nucleus_boundaries"],
        patient=patient,
        cancer_type=cancer_type,
        assay="xenium",
        organism=organism,
        modality="spatial",
        sources=paths,
        registration=registered.record,
        report={
            "xenium_version": experiment.version_text,
            "cells": len(cells),
            "cells_without_mask": n_fallback,
            "cells_mask_table_disagree": n_far,
            "cells_outside_image": n_outside,
            "features_dropped": dropped,
        },
    )


def _organism(experiment: Experiment, given: str | None, path: Path) -> str:
    organism = (given or experiment.organism).lower()
    if organism not in ORGANISMS:
        where = "--organism" if given else f"{path}: panel_organism"
        raise BundleError(
            f"{where} is {given or experiment.organism!r}, expected one of {', '.join(ORGANISMS)}; give "
            "--organism where the panel's name for it is another"
        )
    return organism


def _same_ids(expected: pd.Index, found: np.ndarray, expected_in: Path, found_in: str) -> None:
    differing = np.flatnonzero(expected.to_numpy() != found)
    if differing.size:
        row = int(differing[0])
        raise BundleError(
            f"cell ids differ between {expected_in} and {found_in} in {differing.size} of {len(expected)} "
            f"rows, first in row {row}: {expected[row]!r} against {found[row]!r}; both must come from the "
            "same output bundle"
        )


def _read_masks(path: Path, cells_path: Path, cells: pd.DataFrame, experiment: Experiment) -> MaskCentroids:
    """Checks layout and ids of cells.zarr.zip, counts nuclei where the table does not, averages the mask."""
    with open_cells(path) as archive:
        low, high = SUPPORTED
        if "polygon_sets" not in archive or (experiment.version is not None and experiment.version < low):
            raise BundleError(
                f"{path}: the layout of Xenium before 2.0 (version {experiment.version_text!r}); versions "
                "2.0 to 3.x are read. Xenium Ranger 2 or later rewrites old bundles (xeniumranger resegment)"
            )
        if experiment.version is None or experiment.version >= high:
            logger.warning(
                "%s: version %r is not known; reads it by its layout, which is that of 2.0 to 3.x",
                path.parent,
                experiment.version_text,
            )
        _same_ids(cells.index, archive.cell_ids(len(cells)), cells_path, f"{path} (cell_id)")
        transform = archive.values("masks/homogeneous_transform", ndim=2)
        if transform.shape != (4, 4) or not np.allclose(
            transform[:2, :2] * experiment.pixel_size, np.eye(2), rtol=1e-3
        ):
            raise BundleError(
                f"{path}: masks/homogeneous_transform is {transform.tolist()}, but experiment.xenium gives "
                f"{experiment.pixel_size} µm per pixel: expected a scale of {1 / experiment.pixel_size:.4g}"
            )
        if "nucleus_count" not in cells:
            cells["nucleus_count"] = np.bincount(archive.owners(NUCLEUS, len(cells)), minlength=len(cells))
        return archive.centroids(CELL, len(cells))


def _positions(masks: MaskCentroids, cells: pd.DataFrame, pixel_size: float) -> tuple[np.ndarray, int, int]:
    """(N, 2) centroids in morphology pixels; how many came from the table, and how many disagree with it."""
    table = cells[["x_centroid", "y_centroid"]].to_numpy(dtype=np.float64) / pixel_size
    without = masks.n_pixels == 0
    lost = np.flatnonzero(without & ~np.isfinite(table).all(axis=1))
    if lost.size:
        raise BundleError(
            f"cell {cells.index[lost[0]]!r} (row {lost[0]}) has neither a pixel in the cell mask nor a "
            "finite x_centroid and y_centroid in cells.parquet"
        )
    far = np.hypot(*(masks.xy - table).T) * pixel_size > FAR_UM
    if without.any():
        logger.warning(
            "%d of %d cells have no pixel in the mask; takes the table's centroids", without.sum(), len(far)
        )
    if far.mean() > MAX_OUTSIDE:
        logger.warning(
            "%d of %d cells lie more than %g µm from the table's centroids; are cells.zarr.zip and "
            "cells.parquet of the same segmentation?",
            far.sum(),
            len(far),
            FAR_UM,
        )
    return np.where(without[:, None], table, masks.xy), int(without.sum()), int(far.sum())


def _check_inside(centroids: np.ndarray, image: Slide, he: Path, alignment: Path, max_outside: float) -> int:
    """Number of cells outside the image, refused above the allowed share."""
    x, y = centroids.T
    outside = (x < 0) | (y < 0) | (x >= image.width) | (y >= image.height)
    if outside.mean() > max_outside:
        raise BundleError(
            f"{outside.sum()} of {len(outside)} cells lie outside {he} ({image.width} x {image.height} px; "
            f"the cells span x {x.min():.0f} to {x.max():.0f}, y {y.min():.0f} to {y.max():.0f}); at most "
            f"{max_outside:.0%} may. Check that {alignment} belongs to this image and maps its "
            "full-resolution pixels to morphology pixels"
        )
    return int(outside.sum())


def _observations(cells: pd.DataFrame, controls: np.ndarray) -> pd.DataFrame:
    """The table's columns about cells, under the store's names and with their units."""
    obs = pd.DataFrame(index=cells.index.astype(str))
    obs.index.name = None
    for column in ("cell_area", "nucleus_area"):
        if column in cells:
            obs[f"{column}_um2"] = cells[column].to_numpy(dtype=np.float64)
    obs["nucleus_count"] = cells["nucleus_count"].fillna(0).to_numpy(dtype=np.int64)
    obs["control_counts"] = controls.astype(np.int64)
    if "segmentation_method" in cells:
        obs["segmentation_method"] = pd.Categorical(cells["segmentation_method"].astype(str))
    return obs


def _polygons(path: Path, cell_ids: pd.Index, frame: Alignment, pixel_size: float) -> pd.DataFrame:
    """Outlines in H&E pixels as a GeoDataFrame with the column cell_id."""
    from past_core.ingest.outlines import polygons_from_vertices

    vertices = read_outlines(path, cell_ids)
    points = frame.to_image(vertices[["x", "y"]].to_numpy() / pixel_size)
    outlines = polygons_from_vertices(vertices["polygon"].to_numpy(), points[:, 0], points[:, 1])
    owner = vertices.drop_duplicates("polygon")["cell_id"]
    return outlines.assign(cell_id=owner.to_numpy())
