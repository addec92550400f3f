"""Regions combined: one rigid transform, and a local correction only where held-out regions profit."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from past_core.errors import PastError
from past_core.registration.agreement import disagreement, set_variances
from past_core.registration.held_out import (
    CANDIDATES,
    Fitter,
    apply,
    choose,
    fit_candidate,
    leave_one_set_out,
)
from past_core.registration.local import Correction, folds
from past_core.registration.outliers import pooled_noise, reject_pairs
from past_core.registration.rigid import RigidError, Similarity, check_points, mirrored, umeyama
from past_core.registration.undo import UndoError, undo_exactly

DISAGREE = 0.01
"""Chance below which regions disagree more than their own picking error."""
LEAST_SETS = 4
"""Regions from which on a local correction is tried."""
THIN = 0.01
"""Share of the length below which the width of all points counts as one line."""


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
        if self.correction is not None:
            try:
                rigid = undo_exactly(self.correction, rigid, tolerance_um=tolerance_um)
            except UndoError as error:
                raise CombineError(str(error)) from error
        return self.transform.inverse(rigid)


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
    tried: dict[str, Fitter | None] = CANDIDATES if wanted else {"rigid": None}
    held_out = leave_one_set_out(x_kept, y_kept, variances, candidates=tried, scale=scale)
    chosen = choose(held_out, [len(points) for points in x_kept])
    transform, correction = fit_candidate(x_kept, y_kept, variances, tried[chosen], scale=scale)
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
