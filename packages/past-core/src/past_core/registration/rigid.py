"""Rigid and similarity transforms of the plane, fitted to matched points in µm."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from past_core.errors import PastError

UNDETERMINED = 1e-9
"""Share of the spread below which points count as one point, or a rotation as undetermined."""


class RigidError(PastError, ValueError):
    """Points that determine no rigid transform."""


@dataclass(frozen=True)
class Similarity:
    """x -> scale · rotation · x + shift, H&E in µm to morphology in µm; rigid where the scale is 1.

    Attributes:
        rotation: (2, 2) float64 with determinant 1.
        shift: (2,) in µm.
        scale: 1 where both resolutions are trusted.
    """

    rotation: np.ndarray
    shift: np.ndarray
    scale: float = 1.0

    @property
    def angle_deg(self) -> float:
        """Angle from the source's x axis to where it points in the target, x towards y."""
        return float(np.degrees(np.arctan2(self.rotation[1, 0], self.rotation[0, 0])))

    @property
    def matrix(self) -> np.ndarray:
        """(3, 3) float64, [x, y, 1] in µm of the source -> the same of the target."""
        matrix = np.eye(3)
        matrix[:2, :2] = self.scale * self.rotation
        matrix[:2, 2] = self.shift
        return matrix

    @property
    def inverse(self) -> "Similarity":
        """From the target back to the source."""
        back = self.rotation.T
        return Similarity(back, -(back @ self.shift) / self.scale, 1 / self.scale)

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Carries (N, 2) points."""
        return self.scale * (points @ self.rotation.T) + self.shift

    def pixel_matrix(self, *, he_mpp: float, pixel_size: float) -> np.ndarray:
        """The vendor's (3, 3) matrix, [x, y, 1] in H&E pixels -> morphology pixels.

        Args:
            he_mpp: µm of an H&E pixel.
            pixel_size: µm of a morphology pixel.
        """
        return np.diag([1 / pixel_size, 1 / pixel_size, 1]) @ self.matrix @ np.diag([he_mpp, he_mpp, 1])


def matrix_um(pixel_matrix: np.ndarray, *, he_mpp: float, pixel_size: float) -> np.ndarray:
    """The (3, 3) matrix in µm on both sides of a vendor's matrix in pixels; inverse of `pixel_matrix`."""
    return np.diag([pixel_size, pixel_size, 1]) @ pixel_matrix @ np.diag([1 / he_mpp, 1 / he_mpp, 1])


def kabsch(source: ArrayLike, target: ArrayLike, *, weights: ArrayLike | None = None) -> Similarity:
    """The rotation and shift that bring matched points together in the least-squares sense.

    A reflection is never returned. Collinear points are enough, for in the plane two points fix a rotation.

    Args:
        source: (N, 2) in µm.
        target: (N, 2) in µm, row by row the same landmarks.
        weights: (N,) from 0; all equal by default.

    Raises:
        RigidError: Shapes that differ, values that are not finite, fewer than two distinct points, or
            mirrored points that determine no rotation.

    Source: Kabsch, Acta Cryst. A32:922 (1976), A34:827 (1978).
    """
    return umeyama(source, target, weights=weights, scale=False)


def umeyama(
    source: ArrayLike, target: ArrayLike, *, weights: ArrayLike | None = None, scale: bool = True
) -> Similarity:
    """As `kabsch`, with a common scale.

    Args:
        source: (N, 2) in µm.
        target: (N, 2) in µm.
        weights: (N,) from 0; all equal by default.
        scale: whether to fit it; it is 1 otherwise.

    Raises:
        RigidError: As `kabsch`.

    Source: Umeyama, IEEE TPAMI 13:376 (1991), equations 40 to 43.
    """
    x, y = check_points(source, "source"), check_points(target, "target")
    if x.shape != y.shape:
        raise RigidError(f"{len(x)} source points and {len(y)} target points; each needs its partner")
    w = np.ones(len(x)) if weights is None else np.asarray(weights, dtype=np.float64)
    if w.shape != (len(x),) or not np.isfinite(w).all() or (w < 0).any():
        raise RigidError(f"weights must be {len(x)} finite numbers from 0; found {w.tolist()}")
    if np.count_nonzero(w) < 2:
        raise RigidError(
            f"{np.count_nonzero(w)} points; at least 2 fix a rigid transform, 4 also show a wrong one"
        )
    w = w / w.sum()
    middle_x, middle_y = w @ x, w @ y
    x, y = x - middle_x, y - middle_y
    spread_x, spread_y = w @ (x**2).sum(axis=1), w @ (y**2).sum(axis=1)
    for name, spread, middle in (("source", spread_x, middle_x), ("target", spread_y, middle_y)):
        if np.sqrt(spread) <= UNDETERMINED * max(1.0, float(np.abs(middle).max())):
            raise RigidError(f"all {name} points lie on {middle.tolist()}; pick landmarks that lie apart")
    u, singular, vt = np.linalg.svd((y * w[:, None]).T @ x)
    sign = 1.0 if np.linalg.det(u @ vt) > 0 else -1.0
    trace = singular[0] + sign * singular[1]
    if trace <= UNDETERMINED * np.sqrt(spread_x * spread_y):
        raise RigidError(
            "no rotation fits better than another: the target is unrelated to the source or mirrors it; "
            "check the pairs, or flip the image and pick again"
        )
    rotation = (u * [1.0, sign]) @ vt
    factor = float(trace / spread_x) if scale else 1.0
    return Similarity(rotation, middle_y - factor * (rotation @ middle_x), factor)


def check_points(points: ArrayLike, name: str) -> np.ndarray:
    """Returns (N, 2) float64.

    Raises:
        RigidError: Another shape, or values that are not finite.
    """
    array = np.asarray(points, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != 2:
        raise RigidError(f"{name} points have shape {array.shape}; expected (N, 2) of x, y")
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if len(bad):
        raise RigidError(f"{name} point {bad[0]} is {array[bad[0]].tolist()}; expected finite numbers")
    return array


def mirrored(source: np.ndarray, target: np.ndarray, *, factor: float = 4.0) -> bool:
    """Whether a mirror image fits at least `factor` times better than the best rotation (root mean square).

    Args:
        source: (N, 2) in µm.
        target: (N, 2) in µm.
        factor: how much better.
    """
    flipped = source * [-1.0, 1.0]
    try:
        straight = rms(kabsch(source, target)(source) - target)
    except RigidError:
        straight = np.inf
    try:
        return bool(rms(kabsch(flipped, target)(flipped) - target) * factor < straight)
    except RigidError:
        return False


def rms(residuals: np.ndarray) -> float:
    """Root mean square length of (N, 2) vectors."""
    return float(np.sqrt((residuals**2).sum(axis=1).mean()))
