"""The report of a registration: residuals, held-out error, verdict, and a map of the residuals."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from past_core.registration.combine import PairSet, Registration
from past_core.registration.held_out import pooled
from past_core.registration.keypoints import KeypointSet
from past_core.registration.rigid import matrix_um, rms
from past_core.registration.verdict import held_out_um, judge, scale_of

COLOURS = {"good": "#1b9e3e", "check": "#d98200", "reject": "#c1121f"}


def pairs_um(sets: Sequence[KeypointSet], *, he_mpp: float, pixel_size: float) -> list[PairSet]:
    """Keypoints in µm on both sides.

    Args:
        sets: in pixels.
        he_mpp: µm of an H&E pixel.
        pixel_size: µm of a morphology pixel.
    """
    return [PairSet(s.name, s.he_px * he_mpp, s.fixed_px * pixel_size) for s in sets]


def registration_report(
    registration: Registration,
    sets: Sequence[KeypointSet],
    *,
    he_mpp: float,
    pixel_size: float,
    matrix: np.ndarray | None = None,
    size_px: Sequence[int] | None = None,
    matrix_only: bool = False,
) -> dict[str, Any]:
    """Describes a registration in plain types, ready for JSON; lengths in µm.

    Args:
        registration: of `combine`.
        sets: the keypoints it was made of, in pixels.
        he_mpp: µm of an H&E pixel.
        pixel_size: µm of a morphology pixel.
        matrix: (3, 3) H&E pixels -> morphology pixels to compare with, such as the vendor's.
        size_px: width and height of the H&E in pixels.
        matrix_only: judge the matrix alone, for readers that apply no local correction.
    """
    pairs = pairs_um(sets, he_mpp=he_mpp, pixel_size=pixel_size)
    size_um = None if size_px is None else [side * he_mpp for side in size_px]
    judgement = judge(registration, pairs, size_um=size_um, matrix_only=matrix_only)
    counts = [int(keep.sum()) for keep in registration.kept]
    transform, correction = registration.transform, registration.correction
    errors = registration.held_out.get(registration.chosen, np.full(len(sets), np.nan))
    regions = [
        _region(registration, places, pair, keep, weight, error)
        for places, pair, keep, weight, error in zip(
            sets, pairs, registration.kept, registration.weights, errors, strict=True
        )
    ]
    report = {
        "kind": "registration",
        "verdict": judgement.verdict,
        "reasons": list(judgement.reasons),
        "held_out_um": held_out_um(registration),
        "residual_um": float(np.sqrt(np.average([r["residual_um"] ** 2 for r in regions], weights=counts))),
        "noise_um": registration.noise_um,
        "pairs": sum(len(keep) for keep in registration.kept),
        "wrong_pairs": sum(int((~keep).sum()) for keep in registration.kept),
        "rotation_deg": transform.angle_deg,
        "shift_um": transform.shift.tolist(),
        "scale": transform.scale,
        "scale_of_points": scale_of(registration, pairs),
        "he_mpp": he_mpp,
        "pixel_size": pixel_size,
        "matrix_px": transform.pixel_matrix(he_mpp=he_mpp, pixel_size=pixel_size).tolist(),
        "chosen": registration.chosen,
        "correction": None if correction is None else correction.describe(),
        "disagreement_p": registration.disagreement_p,
        "candidates_held_out_um": {
            name: pooled(values, counts) for name, values in registration.held_out.items()
        },
        "regions": regions,
    }
    if matrix is not None:
        given = matrix_um(matrix, he_mpp=he_mpp, pixel_size=pixel_size)
        report["given_matrix"] = _compare(registration, pairs, given)
    return report


def residual_map(
    registration: Callable[[np.ndarray], np.ndarray],
    sets: Sequence[PairSet],
    path: Path,
    *,
    kept: Sequence[np.ndarray],
    title: str,
    verdict: str,
) -> Path:
    """Draws where each pair lies on the morphology and, enlarged, how far and whereto it is off.

    Args:
        registration: carries (N, 2) H&E µm to morphology µm.
        sets: in µm.
        kept: for each region (n,) bool, False for a wrong pair.
        path: picture to write; its suffix is the format.
        title: heading.
        verdict: colours the heading.
    """
    from matplotlib.figure import Figure

    fixed = np.concatenate([s.fixed_um for s in sets])
    off = np.concatenate([registration(s.he_um) - s.fixed_um for s in sets])
    keep = np.concatenate(kept)
    size = max(float(np.ptp(fixed, axis=0).max()), 1.0)
    longest = max(float(np.linalg.norm(off[keep], axis=1).max()), 1e-6)
    enlarged = 0.08 * size / longest
    figure = Figure(figsize=(8, 7.4), layout="constrained")
    axis = figure.subplots()
    style: dict[str, Any] = {"angles": "xy", "scale_units": "xy", "scale": 1 / enlarged, "width": 0.004}
    x, y = fixed.T
    axis.quiver(x[keep], y[keep], *off[keep].T, color="#1f4e9c", **style)
    axis.scatter(x[keep], y[keep], s=8, c="#1f4e9c", label="pairs")
    if not keep.all():
        axis.scatter(x[~keep], y[~keep], s=50, marker="x", c="#c1121f", label="wrong pairs, left out")
    for pairs in sets:
        # Windows have long names: what stands before the bracket is enough.
        middle = pairs.fixed_um.mean(axis=0)
        axis.annotate(
            pairs.name.partition(" (")[0], middle, xytext=(8, 8), textcoords="offset points", fontsize=8
        )
    axis.plot([], [], color="#1f4e9c", label=f"residuals x {enlarged:.3g}, longest {longest:.2f} µm")
    axis.set_aspect("equal", adjustable="datalim")
    axis.margins(0.15)
    axis.invert_yaxis()
    axis.set_xlabel("morphology x (µm)")
    axis.set_ylabel("morphology y (µm)")
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=3, fontsize=8, frameon=False)
    axis.set_title(title, fontsize=10, color=COLOURS.get(verdict, "black"))
    figure.savefig(path, dpi=110)
    return path


def _region(
    registration: Registration,
    places: KeypointSet,
    pairs: PairSet,
    keep: np.ndarray,
    weight: float,
    error: float,
) -> dict[str, Any]:
    off = registration(pairs.he_um) - pairs.fixed_um
    return {
        "region": pairs.name,
        "residual_um": rms(off[keep]),
        "held_out_um": float(error) if np.isfinite(error) else None,
        "weight": float(weight),
        "pairs": [
            {
                "place": place,
                "kept": bool(used),
                "off_um": [float(x), float(y)],
                "residual_um": float(np.hypot(x, y)),
            }
            for place, used, (x, y) in zip(places.places, keep, off, strict=True)
        ],
    }


def _compare(registration: Registration, pairs: Sequence[PairSet], matrix: np.ndarray) -> dict[str, float]:
    """How far another matrix in µm is from the kept pairs, and from this registration."""
    he, fixed = (
        np.concatenate([getattr(s, side)[keep] for s, keep in zip(pairs, registration.kept, strict=True)])
        for side in ("he_um", "fixed_um")
    )
    theirs = he @ matrix[:2, :2].T + matrix[:2, 2]
    apart = np.linalg.norm(theirs - registration(he), axis=1)
    return {"residual_um": rms(theirs - fixed), "farthest_um": float(apart.max())}
