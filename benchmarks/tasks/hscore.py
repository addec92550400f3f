"""How near is the H-score to the truth, and how good are nuclei and their calls on real tiles?

On synthetic pairs the simulator knows the DAB of every nucleus. `past hscore` measures them in the true masks
and in those of the haematoxylin watershed on the H&E, with the laboratory's own stain vectors and the white
that the slide shows, and with the defaults. On DeepLIIF's real tiles nuclei and calls are held against the
drawn ones.
"""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tifffile

from benchmarks.deepliif import deepliif_figures
from benchmarks.report import Report
from benchmarks.task import Metric, Plot, Task, near
from past_core.nuclei import f1_at_iou, label_image
from past_core.slides import open_slide
from past_core.synthetic.pair_files import SyntheticPair
from past_core.synthetic.pairs import default_pairs
from past_vihc.hscore.pipeline import score_slide
from past_vihc.hscore.presets import PRESETS
from past_vihc.hscore.score import h_score

TASK = Task(
    title="H-score",
    group="virtual IHC",
    data="synthetic pairs of H&E and ER, the DAB of every nucleus known; DeepLIIF's tiles where present",
    split="nothing is learned: measured H against the simulator's, nuclei against drawn ones",
    system="pair",
    systems=("P25",),
    metrics=(
        Metric("density within 2 %", unit="share of positive nuclei"),
        Metric("H truth", "", unit="points of 0 to 300"),
        Metric("true masks", "", unit="points; the nearer to the truth the better"),
        Metric("watershed", "", unit="points; the nearer to the truth the better"),
        Metric("defaults", "", unit="points; the nearer to the truth the better"),
        Metric("F1", unit="nuclei at IoU 0.5"),
    ),
    plot=Plot("F1"),
    tracked=(
        near("details", "synthetic", "case=P25", "within", within=0.01),
        near("details", "synthetic", "case=P25", "h_truth", within=0.01),
        near("details", "synthetic", "case=P25", "h_masks", within=0.5),
        near("details", "synthetic", "case=P25", "h_watershed", within=1.0),
        near("details", "synthetic", "case=P25", "f1", within=0.01),
    ),
)

PRESET = "qupath"
SHARED = Path(__file__).parents[3] / "shared" / "data"
PATIENTS = {"full": None, "ci": ["P25"]}
"""None are all of the default."""
WITHIN = 0.02
GOALS = {"density": 0.98, "h_masks": 3.0, "h_watershed": 6.0}


def run(profile: str, data: Path | None = None) -> Report:
    """Measures.

    Args:
        profile: `full` takes all patients of the embedded default, `ci` one.
        data: folder with DeepLIIF's strips instead of the shared one.
    """
    pairs = default_pairs(stains=["er"], patients=PATIENTS[profile])
    found = [_score(pair) for pair in pairs]
    columns = ["pair", "nuclei", "density within 2 %", "H truth", "true masks", "watershed", "defaults", "F1"]
    rows = [
        [
            f["case"],
            f"{f['nuclei']:,}",
            f"{f['within']:.1%}",
            *(f"{f[name]:.1f}" for name in ("h_truth", "h_masks", "h_watershed", "h_defaults")),
            f"{f['f1']:.3f}",
        ]
        for f in found
    ]
    folder = data or Path(os.environ.get("PAST_SHARED_DATA", SHARED)) / "ihc" / "deepliif"
    real = [deepliif_figures(path)._asdict() | {"case": path.stem} for path in sorted(folder.glob("*.png"))]
    rows += [
        [
            f"DeepLIIF {f['case']}",
            f"{f['drawn']:,}",
            "-",
            f"{f['drawn_positive']} of {f['drawn']} positive",
            "-",
            f"{f['found_positive']} of {f['found']} positive, {f['agreement']:.1%} called as drawn",
            "-",
            f"{f['f1']:.3f}",
        ]
        for f in real
    ]
    errors = {
        name: max(abs(f[name] - f["h_truth"]) for f in found)
        for name in ("h_masks", "h_watershed", "h_defaults")
    }
    within = min(f["within"] for f in found)
    figure = f"density within 2 % in {within:.1%} of nuclei or more; largest |H error| "
    figure += f"{errors['h_masks']:.1f} in true masks, {errors['h_watershed']:.1f} by watershed, "
    figure += f"{errors['h_defaults']:.1f} with default stains and white"
    if real:
        figure += f"; DeepLIIF F1 {np.mean([f['f1'] for f in real]):.3f}"
    passed = (
        within >= GOALS["density"]
        and errors["h_masks"] <= GOALS["h_masks"]
        and errors["h_watershed"] <= GOALS["h_watershed"]
    )
    return Report(
        name="hscore",
        profile=profile,
        columns=columns,
        rows=rows,
        goal=f"density within 2 % of the rendered in {GOALS['density']:.0%} of positive nuclei, H within "
        f"{GOALS['h_masks']:g} points in true masks and {GOALS['h_watershed']:g} by watershed",
        figure=figure,
        passed=bool(passed),
        details={"thresholds": PRESET, "synthetic": found, "deepliif": real},
    )


def _score(pair: SyntheticPair) -> dict[str, Any]:
    truth = pd.read_csv(pair.truth)
    labels = tifffile.imread(pair.nuclei)
    with tempfile.TemporaryDirectory() as folder:
        own = Path(folder) / "lab.json"
        haematoxylin, dab = pair.staining.stains.tolist()
        own.write_text(json.dumps({"haematoxylin": haematoxylin, "dab": dab}))
        best = {"stains": str(own), "white": "auto"}
        masks = _scored(pair, labels=pair.nuclei, **best)
        watershed = _scored(pair, segmenter="watershed", **best)
        defaults = _scored(pair, segmenter="watershed")
    rows, columns = np.nonzero(labels)
    places = pd.DataFrame({"label": labels[rows, columns], "x": columns, "y": rows})
    places = places.groupby("label", as_index=False).mean().merge(truth, on="label").sort_values(["y", "x"])
    expected, measured = places["dab_od"].to_numpy(), masks.nuclei["dab_od"].to_numpy()
    stained = expected > PRESETS[PRESET].weak
    return {
        "case": pair.case,
        "nuclei": len(expected),
        "stained": int(stained.sum()),
        "within": float((np.abs(measured[stained] / expected[stained] - 1) < WITHIN).mean()),
        "h_truth": h_score(truth["dab_od"].to_numpy(), PRESETS[PRESET]).h,
        "h_masks": masks.score.h,
        "h_watershed": watershed.score.h,
        "h_defaults": defaults.score.h,
        "f1": _f1(pair, labels),
    }


def _scored(pair: SyntheticPair, **options: Any) -> Any:
    return score_slide(pair.ihc, pair.he, marker=pair.stain, thresholds=PRESET, **options)


def _f1(pair: SyntheticPair, labels: np.ndarray) -> float:
    """F1 at IoU 0.5 of the watershed on the H&E, against the true nuclei."""
    with open_slide(pair.he) as slide:
        found = label_image(slide, segmenter="watershed")  # at 0.5 µm, as past hscore takes it
    times = labels.shape[0] // found.shape[0]
    found = found.repeat(times, axis=0).repeat(times, axis=1)
    return float(f1_at_iou(labels[: found.shape[0], : found.shape[1]], found))
