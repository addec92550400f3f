"""Mistyped pairs within a region: least trimmed squares, then a test of every pair that was left out."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import chi2, f

from past_core.registration.rigid import Similarity, umeyama

TRIMMED = 0.4
"""Largest share of a region's pairs that may be wrong; one of four."""
ALPHA = 1e-3
"""Chance that a right pair is taken for wrong."""
EXPECTED_UM, EXPECTED_FREEDOM = 1.5, 6.0
"""Picking noise of a coordinate of a pair as people pick it, and how many degrees of freedom that is worth:
four pairs alone say too little of their noise to convict one of them."""
FLOOR_UM = 0.25
"""Smallest picking noise (standard deviation of a coordinate) that is believed."""
MANY = 2000
"""Most two-pair hypotheses that are tried for a region."""


def reject_pairs(
    source: Sequence[np.ndarray], target: Sequence[np.ndarray], *, scale: bool = False, alpha: float = ALPHA
) -> list[np.ndarray]:
    """Finds wrong pairs within each region; every region is judged by the picking noise of all of them.

    A region of fewer than four pairs keeps all: it cannot tell which is wrong.

    Args:
        source: for each region (n, 2) in µm.
        target: for each region (n, 2) in µm.
        scale: whether regions are fitted with a scale.
        alpha: chance that a right pair is rejected.

    Returns:
        for each region (n,) bool, True where the pair is kept.

    Raises:
        RigidError: A region that determines no transform.
    """
    sets = list(zip(source, target, strict=True))
    cores = [trimmed_core(x, y, scale=scale) for x, y in sets]
    kept = cores
    # The best subset looks better than it is, so that the first noise is widened.
    trimmed = True
    for _ in range(10):
        noise, freedom = pooled_noise(sets, kept, scale=scale, trimmed=trimmed)
        known = freedom + EXPECTED_FREEDOM
        variance = (freedom * noise**2 + EXPECTED_FREEDOM * EXPECTED_UM**2) / known
        limit = f.isf(alpha, 2, known) * variance
        grown = [_grow(x, y, core, limit, scale=scale) for (x, y), core in zip(sets, cores, strict=True)]
        settled = not trimmed and all(map(np.array_equal, grown, kept))
        kept, trimmed = grown, False
        if settled:
            break
    return kept


def trimmed_core(x: np.ndarray, y: np.ndarray, *, scale: bool = False) -> np.ndarray:
    """The pairs that agree best with one transform: least trimmed squares from two-pair hypotheses.

    Args:
        x: (n, 2) in µm.
        y: (n, 2) in µm.
        scale: whether to fit a scale.

    Returns:
        (n,) bool with n - floor(0.4 n) kept; all where n < 4.

    Source: Rousseeuw and Van Driessen, "Computing LTS regression for large data sets" (2006), C-steps.
    """
    n = len(x)
    h = n - int(TRIMMED * n) if n >= 4 else n
    if h == n:
        return np.ones(n, dtype=bool)
    first, second = np.triu_indices(n, 1)
    if len(first) > MANY:
        drawn = np.random.default_rng(0).choice(len(first), MANY, replace=False)
        first, second = first[drawn], second[drawn]
    # Points as complex numbers: a similarity of the plane is z -> a z + b.
    z, t = x @ [1, 1j], y @ [1, 1j]
    base, wanted = z[second] - z[first], t[second] - t[first]
    apart = (np.abs(base) > 0) & (np.abs(wanted) > 0)
    first, turn = first[apart], wanted[apart] / base[apart]
    turn = turn if scale else turn / np.abs(turn)
    errors = np.abs(turn[:, None] * (z - z[first, None]) + t[first, None] - t)
    order = np.argsort(np.partition(errors, h - 1, axis=1)[:, h - 1])[:20]
    best, least = np.ones(n, dtype=bool), np.inf
    for error in errors[order]:
        for _ in range(5):
            core = np.argsort(error, kind="stable")[:h]
            if not (_apart(x[core]) and _apart(y[core])):
                break
            error = np.linalg.norm(umeyama(x[core], y[core], scale=scale)(x) - y, axis=1)
        cost = np.sort(error)[:h] @ np.sort(error)[:h]
        if cost < least and _apart(x[core]) and _apart(y[core]):
            best, least = np.isin(np.arange(n), core), cost
    return best


def pooled_noise(
    sets: Sequence[tuple[np.ndarray, np.ndarray]],
    kept: Sequence[np.ndarray],
    *,
    scale: bool = False,
    trimmed: bool = False,
) -> tuple[float, int]:
    """The picking noise of a coordinate, as the median region has it around its own fit.

    Args:
        sets: for each region source and target, (n, 2) in µm.
        kept: for each region (n,) bool.
        scale: whether regions are fitted with a scale.
        trimmed: whether `kept` are the best of right pairs; their variance is then that of a normal
            distribution of the plane cut at their share.

    Returns:
        standard deviation in µm, at least `FLOOR_UM`; degrees of freedom of all regions together.
    """
    variances, freedom = [], 0
    for (x, y), keep in zip(sets, kept, strict=True):
        free = 2 * int(keep.sum()) - 3 - scale
        if free > 0:
            fitted = umeyama(x[keep], y[keep], scale=scale)
            squares = float(((fitted(x[keep]) - y[keep]) ** 2).sum())
            left = 1 - keep.mean()
            cut = 1 + left * np.log(left) / keep.mean() if trimmed and left > 0 else 1.0
            variances.append(squares / chi2.median(free) / cut)
            freedom += free
    return max(float(np.sqrt(np.median(variances))) if variances else 0.0, FLOOR_UM), freedom


def prediction_variance(fitted_on: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Variance of a coordinate of (fit - pick) at a new point, in units of the picking variance.

    The shift contributes 1/n, the rotation its lever r² / (2 Σr²), averaged over the two directions.

    Args:
        fitted_on: (n, 2) points of the fit.
        points: (m, 2).

    Returns:
        (m,).
    """
    middle = fitted_on.mean(axis=0)
    spread = ((fitted_on - middle) ** 2).sum()
    return 1 + 1 / len(fitted_on) + ((points - middle) ** 2).sum(axis=1) / (2 * spread)


def _grow(x: np.ndarray, y: np.ndarray, core: np.ndarray, limit: float, *, scale: bool) -> np.ndarray:
    """Adds the best of the left-out pairs while its mean squared standardised error is below the limit."""
    keep = core.copy()
    while not keep.all():
        fitted: Similarity = umeyama(x[keep], y[keep], scale=scale)
        squared = ((fitted(x) - y) ** 2).sum(axis=1) / (2 * prediction_variance(x[keep], x))
        squared[keep] = np.inf
        nearest = int(np.argmin(squared))
        if squared[nearest] > limit:
            break
        keep[nearest] = True
    return keep


def _apart(points: np.ndarray) -> bool:
    """Whether not all points are one."""
    return bool(np.ptp(points, axis=0).max() > 0)
