"""The state of one synthetic slide: cells with type and state, their masks, and what surrounds them.

Every rendering takes this state and nothing else, and draws its own randomness from its own stream, so that
none changes another: H&E (`render.render_he`) and counts (`expression.simulate_expression`). Further ones
have their truth
here: IHC an amount of protein per nucleus (`expression.log_rates`), outcomes a patient's latents
    (`Tissue.patient`).
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from past_core.synthetic.cohort import CELL_TYPES, SyntheticError, TissueConfig, cohort
from past_core.synthetic.looks import draw_looks
from past_core.synthetic.masks import rasterise
from past_core.synthetic.patient import Patient, draw_patient
from past_core.synthetic.seeding import Field, generator, grid_points, smooth_field
from past_core.synthetic.sites import Sites, draw_sites
from past_core.synthetic.structures import Structures, draw_structures

__all__ = ["SyntheticError", "Tissue", "TissueConfig", "cohort", "simulate_tissue"]

FIELD_SHARE, CELL_SHARE = 0.6, 0.8
"""Weights of a smooth field and of a cell's own noise in its state; their squares add to one."""


@dataclass(frozen=True)
class Tissue:
    """The simulated state of one slide.

    Args:
        config: What it was made from.
        patient: What belongs to the patient: latents, receptor status, staining.
        cells: One row a cell, row i ↔ label i + 1. `x_um`, `y_um`: mean of the centres of the cell's pixels,
            origin at the image's top left corner. `cell_type`: categorical over `CELL_TYPES`. `programme`,
            `state_1`, `state_2`: about standard normal. `cell_area_um2`, `nucleus_area_um2`: from the masks.
            `angle` and the columns `looks.LOOKS`: the true look that H&E is rendered from. `nest`: the tumour
            nest or -1.
        cell_labels: (H, W) uint32, 0 background.
        nucleus_labels: (H, W) uint32; every nucleus lies in its cell and bears its label.
        level: (H, W) float32; depth within nucleus and cell, see `masks.Masks`.
        lumen: (H, W) bool: lumens of glands, nests and vessels, empty at strength zero.
        vessel: (H, W) bool: those of them that are vessels'.
        fibre: Potential whose level lines the collagen fibres follow, in µm.
        programme: The spatial programme over the slide.
        structures: Where nests, glands, aggregates and vessels lie.
    """

    config: TissueConfig
    patient: Patient
    cells: pd.DataFrame
    cell_labels: np.ndarray
    nucleus_labels: np.ndarray
    level: np.ndarray
    lumen: np.ndarray
    vessel: np.ndarray
    fibre: Field
    programme: Field
    structures: Structures


def simulate_tissue(config: TissueConfig) -> Tissue:
    """Simulates one slide; the same configuration gives the same bits."""
    patient = draw_patient(config)
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


def _fibre_potential(config: TissueConfig, structures: Structures) -> Field:
    """A wavy potential that bends round nests, glands, aggregates and vessels."""
    stream = generator(config, "fibres")
    step = 3.0
    points, n = grid_points(config.size_um, step)
    angle = stream.uniform(0, np.pi)
    wave = smooth_field(stream, config.size_um, scale_um=40, step_um=step)
    potential = points @ np.array([np.cos(angle), np.sin(angle)]) + 38 * wave.nodes.ravel()
    for blobs in (structures.nests, structures.glands, structures.aggregates, structures.vessels):
        distance, _ = blobs.nearest(points)
        potential += 36 * np.exp(-np.maximum(distance, 0) / 14)
    return Field(potential.reshape(n, n), step)


def _draw_cells(
    config: TissueConfig,
    patient: Patient,
    structures: Structures,
    sites: Sites,
    programme: Field,
    fibre: Field,
) -> pd.DataFrame:
    """Positions, types, states and orientations."""
    stream = generator(config, "states")
    own = np.clip(stream.standard_normal((sites.n_candidates, 2)), -3, 3)[sites.candidate]
    fields = [smooth_field(stream, config.size_um, scale_um=35).at(sites.position) for _ in range(2)]
    z1, z2 = (FIELD_SHARE * field + CELL_SHARE * own[:, k] for k, field in enumerate(fields))
    tumour = sites.cell_type == CELL_TYPES.index("tumour")
    return pd.DataFrame(
        {
            "x_um": sites.position[:, 0],
            "y_um": sites.position[:, 1],
            "cell_type": pd.Categorical.from_codes(sites.cell_type, CELL_TYPES),
            "programme": programme.at(sites.position),
            "state_1": z1 + 0.25 * patient.proliferation * tumour,
            "state_2": z2,
            "angle": _orient(config, structures, sites, fibre),
            "nest": sites.nest,
        }
    )


def _orient(config: TissueConfig, structures: Structures, sites: Sites, fibre: Field) -> np.ndarray:
    """Angle of the long axis: along the fibres; round a lumen away from it (endothelium: along it)."""
    stream = generator(config, "angles")
    loose, jitter = (
        stream.uniform(0, 2 * np.pi, sites.n_candidates),
        stream.standard_normal(sites.n_candidates),
    )
    loose, jitter = loose[sites.candidate], np.clip(jitter[sites.candidate], -2, 2)
    code = sites.cell_type
    slope = [Field(g, fibre.step_um).at(sites.position) for g in np.gradient(fibre.nodes)]
    along = np.arctan2(slope[0], slope[1]) + np.pi / 2 + 0.18 * jitter
    spindle = np.isin(code, [CELL_TYPES.index(t) for t in ("fibroblast", "endothelial")])
    angle = np.where(spindle, along, loose)
    rows = np.flatnonzero(sites.lumen >= 0)
    offset = sites.position[rows] - structures.lumens.centre[sites.lumen[rows]]
    radial = np.arctan2(offset[:, 1], offset[:, 0]) + 0.1 * jitter[rows]
    endothelial = code[rows] == CELL_TYPES.index("endothelial")
    angle[rows] = np.where(endothelial, radial + np.pi / 2, radial)
    return angle


def _measure(
    config: TissueConfig, cells: pd.DataFrame, cell_labels: np.ndarray, nucleus_labels: np.ndarray
) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Drops cells that lost their nucleus, numbers the rest 1..N, and measures centroids and areas."""
    n = len(cells) + 1
    nucleus_area = np.bincount(nucleus_labels.ravel(), minlength=n)[1:] * config.mpp**2
    kept = np.flatnonzero(nucleus_area >= 4.0)
    number = np.zeros(n, np.uint32)
    number[kept + 1] = np.arange(1, len(kept) + 1)
    cell_labels, nucleus_labels = number[cell_labels], number[nucleus_labels]
    cells = cells.iloc[kept].reset_index(drop=True)

    flat = np.flatnonzero(cell_labels)
    owner = cell_labels.ravel()[flat]
    row, column = np.divmod(flat, cell_labels.shape[1])
    pixels = np.bincount(owner, minlength=len(kept) + 1)[1:]
    for name, position in (("x_um", column), ("y_um", row)):
        total = np.bincount(owner, weights=position, minlength=len(kept) + 1)[1:]
        cells[name] = (total / pixels + 0.5) * config.mpp
    cells["cell_area_um2"] = pixels * config.mpp**2
    cells["nucleus_area_um2"] = nucleus_area[kept]
    return cells, cell_labels, nucleus_labels
