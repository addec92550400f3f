"""Reads a Xenium output bundle and its H&E into one slide: masks, raw counts, outlines, alignment."""

import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData

from past_core.ingest.rings import Rings
from past_core.ingest.write import SlideData
from past_core.ingest.xenium_alignment import Alignment
from past_core.ingest.xenium_checks import FAR_UM, check_counts, check_outlines, locate
from past_core.ingest.xenium_features import Features, split_features
from past_core.ingest.xenium_files import BundleError
from past_core.ingest.xenium_frame import register_slide
from past_core.ingest.xenium_layout import BundleFiles, find_files
from past_core.ingest.xenium_masks import CELL, NUCLEUS, CellsZarr, MaskCentroids, cell_id_strings, open_cells
from past_core.ingest.xenium_matrix import read_matrix
from past_core.ingest.xenium_outlines import Outlines, read_outlines
from past_core.ingest.xenium_tables import KNOWN, ORGANISMS, Experiment, read_cells, read_experiment
from past_core.slides import Slide, open_slide

logger = logging.getLogger(__name__)

MAX_OUTSIDE = 0.01
"""Share of cells outside the H&E above which the alignment is taken to be wrong."""
NUCLEUS_REACH = 3.0
"""How far a nucleus may lie from its cell's centroid, in radii of a disc of the cell's area."""
CELL_REACH = 1.5
"""The same of the middle of a cell's outline."""
STEP = 2**20
"""Vertices that are carried to the H&E at a time."""

DEGRADED = {
    "masks": "positions are the table's centroids",
    "cell_boundaries": "circles stand for the outlines of the cells",
    "nucleus_boundaries": "the slide has no outlines of nuclei",
}
"""Files that one can do without, and what that means."""


def read_bundle(
    bundle: Path | str,
    he: Path | str,
    *,
    alignment: Path | str | None = None,
    registration: Path | str | None = None,
    name: str | None = None,
    patient: str | None = None,
    cancer_type: str | None = None,
    organism: str | None = None,
    mpp: float | None = None,
    max_outside: float = MAX_OUTSIDE,
) -> SlideData:
    """Reads a bundle of Xenium 1.0 to 4.0 and the H&E of the same section.

    The layout of a file is recognised by what is in it; the version that the manifest states is on record.
    A cell's position is the mean of its mask's pixel centres, carried to the H&E by the inverse alignment;
    a cell without a pixel takes the table's centroid and is counted in the report. Both frames have their
    origin at the outer corner of the first pixel. Genes are the features of type Gene Expression, counts raw;
    intensities of proteins stand apart in obsm["protein"]; controls of all kinds are counted and dropped.

    Ids that are whole numbers (before 1.3) become decimal strings, as in the bundle's own count matrix. The
    masks and both tables of outlines may lack: that is warned of and put on record.

    What the files tell twice must agree (see `xenium_checks`): of swapped axes or mixed files only those go
    unnoticed that are the same in masks, table and outlines.

    Args:
        bundle: The output folder with experiment.xenium.
        he: The H&E image, of any kind that `open_slide` reads; its pixels are read later, tile by tile.
        alignment: CSV with the 3x3 matrix from full-resolution H&E pixels to morphology pixels. By default
            the file that the vendor puts beside the image: X.ome.tif -> Xalignment.csv.
        registration: Folder that `past register` made, or its report, instead of an alignment: its matrix
            and its local correction.
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
    files = find_files(bundle)
    experiment = read_experiment(files.experiment)
    organism = _organism(experiment, organism, files.experiment)
    if he.exists() and not (he.is_file() or he.is_dir()):
        raise BundleError(f"{he} is neither a file nor a folder: expected the H&E image")
    image = open_slide(he, mpp=mpp)
    registered = register_slide(
        image,
        he,
        alignment=alignment,
        pixel_size=experiment.pixel_size,
        registration=registration,
        bundle=bundle,
    )
    frame, pixel_size = registered.frame, experiment.pixel_size

    cells = read_cells(files.cells)
    matrix = read_matrix(files.matrix, len(cells))
    _spell_as(cells, matrix.barcodes)
    _same_ids(cells.index, matrix.barcodes, files.cells, f"{files.matrix} (barcodes)")
    features = split_features(matrix, files.matrix)
    del matrix  # with all its counts
    mismatched = check_counts(features.counts, cells, files.cells, files.matrix)
    masks = None if files.masks is None else _read_masks(files.masks, files.cells, cells, experiment)
    places = locate(masks, cells, pixel_size, files.cells, files.masks)
    outlines = _read_outlines(files, cells, places.pixels * pixel_size, places.radius_um, frame, pixel_size)
    if "nucleus_count" not in cells:
        cells["nucleus_count"] = _count_nuclei(cells, outlines["nucleus_boundaries"])

    centroids = frame.to_image(places.pixels)
    n_outside = _check_inside(centroids, image, he, registered.path, max_outside)
    table = AnnData(
        X=features.counts,
        obs=_observations(cells, features),
        var=features.genes,
        obsm={"spatial": centroids},
    )
    if features.proteins is not None:
        table.obsm["protein"] = features.proteins.set_axis(table.obs_names)
    notes = _notes(files, outlines, experiment, len(cells))
    for note in notes:
        logger.warning("%s: %s", bundle, note)
    nuclei = outlines["nucleus_boundaries"]
    report: dict[str, Any] = {
        "xenium_version": experiment.version_text,
        "panel": experiment.panel,
        "matrix": files.matrix.name,
        "cells": len(cells),
        "cells_without_mask": places.without_mask,
        "cells_mask_table_disagree": places.disagree,
        "cells_counts_disagree": mismatched,
        "cells_outside_image": n_outside,
        "nuclei_without_cell": 0 if nuclei is None else nuclei.without_cell,
        **features.record,
        "notes": notes,
    }
    logger.info("%s: %d cells, %d genes", bundle, *features.counts.shape)
    return SlideData(
        name=name or experiment.region or bundle.name,
        image=image,
        mpp=registered.mpp,
        table=table,
        cell_boundaries=None if outlines["cell_boundaries"] is None else outlines["cell_boundaries"].rings,
        nucleus_boundaries=None if nuclei is None else nuclei.rings,
        patient=patient,
        cancer_type=cancer_type,
        assay="xenium",
        organism=organism,
        modality="spatial",
        sources=_sources(files) | {"he": he, "alignment": registered.path},
        registration=registered.record,
        report=report,
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


def _spell_as(cells: pd.DataFrame, barcodes: np.ndarray) -> None:
    """Spells whole-number ids as the matrix does where that is the later versions' way (1 -> aaaaaaab-1)."""
    if not cells.attrs["integer_ids"] or cells.index[0] == barcodes[0]:
        return
    numbers = cells.index.astype(str)
    if max(map(len, numbers)) > 10 or not all(name.isdigit() for name in numbers):
        return
    prefixes = numbers.astype(np.int64).to_numpy()
    if prefixes.max() < 2**32:
        spelt = cell_id_strings(np.column_stack([prefixes, np.ones_like(prefixes)]))
        if (spelt == barcodes).all():
            cells.attrs["aliases"] = cells.index
            cells.index = pd.Index(spelt, name="cell_id")


def _read_masks(path: Path, cells_path: Path, cells: pd.DataFrame, experiment: Experiment) -> MaskCentroids:
    """Checks layout and ids of cells.zarr.zip, counts nuclei where the table does not, averages the mask."""
    with open_cells(path) as archive:
        _warn_of_version(path, archive, experiment)
        ids = archive.cell_ids(len(cells))
        if archive.layout == "plain" and not cells.index[0].isdigit():
            ids = cell_id_strings(np.column_stack([ids.astype(np.int64), np.ones(len(ids), dtype=np.int64)]))
        _same_ids(cells.index, ids, cells_path, f"{path} (cell_id)")
        if archive.layout == "polygon_sets" or "masks/homogeneous_transform" in archive:
            transform = archive.values("masks/homogeneous_transform", ndim=2)
            if transform.shape != (4, 4) or not np.allclose(
                transform[:2, :2] * experiment.pixel_size, np.eye(2), rtol=1e-3
            ):
                raise BundleError(
                    f"{path}: masks/homogeneous_transform is {transform.tolist()}, but experiment.xenium "
                    f"gives {experiment.pixel_size} µm per pixel: expected a scale of "
                    f"{1 / experiment.pixel_size:.4g}"
                )
        if "nucleus_count" not in cells and archive.layout == "polygon_sets":
            owner = archive.owners(NUCLEUS, len(cells)).rows
            cells["nucleus_count"] = np.bincount(owner[owner >= 0], minlength=len(cells))
        return archive.centroids(CELL, len(cells))


def _warn_of_version(path: Path, archive: CellsZarr, experiment: Experiment) -> None:
    low, high = KNOWN
    if experiment.version is None or not low <= experiment.version < high:
        found, why = "is not known", "reads it by its layout"
    elif (experiment.version >= (2, 0)) != (archive.layout == "polygon_sets"):
        found, why = "does not have this layout", "the layout counts"
    else:
        return
    logger.warning(
        "%s: version %r %s; %s (%s)", path.parent, experiment.version_text, found, why, archive.layout
    )


class _Shapes(NamedTuple):
    """Outlines on the H&E.

    Attributes:
        rings: In H&E pixels.
        owner: (P,) row of the table of cells.
        without_cell: Polygons that belong to no cell.
    """

    rings: Rings
    owner: np.ndarray
    without_cell: int


def _read_outlines(
    files: BundleFiles,
    cells: pd.DataFrame,
    positions_um: np.ndarray,
    radius_um: np.ndarray,
    frame: Alignment,
    pixel_size: float,
) -> dict[str, _Shapes | None]:
    """Both boundary tables, checked to lie around their cells; None for one that is not there or empty."""
    found: dict[str, _Shapes | None] = {}
    for label, reach in (("cell_boundaries", CELL_REACH), ("nucleus_boundaries", NUCLEUS_REACH)):
        path = getattr(files, label)
        found[label] = None
        if path is not None:
            other, orphans = cells.attrs.get("aliases"), label == "nucleus_boundaries"
            outlines = read_outlines(path, cells.index, orphans=orphans, aliases=other)
            check_outlines(outlines, positions_um, FAR_UM + reach * radius_um, cells.index, path)
            if len(outlines):
                found[label] = _shapes(outlines, cells.index, frame, pixel_size)
            del outlines  # not to be held while the next are read
    return found


def _count_nuclei(cells: pd.DataFrame, nuclei: _Shapes | None) -> np.ndarray:
    """(N,) nuclei of each cell, where neither table nor polygon sets tell: by outlines, else by area."""
    if nuclei is not None:
        return np.bincount(nuclei.owner, minlength=len(cells))
    if "nucleus_area" in cells:
        return (cells["nucleus_area"].fillna(0) > 0).to_numpy(dtype=np.int64)
    return np.zeros(len(cells), dtype=np.int64)


def _notes(
    files: BundleFiles, outlines: dict[str, _Shapes | None], experiment: Experiment, n_cells: int
) -> list[str]:
    """What a reader of the slide should know about the bundle."""
    missing = files.missing()
    notes = [f"{label} not found: {DEGRADED[label]}" for label in missing]
    for label, found in outlines.items():
        if found is None and label not in missing:
            notes.append(f"{label} holds no outline: {DEGRADED[label]}")
    cell_outlines = outlines["cell_boundaries"]
    if cell_outlines is not None:
        without = n_cells - len(np.unique(cell_outlines.owner))
        if without:
            notes.append(f"cell_boundaries lacks the outlines of {without} of {n_cells} cells")
    if experiment.num_cells not in (None, n_cells):
        notes.append(f"the manifest states {experiment.num_cells} cells, the table holds {n_cells}")
    return notes


def _sources(files: BundleFiles) -> dict[str, Path]:
    """The files to hash; of a matrix in a folder, the file of the counts."""
    sources = files.present()
    if files.matrix.is_dir():
        packed = files.matrix / "matrix.mtx.gz"
        sources["matrix"] = packed if packed.is_file() else files.matrix / "matrix.mtx"
    return sources


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


def _observations(cells: pd.DataFrame, features: Features) -> pd.DataFrame:
    """The table's columns about cells, under the store's names and with their units."""
    obs = pd.DataFrame(index=cells.index.astype(str))
    obs.index.name = None
    for column in ("cell_area", "nucleus_area"):
        if column in cells:
            obs[f"{column}_um2"] = cells[column].to_numpy(dtype=np.float64)
    obs["nucleus_count"] = cells["nucleus_count"].fillna(0).to_numpy(dtype=np.int64)
    obs["control_counts"] = features.control_counts
    obs["negative_control_counts"] = features.negative_control_counts
    if "segmentation_method" in cells:
        obs["segmentation_method"] = cells["segmentation_method"].to_numpy()
    return obs


def _shapes(outlines: Outlines, cell_ids: pd.Index, frame: Alignment, pixel_size: float) -> _Shapes:
    """Outlines in H&E pixels."""
    points, start = outlines.points, outlines.start
    ends = start[1:] - 1
    still_open = np.flatnonzero((points[start[:-1]] != points[ends]).any(axis=1))
    if still_open.size:  # closed here, as a polygon must be
        points = np.insert(points, ends[still_open] + 1, points[start[:-1][still_open]], axis=0)
        start = start + np.searchsorted(still_open, np.arange(len(start)))
    placed = np.empty(points.shape, np.float64)
    for at in range(0, len(points), STEP):
        placed[at : at + STEP] = frame.to_image(points[at : at + STEP].astype(np.float64) / pixel_size)
    rings = Rings(placed, start, cell_ids.to_numpy()[outlines.cell])
    return _Shapes(rings, outlines.cell, outlines.without_cell)
