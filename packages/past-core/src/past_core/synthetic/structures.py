"""The architecture of a slide: tumour nests, glands, immune aggregates and vessels."""

from dataclasses import dataclass

import numpy as np

from past_core.synthetic.blobs import Blobs, place
from past_core.synthetic.cohort import CANCER_TYPES, TissueConfig
from past_core.synthetic.patient import Patient
from past_core.synthetic.seeding import generator

LAYER_UM = 12.0
"""Width of one layer of epithelium."""


@dataclass(frozen=True)
class Structures:
    """The architecture of a slide, the same at every strength of morphology.

    Args:
        nests: Tumour nests.
        glands: Benign glands, each with one lumen.
        aggregates: Immune aggregates.
        vessels: Outer wall of blood vessels.
        lumens: Lumens of nests, glands and vessels.
        vessel_lumen: (n_lumens,) bool: the lumen is a vessel's.
    """

    nests: Blobs
    glands: Blobs
    aggregates: Blobs
    vessels: Blobs
    lumens: Blobs
    vessel_lumen: np.ndarray


def _join(parts: list[Blobs]) -> Blobs:
    return Blobs(
        *(np.concatenate([getattr(p, f) for p in parts]) for f in ("centre", "radius", "amplitude", "phase"))
    )


def _radii(stream: np.random.Generator, area: float, mean: float, spread: float) -> np.ndarray:
    """Log-normal radii whose discs fill the area on average."""
    radii = mean * np.exp(stream.normal(0, spread, 400))
    filled = np.cumsum(np.pi * radii**2)
    return radii[: max(1, int(np.searchsorted(filled, area)))]


def draw_structures(config: TissueConfig, patient: Patient) -> Structures:
    """Draws nests, glands, aggregates and vessels with their lumens."""
    stream = generator(config, "structures")
    kind = CANCER_TYPES[config.cancer_type]
    area, size = config.size_um**2, config.size_um
    share = np.exp(stream.normal(0, 0.15, 3))

    radius = _radii(stream, kind.nests * share[0] * area, kind.nest_radius_um, 0.3)
    nests = place(stream, radius, size_um=size, roughness=0.13)
    radius = _radii(stream, kind.glands * share[1] * area, 30, 0.2)
    glands = place(stream, radius, size_um=size, taken=nests, roughness=0.08)
    taken = _join([nests, glands])
    immune = kind.aggregates * np.exp(0.3 * patient.immunity) * share[2] * area
    aggregates = place(stream, _radii(stream, immune, 38, 0.3), size_um=size, taken=taken, roughness=0.12)
    taken = _join([taken, aggregates])
    n_vessels = max(1, round(kind.vessels * area / 1e6))
    radius = 10 * np.exp(stream.normal(0, 0.35, n_vessels))
    vessels = place(stream, radius + 8, size_um=size, taken=taken, gap_um=5, roughness=0.07)

    lumens = [
        _nest_lumens(stream, nests, kind.nest_lumens),
        _inner(glands, LAYER_UM * 1.15),
        _inner(vessels, 8),
    ]
    vessel_lumen = np.repeat([False, False, True], [len(part) for part in lumens])
    return Structures(nests, glands, aggregates, vessels, _join(lumens), vessel_lumen)


def _inner(outer: Blobs, wall_um: float) -> Blobs:
    """The outline that leaves a wall of the given thickness."""
    return Blobs(outer.centre, np.maximum(outer.radius - wall_um, 3.0), outer.amplitude * 1.2, outer.phase)


def _nest_lumens(stream: np.random.Generator, nests: Blobs, mean: float) -> Blobs:
    """Small irregular lumens inside the nests that are large enough (cribriform growth)."""
    parts = []
    for i in range(len(nests)):
        room = nests.radius[i] - 1.6 * LAYER_UM
        count = stream.poisson(mean)
        radius = stream.uniform(5, 13, max(count, 1))[:count]
        radius = radius[radius < room - 2]
        side = max(room, 1.0)
        lumens = place(stream, radius, size_um=2 * side, gap_um=2 * LAYER_UM, roughness=0.22)
        centre = lumens.centre - side
        fits = np.hypot(*centre.T) + lumens.radius < side
        parts.append(
            Blobs(centre + nests.centre[i], lumens.radius, lumens.amplitude, lumens.phase)[
                np.flatnonzero(fits)
            ]
        )
    return _join(parts)
