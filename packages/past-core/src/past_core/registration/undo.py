"""Undoes a local correction: exactly by fixed-point iteration, and for millions of points on a grid."""

import logging

import numpy as np
from scipy import ndimage

from past_core.errors import PastError
from past_core.registration.local import Correction, ThinPlate

logger = logging.getLogger(__name__)

TOLERANCE_UM = 1.5e-4
"""Largest error of the grid where it is tested: below a thousandth of a pixel of either image."""
FIRST_NODES, MOST_NODES = 32, 2**20
"""Nodes along the longer side that are tried first, and nodes in all beyond which there is no grid."""
TESTED = 4096
"""Places at which a grid is tested; the middles of its squares, where it is worst, among them."""
BLOCK = 2**18
BORDER = 4
"""Nodes beyond the box, so that splines do not feel its border."""


class UndoError(PastError, ValueError):
    """A correction that cannot be undone: it folds the tissue."""


def undo_exactly(
    correction: Correction, fixed_um: np.ndarray, *, tolerance_um: float = 1e-7, most: int = 200
) -> np.ndarray:
    """The points that a correction moves to the given ones: q + correction(q) = p, by q = p - correction(q).

    Args:
        correction: displacement in µm.
        fixed_um: (N, 2) p.
        tolerance_um: largest step of the last iteration.
        most: iterations.

    Returns:
        (N, 2) q.

    Raises:
        UndoError: The iteration does not settle.
    """
    q = np.array(fixed_um, dtype=np.float64)
    for _ in range(most):
        step = fixed_um - q - correction(q)
        q += step
        if np.abs(step).max(initial=0.0) <= tolerance_um:
            return q
    raise UndoError("the local correction cannot be undone here: it folds the tissue; use the matrix alone")


class Undo:
    """A correction undone for any number of points.

    The exact displacements back are computed at the nodes of a grid and joined by cubic splines; the grid is
    refined until its error is below the tolerance. Points outside the box are computed exactly.

    Args:
        correction: displacement in µm.
        low: (2,) x, y in µm, a corner of the box in which points are expected.
        high: (2,) the other corner.
        tolerance_um: of the grid.

    Attributes:
        error_um: largest error at the places where the grid was tested; 0 where all is computed exactly.
        step_um: between nodes; None where there is no grid.

    Raises:
        UndoError: The correction folds the tissue in the box.
    """

    def __init__(
        self,
        correction: Correction,
        low: np.ndarray,
        high: np.ndarray,
        *,
        tolerance_um: float = TOLERANCE_UM,
    ) -> None:
        self._correction = correction
        self.low, self.high = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
        self.error_um = 0.0
        self.step_um: float | None = None
        self._spline: list[np.ndarray] | None = None
        size = np.maximum(self.high - self.low, 1e-6)
        step = float(size.max()) / FIRST_NODES
        while True:
            shape = np.ceil(size / step).astype(int) + 1 + 2 * BORDER
            if shape.prod() > MOST_NODES:
                logger.warning("the local correction is too sharp for a grid; computes every point")
                return
            origin = self.low - BORDER * step
            spline = self._splines(origin, step, shape)
            error = self._error(spline, origin, step)
            if error <= tolerance_um:
                self._spline, self._origin, self.step_um, self.error_um = spline, origin, step, error
                return
            # Splines gain a factor of 16 with each halving; more than four at once is not trusted.
            step /= float(np.clip((error / tolerance_um) ** 0.25 * 1.1, 1.2, 4.0))

    def __call__(self, fixed_um: np.ndarray) -> np.ndarray:
        """Carries (N, 2) corrected morphology µm to where the matrix alone puts them."""
        out = np.empty((len(fixed_um), 2))
        for first in range(0, len(fixed_um), BLOCK):
            points = np.asarray(fixed_um[first : first + BLOCK], dtype=np.float64)
            out[first : first + BLOCK] = self._block(points)
        return out

    def _block(self, points: np.ndarray) -> np.ndarray:
        if self._spline is None or self.step_um is None:
            return undo_exactly(self._correction, points)
        inside = ((points >= self.low) & (points <= self.high)).all(axis=1)
        moved = np.empty_like(points)
        moved[inside] = points[inside] + _look_up(self._spline, points[inside], self._origin, self.step_um)
        if not inside.all():
            moved[~inside] = undo_exactly(self._correction, points[~inside])
        return moved

    def _splines(self, origin: np.ndarray, step: float, shape: np.ndarray) -> list[np.ndarray]:
        axes = [origin[k] + step * np.arange(shape[k]) for k in (0, 1)]
        nodes = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)
        back = np.concatenate(
            [
                undo_exactly(self._correction, nodes[first : first + BLOCK]) - nodes[first : first + BLOCK]
                for first in range(0, len(nodes), BLOCK)
            ]
        ).reshape(shape[1], shape[0], 2)
        return [ndimage.spline_filter(back[..., k], order=3, mode="mirror") for k in (0, 1)]

    def _error(self, spline: list[np.ndarray], origin: np.ndarray, step: float) -> float:
        rng = np.random.default_rng(0)
        places = rng.uniform(self.low, self.high, (TESTED, 2))
        half = TESTED // 2
        places[:half] = origin + (np.floor((places[:half] - origin) / step) + 0.5) * step
        if isinstance(self._correction, ThinPlate):
            # Its second derivatives are infinite at the nodes, where splines do worst.
            nodes = self._correction.nodes[:TESTED]
            near = np.concatenate([nodes, nodes + rng.uniform(-step / 2, step / 2, nodes.shape)])
            places = np.concatenate([places, np.clip(near, self.low, self.high)])
        exact = undo_exactly(self._correction, places) - places
        return float(np.abs(_look_up(spline, places, origin, step) - exact).max())


def _look_up(spline: list[np.ndarray], points: np.ndarray, origin: np.ndarray, step: float) -> np.ndarray:
    at = ((points - origin) / step).T[::-1]
    return np.stack(
        [ndimage.map_coordinates(s, at, order=3, mode="mirror", prefilter=False) for s in spline], axis=1
    )
