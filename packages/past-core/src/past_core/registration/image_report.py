"""What the image says of a registration, in plain types: the refinement, and a report without keypoints."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from past_core.registration.held_out import pooled
from past_core.registration.measure import Window
from past_core.registration.refine import LEAST_WINDOWS, Refinement
from past_core.registration.rigid import matrix_um, rms
from past_core.registration.search import Affine
from past_core.registration.verdict import GOOD_UM, REJECT_UM, SCALE_CHECK, SCALE_REJECT, Judgement, Verdict
from past_core.registration.windows import Frame

FEW = 0.75
"""Share of the windows with nuclei below which a registration is worth a look."""
ANISOTROPY = 1.01
"""Ratio of a matrix's scales from which it is no similarity."""


def describe_refinement(refinement: Refinement) -> dict[str, Any]:
    """The refinement for a report; lengths in µm."""
    searched = refinement.searched
    return {
        "accepted": refinement.accepted,
        "reason": refinement.reason,
        "against": refinement.against,
        "judged_by": refinement.judged_by,
        "before_um": refinement.before_um,
        "after_um": refinement.after_um,
        "nuclei_from": refinement.source,
        "window_um": refinement.side_um,
        "searched": None
        if searched is None
        else {
            "angle_deg": searched.move.angle_deg,
            "scale": searched.move.scale,
            "score": searched.score,
            "score_before": searched.score_before,
            "at_the_edge": searched.edge,
        },
        "chosen": None if refinement.registration is None else refinement.registration.chosen,
        "windows": [
            _window(before, after)
            for before, after in zip(refinement.at_start, refinement.windows, strict=True)
        ],
    }


def image_report(
    refinement: Refinement, matrix: np.ndarray, *, he_mpp: float, pixel_size: float
) -> dict[str, Any]:
    """The report of a registration that starts at a matrix and knows no keypoints.

    Its regions are the windows, its pairs their quarters; keys as in `registration_report`.

    Args:
        refinement: of the matrix.
        matrix: (3, 3) H&E pixels -> morphology pixels, the start.
        he_mpp: µm of an H&E pixel.
        pixel_size: µm of a morphology pixel.
    """
    start = Affine(matrix_um(matrix, he_mpp=he_mpp, pixel_size=pixel_size))
    found = refinement.registration if refinement.accepted else None
    frame: Frame = start if found is None else found
    if found is not None:
        matrix = found.transform.pixel_matrix(he_mpp=he_mpp, pixel_size=pixel_size)
    windows = [w for w in refinement.windows if w.found]
    errors = _errors(refinement, start, windows)
    regions = [_region(frame, window, error) for window, error in zip(windows, errors, strict=True)]
    judgement = judge_image(refinement, matrix_um(matrix, he_mpp=he_mpp, pixel_size=pixel_size))
    off = [pair["residual_um"] for region in regions for pair in region["pairs"]]
    matrix_scaled = matrix[:2, :2] * pixel_size / he_mpp
    report = {
        "kind": "registration",
        "verdict": judgement.verdict,
        "reasons": list(judgement.reasons),
        "held_out_um": refinement.after_um if refinement.accepted else refinement.before_um,
        "residual_um": float(np.sqrt(np.mean(np.square(off)))) if off else None,
        "noise_um": None if found is None else found.noise_um,
        "pairs": len(off),
        "wrong_pairs": 0,
        "rotation_deg": float(np.degrees(np.arctan2(matrix_scaled[1, 0], matrix_scaled[0, 0]))),
        "shift_um": (matrix[:2, 2] * pixel_size).tolist(),
        "scale": float(np.sqrt(abs(np.linalg.det(matrix_scaled)))),
        "he_mpp": he_mpp,
        "pixel_size": pixel_size,
        "matrix_px": matrix.tolist(),
        "chosen": "matrix as given" if found is None else found.chosen,
        "correction": None if found is None or found.correction is None else found.correction.describe(),
        "disagreement_p": None if found is None else found.disagreement_p,
        "candidates_held_out_um": {}
        if found is None
        else {
            name: pooled(values, [int(keep.sum()) for keep in found.kept])
            for name, values in found.held_out.items()
        },
        "regions": regions,
    }
    if found is not None and found.correction is not None:
        report["matrix_alone"] = _alone(report["candidates_held_out_um"]["rigid"])
    return report


def _alone(error: float) -> dict[str, Any]:
    """Whether the matrix can be used without the local correction."""
    text = f"the matrix alone, without the local correction, is {error:.1f} µm off on windows left out"
    verdict = "reject" if error > REJECT_UM else "check" if error > GOOD_UM else "good"
    return {"verdict": verdict, "reasons": [] if verdict == "good" else [text]}


def judge_image(refinement: Refinement, matrix: np.ndarray) -> Judgement:
    """A verdict from the windows alone.

    Args:
        refinement: of the registration.
        matrix: (3, 3) of the result in µm on both sides.
    """
    reject, check = [], []
    found, total = sum(w.found for w in refinement.windows), len(refinement.windows)
    larger, smaller = np.linalg.svd(matrix[:2, :2], compute_uv=False)
    off = float(np.sqrt(larger * smaller))
    if refinement.before_um is None:
        if refinement.against is not None:
            reject.append(refinement.against)
        elif refinement.blind or total < LEAST_WINDOWS:
            check.append(f"not checked against the image: {refinement.reason}")
        else:
            reject.append(refinement.reason)
    else:
        error = refinement.after_um if refinement.accepted else refinement.before_um
        if error is not None and error > GOOD_UM:
            text = f"windows left out are {error:.1f} µm off; {GOOD_UM:g} is good, {REJECT_UM:g} unusable"
            (reject if error > REJECT_UM else check).append(text)
        if found < FEW * total:
            check.append(f"nuclei were found in {found} of {total} windows: look at the overlays")
        if refinement.searched is not None and refinement.searched.edge:
            check.append("the best shift lies on the border of the search: start nearer, or pick keypoints")
    if abs(off - 1) > SCALE_CHECK:
        text = f"the matrix is {off:.4f} times what the resolutions say: check the resolution of the H&E"
        (reject if abs(off - 1) > SCALE_REJECT else check).append(text)
    if larger > ANISOTROPY * smaller:
        check.append(f"the matrix stretches one direction {larger / smaller:.3f} times the other")
    verdict: Verdict = "reject" if reject else "check" if check else "good"
    return Judgement(verdict, (*reject, *check))


def _errors(refinement: Refinement, start: Frame, windows: Sequence[Window]) -> list[float]:
    """Of each window: when it was left out, or under the start where that is kept."""
    found = refinement.registration
    if refinement.accepted and found is not None:
        return [float(error) for error in found.held_out[found.chosen]]
    return [rms(start(w.he_um) - w.fixed_um) for w in windows]


def _region(frame: Frame, window: Window, error: float) -> dict[str, Any]:
    off = frame(window.he_um) - window.fixed_um
    return {
        "region": window.name,
        "residual_um": rms(off),
        "held_out_um": error,
        "weight": 1.0,
        "pairs": [
            {
                "place": f"{window.name}, quarter at x {x:.0f}, y {y:.0f} µm",
                "kept": True,
                "off_um": [float(dx), float(dy)],
                "residual_um": float(np.hypot(dx, dy)),
            }
            for (x, y), (dx, dy) in zip(window.fixed_um, off, strict=True)
        ],
    }


def _window(before: Window, after: Window) -> dict[str, Any]:
    return {
        "name": after.name,
        "fixed_middle_um": after.fixed_middle_um.tolist(),
        "found": after.found,
        "shift_um": before.shift_um.tolist(),
        "left_um": after.shift_um.tolist(),
        "score_before": before.score_here,
        "score": after.score_here,
        "best_score": after.score,
        "contrast_before": _finite(before.contrast),
        "contrast": _finite(after.contrast),
    }


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
