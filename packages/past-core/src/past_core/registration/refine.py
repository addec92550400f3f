"""Refinement against the image: taken only where it lowers the error on what it has not seen."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from past_core.registration.combine import CombineError, PairSet, Registration, combine
from past_core.registration.contradiction import contradiction
from past_core.registration.held_out import CANDIDATES, GAIN, apply, fit_candidate, pooled
from past_core.registration.measure import Window, measure, pair_sets
from past_core.registration.nuclei_points import NucleiImage
from past_core.registration.rigid import RigidError, rms
from past_core.registration.search import Found, Moved, search
from past_core.registration.windows import Frame, choose_windows
from past_core.slides import Slide

logger = logging.getLogger(__name__)

SHIFT_UM, ANGLE_DEG, SCALE = 10.0, 0.5, 0.01
"""How far from the start is searched."""
MOST_WINDOWS = 24
COARSEST_MPP = 1.5
"""µm per pixel of the H&E beyond which nuclei are a few pixels and windows say nothing."""
LOCAL_UM, AGAIN_UM = 12.0, 4.0
"""How far a window may be from the common motion, at first and once that is corrected."""
LEAST_FOUND, LEAST_WINDOWS = 0.5, 3
"""Share and number of the windows in which nuclei must be found."""

Judge = Literal["keypoints", "windows"]


@dataclass(frozen=True)
class Refinement:
    """What the image says of a registration.

    Attributes:
        accepted: whether the refined registration is better on what it has not seen.
        reason: why, or why not.
        judged_by: `keypoints` of regions left out, or `windows` left out.
        before_um: held-out error of the start (root mean square).
        after_um: that of the refined registration; None where there is none.
        source: `masks` or `dapi`.
        side_um: side of a window.
        searched: the common motion.
        at_start: the windows, measured around the start.
        windows: the windows, measured around the refined registration (around the start without one).
        registration: the windows' own; None where they determine none.
        held_out: candidate -> (K,) errors in µm of what judged, for the report.
        against: why the image contradicts the start, where no window shows the bundle's nuclei; else None.
        blind: whether the image says nothing: no window shows them, and nothing speaks against the start.
    """

    accepted: bool
    reason: str
    judged_by: Judge
    before_um: float | None
    after_um: float | None
    source: str
    side_um: float
    searched: Found | None
    at_start: list[Window]
    windows: list[Window]
    registration: Registration | None
    held_out: dict[str, np.ndarray]
    against: str | None = None
    blind: bool = False

    def without(self) -> "Refinement":
        """The same with the start kept: the image checks it, and changes nothing."""
        if not self.accepted:
            return self
        return replace(
            self,
            accepted=False,
            reason=f"not wanted; {self.reason}",
            windows=self.at_start,
        )


def refine(
    slide: Slide,
    nuclei: NucleiImage,
    start: Frame,
    *,
    keypoints: tuple[Registration, Sequence[PairSet]] | None = None,
    scale: bool | None = None,
    local: bool = True,
    shift_um: float = SHIFT_UM,
    angle_deg: float = ANGLE_DEG,
    most_windows: int = MOST_WINDOWS,
) -> Refinement:
    """Looks for the bundle's nuclei in the H&E's haematoxylin around a start, and fits what it finds.

    Windows over the tissue are searched together for a shift and an angle, then each by itself; their shifts
    become regions of pairs that `combine` treats as it does picked ones. The start says where to look; what
    is measured there does not depend on it.

    Args:
        slide: the H&E, of known resolution.
        nuclei: of the bundle.
        start: the registration to refine.
        keypoints: a registration by keypoints and its pairs, whose regions then judge, each against windows
            that hold none of its points. Without, windows left out judge.
        scale: fit the scale; None takes it where it lowers the held-out error by 5 %.
        local: whether a local correction may be taken.
        shift_um: largest shift that is searched.
        angle_deg: largest angle.
        most_windows: number of windows.

    Raises:
        SlideError: The H&E is damaged or of unknown resolution.
        NucleiImageError: The bundle's masks or DAPI are damaged.
    """
    middles, side = choose_windows(nuclei.cells_um, most=most_windows)
    if slide.require_mpp() > COARSEST_MPP:
        coarse = f"the H&E has {slide.mpp:.3g} µm per pixel; nuclei show up to {COARSEST_MPP:g}"
        return _unseen(_refused(coarse, nuclei, side, None, []), slide, nuclei, start)
    if len(middles) < LEAST_WINDOWS:
        at_start = measure(slide, nuclei, start, middles, side_um=side, search_um=LOCAL_UM)
        few = f"the bundle's cells fill {len(middles)} windows; at least {LEAST_WINDOWS} are needed"
        return _unseen(_refused(few, nuclei, side, None, at_start), slide, nuclei, start)
    at_start = measure(slide, nuclei, start, middles, side_um=side, search_um=LOCAL_UM)
    searched = search(
        slide,
        nuclei,
        start,
        middles,
        side_um=side,
        shift_um=shift_um,
        angle_deg=angle_deg,
        scale=SCALE if scale else 0.0,
    )
    frame: Frame = Moved(start, searched.move)
    registration: Registration | None = None
    windows = at_start
    for reach in (LOCAL_UM, AGAIN_UM):
        windows = measure(slide, nuclei, frame, middles, side_um=side, search_um=reach)
        found = pair_sets(windows)
        if len(found) < max(LEAST_WINDOWS, LEAST_FOUND * len(windows)):
            reason = (
                f"nuclei were found in {len(found)} of {len(windows)} windows: the H&E does not show this "
                f"bundle's nuclei within {shift_um:g} µm and {angle_deg:g}° of where they should be"
            )
            refused = _refused(reason, nuclei, side, searched, at_start)
            return refused if found else _unseen(refused, slide, nuclei, start)
        try:
            registration = _combined(found, scale=scale, local=local)
            frame = registration
            frame.to_he(middles)
        except CombineError as error:
            return _refused(f"the windows determine no transform: {error}", nuclei, side, searched, at_start)
    assert registration is not None  # of the last reach
    judged = _by_keypoints(keypoints, registration, found, side) if keypoints is not None else None
    by: Judge = "windows" if judged is None else "keypoints"
    before, held_out, counts = judged or _by_windows(start, registration, found)
    after = pooled(held_out[registration.chosen], counts)
    accepted = after < before
    what = "regions" if by == "keypoints" else "windows"
    reason = (
        f"{what} left out are {after:.2f} µm off instead of {before:.2f}"
        if accepted
        else f"{what} left out would be {after:.2f} µm off, not less than the start's {before:.2f}"
    )
    logger.info("refinement %s: %s", "accepted" if accepted else "not accepted", reason)
    return Refinement(
        accepted=accepted,
        reason=reason,
        judged_by=by,
        before_um=before,
        after_um=after,
        source=nuclei.source,
        side_um=side,
        searched=searched,
        at_start=at_start,
        windows=windows,
        registration=registration,
        held_out=held_out,
    )


def refined_keypoints(
    refinement: Refinement, keypoints: Registration, pairs: Sequence[PairSet]
) -> Registration:
    """An accepted refinement as a registration of the keypoints: their pairs, the image's transform.

    Where windows judged, its error on all keypoints is held-out too: it was made of none of them.
    """
    found = refinement.registration
    assert found is not None  # an accepted refinement has one
    errors = refinement.held_out
    if refinement.judged_by == "windows":
        kept = [(s.he_um[k], s.fixed_um[k]) for s, k in zip(pairs, keypoints.kept, strict=True)]
        errors = {
            "rigid": np.array([rms(found.transform(x) - y) for x, y in kept]),
            found.chosen: np.array([rms(found(x) - y) for x, y in kept]),
        }
    return replace(
        keypoints,
        transform=found.transform,
        correction=found.correction,
        chosen=found.chosen,
        held_out=errors,
    )


def _combined(sets: Sequence[PairSet], *, scale: bool | None, local: bool) -> Registration:
    """The windows' registration, with a scale where asked for or where windows left out profit."""
    if scale is None:
        # Before any local correction, which would take the scale's place.
        error, with_scale = (
            pooled(r.held_out["rigid"], [int(keep.sum()) for keep in r.kept])
            for r in (combine(sets, scale=fitted, local=False) for fitted in (False, True))
        )
        scale = with_scale < GAIN * error
    return combine(sets, scale=scale, local=local)


Judged = tuple[float, dict[str, np.ndarray], list[int]]


def _by_windows(start: Frame, registration: Registration, sets: Sequence[PairSet]) -> Judged:
    """The start's error on the windows, and the registration's on each window when it was left out."""
    kept = [(s.he_um[k], s.fixed_um[k]) for s, k in zip(sets, registration.kept, strict=True)]
    counts = [len(x) for x, _ in kept]
    before = pooled(np.array([rms(start(x) - y) for x, y in kept]), counts)
    return before, dict(registration.held_out), counts


def _by_keypoints(
    keypoints: tuple[Registration, Sequence[PairSet]],
    registration: Registration,
    windows: Sequence[PairSet],
    side_um: float,
) -> Judged | None:
    """Errors on each region of keypoints, by the keypoints of the others and by windows away from it.

    None where the keypoints are of one region, or too few windows lie away from one.
    """
    by_hand, pairs = keypoints
    if by_hand.chosen not in by_hand.held_out:
        return None
    kept = [(s.he_um[k], s.fixed_um[k]) for s, k in zip(pairs, by_hand.kept, strict=True)]
    x = [s.he_um[k] for s, k in zip(windows, registration.kept, strict=True)]
    y = [s.fixed_um[k] for s, k in zip(windows, registration.kept, strict=True)]
    variances = 1 / registration.weights
    names = dict.fromkeys(["rigid", registration.chosen])
    errors: dict[str, list[float]] = {name: [] for name in names}
    for he, fixed in kept:
        apart = [
            k
            for k, points in enumerate(y)
            if np.abs(points.mean(axis=0) - fixed).max(axis=1).min() > side_um / 2
        ]
        if len(apart) < LEAST_WINDOWS:
            return None
        for name in names:
            try:
                fitted = fit_candidate(
                    [x[k] for k in apart],
                    [y[k] for k in apart],
                    variances[apart],
                    CANDIDATES[name],
                    scale=registration.transform.scale != 1,
                )
            except (RigidError, np.linalg.LinAlgError, ValueError):
                return None
            errors[name].append(rms(apply(*fitted, he) - fixed))
    counts = [len(he) for he, _ in kept]
    before = pooled(by_hand.held_out[by_hand.chosen], counts)
    held_out = {name: np.array(values) for name, values in errors.items()}
    return before, held_out | {"keypoints alone": by_hand.held_out[by_hand.chosen]}, counts


def _unseen(refused: Refinement, slide: Slide, nuclei: NucleiImage, start: Frame) -> Refinement:
    """A refinement without result, and whether that is the start's fault or the image says nothing."""
    if any(window.found for window in refused.at_start):
        return refused
    against = contradiction(slide, nuclei, start, refused.at_start, side_um=refused.side_um)
    return replace(refused, against=against, blind=against is None)


def _refused(
    reason: str, nuclei: NucleiImage, side: float, searched: Found | None, at_start: list[Window]
) -> Refinement:
    logger.info("refinement not accepted: %s", reason)
    return Refinement(
        accepted=False,
        reason=reason,
        judged_by="windows",
        before_um=None,
        after_um=None,
        source=nuclei.source,
        side_um=side,
        searched=searched,
        at_start=at_start,
        windows=at_start,
        registration=None,
        held_out={},
    )
