"""Keypoints and slides with a known transform, for the benchmark of registration."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from past_core.registration.combine import PairSet
from past_core.registration.rigid import Similarity, matrix_um
from past_core.registration.search import Affine, Moved
from past_core.synthetic.bundle import write_bundle
from past_core.synthetic.expression import simulate_expression
from past_core.synthetic.misalign import warp
from past_core.synthetic.render import render_he
from past_core.synthetic.tissue import TissueConfig, simulate_tissue

SIDE_UM = 8000.0
"""Side of the square tissue of keypoints: about a Xenium sample's."""
REGION_UM = 600.0
WRONG_UM = (20.0, 200.0)
"""How far off a wrong pair is: the next nucleus but one, up to another landmark."""
FIVE = np.array([[0.15, 0.15], [0.85, 0.15], [0.15, 0.85], [0.85, 0.85], [0.5, 0.5]]) * SIDE_UM
NINE = np.stack(np.meshgrid([0.15, 0.5, 0.85], [0.15, 0.5, 0.85]), -1).reshape(-1, 2) * SIDE_UM
"""Middles of the regions."""
MPP, PIXEL = 0.25, 0.2125


def turned(angle: float, shift: np.ndarray) -> Similarity:
    """A rigid transform by an angle in radians."""
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return Similarity(rotation, np.asarray(shift, dtype=float))


def waves(points: np.ndarray, amplitude: float, side: float = SIDE_UM) -> np.ndarray:
    """A smooth displacement over a tissue, in µm."""
    x, y = np.pi * points.T / side
    return amplitude * np.stack([np.sin(y), np.cos(x) * np.sin(0.7 * y)], axis=1)


@dataclass(frozen=True)
class Picked:
    """Keypoints, their truth, and which pair of each set is wrong (None for none)."""

    sets: list[PairSet]
    truth: Similarity
    amplitude: float
    wrong: list[int] | None

    def rms(self, frame) -> float:
        """Root mean square error in µm over a grid on the whole tissue."""
        axis = np.linspace(0, SIDE_UM, 21)
        grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
        wanted = self.truth(grid + waves(grid, self.amplitude))
        return float(np.sqrt(((frame(grid) - wanted) ** 2).sum(axis=1).mean()))


def pick(
    seed: int,
    *,
    middles: np.ndarray = FIVE,
    points: int = 4,
    he_noise: float = 1.0,
    fixed_noise: float = 0.0,
    wrong: bool = False,
    amplitude: float = 0.0,
) -> Picked:
    """Picks points in regions, by any rotation and shift; noise is of each coordinate, in µm."""
    rng = np.random.default_rng(seed)
    truth = turned(rng.uniform(0, 2 * np.pi), rng.uniform(-5000, 5000, 2))
    sets, which = [], []
    for number, middle in enumerate(middles):
        he = middle + rng.uniform(-REGION_UM / 2, REGION_UM / 2, (points, 2))
        fixed = truth(he + waves(he, amplitude)) + rng.normal(0, 1, he.shape) * fixed_noise
        he = he + rng.normal(0, 1, he.shape) * he_noise
        angle, far = rng.uniform(0, 2 * np.pi), rng.uniform(*WRONG_UM)
        which.append(int(rng.integers(points)))
        if wrong:
            fixed[which[-1]] += far * np.array([np.cos(angle), np.sin(angle)])
        sets.append(PairSet(f"R{number + 1}", he, fixed))
    return Picked(sets, truth, amplitude, which if wrong else None)


def make_slide(folder: Path, *, seed: int, size_um: float, amplitude: float = 0.0) -> Path:
    """A synthetic bundle whose H&E shows at p what the tissue has at p + waves(p)."""
    tissue = simulate_tissue(
        TissueConfig(patient="R", cancer_type="breast", seed=seed, size_um=size_um, mpp=MPP)
    )
    image = render_he(tissue)
    if amplitude:
        axis = (np.arange(image.shape[0]) + 0.5) * MPP
        grid = np.stack(np.meshgrid(axis, axis), axis=-1)
        field = waves(grid.reshape(-1, 2), amplitude, size_um).reshape(grid.shape) / MPP
        moved = warp(image.transpose(2, 0, 1).astype(np.float32), field[..., ::-1].transpose(2, 0, 1))
        image = np.clip(np.round(moved), 0, 255).astype(np.uint8).transpose(1, 2, 0)
    return write_bundle(tissue, simulate_expression(tissue), folder, he_image=image)


def slide_truth(bundle: Path) -> Affine:
    """The frame in µm that a bundle was written with."""
    matrix = np.loadtxt(bundle / "R_he_imagealignment.csv", delimiter=",")
    pixel_size = json.loads((bundle / "experiment.xenium").read_text())["pixel_size"]
    return Affine(matrix_um(matrix, he_mpp=MPP, pixel_size=pixel_size))


def moved(frame: Affine, size_um: float, *, angle_deg: float, shift: tuple[float, float]) -> Moved:
    """A frame turned about the tissue's middle and shifted, on the H&E."""
    middle = np.full(2, size_um / 2)
    turn = turned(np.radians(angle_deg), np.zeros(2))
    return Moved(frame, Similarity(turn.rotation, middle + np.array(shift) - turn(middle[None])[0]))


def slide_error(frame, truth: Affine, size_um: float, *, amplitude: float = 0.0) -> float:
    """Root mean square error in µm over a slide, half a window from its border on."""
    axis = np.linspace(0.05, 0.95, 21) * size_um
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    wanted = truth(grid + waves(grid, amplitude, size_um))
    return float(np.sqrt(((frame(grid) - wanted) ** 2).sum(axis=1).mean()))
