"""Which cells stand where: even distances, types by structure, layers round lumens."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from past_core.synthetic.blobs import Blobs
from past_core.synthetic.cohort import CANCER_TYPES, CELL_TYPES, TissueConfig
from past_core.synthetic.patient import Patient
from past_core.synthetic.seeding import generator, smooth_field
from past_core.synthetic.structures import LAYER_UM, Structures

_CROWDING = {"aggregates": (2.4, 0.62), "glands": (1.3, 0.64), "nests": (1.15, 0.94)}
"""Density of cells and their least distance in each structure at full strength, relative to the stroma's."""

_MOST_EXTRA = max(density for density, _ in _CROWDING.values()) - 1


@dataclass(frozen=True)
class Sites:
    """Cells as points.

    Args:
        position: (N, 2) x, y in µm.
        cell_type: (N,) index into `CELL_TYPES`.
        lumen: (N,) index of the lumen that the cell lines, or -1.
        nest: (N,) index of the nest that the cell lies in, or -1.
        candidate: (N,) index of the candidate site: the same cell at every strength of morphology.
        n_candidates: Number of candidate sites.
    """

    position: np.ndarray
    cell_type: np.ndarray
    lumen: np.ndarray
    nest: np.ndarray
    candidate: np.ndarray
    n_candidates: int


def draw_sites(config: TissueConfig, patient: Patient, structures: Structures) -> Sites:
    """Draws cells at even distances, gives them types by the structure they lie in, and lets them settle.

    Without morphology all distances are alike and no lumen is left out. With it, cells are left out of
    lumens (radius times strength), line up around them, and crowd as `_CROWDING` says.
    """
    base = _even_points(generator(config, "positions"), config.size_um, config.spacing_um)
    stream = generator(config, "crowding")
    crowded = _even_points(stream, config.size_um, config.spacing_um / np.sqrt(_MOST_EXTRA))
    share = _crowding(structures, crowded)[0] - 1
    crowded = crowded[stream.random(len(crowded)) < share / _MOST_EXTRA]
    position = np.concatenate([base, crowded])
    n = len(position)

    cell_type, nest = _draw_types(config, patient, structures, position)
    extra = np.arange(n) >= len(base)
    lumens = structures.lumens.scaled(config.morphology)
    keep = (lumens.nearest(position)[0] >= 0) & ~(extra & (stream.random(n) >= config.morphology))

    candidate = np.flatnonzero(keep)
    position, cell_type, nest = position[keep], cell_type[keep], nest[keep]
    lining = np.isin(cell_type, [CELL_TYPES.index(t) for t in ("tumour", "epithelial", "endothelial")])
    distance, nearest = lumens.nearest(position)
    lumen = np.where(lining & (distance < 1.6 * LAYER_UM), nearest, -1)
    position = _settle(config, structures, lumens, position, lumen)
    return Sites(position, cell_type, lumen, nest, candidate, n)


def _crowding(structures: Structures, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Relative density and least distance that `_CROWDING` asks for at each point."""
    density, distance = np.ones((2, len(position)))
    for name, wanted in _CROWDING.items():
        inside = getattr(structures, name).nearest(position)[0] < 0
        density[inside], distance[inside] = wanted
    return density, distance


def _even_points(stream: np.random.Generator, size_um: float, spacing_um: float) -> np.ndarray:
    """A hexagonal grid, shaken, turned and relaxed: random points at even distances."""
    turn = stream.uniform(0, np.pi / 3)
    rows = int(np.ceil(1.5 * size_um / spacing_um / np.sqrt(0.75)))
    y, x = np.mgrid[-rows:rows, -rows:rows].astype(np.float64)
    grid = np.stack([x.ravel() + 0.5 * (y.ravel() % 2), y.ravel() * np.sqrt(0.75)], axis=1) * spacing_um
    grid = grid @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) + size_um / 2
    grid += np.clip(stream.normal(0, 0.3, grid.shape), -0.6, 0.6) * spacing_um
    points = grid[((grid > 0) & (grid < size_um)).all(axis=1)]
    for _ in range(6):
        points = _repel(points, np.full(len(points), 0.85 * spacing_um), size_um)
    return points


def _repel(points: np.ndarray, wanted: np.ndarray, size_um: float) -> np.ndarray:
    """Moves pairs that stand closer than wanted apart by half of what is missing."""
    pairs = cKDTree(points).query_pairs(wanted.max(), output_type="ndarray")
    i, j = pairs.T
    offset = points[i] - points[j]
    length = np.maximum(np.hypot(*offset.T), 1e-6)
    push = np.maximum((wanted[i] + wanted[j]) / 2 - length, 0) / 4
    step = offset * (push / length)[:, None]
    moved = points.copy()
    np.add.at(moved, i, step)
    np.add.at(moved, j, -step)
    return np.clip(moved, 3.0, size_um - 3.0)


def _settle(
    config: TissueConfig, structures: Structures, lumens: Blobs, position: np.ndarray, lumen: np.ndarray
) -> np.ndarray:
    """Lets cells keep their distance and line up around lumens; without morphology only the former."""
    strength = config.morphology
    closeness = _crowding(structures, position)[1]
    wanted = 0.85 * config.spacing_um * closeness**strength
    if not strength or not len(lumens):
        return _repel(position, wanted, config.size_um)
    # Only cells near a lumen can be moved by it.
    near = np.flatnonzero(lumens.nearest(position)[0] < 4 * LAYER_UM)
    lines = lumen[near] >= 0
    for _ in range(10):
        position = _repel(position, wanted, config.size_um)
        gap, nearest = lumens.nearest(position[near])
        target = np.maximum(gap, 0.42 * LAYER_UM * strength)
        layer = (np.floor(target / LAYER_UM) + 0.5) * LAYER_UM
        target += np.where(lines, 0.4 * strength * (layer - target), 0)
        outward = position[near] - lumens.centre[nearest]
        outward /= np.maximum(np.hypot(*outward.T), 1e-6)[:, None]
        position[near] += (target - gap)[:, None] * outward
        position = np.clip(position, 3.0, config.size_um - 3.0)
    return position


def _draw_types(
    config: TissueConfig, patient: Patient, structures: Structures, position: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Type of each cell by the structure that it lies in, and the index of its nest or -1."""
    stream = generator(config, "types")
    code = {name: i for i, name in enumerate(CELL_TYPES)}
    n = len(position)
    u, v = stream.random((2, n))

    odds = CANCER_TYPES[config.cancer_type].stroma
    infiltrate = smooth_field(stream, config.size_um, scale_um=60).at(position)
    weights = np.tile(np.array(list(odds.values())), (n, 1))
    immune = np.isin(list(odds), ["t_cell", "macrophage", "plasma"])
    weights[:, immune] *= np.exp(0.5 * infiltrate + 0.25 * patient.immunity)[:, None]
    cumulative = np.cumsum(weights / weights.sum(axis=1, keepdims=True), axis=1)
    chosen = np.minimum((u[:, None] > cumulative).sum(axis=1), len(odds) - 1)
    cell_type = np.array([code[name] for name in odds])[chosen]

    depth, aggregate = structures.aggregates.nearest(position)
    radius = np.append(structures.aggregates.radius, 1.0)[aggregate]
    core = np.clip(-depth / radius, 0, 1)
    mixture = np.array([code["b_cell"], code["t_cell"], code["macrophage"], code["plasma"]])
    lymphoid = np.cumsum(np.stack([0.12 + 0.6 * core, 0.78 - 0.6 * core, 0 * core + 0.07], axis=1), axis=1)
    cell_type = np.where(depth < 0, mixture[(u[:, None] > lymphoid).sum(axis=1)], cell_type)

    nest_distance, nest = structures.nests.nearest(position)
    nest = np.where(nest_distance < 0, nest, -1)
    guest = np.where(v < 0.6, code["t_cell"], code["macrophage"])
    cell_type = np.where(nest >= 0, np.where(u < 0.95, code["tumour"], guest), cell_type)
    gland = structures.glands.nearest(position)[0] < 0
    cell_type = np.where(gland, np.where(u < 0.975, code["epithelial"], guest), cell_type)
    vessel = structures.lumens[structures.vessel_lumen].nearest(position)[0] < 0.62 * LAYER_UM
    return np.where(vessel, code["endothelial"], cell_type), nest
