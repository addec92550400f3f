"""Smooth local corrections beside a rigid transform: thin-plate splines and blended rigid transforms."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.interpolate import RBFInterpolator
from scipy.spatial.distance import cdist

from past_core.registration.rigid import RigidError, kabsch

FOLD = (0.5, 2.0)
"""Local change of area that a correction may make; beyond, it folds or tears the tissue."""


@dataclass(frozen=True)
class ThinPlate:
    """A smoothing thin-plate spline through displacements.

    Attributes:
        nodes: (n, 2) morphology in µm, after the rigid transform.
        displacement: (n, 2) in µm.
        smoothing: (n,) of each node, with the nodes' spread as the unit of length.
    """

    nodes: np.ndarray
    displacement: np.ndarray
    smoothing: np.ndarray

    @cached_property
    def _frame(self) -> tuple[np.ndarray, float]:
        middle = self.nodes.mean(axis=0)
        return middle, float(np.sqrt(((self.nodes - middle) ** 2).sum(axis=1).mean()))

    @cached_property
    def _spline(self) -> RBFInterpolator:
        middle, unit = self._frame
        scaled = (self.nodes - middle) / unit
        return RBFInterpolator(scaled, self.displacement, smoothing=self.smoothing, degree=1)

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Displacement in µm at (N, 2) points."""
        middle, unit = self._frame
        return self._spline((points - middle) / unit)

    def describe(self) -> dict[str, Any]:
        """All that is needed to make it again, in plain types."""
        return {
            "kind": "thin-plate",
            "nodes_um": self.nodes.tolist(),
            "displacement_um": self.displacement.tolist(),
            "smoothing": self.smoothing.tolist(),
        }


@dataclass(frozen=True)
class BlendedRigid:
    """One small rigid motion a region, blended by Gaussian weights of the distance to the regions' middles.

    Attributes:
        centres: (K, 2) middles in µm.
        shifts: (K, 2) in µm.
        angles: (K,) in radians, about the middles.
        width: standard deviation of the weights in µm.
    """

    centres: np.ndarray
    shifts: np.ndarray
    angles: np.ndarray
    width: float

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Displacement in µm at (N, 2) points."""
        logs = -cdist(points, self.centres, "sqeuclidean") / (2 * self.width**2)
        weights = np.exp(logs - logs.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        arms = points[:, None] - self.centres
        cosine, sine = np.cos(self.angles) - 1, np.sin(self.angles)
        turned = np.stack(
            [cosine * arms[..., 0] - sine * arms[..., 1], sine * arms[..., 0] + cosine * arms[..., 1]],
            axis=-1,
        )
        return np.einsum("nk,nkd->nd", weights, self.shifts + turned)

    def describe(self) -> dict[str, Any]:
        """All that is needed to make it again, in plain types."""
        return {
            "kind": "blended-rigid",
            "centres_um": self.centres.tolist(),
            "shifts_um": self.shifts.tolist(),
            "angles_rad": self.angles.tolist(),
            "width_um": self.width,
        }


Correction = ThinPlate | BlendedRigid


def thin_plate(
    points: Sequence[np.ndarray],
    displacements: Sequence[np.ndarray],
    *,
    smoothing: float,
    variances: Sequence[float],
) -> ThinPlate:
    """Fits a thin-plate spline; regions with noisier picks are smoothed more.

    Args:
        points: for each region (n, 2) in µm.
        displacements: for each region (n, 2) in µm.
        smoothing: of a region of mean variance; unit of length is the points' spread.
        variances: picking variance of each region.
    """
    relative = np.asarray(variances) / np.mean(variances)
    each = np.repeat(smoothing * relative, [len(p) for p in points])
    return ThinPlate(np.concatenate(points), np.concatenate(displacements), each)


def blended_rigid(
    points: Sequence[np.ndarray],
    displacements: Sequence[np.ndarray],
    *,
    width: float,
    variances: Sequence[float],
) -> BlendedRigid:
    """Fits a rigid motion a region, each shrunk by the share of it that picking noise explains.

    Args:
        points: for each region (n, 2) in µm.
        displacements: for each region (n, 2) in µm.
        width: of the blending, in nearest distances between the regions' middles (their median).
        variances: picking variance of each region.

    Raises:
        RigidError: Fewer than two regions, or two with one middle.
    """
    if len(points) < 2:
        raise RigidError(f"{len(points)} region; at least 2 are blended")
    centres = np.array([p.mean(axis=0) for p in points])
    apart = cdist(centres, centres) + np.diag(np.full(len(centres), np.inf))
    if apart.min() == 0:
        raise RigidError("two regions have the same middle; merge them")
    shifts = np.array([d.mean(axis=0) for d in displacements])
    angles = np.array(
        [np.radians(kabsch(p, p + d).angle_deg) for p, d in zip(points, displacements, strict=True)]
    )
    variance = np.asarray(variances)
    spread = np.array([((p - c) ** 2).sum() for p, c in zip(points, centres, strict=True)])
    shift_noise = variance / [len(p) for p in points]
    shifts = shifts * _shrink((shifts**2).mean(axis=1), shift_noise)[:, None]
    angles = angles * _shrink(angles**2, variance / spread)
    return BlendedRigid(centres, shifts, angles, float(width * np.median(apart.min(axis=1))))


def folds(correction: Correction, points: np.ndarray, *, side: int = 15) -> bool:
    """Whether a correction changes areas beyond `FOLD` anywhere over the points' box, a tenth wider.

    Args:
        correction: displacement in µm.
        points: (N, 2) in µm.
        side: points of the grid along each axis.
    """
    low, high = points.min(axis=0), points.max(axis=0)
    low, high = low - 0.1 * (high - low), high + 0.1 * (high - low)
    step = max(float((high - low).max()) / side / 10, 1e-6)
    axes = [np.linspace(a, b, side) for a, b in zip(low, high, strict=True)]
    grid = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)
    here = correction(grid)
    along_x = (correction(grid + np.array([step, 0])) - here) / step + [1, 0]
    along_y = (correction(grid + np.array([0, step])) - here) / step + [0, 1]
    areas = along_x[:, 0] * along_y[:, 1] - along_x[:, 1] * along_y[:, 0]
    return bool(areas.min() < FOLD[0] or areas.max() > FOLD[1])


def _shrink(squares: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Signal over signal and noise, the signal's variance estimated over the regions (not below 0)."""
    signal = max(0.0, float(np.mean(squares - noise)))
    return signal / (signal + noise) if signal > 0 else np.zeros_like(noise)
