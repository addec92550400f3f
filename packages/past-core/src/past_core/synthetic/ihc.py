"""Immunohistochemistry of a synthetic slide: DAB where a gene's protein lies, over haematoxylin.

The section, its nuclei and their chromatin are those of the H&E. Which cells are brown, and how much, follows
from the gene's true expression (`protein`), and so from cell type and visible state. All randomness has
streams of its own, so that neither H&E nor counts change.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.ndimage

from past_core.stains import StainSet, deconvolve
from past_core.synthetic.misalign import Misalignment, warp
from past_core.synthetic.protein import ASSAYS, assay, protein
from past_core.synthetic.render import beer_lambert, expose, he_concentrations, microscope, spread
from past_core.synthetic.seeding import Seeded, generator
from past_core.synthetic.textures import chromatin, fine_grain, patches
from past_core.synthetic.tissue import Tissue

__all__ = [
    "ASSAYS",
    "IhcStaining",
    "assay",
    "dab_truth",
    "draw_staining",
    "ihc_concentrations",
    "ihc_light",
    "protein",
    "render_ihc",
]

H_DAB = np.array([[0.65, 0.70, 0.29], [0.27, 0.57, 0.78]])
"""Haematoxylin and DAB as QuPath has them; a slide's own stains lie near."""

COUNTERSTAIN = 0.40
"""Haematoxylin of IHC relative to that of H&E."""

_MASKING = 0.8
"""Haematoxylin is bound less where DAB lies: it is divided by 1 + this · DAB."""

_RING_UM = 0.6
"""Half-width of a stained membrane."""


@dataclass(frozen=True)
class IhcStaining:
    """The laboratory's part in one IHC slide.

    Args:
        stains: (2, 3) optical density of red, green and blue at unit concentration of haematoxylin and DAB,
            rows of unit length.
        white: (3,) transmitted intensity of bare glass, at most 255.
        haematoxylin: Factor on the haematoxylin of the H&E.
        dab: Factor on the DAB.
    """

    stains: np.ndarray
    white: np.ndarray
    haematoxylin: float
    dab: float

    @property
    def stain_set(self) -> StainSet:
        """The true stains, for `past_core.stains.deconvolve`."""
        rows = tuple(tuple(float(value) for value in row) for row in self.stains)
        return StainSet("synthetic-hdab", ("haematoxylin", "dab", "residual"), rows)


def draw_staining(config: Seeded, stain: str) -> IhcStaining:
    """Draws the stains, the strength and the white point of one patient's slide of one stain."""
    assay(stain)
    stream = generator(config, f"ihc staining {stain}")
    stains = H_DAB + np.clip(stream.normal(0, 0.012, (2, 3)), -0.025, 0.025)
    stains /= np.linalg.norm(stains, axis=1, keepdims=True)
    haematoxylin, dab = np.exp(np.clip(stream.normal(0, [0.12, 0.07]), [-0.25, -0.14], [0.25, 0.14]))
    white = 243 + stream.uniform(-4, 4) + stream.uniform(-2, 2, 3)
    return IhcStaining(stains, white, COUNTERSTAIN * float(haematoxylin), float(dab))


def ihc_light(tissue: Tissue, stain: str, *, he: np.ndarray | None = None) -> np.ndarray:
    """The light that falls on the sensor: stained, blurred by the microscope, without noise.

    Args:
        tissue: The slide.
        stain: A key of `ASSAYS`.
        he: `render.he_concentrations(tissue)`, where it is at hand.

    Returns:
        (3, H, W) float32 intensities up to 255.
    """
    staining = draw_staining(tissue.config, stain)
    concentrations = ihc_concentrations(tissue, stain, he=he)
    concentrations *= np.array([staining.haematoxylin, staining.dab], np.float32)[:, None, None]
    return microscope(beer_lambert(concentrations, staining.stains, staining.white), mpp=tissue.config.mpp)


def render_ihc(
    tissue: Tissue,
    stain: str,
    *,
    misalignment: Misalignment | None = None,
    light: np.ndarray | None = None,
) -> np.ndarray:
    """Renders one IHC slide of the tissue.

    Args:
        tissue: The slide.
        stain: A key of `ASSAYS`.
        misalignment: How the section lies relative to the H&E; by default exactly upon it.
        light: `ihc_light(tissue, stain)`, where it is at hand.

    Returns:
        (H, W, 3) uint8.

    Raises:
        SyntheticError: No such stain.
    """
    light = ihc_light(tissue, stain) if light is None else light
    if misalignment is not None:
        light = warp(
            light, misalignment.displacement(tissue.config.shape, tissue.config.mpp) / tissue.config.mpp
        )
    return expose(light, generator(tissue.config, f"ihc sensor {stain}"))


def dab_truth(tissue: Tissue, stain: str, *, light: np.ndarray | None = None) -> pd.DataFrame:
    """What an ideal measurement of the IHC slide finds in each nucleus.

    The optical density is that of DAB by colour deconvolution with the true stains and white point of the
    light after the microscope's blur and before the sensor's noise, averaged over the true mask. It belongs
    to the tissue: misalignment moves where it is seen and does not change it.

    Args:
        tissue: The slide.
        stain: A key of `ASSAYS`.
        light: `ihc_light(tissue, stain)`, where it is at hand.

    Returns:
        One row a nucleus: `label`, `x_um`, `y_um` (of the cell, as in `Tissue.cells`), `cell_type`, `dab_od`,
        `protein` (`protein`, before the laboratory's factor).
    """
    light = ihc_light(tissue, stain) if light is None else light
    staining = draw_staining(tissue.config, stain)
    where = np.flatnonzero(tissue.nucleus_labels)
    pixels = light.reshape(3, 1, -1)[:, :, where].astype(np.float64)
    dab = deconvolve(pixels, staining.stain_set, white=tuple(staining.white))[1, 0]
    owner = tissue.nucleus_labels.ravel()[where].astype(np.int64)
    n = len(tissue.cells) + 1
    mean = np.bincount(owner, weights=dab, minlength=n)[1:] / np.bincount(owner, minlength=n)[1:]
    cells = tissue.cells
    return pd.DataFrame(
        {
            "label": np.arange(1, n),
            "x_um": cells["x_um"],
            "y_um": cells["y_um"],
            "cell_type": cells["cell_type"],
            "dab_od": mean,
            "protein": protein(tissue, assay(stain).gene),
        }
    )


def ihc_concentrations(tissue: Tissue, stain: str, *, he: np.ndarray | None = None) -> np.ndarray:
    """Haematoxylin and DAB at every pixel, (2, H, W) float32, before the laboratory's factors."""
    found = assay(stain)
    haematoxylin, eosin = he_concentrations(tissue) if he is None else he
    # What takes up eosin binds a little of everything: matrix and red cells stay faintly visible.
    concentrations = np.stack([haematoxylin + 0.06 * eosin, 0.025 * eosin])
    stream = generator(tissue.config, f"ihc texture {stain}")
    amount = found.peak * protein(tissue, found.gene)
    paint = _paint_nuclei if found.compartment == "nucleus" else _paint_membranes
    paint(tissue, stream, amount, concentrations[1])
    concentrations[0] /= 1 + _MASKING * np.maximum(concentrations[1], 0)
    return np.maximum(concentrations, 0, out=concentrations)


def _paint_nuclei(tissue: Tissue, stream: np.random.Generator, amount: np.ndarray, dab: np.ndarray) -> None:
    """DAB in the nuclei, uneven as chromatin is and paler at the rim, with a breath of it around them."""
    level, flat = tissue.level.ravel(), dab.ravel()
    grain = fine_grain(stream, tissue.config).ravel()
    clumps = chromatin(stream, tissue.config)[0].ravel()
    body = np.flatnonzero((level > 1) & (level < 2))
    owner = tissue.cell_labels.ravel()[body].astype(np.int64)
    flat[body] += 0.05 * spread(amount, owner) * np.clip(1 + 0.4 * grain[body], 0, None)
    inside = np.flatnonzero(level <= 1)
    owner = tissue.nucleus_labels.ravel()[inside].astype(np.int64)
    rim = np.clip((level[inside] - 0.75) / 0.25, 0, 1)
    tone = np.clip(1.02 + 0.13 * clumps[inside] + 0.05 * grain[inside], 0.3, None) - 0.15 * rim
    flat[inside] += spread(amount, owner) * tone


def _paint_membranes(
    tissue: Tissue, stream: np.random.Generator, amount: np.ndarray, dab: np.ndarray
) -> None:
    """DAB along the cells' borders: pieces where there is little, a dark ring where there is much."""
    labels, mpp = tissue.cell_labels, tissue.config.mpp
    depth = _depth_um(labels, mpp)
    gaps = patches(stream, tissue.config, scale_um=1.6).ravel()
    grain = fine_grain(stream, tissue.config).ravel()
    near = np.flatnonzero((labels > 0).ravel() & (tissue.level > 1).ravel())
    owner = labels.ravel()[near].astype(np.int64)
    much = spread(amount, owner)
    closed = np.clip(0.15 + 1.5 * much + 0.5 * gaps[near], 0, 1)
    ring = np.exp(-((depth.ravel()[near] / _RING_UM) ** 2))
    dab.ravel()[near] += much * np.clip(1 + 0.15 * grain[near], 0, None) * (ring * closed + 0.06 * much)


def _depth_um(labels: np.ndarray, mpp: float) -> np.ndarray:
    """Distance of each pixel from the nearest one of another label, in µm, (H, W) float32."""
    edge = np.zeros(labels.shape, bool)
    for a, b in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        differs = labels[a] != labels[b]
        edge[a] |= differs
        edge[b] |= differs
    return (scipy.ndimage.distance_transform_edt(~edge) * mpp).astype(np.float32)
