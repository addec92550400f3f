"""H&E of a synthetic slide: stain concentrations from the cells' looks, then the Beer-Lambert law.

The two halves are apart on purpose: another chromogen (`ihc`: DAB with haematoxylin) needs another map of
concentrations over the same masks, and the same `beer_lambert`, `microscope` and `photograph`.
"""

import numpy as np
import scipy.ndimage

from past_core.synthetic.looks import PROGRAMME_EOSIN
from past_core.synthetic.seeding import Field, generator, grid_points
from past_core.synthetic.textures import chromatin, fibres, fine_grain
from past_core.synthetic.tissue import Tissue

PSF_UM = 0.26
"""Standard deviation of the microscope's blur."""

NOISE = 1.6
"""Standard deviation of the sensor's noise in grey levels."""

_PLAIN_EOSIN = 0.34
_MATRIX_HAEMATOXYLIN = 0.025
_RED_CELL_UM = 3.1


def beer_lambert(concentrations: np.ndarray, stains: np.ndarray, white: np.ndarray) -> np.ndarray:
    """Transmitted light I = I₀ · 10^(−c · S).

    Args:
        concentrations: (S, H, W) amounts of each stain.
        stains: (S, 3) optical density (decadic) of red, green, blue at unit concentration.
        white: (3,) intensity of bare glass.

    Returns:
        (3, H, W) float32 intensities.
    """
    scaled = (-np.log(10) * np.asarray(stains)).astype(np.float32)
    light = np.empty((3, *concentrations.shape[1:]), np.float32)
    for channel in range(3):
        np.multiply(concentrations[0], scaled[0, channel], out=light[channel])
        for stain in range(1, len(scaled)):
            light[channel] += scaled[stain, channel] * concentrations[stain]
        np.exp(light[channel], out=light[channel])
        light[channel] *= np.float32(white[channel])
    return light


def microscope(light: np.ndarray, *, mpp: float) -> np.ndarray:
    """Blurs transmitted light (3, H, W) float32 as the microscope does, in place, and returns it."""
    for channel in light:
        scipy.ndimage.gaussian_filter(channel, PSF_UM / mpp, truncate=2.5, output=channel)
    return light


def expose(light: np.ndarray, stream: np.random.Generator) -> np.ndarray:
    """Adds the sensor's noise to light (3, H, W) and quantises it.

    Args:
        light: (3, H, W) float32 intensities up to 255.
        stream: Source of the noise.

    Returns:
        (H, W, 3) uint8.
    """
    image = np.empty((*light.shape[1:], 3), np.uint8)
    for channel in range(3):
        seen = NOISE * stream.standard_normal(light.shape[1:], dtype=np.float32)
        seen += light[channel]
        np.rint(seen, out=seen)
        image[..., channel] = np.clip(seen, 0, 255, out=seen)
    return image


def photograph(light: np.ndarray, stream: np.random.Generator, *, mpp: float) -> np.ndarray:
    """Blurs transmitted light, adds the sensor's noise, and quantises it.

    Args:
        light: (3, H, W) float32 intensities up to 255; it is left as it is.
        stream: Source of the noise.
        mpp: Micrometres per pixel.

    Returns:
        (H, W, 3) uint8.
    """
    return expose(microscope(light.copy(), mpp=mpp), stream)


def render_he(tissue: Tissue, *, concentrations: np.ndarray | None = None) -> np.ndarray:
    """Renders the slide's H&E, (H, W, 3) uint8.

    Args:
        tissue: The slide.
        concentrations: `he_concentrations(tissue)`, where it is at hand.
    """
    config, patient = tissue.config, tissue.patient
    concentrations = he_concentrations(tissue) if concentrations is None else concentrations
    concentrations = (
        concentrations * np.array([patient.haematoxylin, patient.eosin], np.float32)[:, None, None]
    )
    light = beer_lambert(concentrations, patient.stains, patient.white)
    return photograph(light, generator(config, "he sensor"), mpp=config.mpp)


def he_concentrations(tissue: Tissue) -> np.ndarray:
    """Haematoxylin and eosin at every pixel, (2, H, W) float32, before the patient's staining intensity."""
    stream = generator(tissue.config, "he texture")
    grain = fine_grain(stream, tissue.config)
    haematoxylin = _MATRIX_HAEMATOXYLIN + 0.008 * grain
    eosin = _matrix(tissue, stream, grain)
    _paint_cytoplasm(tissue, grain, haematoxylin, eosin)
    _paint_nuclei(tissue, stream, haematoxylin, eosin)
    if tissue.lumen.any():
        _paint_lumens(tissue, stream, grain, haematoxylin, eosin)
    return np.maximum(np.stack([haematoxylin, eosin]), 0)


def spread(values: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Values of the cells, (N,), at pixels by their labels 1..N; 0 where the label is 0."""
    return np.append(0, values).astype(np.float32)[owner]


def _look(tissue: Tissue, name: str, owner: np.ndarray) -> np.ndarray:
    """A cell's property at pixels that it owns."""
    return spread(tissue.cells[name].to_numpy(), owner)


def _matrix(tissue: Tissue, stream: np.random.Generator, grain: np.ndarray) -> np.ndarray:
    """Eosin between the cells: even at strength zero, else fibrous with clefts outside epithelium."""
    config, strength = tissue.config, tissue.config.morphology
    plain = _PLAIN_EOSIN * (1 + 0.1 * grain)
    if not strength:
        return plain
    points, n = grid_points(config.size_um, 3.0)
    depth = np.minimum(*(getattr(tissue.structures, k).nearest(points)[0] for k in ("nests", "glands")))
    stroma = Field(np.clip((depth.reshape(n, n) + 1) / 4, 0, 1), 3.0).image(config.shape, config.mpp)
    collagen = np.clip(0.36 + 0.17 * fibres(stream, config, tissue.fibre), 0.02, None) * (1 + 0.1 * grain)
    collagen *= np.exp(PROGRAMME_EOSIN * tissue.programme.image(config.shape, config.mpp))
    return plain + np.float32(strength) * stroma * (collagen - plain)


def _paint_cytoplasm(tissue: Tissue, grain: np.ndarray, haematoxylin: np.ndarray, eosin: np.ndarray) -> None:
    """Cytoplasm, fading into the matrix in cells that blend with it, with a faint border elsewhere."""
    level = tissue.level.ravel()
    where = np.flatnonzero((level > 1) & (level < 2))
    owner = tissue.cell_labels.ravel()[where].astype(np.int64)
    body = 1 + 0.16 * grain.ravel()[where]
    border = _borders(tissue.cell_labels).ravel()[where]
    fade = _look(tissue, "blend", owner) * np.clip((level[where] - 1.2) / 0.7, 0, 1)
    inner = _look(tissue, "eosin", owner) * (body + 0.16 * border)
    flat = eosin.ravel()
    flat[where] = inner + fade * (flat[where] - inner)
    inner = _look(tissue, "cytoplasm_haematoxylin", owner) * body
    flat = haematoxylin.ravel()
    flat[where] = inner + fade * (flat[where] - inner)


def _borders(labels: np.ndarray) -> np.ndarray:
    """Pixels that touch another cell to the right or below, (H, W) bool."""
    edge = np.zeros(labels.shape, bool)
    edge[:, :-1] = labels[:, :-1] != labels[:, 1:]
    edge[:-1] |= labels[:-1] != labels[1:]
    return edge


def _paint_nuclei(
    tissue: Tissue, stream: np.random.Generator, haematoxylin: np.ndarray, eosin: np.ndarray
) -> None:
    """Nuclei: clumps of chromatin whose contrast the state sets, a darker rim, nucleoli in some types."""
    level = tissue.level.ravel()
    where = np.flatnonzero(level <= 1)
    owner = tissue.nucleus_labels.ravel()[where].astype(np.int64)
    clumps, spots = (texture.ravel()[where] for texture in chromatin(stream, tissue.config))
    rim = np.clip((level[where] - 0.78) / 0.16, 0, 1)
    spots = spots * (1 - rim) * _look(tissue, "nucleolus", owner)
    tone = np.clip(0.92 + _look(tissue, "contrast", owner) * clumps, 0.25, 2.2) + 0.16 * rim + spots
    haematoxylin.ravel()[where] = _look(tissue, "haematoxylin", owner) * tone
    eosin.ravel()[where] = 0.2 + 0.25 * spots


def _paint_lumens(
    tissue: Tissue,
    stream: np.random.Generator,
    grain: np.ndarray,
    haematoxylin: np.ndarray,
    eosin: np.ndarray,
) -> None:
    """Empties lumens but for wisps of secretion in glands and red cells in vessels."""
    gland = tissue.lumen & ~tissue.vessel
    haematoxylin[tissue.lumen] = 0.006
    eosin[tissue.lumen] = 0.012
    eosin[gland] += 0.06 * np.clip(grain[gland] - 0.3, 0, 1.5)
    _paint_red_cells(tissue, stream, eosin)


def _paint_red_cells(tissue: Tissue, stream: np.random.Generator, eosin: np.ndarray) -> None:
    """Red cells at random places of the vessels' lumens, paler in the middle."""
    mpp = tissue.config.mpp
    rows, columns = np.nonzero(tissue.vessel)
    count = int(len(rows) * mpp**2 / 45)
    if not count:
        return
    reach = int(np.ceil(_RED_CELL_UM / mpp))
    offset = np.arange(-reach, reach + 1)
    distance = np.hypot(offset[:, None], offset[None]) * mpp
    disc = np.where(distance < _RED_CELL_UM, 0.85 - 0.35 * np.exp(-((distance / 1.3) ** 2)), 0).astype(
        np.float32
    )
    canvas = np.zeros(tuple(n + 2 * reach for n in eosin.shape), np.float32)
    for k in stream.choice(len(rows), count, replace=False):
        window = canvas[rows[k] : rows[k] + 2 * reach + 1, columns[k] : columns[k] + 2 * reach + 1]
        np.maximum(window, disc, out=window)
    canvas = canvas[reach:-reach, reach:-reach]
    eosin[tissue.vessel] = np.maximum(eosin[tissue.vessel], canvas[tissue.vessel])
