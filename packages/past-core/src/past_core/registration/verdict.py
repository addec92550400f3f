"""Whether a registration can be used: good, check or reject, with reasons."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from past_core.registration.combine import DISAGREE, PairSet, Registration
from past_core.registration.held_out import pooled
from past_core.registration.rigid import rms, umeyama

GOOD_UM, REJECT_UM = 3.0, 10.0
"""Held-out error (root mean square) up to which cells meet their nuclei, and from which they meet others'."""
SCALE_CHECK, SCALE_REJECT = 0.02, 0.2
"""Difference of the fitted scale from what the resolutions say; as `past ingest` judges a matrix."""
WRONG_SHARE = 0.25
"""More wrong pairs than this share are more than slips."""
STANDS_OUT = 3.0
"""A region's held-out error, in units of all regions', from which it is named."""

Verdict = Literal["good", "check", "reject"]


@dataclass(frozen=True)
class Judgement:
    """A verdict and the reasons for what is not good."""

    verdict: Verdict
    reasons: tuple[str, ...]


def judge(
    registration: Registration,
    sets: Sequence[PairSet],
    *,
    size_um: Sequence[float] | None = None,
    matrix_only: bool = False,
) -> Judgement:
    """Judges a registration by what it does on regions that it has not seen, and by its pairs.

    Args:
        registration: of `combine`.
        sets: the regions it was made of.
        size_um: width and height of the H&E, to see how much of it the regions span.
        matrix_only: only the 3x3 matrix will be used, so that its error counts, not the correction's.
    """
    reject: list[str] = []
    check: list[str] = []
    if registration.mirrored:
        reject.append("a mirror image fits far better than any rotation: flip the H&E and pick again")
    off, error = scale_of(registration, sets), scale_error(registration, sets)
    if abs(off - 1) > max(SCALE_CHECK, 3 * error):
        text = (
            f"the points are {off:.4f} times as far apart in the morphology as in the H&E: "
            "check the resolution of the H&E"
        )
        hint = " (or fit the scale with --scale)" if registration.transform.scale == 1 else ""
        (reject if abs(off - 1) > SCALE_REJECT else check).append(text + hint)
    _by_error(registration, sets, reject, check)
    if matrix_only and registration.correction is not None:
        alone = held_out_um(registration, "rigid")
        if alone is not None and alone > GOOD_UM:
            text = (
                f"the matrix alone, without the local correction, is {alone:.1f} µm off on regions left out"
            )
            (reject if alone > REJECT_UM else check).append(text)
    _by_pairs(registration, sets, check)
    if size_um is not None:
        points = np.concatenate([s.he_um[k] for s, k in zip(sets, registration.kept, strict=True)])
        spans = np.ptp(points, axis=0) / np.asarray(size_um)
        if spans.min() < 0.3:
            check.append(
                f"the regions span {spans[0]:.0%} of the H&E's width and {spans[1]:.0%} of its height: a "
                "small error of the angle grows outside; pick regions near the tissue's corners"
            )
    verdict: Verdict = "reject" if reject else "check" if check else "good"
    return Judgement(verdict, (*reject, *check))


def scale_of(registration: Registration, sets: Sequence[PairSet]) -> float:
    """The scale that fits the kept pairs best, 1 where both resolutions are right."""
    x = np.concatenate([s.he_um[k] for s, k in zip(sets, registration.kept, strict=True)])
    y = np.concatenate([s.fixed_um[k] for s, k in zip(sets, registration.kept, strict=True)])
    return umeyama(x, y).scale


def scale_error(registration: Registration, sets: Sequence[PairSet]) -> float:
    """Standard error of `scale_of`, from the picking noise and the points' spread."""
    x = np.concatenate([s.he_um[k] for s, k in zip(sets, registration.kept, strict=True)])
    return registration.noise_um / float(np.linalg.norm(x - x.mean(axis=0)))


def held_out_um(registration: Registration, candidate: str | None = None) -> float | None:
    """Root mean square error of a candidate (by default the chosen one) on regions left out, over all pairs.

    None for one region.
    """
    errors = registration.held_out.get(candidate or registration.chosen)
    return None if errors is None else pooled(errors, [int(keep.sum()) for keep in registration.kept])


def _by_error(
    registration: Registration, sets: Sequence[PairSet], reject: list[str], check: list[str]
) -> None:
    error = held_out_um(registration)
    if error is None:
        fitted = rms(registration(sets[0].he_um) - sets[0].fixed_um)
        check.append("one region cannot show how far others are off: pick 4 points in each of 5 regions")
        if fitted > REJECT_UM and registration.kept[0].all():
            reject.append(f"the region's own pairs are {fitted:.1f} µm off: at least one of them is wrong")
        return
    if error > GOOD_UM:
        text = f"regions left out are {error:.1f} µm off; {GOOD_UM:g} is good, above {REJECT_UM:g} unusable"
        (reject if error > REJECT_UM else check).append(text)
    errors = registration.held_out[registration.chosen]
    for pairs, of_one in zip(sets, errors, strict=True):
        if of_one > STANDS_OUT * max(np.median(errors), registration.noise_um) and of_one > GOOD_UM:
            check.append(
                f"region {pairs.name!r} is {of_one:.1f} µm off when left out: look at its pairs again"
            )
    p = registration.disagreement_p
    if p is not None and p < DISAGREE and registration.correction is None and error > GOOD_UM:
        check.append(
            f"the regions disagree more than their picking error (p = {p:.1g}), and no local correction "
            "helps a region left out: pick more regions between them"
        )


def _by_pairs(registration: Registration, sets: Sequence[PairSet], check: list[str]) -> None:
    wrong = [int((~keep).sum()) for keep in registration.kept]
    total = sum(len(keep) for keep in registration.kept)
    if sum(wrong) > WRONG_SHARE * total:
        check.append(f"{sum(wrong)} of {total} pairs are wrong: pick them again")
    for pairs, keep in zip(sets, registration.kept, strict=True):
        if len(keep) < 4:
            check.append(
                f"region {pairs.name!r} has {len(keep)} pairs, which do not show a wrong one: pick at least 4"
            )
        own = rms(umeyama(pairs.he_um[keep], pairs.fixed_um[keep])(pairs.he_um[keep]) - pairs.fixed_um[keep])
        if own > max(STANDS_OUT * registration.noise_um, GOOD_UM) * np.sqrt(2):
            check.append(f"the pairs of region {pairs.name!r} disagree by {own:.1f} µm among themselves")
