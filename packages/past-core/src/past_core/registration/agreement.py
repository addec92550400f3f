"""Whether regions agree: each one's picking variance, and a test of one transform for all of them."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import f

from past_core.registration.outliers import FLOOR_UM
from past_core.registration.rigid import umeyama

PRIOR_FREEDOM = 10.0
"""Degrees of freedom by which a region's variance is drawn to all regions'."""


def set_variances(
    x: Sequence[np.ndarray], y: Sequence[np.ndarray], *, noise: float, scale: bool = False
) -> np.ndarray:
    """(K,) picking variance of a coordinate in each region: around its own fit, drawn to that of all."""
    squares, freedom = _within(x, y, scale=scale)
    return np.maximum((squares + PRIOR_FREEDOM * noise**2) / (freedom + PRIOR_FREEDOM), FLOOR_UM**2)


def disagreement(
    x: Sequence[np.ndarray], y: Sequence[np.ndarray], variances: np.ndarray, *, scale: bool = False
) -> float | None:
    """F test of one transform for all regions against one for each; None without freedom to test."""
    squares, freedom = _within(x, y, scale=scale)
    parameters = 3 + scale
    between = parameters * (len(x) - 1)
    if between == 0 or freedom.sum() == 0:
        return None
    weights = np.repeat(1 / variances, [len(points) for points in x])
    together = umeyama(np.concatenate(x), np.concatenate(y), weights=weights, scale=scale)
    one = sum(((together(a) - b) ** 2).sum() / v for a, b, v in zip(x, y, variances, strict=True))
    own = max(float((squares / variances).sum()), float(freedom.sum()) * 1e-12)
    return float(f.sf(max(one - own, 0.0) / between / (own / freedom.sum()), between, freedom.sum()))


def _within(
    x: Sequence[np.ndarray], y: Sequence[np.ndarray], *, scale: bool
) -> tuple[np.ndarray, np.ndarray]:
    """(K,) squared residuals around each region's own fit, (K,) their degrees of freedom."""
    squares = [((umeyama(a, b, scale=scale)(a) - b) ** 2).sum() for a, b in zip(x, y, strict=True)]
    return np.array(squares), np.array([max(0, 2 * len(a) - 3 - scale) for a in x], dtype=float)
