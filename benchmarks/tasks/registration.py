"""How well keypoints and image register an H&E to its Xenium bundle, against transforms that are known.

Picking noise of 1 µm is the standard deviation of each coordinate of the point on the H&E, the one that a
person places by eye; noise on both sides, a pair's then 1.41 µm, is printed beside it. Errors are over the
whole tissue, outside the regions too. The bound is that of least squares on the right pairs, below which no
unbiased fit's root mean square over seeds can come: σ² (2 / n + r² / Σ r²), averaged over the tissue.

Beside ours stand what one would write otherwise: least squares on all pairs, and Kabsch on pixels, which
takes both images' pixels for equally large.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.registration_data import (
    FIVE,
    MPP,
    NINE,
    PIXEL,
    REGION_UM,
    SIDE_UM,
    Picked,
    make_slide,
    moved,
    pick,
    slide_error,
    slide_truth,
)
from benchmarks.report import Report
from benchmarks.task import Metric, Task, near
from past_core.registration.combine import combine
from past_core.registration.nuclei_points import open_nuclei
from past_core.registration.refine import refine
from past_core.registration.rigid import kabsch
from past_core.slides import open_slide

TASK = Task(
    title="Registration of the H&E",
    group="ingest",
    data="keypoints and slides of the simulator, moved by transforms that are known",
    split="errors over the whole tissue, outside the regions of the keypoints too",
    system="what",
    systems=(),
    metrics=(
        Metric("PAST (µm)", "lower"),
        Metric("95 %", "lower", unit="of the seeds"),
        Metric("rms", "lower"),
        Metric("bound", "lower", unit="least squares on the right pairs"),
    ),
    tracked=(
        near("details", "keypoints", "one side", "ours", within=0.03),
        near("details", "keypoints", "one side, one wrong pair a set", "ours", within=0.05),
        near("details", "keypoints", "deformed by 10 µm, 9 sets", "ours", within=0.2),
        near("details", "image", "starts", "5 µm off", "after_um", within=0.05),
        near("details", "image", "deformed", "after_um", within=0.2),
    ),
)

SIZES = {"full": {"seeds": 200, "slide_um": 800.0}, "ci": {"seeds": 30, "slide_um": 300.0}}
GOALS = {
    "error_um": 0.5,
    "found": 0.99,
    "false": 0.01,
    "deformed": 0.6,
    "worse_um": 0.02,
    "image_um": 1.0,
    "image_worse_um": 0.1,
}
"""Mean error over seeds; share of wrong pairs found, of right ones rejected; error of the chosen correction
over that of the single rigid fit; what a correction may cost a rigid slide; the image's error from a wrong
start; what it may cost a right one."""
AMPLITUDE_UM = 10.0
STARTS = {"5 µm off": (0.0, (3.0, 4.0)), "7 µm and 0.4° off": (0.4, (-5.0, 5.0)), "right": (0.0, (0.0, 0.0))}


def run(profile: str, data: Path | None = None) -> Report:
    """Measures keypoints, then the image.

    Args:
        profile: `full`, or `ci` with fewer seeds and a smaller slide.
        data: not used.
    """
    size = SIZES[profile]
    points = keypoints(size["seeds"])
    image = images(size["slide_um"])
    one, wrong = points["one side"], points["one side, one wrong pair a set"]
    deformed, rigid = points["deformed by 10 µm, 9 sets"], points["rigid, 9 sets"]
    starts = image["starts"]
    checks = {
        "error": one["ours"] < GOALS["error_um"] and wrong["ours"] < GOALS["error_um"],
        "wrong pairs": wrong["found"] >= GOALS["found"],
        "right pairs": max(one["false"], wrong["false"]) <= GOALS["false"],
        "deformed": deformed["ours"] < GOALS["deformed"] * deformed["rigid"],
        "rigid": max(r["ours"] - r["rigid"] for r in (one, rigid)) <= GOALS["worse_um"],
        "image": max(s["after_um"] for s in starts.values()) < GOALS["image_um"],
        "image, right start": starts["right"]["after_um"] <= GOALS["image_worse_um"],
        "image, deformed": image["deformed"]["after_um"] < GOALS["deformed"] * image["deformed"]["rigid_um"],
        "another tissue": not image["other"]["accepted"],
    }
    return Report(
        name="registration",
        profile=profile,
        columns=["what", "PAST (µm)", "95 %", "rms", "bound", "beside (µm)", "notes"],
        rows=[*_point_rows(points), *_image_rows(image)],
        goal="mean error below 0.5 µm from 5 sets × 4 points with 1 µm of noise, also with a wrong pair "
        "in each set; 99 % of wrong pairs found, 1 % of right ones lost; a deformation below 0.6 of the "
        "rigid fit; a rigid slide not made worse (0.02 µm); the image within 1 µm from a wrong start, 0.1 "
        "from a right one; another tissue refused",
        figure=f"{one['ours']:.3f} µm, {wrong['ours']:.3f} with wrong pairs ({wrong['found']:.1%} found); "
        f"deformed x {deformed['ours'] / deformed['rigid']:.2f}; image "
        f"{starts['5 µm off']['after_um']:.3f} µm from 5"
        + ("" if all(checks.values()) else f"; missed: {', '.join(k for k, ok in checks.items() if not ok)}"),
        passed=all(checks.values()),
        details={"keypoints": points, "image": image, "checks": checks, "goals": GOALS},
    )


def keypoints(seeds: int) -> dict[str, dict[str, float]]:
    """Every setting over all seeds."""
    both = {"he_noise": 1.0, "fixed_noise": 1.0}
    settings: dict[str, dict[str, Any]] = {
        "one side": {},
        "one side, one wrong pair a set": {"wrong": True},
        "both sides": both,
        "both sides, one wrong pair a set": both | {"wrong": True},
        "rigid, 9 sets": {"middles": NINE},
        "deformed by 10 µm, 9 sets": {"middles": NINE, "amplitude": AMPLITUDE_UM},
    }
    return {name: _setting(seeds, options) for name, options in settings.items()}


def _setting(seeds: int, options: dict[str, Any]) -> dict[str, float]:
    errors: dict[str, list[float]] = {name: [] for name in ("ours", "rigid", "all", "pixels")}
    found = false = right = corrected = 0
    for seed in range(seeds):
        picked = pick(seed, **options)
        ours = combine(picked.sets)
        errors["ours"].append(picked.rms(ours))
        errors["rigid"].append(picked.rms(ours.transform))
        errors["all"].append(picked.rms(_all_pairs(picked)))
        errors["pixels"].append(picked.rms(_pixels(picked)))
        corrected += ours.correction is not None
        rejected = [set(np.flatnonzero(~keep)) for keep in ours.kept]
        wrong = [set() if picked.wrong is None else {pair} for pair in picked.wrong or [0] * len(rejected)]
        found += sum(len(r & w) for r, w in zip(rejected, wrong, strict=True))
        false += sum(len(r - w) for r, w in zip(rejected, wrong, strict=True))
        right += sum(len(keep) - len(w) for keep, w in zip(ours.kept, wrong, strict=True))
    sets = len(options.get("middles", FIVE))
    sigma = float(np.hypot(options.get("he_noise", 1.0), options.get("fixed_noise", 0.0)))
    return {
        **{name: float(np.mean(values)) for name, values in errors.items()},
        "ours_rms": float(np.sqrt(np.mean(np.square(errors["ours"])))),
        "ours_95": float(np.percentile(errors["ours"], 95)),
        "found": found / (sets * seeds) if options.get("wrong") else float("nan"),
        "false": false / right,
        "corrected": corrected / seeds,
        "bound": bound(options.get("middles", FIVE), 3 if options.get("wrong") else 4, sigma),
    }


def bound(middles: np.ndarray, points: int, sigma: float) -> float:
    """Root mean square error over the tissue of least squares on the right pairs, in µm."""
    n = points * len(middles)
    centre = middles.mean(axis=0)
    # Points are uniform in a square around their region's middle.
    spread = points * (((middles - centre) ** 2).sum() + len(middles) * REGION_UM**2 / 6)
    far = SIDE_UM**2 / 6 + ((centre - SIDE_UM / 2) ** 2).sum()
    return float(sigma * np.sqrt(2 / n + far / spread))


def _joined(picked: Picked) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([s.he_um for s in picked.sets]), np.concatenate([s.fixed_um for s in picked.sets])


def _all_pairs(picked: Picked) -> Callable[[np.ndarray], np.ndarray]:
    """Least squares on all pairs, in µm."""
    return kabsch(*_joined(picked))


def _pixels(picked: Picked) -> Callable[[np.ndarray], np.ndarray]:
    """Kabsch between pixels, without a scale."""
    he, fixed = _joined(picked)
    fitted = kabsch(he / MPP, fixed / PIXEL)
    return lambda points: fitted(points / MPP) * PIXEL


def images(size_um: float) -> dict[str, Any]:
    """Refinement against the image: from several starts, on a deformed section, on another tissue's H&E."""
    with tempfile.TemporaryDirectory(prefix="past-registration-") as temporary:
        folder = Path(temporary)
        bundle = make_slide(folder / "a", seed=4, size_um=size_um)
        bent = make_slide(folder / "b", seed=5, size_um=size_um, amplitude=5.0)
        truth = slide_truth(bundle)
        starts = {}
        for name, (angle, shift) in STARTS.items():
            start = moved(truth, size_um, angle_deg=angle, shift=shift)
            starts[name] = _refined(bundle, bundle, start, truth, size_um)
        of_bent = slide_truth(bent)
        deformed = _refined(bent, bent, of_bent, of_bent, size_um, amplitude=5.0)
        other = _refined(bundle, bent, truth, truth, size_um)
    return {"starts": starts, "deformed": deformed, "other": other}


def _refined(
    bundle: Path, he: Path, start: Any, truth: Any, size_um: float, *, amplitude: float = 0.0
) -> dict[str, Any]:
    with open_slide(he / "R_he_image.ome.tif") as slide, open_nuclei(bundle) as nuclei:
        found = refine(slide, nuclei, start)
    final = found.registration if found.accepted else start
    result = {
        "before_um": slide_error(start, truth, size_um, amplitude=amplitude),
        "after_um": slide_error(final, truth, size_um, amplitude=amplitude),
        "accepted": found.accepted,
        "windows": len(found.windows),
        "found": sum(window.found for window in found.windows),
        "reason": found.reason,
    }
    if found.registration is not None:
        rigid = found.registration.transform
        result["rigid_um"] = slide_error(rigid, truth, size_um, amplitude=amplitude)
        result["chosen"] = found.registration.chosen
    return result


def _point_rows(points: dict[str, dict[str, float]]) -> list[list[str]]:
    rows = []
    for name, at in points.items():
        notes = f"{at['false']:.2%} right pairs lost"
        if np.isfinite(at["found"]):
            notes = f"{at['found']:.1%} wrong found, " + notes
        if at["corrected"]:
            notes += f"; corrected {at['corrected']:.0%}"
        beside = f"rigid {at['rigid']:.3f}; all pairs {at['all']:.3f}; pixels {at['pixels']:.0f}"
        limit = "" if "deformed" in name else f"{at['bound']:.3f}"
        figures = [f"{at[key]:.3f}" for key in ("ours", "ours_95", "ours_rms")]
        rows.append([name, *figures, limit, beside, notes])
    return rows


def _image_rows(image: dict[str, Any]) -> list[list[str]]:
    named = {f"image, {name}": at for name, at in image["starts"].items()}
    named |= {"image, deformed by 5 µm": image["deformed"], "image of another tissue": image["other"]}
    rows = []
    for name, at in named.items():
        beside = f"start {at['before_um']:.3f}"
        beside += f"; rigid {at['rigid_um']:.3f}" if "rigid_um" in at else ""
        state = "accepted" if at["accepted"] else "not accepted"
        notes = f"{state}; {at['found']} of {at['windows']} windows"
        rows.append([name, f"{at['after_um']:.3f}", "", "", "", beside, notes])
    return rows
