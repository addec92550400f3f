"""What a synthetic bundle says about itself: experiment.xenium, truth.json and truth.parquet."""

import dataclasses
import json
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from past_core.synthetic.bundle_cells import Segmentation
from past_core.synthetic.bundle_tables import QV_THRESHOLD

if TYPE_CHECKING:
    from past_core.synthetic.tissue import Tissue, TissueConfig

VERSIONS = {"2.0": ("xenium-2.0.0.12", (4, 3, 0)), "3.0": ("xenium-3.0.0.15", (5, 0, 0))}
"""Bundle versions that can be written: analysis software, version of the file formats."""

Z_STEP = 3.0
"""Micrometres between the planes of morphology.ome.tif."""

FOCUS_PATH = "morphology_focus/morphology_focus_0000.ome.tif"


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes indented JSON."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def experiment(
    config: "TissueConfig",
    cells: Segmentation,
    *,
    name: str,
    version: str,
    n_genes: int,
    cell_columns: dict[str, Any],
    transcript_columns: dict[str, Any],
) -> dict[str, Any]:
    """The content of experiment.xenium.

    Args:
        config: The tissue's configuration.
        cells: The segmentation.
        name: Name of the region.
        version: A key of `VERSIONS`.
        n_genes: Genes of the panel.
        cell_columns: Columns of cells.parquet.
        transcript_columns: Columns of transcripts.parquet.
    """
    software, (major, minor, patch) = VERSIONS[version]
    counted = np.asarray(transcript_columns["qv"]) >= QV_THRESHOLD
    total = int(np.asarray(cell_columns["total_counts"]).sum())
    region_area = cells.cell_mask.size * cells.frame.pixel_size**2
    nuclei = cells.summary["nucleus_area"].sum()
    nuclear = (counted & (np.asarray(transcript_columns["overlaps_nucleus"]) == 1)).sum()

    def identifier(what: str) -> str:
        return str(uuid.uuid5(uuid.NAMESPACE_OID, f"past-synthetic/{config.patient}/{config.seed}/{what}"))

    return {
        "major_version": major,
        "minor_version": minor,
        "patch_version": patch,
        "run_name": "PAST synthetic tissue",
        "run_start_time": "2024-01-01T00:00:00Z",
        "region_name": name,
        "preservation_method": "ffpe",
        "num_cells": int(cells.cell_ids.size),
        "transcripts_per_cell": int(np.median(cell_columns["transcript_counts"])),
        "transcripts_per_100um": float(counted.sum() / region_area * 100),
        "region_area": float(region_area),
        "total_cell_area": float(cells.summary["cell_area"].sum()),
        "nuclear_transcripts_per_100um": float(nuclear / max(nuclei, 1e-9) * 100),
        "num_transcripts": int(counted.size),
        "num_transcripts_high_quality": int(counted.sum()),
        "fraction_transcripts_assigned": float(total / max(int(counted.sum()), 1)),
        "cassette_name": "synthetic",
        "slide_id": "synthetic",
        "panel_design_id": "synthetic",
        "panel_predesigned_id": "synthetic",
        "panel_name": f"PAST synthetic panel, {config.cancer_type}",
        "panel_organism": "Human",
        "panel_tissue_type": str(config.cancer_type),
        "panel_num_targets_predesigned": int(n_genes),
        "panel_num_targets_custom": 0,
        "pixel_size": cells.frame.pixel_size,
        "instrument_sn": "synthetic",
        "instrument_sw_version": "synthetic",
        "analysis_sw_version": software,
        "analysis_uuid": identifier("analysis"),
        "experiment_uuid": identifier("experiment"),
        "cassette_uuid": identifier("cassette"),
        "roi_uuid": identifier("roi"),
        "z_step_size": Z_STEP,
        "well_uuid": identifier("well"),
        "calibration_uuid": identifier("calibration"),
        "images": {"morphology_filepath": "morphology.ome.tif", "morphology_focus_filepath": FOCUS_PATH},
        "xenium_explorer_files": {
            "transcripts_zarr_filepath": "transcripts.zarr.zip",
            "cells_zarr_filepath": "cells.zarr.zip",
            "cell_features_zarr_filepath": "cell_feature_matrix.zarr.zip",
            "analysis_zarr_filepath": "analysis.zarr.zip",
            "analysis_summary_filepath": "analysis_summary.html",
        },
    }


def write_truth(directory: Path, tissue: "Tissue", cells: Segmentation, **errors: float) -> None:
    """Writes truth.json (configuration, transform, chosen errors) and truth.parquet (one row a cell).

    Args:
        directory: The bundle's folder.
        tissue: The tissue; its `cells` become the rows, joined with the ids of the bundle.
        cells: The segmentation.
        **errors: What was chosen: rotation, noise and error rates.
    """
    config = tissue.config
    content = {
        "config": dataclasses.asdict(config),
        "he_mpp": config.mpp,
        "morphology_mpp": cells.frame.pixel_size,
        "he_shape": list(tissue.cell_labels.shape),
        "morphology_shape": list(cells.frame.shape),
        "he_to_morphology_px": cells.frame.matrix.tolist(),
        **errors,
    }
    write_json(directory / "truth.json", content)
    table = tissue.cells.reset_index(drop=True)
    table.insert(0, "cell_id", cells.cell_ids)
    table["nucleus_count"] = cells.summary["nucleus_count"].to_numpy()
    table.to_parquet(directory / "truth.parquet", index=False)
