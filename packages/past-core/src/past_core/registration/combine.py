"""Regions combined: one rigid transform, and a local correction only where held-out regions profit."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from scipy.stats import f

from past_core.errors import PastError
from past_core.registration.local import Correction, blended_rigid, folds, thin_plate
from past_core.registration.outliers import FLOOR_UM, pooled_noise, reject_pairs
from past_core.registration.rigid import RigidError, Similarity, check_points, mirrored, rms, umeyama

DISAGREE = 0.01
"""Chance below which regions disagree more than their own picking error."""
GAIN = 0.95
"""A local correction's held-out error must be below this share of the rigid fit's."""
LEAST_SETS = 4
"""Regions from which on a local correction is tried."""
THIN = 0.01
"""Share of the length below which the width of all points counts as one line."""
PRIOR_FREEDOM = 10.0
"""Degrees of freedom by which a region's variance is drawn to all regions'."""

Fitter = Callable[..., Correction]


class CombineError(PastError, ValueError):
    """Regions that cannot be combined."""


@dataclass(frozen=True)
class PairSet:
    """The pairs of one region in µm: `he_um` and `fixed_um` (n, 2), each its pixels times its mpp."""

    name: str
    he_um: np.ndarray
    fixed_um: np.ndarray


@dataclass(frozen=True)
class Registration:
    """How the H&E lies on the morphology, both in µm.

    Attributes:
        transform: the global rigid (or similarity) transform.
        correction: displacement after it, in morphology µm; None where the rigid fit holds as well.
        chosen: name of the candidate.
        kept: for each region (n,) bool, False for a pair found wrong.
        weights: (K,) weight of a pair of each region, mean 1.
        noise_um: picking noise of a coordinate of a pair.
        disagreement_p: chance of such disagreement between regions if all moved rigidly as one; None
            where it cannot be tested.
        held_out: candidate -> (K,) root mean square error in µm of each region, when it was left out.
            Empty for one region.
        mirrored: a mirror image would fit far better.
    """

    transform: Similarity
    correction: Correction | None
    chosen: str
    kept: list[np.ndarray]
    weights: np.ndarray
    noise_um: float
    disagreement_p: float | None
    held_out: dict[str, np.ndarray] = field(default_factory=dict)
    mirrored: bool = False

    def __call__(self, he_um: np.ndarray) -> np.ndarray:
        """Carries (N, 2) H&E µm to morphology µm."""
        return apply(self.transform, self.correction, he_um)

    def to_he(self, fixed_um: np.ndarray, *, tolerance_um: float = 1e-6) -> np.ndarray:
        """Carries (N, 2) morphology µm to H&E µm; a correction is undone by fixed-point iteration.

        Raises:
            CombineError: The iteration does not settle.
        """
        rigid = np.array(fixed_um, dtype=np.float64)
        for _ in range(200 if self.correction is not None else 0):
            step = fixed_um - rigid - self.correction(rigid)
            rigid = rigid + step
            if np.abs(step).max(initial=0.0) <= tolerance_um:
                break
        else:
            if self.correction is not None:
                raise CombineError(
                    "the local correction cannot be undone here; use the rigid transform alone"
                )
        return self.transform.inverse(rigid)


def apply(transform: Similarity, correction: Correction | None, he_um: np.ndarray) -> np.ndarray:
    """The transform, then the displacement at where it leads."""
    moved = transform(he_um)
    return moved if correction is None else moved + correction(moved)


CANDIDATES: dict[str, Fitter | None] = {
    "rigid": None,
    **{
        f"thin-plate {value:g}": partial(thin_plate, smoothing=value)
        for value in (0.01, 0.1, 1.0, 10.0, 100.0)
    },
    **{f"blended-rigid {value:g}": partial(blended_rigid, width=value) for value in (0.5, 1.0, 2.0)},
}
"""What is tried; the number is the smoothing, or the blending's width."""


def combine(sets: Sequence[PairSet], *, scale: bool = False, local: bool = True) -> Registration:
    """Registers regions of keypoints.

    Wrong pairs are rejected within each region. The global fit weighs each region by its residuals around
    its own fit, drawn towards those of all. A local correction is taken if the regions disagree more than
    their own error (F test) and it lowers the error of regions left out by 5 %; which one, that error says.

    Args:
        sets: the regions, of at least two pairs each and three together.
        scale: fit the scale too, where the resolution of the H&E is not trusted.
        local: whether a correction may be taken.

    Raises:
        CombineError: Too few pairs, points on one line, values that are not finite, a region that determines
            no transform; the message names the region.
    """
    x, y = _checked(sets)
    try:
        kept = reject_pairs(x, y, scale=scale)
    except RigidError as error:
        raise CombineError(f"the regions determine no transform: {error}") from error
    x_kept = [points[keep] for points, keep in zip(x, kept, strict=True)]
    y_kept = [points[keep] for points, keep in zip(y, kept, strict=True)]
    noise, _ = pooled_noise(list(zip(x, y, strict=True)), kept, scale=scale)
    variances = set_variances(x_kept, y_kept, noise=noise, scale=scale)
    p = disagreement(x_kept, y_kept, variances, scale=scale)
    wanted = local and len(sets) >= LEAST_SETS and p is not None and p < DISAGREE
    tried = CANDIDATES if wanted else {"rigid": None}
    held_out = leave_one_set_out(x_kept, y_kept, variances, candidates=tried, scale=scale)
    chosen = choose(held_out, [len(points) for points in x_kept])
    transform, correction = _fit(x_kept, y_kept, variances, tried[chosen], scale=scale)
    everything = np.concatenate(x_kept)
    if correction is not None and folds(correction, transform(everything)):
        chosen, correction = "rigid", None
    return Registration(
        transform=transform,
        correction=correction,
        chosen=chosen,
        kept=kept,
        weights=(1 / variances) / np.mean(1 / variances),
        noise_um=noise,
        disagreement_p=p,
        held_out=held_out,
        mirrored=mirrored(everything, np.concatenate(y_kept)),
    )


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
    together, _ = _fit(x, y, variances, None, scale=scale)
    one = sum(((together(a) - b) ** 2).sum() / v for a, b, v in zip(x, y, variances, strict=True))
    own = max(float((squares / variances).sum()), float(freedom.sum()) * 1e-12)
    return float(f.sf(max(one - own, 0.0) / between / (own / freedom.sum()), between, freedom.sum()))


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
                transform, correction = _fit(seen_x, seen_y, seen_v, fitter, scale=scale)
                if correction is not None and folds(correction, transform(np.concatenate(x))):
                    continue
                errors[name].append(rms(apply(transform, correction, x[out]) - y[out]))
            except (RigidError, np.linalg.LinAlgError, ValueError):
                if fitter is None:
                    raise
    return {name: np.array(values) for name, values in errors.items() if len(values) == len(x)}


def _fit(
    x: Sequence[np.ndarray],
    y: Sequence[np.ndarray],
    variances: np.ndarray,
    fitter: Fitter | None,
    *,
    scale: bool,
) -> tuple[Similarity, Correction | None]:
    weights = np.repeat(1 / np.asarray(variances), [len(points) for points in x])
    transform = umeyama(np.concatenate(x), np.concatenate(y), weights=weights, scale=scale)
    if fitter is None:
        return transform, None
    moved = [transform(points) for points in x]
    left = [b - a for a, b in zip(moved, y, strict=True)]
    return transform, fitter(moved, left, variances=variances)


def _within(
    x: Sequence[np.ndarray], y: Sequence[np.ndarray], *, scale: bool
) -> tuple[np.ndarray, np.ndarray]:
    """(K,) squared residuals around each region's own fit, (K,) their degrees of freedom."""
    squares = [((umeyama(a, b, scale=scale)(a) - b) ** 2).sum() for a, b in zip(x, y, strict=True)]
    return np.array(squares), np.array([max(0, 2 * len(a) - 3 - scale) for a in x], dtype=float)


def _checked(sets: Sequence[PairSet]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    x, y = [], []
    for pairs in sets:
        try:
            a, b = check_points(pairs.he_um, "H&E"), check_points(pairs.fixed_um, "morphology")
            umeyama(a, b)
        except RigidError as error:
            raise CombineError(f"region {pairs.name!r}: {error}") from error
        x.append(a)
        y.append(b)
    total = sum(map(len, x))
    if total < 3:
        raise CombineError(
            f"{total} pairs in all regions; at least 3 are needed, better 4 in each of 5 regions"
        )
    for name, points in (("H&E", np.concatenate(x)), ("morphology", np.concatenate(y))):
        long, short = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
        if short < THIN * long:
            raise CombineError(
                f"all {total} {name} points lie on one line, which fits a mirrored image as well; "
                "pick some to the side of it"
            )
    return x, y
