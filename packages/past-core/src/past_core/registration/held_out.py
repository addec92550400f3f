"""Corrections judged by regions that they have not seen: leave one set out."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from past_core.registration.local import Correction, blended_rigid, folds, thin_plate
from past_core.registration.rigid import RigidError, Similarity, rms, umeyama

GAIN = 0.95
"""A local correction's held-out error must be below this share of the rigid fit's."""
Fitter = Callable[..., Correction]


CANDIDATES: dict[str, Fitter | None] = {
    "rigid": None,
    **{
        f"thin-plate {value:g}": partial(thin_plate, smoothing=value)
        for value in (0.01, 0.1, 1.0, 10.0, 100.0)
    },
    **{f"blended-rigid {value:g}": partial(blended_rigid, width=value) for value in (0.5, 1.0, 2.0)},
}
"""What is tried; the number is the smoothing, or the blending's width."""


def apply(transform: Similarity, correction: Correction | None, he_um: np.ndarray) -> np.ndarray:
    """The transform, then the displacement at where it leads."""
    moved = transform(he_um)
    return moved if correction is None else moved + correction(moved)


def fit_candidate(
    x: Sequence[np.ndarray],
    y: Sequence[np.ndarray],
    variances: np.ndarray,
    fitter: Fitter | None,
    *,
    scale: bool,
) -> tuple[Similarity, Correction | None]:
    """The global transform weighted by the regions' variances, and what a fitter makes of the rest.

    Args:
        x: for each region (n, 2) in µm.
        y: for each region (n, 2) in µm.
        variances: (K,) picking variance of each region.
        fitter: of the correction; None for none.
        scale: whether to fit a scale.
    """
    weights = np.repeat(1 / np.asarray(variances), [len(points) for points in x])
    transform = umeyama(np.concatenate(x), np.concatenate(y), weights=weights, scale=scale)
    if fitter is None:
        return transform, None
    moved = [transform(points) for points in x]
    left = [b - a for a, b in zip(moved, y, strict=True)]
    return transform, fitter(moved, left, variances=variances)


def leave_one_set_out(
    x: Sequence[np.ndarray],
    y: Sequence[np.ndarray],
    variances: np.ndarray,
    *,
    candidates: dict[str, Fitter | None],
    scale: bool = False,
) -> dict[str, np.ndarray]:
    """Every candidate's error on each region, fitted to the others alone.

    Returns:
        candidate -> (K,) root mean square distance in µm; candidates that cannot be fitted, or fold the
        tissue, are left out. Empty for one region.
    """
    if len(x) < 2:
        return {}
    errors: dict[str, list[float]] = {name: [] for name in candidates}
    for out in range(len(x)):
        rest = [k for k in range(len(x)) if k != out]
        seen_x, seen_y, seen_v = [x[k] for k in rest], [y[k] for k in rest], variances[rest]
        for name, fitter in candidates.items():
            try:
                transform, correction = fit_candidate(seen_x, seen_y, seen_v, fitter, scale=scale)
                if correction is not None and folds(correction, transform(np.concatenate(x))):
                    continue
                errors[name].append(rms(apply(transform, correction, x[out]) - y[out]))
            except (RigidError, np.linalg.LinAlgError, ValueError):
                if fitter is None:
                    raise
    return {name: np.array(values) for name, values in errors.items() if len(values) == len(x)}


def choose(held_out: dict[str, np.ndarray], counts: Sequence[int]) -> str:
    """The candidate with the lowest held-out error over all pairs; rigid unless another is 5 % better.

    Args:
        held_out: candidate -> (K,) root mean square errors.
        counts: pairs of each region.
    """
    if not held_out:
        return "rigid"
    overall = {name: pooled(errors, counts) for name, errors in held_out.items()}
    best = min(overall, key=overall.__getitem__)
    return best if overall[best] < GAIN * overall["rigid"] else "rigid"


def pooled(errors: np.ndarray, counts: Sequence[int]) -> float:
    """Root mean square over all pairs from that of each region."""
    return float(np.sqrt(np.average(errors**2, weights=counts)))
