"""Writes a synthetic tissue as a complete Xenium output bundle in the instrument's own formats."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from past_core.synthetic.bundle_cells import segment
from past_core.synthetic.bundle_frame import KEYPOINT_HEADER, keypoint_regions, morphology_frame
from past_core.synthetic.bundle_images import focus_stack, render_dapi, write_ome_tiff
from past_core.synthetic.bundle_manifest import (
    FOCUS_PATH,
    Z_STEP,
    experiment,
    write_json,
    write_truth,
)
from past_core.synthetic.bundle_tables import cells_table, transcripts_table, write_matrix, write_parquet
from past_core.synthetic.bundle_zarr import write_outlines
from past_core.synthetic.tissue import SyntheticError, Tissue
from past_core.synthetic.xenium_versions.layouts import layout_of
from past_core.synthetic.xenium_versions.panels import with_prime_controls
from past_core.synthetic.xenium_versions.rewrite import finish

if TYPE_CHECKING:
    from past_core.synthetic.expression import Expression


def write_bundle(
    tissue: Tissue,
    expression: "Expression",
    directory: Path | str,
    *,
    name: str | None = None,
    he_image: np.ndarray | None = None,
    version: str = "3.0",
    rotation_deg: float | None = None,
    keypoint_noise_um: float = 0.5,
    missed_nuclei: float = 0.01,
    split_nuclei: float = 0.01,
    stack_planes: int = 0,
    prime: bool = False,
    proteins: int = 0,
    resegmented: bool = False,
    text_tables: bool = False,
    appledouble: bool = False,
) -> Path:
    """Writes the bundle, its H&E with the alignment, keypoints, and the truth behind all of them.

    The H&E is `<name>_he_image.ome.tif`, its alignment `<name>_he_imagealignment.csv` (3x3, H&E pixels to
    morphology pixels), the keypoints `keypoints_regionK.csv`. `truth.json` holds the transform and every
    chosen error; `truth.parquet` the tissue's cells (type, states, true position) with their cell id.
    Matrix counts are exactly the assigned transcripts of quality 20 and above.

    Args:
        tissue: The simulated tissue.
        expression: Its counts, controls included.
        directory: The bundle's folder; made where absent, files in it are replaced.
        name: Prefix of the H&E's files and the region's name; the patient by default.
        he_image: (H, W, 3) uint8 to write instead of rendering the tissue, at the tissue's mpp.
        version: Version of the format: "1.0" (ids are whole numbers), "1.3" and "1.9" (masks name the label
            of each cell), "2.0", "3.0" or "4.0". Before 2.0 every cell has its one nucleus.
        rotation_deg: Rotation from the H&E to the morphology frame; by default near 0 or near 90 degrees,
            by the tissue's seed.
        keypoint_noise_um: Standard deviation of the picking noise of the keypoints.
        missed_nuclei: Share of the nuclei that the segmentation does not find.
        split_nuclei: Share of the nuclei that the segmentation finds as two.
        stack_planes: Planes of morphology.ome.tif (readers of 2D data do not use it); 0 leaves it out.
        prime: Adds the genomic controls and deprecated codewords of a Prime panel.
        proteins: Number of protein features in the matrix, at most 12.
        resegmented: As Xenium Ranger leaves a bundle whose segmentation was imported; from version 2.0.
        text_tables: Tables as .csv.gz and the matrix as a folder, in place of parquet and HDF5.
        appledouble: Adds the `._` files and .DS_Store that macOS leaves.

    Returns:
        The bundle's folder.

    Raises:
        SyntheticError: An unknown version, or an image whose size is not the tissue's.
    """
    layout = layout_of(version)
    if layout.one_nucleus:
        missed_nuclei = split_nuclei = 0.0
        if resegmented or proteins:
            raise SyntheticError(f"version {version} had neither imported segmentations nor proteins")
    he_image = _checked_image(tissue, he_image)
    directory = Path(directory)
    (directory / "morphology_focus").mkdir(parents=True, exist_ok=True)
    config, name = tissue.config, name or tissue.config.patient
    number = tuple(int(part) for part in layout.native.split("."))
    rng = np.random.default_rng([config.seed, 0x58454E])  # a stream of its own, apart from the tissue's
    if rotation_deg is None:
        rotation_deg = float(rng.choice([0.0, 90.0]) + rng.uniform(-2, 2))

    frame = morphology_frame(tissue.cell_labels.shape, mpp=config.mpp, rotation_deg=rotation_deg)
    cells = segment(
        tissue.cell_labels,
        tissue.nucleus_labels,
        len(tissue.cells),
        frame,
        rng=rng,
        missed=missed_nuclei,
        split=split_nuclei,
    )
    if prime:
        expression = with_prime_controls(expression, seed=config.seed)
    counts, features = expression.counts.tocsr(), expression.features
    cell_columns = cells_table(cells, counts, features, version=number)
    write_parquet(directory / "cells.parquet", cell_columns)
    write_matrix(directory / "cell_feature_matrix.h5", counts, features, cells.cell_ids, genome="GRCh38")
    transcripts = transcripts_table(cells, counts, features, rng=rng, version=number)
    write_parquet(directory / "transcripts.parquet", transcripts)
    write_outlines(directory, cells)

    dapi, pixel_size = render_dapi(cells, rng=rng), frame.pixel_size
    write_ome_tiff(directory / FOCUS_PATH, dapi, mpp=pixel_size, axes="YX", channels=["DAPI"])
    if stack_planes:
        path, stack = directory / "morphology.ome.tif", focus_stack(dapi, stack_planes)
        write_ome_tiff(path, stack, mpp=pixel_size, axes="ZYX", channels=["DAPI"], z_step=Z_STEP)
    he_path = directory / f"{name}_he_image.ome.tif"
    write_ome_tiff(he_path, he_image, mpp=config.mpp, axes="YXS", channels=["H&E"])
    np.savetxt(directory / f"{name}_he_imagealignment.csv", frame.matrix, delimiter=",", fmt="%.17g")
    nuclei_px = tissue.cells[["x_um", "y_um"]].to_numpy(dtype=float) / config.mpp
    keypoints = keypoint_regions(nuclei_px, frame, mpp=config.mpp, rng=rng, noise_um=keypoint_noise_um)
    for region, rows in enumerate(keypoints, start=1):
        path = directory / f"keypoints_region{region}.csv"
        np.savetxt(path, rows, delimiter=",", fmt="%.6f", header=KEYPOINT_HEADER, comments="")

    manifest = experiment(
        config,
        cells,
        name=name,
        version=layout.native,
        n_genes=int((features["feature_type"] == "Gene Expression").sum()),
        cell_columns=cell_columns,
        transcript_columns=transcripts,
    )
    write_json(directory / "experiment.xenium", manifest)
    write_truth(
        directory,
        tissue,
        cells,
        rotation_deg=rotation_deg,
        keypoint_noise_um=keypoint_noise_um,
        missed_nuclei=missed_nuclei,
        split_nuclei=split_nuclei,
    )
    extras = {"resegmented": resegmented, "text_tables": text_tables, "appledouble": appledouble}
    finish(directory, layout, seed=config.seed, proteins=proteins, **extras)
    return directory


def _checked_image(tissue: Tissue, he_image: np.ndarray | None) -> np.ndarray:
    """The H&E to write, by default rendered."""
    if he_image is None:
        from past_core.synthetic.render import render_he

        he_image = render_he(tissue)
    if he_image.shape != (*tissue.cell_labels.shape, 3) or he_image.dtype != np.uint8:
        raise SyntheticError(
            f"he_image is {he_image.dtype} {he_image.shape}; expected uint8 {(*tissue.cell_labels.shape, 3)}"
        )
    return he_image
