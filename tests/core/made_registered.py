"""Small bundles for tests of registration against the image, made once for all test processes."""

import json
import shutil
from pathlib import Path

import numpy as np
from made_keypoints import turned

from past_core.registration.rigid import Similarity, matrix_um
from past_core.registration.search import Affine, Moved
from past_core.synthetic.bundle import write_bundle
from past_core.synthetic.expression import simulate_expression
from past_core.synthetic.misalign import warp
from past_core.synthetic.render import render_he
from past_core.synthetic.tissue import TissueConfig, simulate_tissue

SIZE_UM = 300.0
PIXEL = 0.2125
MPP = 0.25


def bulge(points: np.ndarray, amplitude: float = 5.0) -> np.ndarray:
    """A smooth displacement over the tissue, in µm: what the H&E shows at p is the tissue's p + bulge(p)."""
    x, y = np.pi * points.T / SIZE_UM
    return amplitude * np.stack([np.sin(y), np.cos(x) * np.sin(0.7 * y)], axis=1)


def made_bundle(folder: Path, *, seed: int, warped: bool = False, version: str = "3.0") -> Path:
    """Writes the bundle of a tissue, by default with its H&E as it is."""
    config = TissueConfig(patient="S", cancer_type="breast", seed=seed, size_um=SIZE_UM)
    tissue = simulate_tissue(config)
    image = render_he(tissue)
    if warped:
        axis = (np.arange(image.shape[0]) + 0.5) * MPP
        grid = np.stack(np.meshgrid(axis, axis), axis=-1)
        field = bulge(grid.reshape(-1, 2)).reshape(grid.shape) / MPP
        moved = warp(image.transpose(2, 0, 1).astype(np.float32), field[..., ::-1].transpose(2, 0, 1))
        image = np.clip(np.round(moved), 0, 255).astype(np.uint8).transpose(1, 2, 0)
    return write_bundle(tissue, simulate_expression(tissue), folder, he_image=image, version=version)


def he_of(bundle: Path) -> Path:
    return bundle / "S_he_image.ome.tif"


def matrix_of(bundle: Path) -> Path:
    return bundle / "S_he_imagealignment.csv"


def truth_of(bundle: Path) -> Affine:
    """The true frame in µm, without a bulge."""
    return Affine(matrix_um(np.loadtxt(matrix_of(bundle), delimiter=","), he_mpp=MPP, pixel_size=PIXEL))


def shifted(frame: Affine, angle_deg: float, shift: tuple[float, float], scale: float = 1.0) -> Moved:
    """A frame turned about the tissue's middle and shifted, on the H&E."""
    middle = np.full(2, SIZE_UM / 2)
    turn = turned(np.radians(angle_deg), scale=scale)
    return Moved(frame, Similarity(turn.rotation, middle + np.array(shift) - turn(middle[None])[0], scale))


def grid_um(border: float = 15.0) -> np.ndarray:
    axis = np.linspace(border, SIZE_UM - border, 15)
    return np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)


def wrong_matrix(bundle: Path, path: Path, angle_deg: float, shift: tuple[float, float]) -> Path:
    """A matrix file that is off by an angle and a shift in µm."""
    frame = shifted(truth_of(bundle), angle_deg, shift)
    he = np.array([[0.0, 0], [100, 0], [0, 100]])
    at = frame(he * MPP) / PIXEL
    matrix = np.eye(3)
    matrix[:2, :2] = (at[1:] - at[0]).T / 100
    matrix[:2, 2] = at[0]
    np.savetxt(path, matrix, delimiter=",", fmt="%.17g")
    return path


def without_masks(bundle: Path, folder: Path) -> Path:
    """A copy without cells.zarr.zip, so that only DAPI shows the nuclei."""
    shutil.copytree(bundle, folder)
    (folder / "cells.zarr.zip").unlink()
    return folder


def changed_report(folder: Path, target: Path, **changes: object) -> Path:
    """A copy of a registration's folder with other values in its report."""
    shutil.copytree(folder, target)
    report = json.loads((target / "report.json").read_text())
    (target / "report.json").write_text(json.dumps(report | changes))
    return target
