"""H&E of a synthetic slide: stain concentrations from the cells' looks, then the Beer-Lambert law.

The two halves are apart on purpose: another chromogen (DAB with haematoxylin) needs another map of concentrations
over the same masks and the same `beer_lambert`.
"""

import numpy as np
import scipy.ndimage

from past_core.synthetic.seeding import generator
from past_core.synthetic.textures import chromatin, fibres, fine_grain
from past_core.synthetic.tissue import Tissue

PSF_UM = 0.28
"""Standard deviation of the microscope's blur."""

NOISE = 1.6
"""Standard deviation of the sensor's noise in grey levels."""


def beer_lambert(concentrations: np.ndarray, stains: np.ndarray, white: np.ndarray) -> np.ndarray:
    """Transmitted light I = I₀ · 10^(−c · S).

    Args:
        concentrations: (S, H, W) amounts of each stain.
        stains: (S, 3) optical density (decadic) of red, green, blue at unit concentration.
        white: (3,) intensity of bare glass.

    Returns:
        (3, H, W) float32 intensities.
    """
    scaled = (-np.log(10) * stains).astype(np.float32)
    light = np.empty((3, *concentrations.shape[1:]), np.float32)
    for channel in range(3):
        density = scaled[0, channel] * concentrations[0]
        for stain in range(1, len(stains)):
            density += scaled[stain, channel] * concentrations[stain]
        np.exp(density, out=light[channel])
        light[channel] *= np.float32(white[channel])
    return light


def he_concentrations(tissue: Tissue) -> np.ndarray:
    """Haematoxylin and eosin at every pixel, (2, H, W) float32, before the patient's staining intensity."""
    s = tissue.config.morphology
    stream = generator(tissue.config, "he texture")
    cells, level = tissue.cells, tissue.level
    look = {name: np.append(0, cells[name]).astype(np.float32) for name in cells.columns if name in _USED}
    grain = fine_grain(stream, tissue.config)
    eosin = _matrix(tissue, stream, grain, s)
    haematoxylin = np.full(level.shape, 0.025, np.float32)
    haematoxylin += 0.01 * grain

    flat_eosin, flat_haematoxylin, flat_level = eosin.ravel(), haematoxylin.ravel(), level.ravel()
    where = np.flatnonzero((flat_level > 1) & (flat_level < 2))
    owner = tissue.cell_labels.ravel()[where].astype(np.int64)
    body = 1 + 0.16 * grain.ravel()[where]
    edge = np.clip((flat_level[where] - 1.8) / 0.2, 0, 1)
    flat_eosin[where] = look["eosin"][owner] * (body + 0.12 * edge)
    flat_haematoxylin[where] = look["cytoplasm_haematoxylin"][owner] * body

    where = np.flatnonzero(flat_level <= 1)
    owner = tissue.nucleus_labels.ravel()[where].astype(np.int64)
    coarse, fine, spots = (t.ravel()[where] for t in chromatin(stream, tissue.config))
    clump = 0.65 * coarse + 0.55 * fine
    rim = np.clip((flat_level[where] - 0.78) / 0.16, 0, 1)
    tone = np.maximum(0.92 + look["contrast"][owner] * clump + 0.16 * rim, 0.15)
    tone += look["nucleolus"][owner] * spots * (1 - rim)
    flat_haematoxylin[where] = look["haematoxylin"][owner] * tone
    flat_eosin[where] = 0.22 + 0.25 * look["nucleolus"][owner] * spots

    _empty(tissue, stream, eosin, haematoxylin, grain)
    return np.stack([haematoxylin, eosin])


_USED = ("haematoxylin", "contrast", "nucleolus", "eosin", "cytoplasm_haematoxylin")


def _matrix(tissue: Tissue, stream: np.random.Generator, grain: np.ndarray, strength: float) -> np.ndarray:
    """Eosin between the cells: even at strength zero, fibrous collagen with clefts at full strength."""
    plain = 0.34 * (1 + 0.1 * grain)
    if not strength:
        return plain
    fibre = fibres(stream, tissue.config, tissue.fibre)
    tint = np.exp(0.10 * tissue.programme.image(tissue.config.shape, tissue.config.mpp))
    collagen = tint * np.clip(0.36 + 0.17 * fibre, 0.02, None) * (1 + 0.1 * grain)
    return plain + np.float32(strength) * (collagen - plain)


def _empty(
    tissue: Tissue,
    stream: np.random.Generator,
    eosin: np.ndarray,
    haematoxylin: np.ndarray,
    grain: np.ndarray,
) -> None:
    """Clears lumens: a little secretion in glands, blood cells in vessels."""
    if not tissue.lumen.any():
        return
    eosin[tissue.lumen] = 0.015
    haematoxylin[tissue.lumen] = 0.008


def render_he(tissue: Tissue) -> np.ndarray:
    """Renders the slide's H&E, (H, W, 3) uint8."""
    config, patient = tissue.config, tissue.patient
    concentrations = he_concentrations(tissue)
    concentrations *= np.array([patient.haematoxylin, patient.eosin], np.float32)[:, None, None]
    light = beer_lambert(concentrations, patient.stains, patient.white)
    sensor = generator(config, "sensor")
    image = np.empty((*config.shape, 3), np.uint8)
    for channel in range(3):
        blurred = scipy.ndimage.gaussian_filter(light[channel], PSF_UM / config.mpp, truncate=2.5)
        blurred += NOISE * sensor.standard_normal(config.shape, dtype=np.float32)
        image[..., channel] = np.clip(np.rint(blurred, out=blurred), 0, 255)
    return image
