"""The patients' H&E: tissue that follows a patient's latents, stained as at its site, and what it shows."""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import tifffile

from past_core.atomic import replacing
from past_core.synthetic.cohort import TissueConfig
from past_core.synthetic.looks import draw_looks
from past_core.synthetic.masks import rasterise
from past_core.synthetic.patient import Patient, draw_patient
from past_core.synthetic.render import render_he
from past_core.synthetic.seeding import generator, smooth_field
from past_core.synthetic.sites import draw_sites
from past_core.synthetic.structures import draw_structures
from past_core.synthetic.survival_cohort.people import CANCER_TYPE, Person
from past_core.synthetic.tissue import Tissue, _draw_cells, _fibre_potential, _measure

MPP = 0.5
"""Micrometres per pixel of the slides (20×)."""

TILE, QUALITY = 256, 92

SITE_STAINING = 0.5
"""How far sites differ in staining, relative to the simulator's patients."""

LYMPHOCYTES = ("t_cell", "b_cell", "plasma")


def section_config(person: Person, slide: str, *, size_um: float) -> TissueConfig:
    """The configuration of one slide of a patient."""
    return TissueConfig(
        patient=slide, cancer_type=CANCER_TYPE, seed=person.seed, size_um=float(size_um), mpp=MPP
    )


def section_patient(person: Person, config: TissueConfig) -> Patient:
    """The patient's latents, with the staining of the site and a slide's own small departure from it."""
    own, site, usual = (
        draw_patient(dataclasses.replace(config, patient=name))
        for name in (person.case, f"site {person.site}", "usual staining")
    )
    strength = np.exp(np.clip(generator(config, "slide staining").normal(0, 0.05, 2), -0.12, 0.12))
    stains = usual.stains + SITE_STAINING * (site.stains - usual.stains)
    return Patient(
        proliferation=person.proliferation,
        immunity=person.immunity,
        positive=own.positive,
        haematoxylin=float(site.haematoxylin**SITE_STAINING * strength[0]),
        eosin=float(site.eosin**SITE_STAINING * strength[1]),
        stains=stains / np.linalg.norm(stains, axis=1, keepdims=True),
        white=usual.white + SITE_STAINING * (site.white - usual.white),
    )


def simulate_section(config: TissueConfig, patient: Patient) -> Tissue:
    """`simulate_tissue` with a patient of one's own; with `draw_patient(config)` it gives the same bits."""
    structures = draw_structures(config, patient)
    sites = draw_sites(config, patient, structures)
    programme = smooth_field(generator(config, "programme"), config.size_um, scale_um=45)
    fibre = _fibre_potential(config, structures)
    cells = _draw_cells(config, patient, structures, sites, programme, fibre)
    cells = cells.join(draw_looks(config, cells, sites.candidate, sites.n_candidates))
    lumens = structures.lumens.scaled(config.morphology)
    lumen = lumens.mask(config.shape, config.mpp)
    vessel = lumens[structures.vessel_lumen].mask(config.shape, config.mpp)
    masks = rasterise(config, cells, lumen)
    cells, cell_labels, nucleus_labels = _measure(config, cells, masks.cells, masks.nuclei)
    level = np.where(cell_labels > 0, masks.level, np.float32(2))
    return Tissue(
        config,
        patient,
        cells,
        cell_labels,
        nucleus_labels,
        level,
        lumen,
        vessel,
        fibre,
        programme,
        structures,
    )


def visible(cells: pd.DataFrame) -> dict[str, float]:
    """What a slide shows of its cells, as sums that add over the slides of a patient.

    Args:
        cells: `Tissue.cells`.

    Returns:
        `cells`, `tumour` and `lymphocytes`: their numbers; `log_nuclear_area`: sum over tumour cells of the
        log of the nucleus's area in µm².
    """
    tumour = (cells["cell_type"] == "tumour").to_numpy()
    return {
        "cells": len(cells),
        "tumour": int(tumour.sum()),
        "lymphocytes": int(cells["cell_type"].isin(LYMPHOCYTES).sum()),
        "log_nuclear_area": float(np.log(cells["nucleus_area_um2"].to_numpy()[tumour]).sum()),
    }


def slide_path(folder: Path, slide: str) -> Path:
    """Where a slide lies."""
    return folder / f"{slide}.tif"


def make_section(person: Person, slide: str, folder: Path, *, size_um: float) -> None:
    """Simulates one slide and writes its H&E, and beside it what it shows.

    Args:
        person: the patient.
        slide: one of its slides.
        folder: where `SLIDE.tif` and `SLIDE.json` go.
        size_um: side of the section.
    """
    config = section_config(person, slide, size_um=size_um)
    tissue = simulate_section(config, section_patient(person, config))
    path = slide_path(folder, slide)
    image = render_he(tissue)
    with replacing(path) as temporary:
        tifffile.imwrite(
            temporary,
            image,
            tile=(TILE, TILE),
            photometric="rgb",
            compression="jpeg",
            compressionargs={"level": QUALITY},
            resolution=(1e4 / MPP, 1e4 / MPP),
            resolutionunit="CENTIMETER",
            metadata=None,
            software="past",
        )
    # Last, with the image's hash: a slide counts as made when both agree.
    with replacing(path.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps({"sha256": sha256(path), **visible(tissue.cells)}))


def read_visible(folder: Path, slide: str) -> dict[str, float] | None:
    """What a slide shows, as `visible`; None where the slide is missing or not as it was written."""
    path = slide_path(folder, slide)
    try:
        record = json.loads(path.with_suffix(".json").read_text())
        if record.pop("sha256") != sha256(path):
            return None
        return {name: float(record[name]) for name in ("cells", "tumour", "lymphocytes", "log_nuclear_area")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def sha256(path: Path) -> str:
    """Hash of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
