"""Keypoint sets with a known transform, as the tests of registration need them."""

from collections.abc import Callable

import numpy as np

from past_core.registration.combine import PairSet, Registration
from past_core.registration.rigid import Similarity

SIDE_UM = 8000.0
"""Side of the square tissue: about a Xenium sample's."""
FIVE = np.array([[0.15, 0.15], [0.85, 0.15], [0.15, 0.85], [0.85, 0.85], [0.5, 0.5]]) * SIDE_UM
NINE = np.stack(np.meshgrid([0.15, 0.5, 0.85], [0.15, 0.5, 0.85]), -1).reshape(-1, 2) * SIDE_UM
"""Middles of the regions in the H&E."""

Field = Callable[[np.ndarray], np.ndarray]


def turned(angle: float, shift: tuple[float, float] = (0.0, 0.0), scale: float = 1.0) -> Similarity:
    """The transform by an angle in radians."""
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return Similarity(rotation, np.array(shift), scale)


def drawn(rng: np.random.Generator) -> Similarity:
    return turned(rng.uniform(0, 2 * np.pi), tuple(rng.uniform(-5000, 5000, 2)))


def waves(points: np.ndarray, amplitude: float = 10.0) -> np.ndarray:
    """A smooth displacement over the tissue, in µm."""
    x, y = np.pi * points.T / SIDE_UM
    return amplitude * np.stack([np.sin(y), np.cos(x) * np.sin(0.7 * y)], axis=1)


def made_sets(
    truth: Similarity,
    rng: np.random.Generator,
    *,
    middles: np.ndarray = FIVE,
    points: int = 4,
    region_um: float = 600.0,
    fixed_noise: float = 1.0,
    he_noise: float = 0.0,
    wrong_um: float = 0.0,
    field: Field | None = None,
) -> tuple[list[PairSet], list[int]]:
    """Regions of pairs, and in each the number of the pair that was moved by `wrong_um` (if above 0).

    The noise is the standard deviation of each coordinate on that side, in µm.
    """
    sets, wrong = [], []
    for number, middle in enumerate(middles):
        he = middle + rng.uniform(-region_um / 2, region_um / 2, (points, 2))
        fixed = truth(he + (0 if field is None else field(he))) + rng.normal(0, fixed_noise, he.shape)
        angle = rng.uniform(0, 2 * np.pi)
        wrong.append(int(rng.integers(points)))
        fixed[wrong[-1]] += wrong_um * np.array([np.cos(angle), np.sin(angle)])
        sets.append(PairSet(f"R{number + 1}", he + rng.normal(0, he_noise, he.shape), fixed))
    return sets, wrong


def mean_error(registration: Registration, truth: Similarity, field: Field | None = None) -> float:
    """Mean distance in µm from the truth over a grid of 21 x 21 points on the whole tissue."""
    axis = np.linspace(0, SIDE_UM, 21)
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    wanted = truth(grid + (0 if field is None else field(grid)))
    return float(np.linalg.norm(registration(grid) - wanted, axis=1).mean())
