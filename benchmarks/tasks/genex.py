"""Does a linear probe on PAST's embeddings predict expression, and does the evaluation tell the truth?

On synthetic patients whose truth is known: held-out regions of a patient are easier than held-out patients,
and these easier than held-out cancer types; the pretrained encoder beats the same encoder untrained; nothing
beats the best possible predictor; shuffled embeddings predict nothing. `--data her2st` runs real spots
instead, see `benchmarks/her2st_study.py`. In full every public encoder whose weights are on the machine has
rows too, each with the buffer that its own field needs.
"""

import itertools
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ceiling import ceiling
from benchmarks.report import Report
from benchmarks.task import Metric, Plot, Task, Wanted, encoders, near, published
from past_core.encoders import list_encoders, load_encoders
from past_core.encoders.registry import IMAGE_ENCODERS
from past_core.synthetic.cohort import TissueConfig, cohort
from past_genex.clusters import retrieve_labels, type_scores
from past_genex.data.default import DIVERGENCE, FIRST, default_cohort
from past_genex.data.features import joint_features
from past_genex.data.slides import ExpressionSlide
from past_genex.data.targets import Target
from past_genex.evaluation.report import digits, report
from past_genex.evaluation.run import Evaluation, evaluate
from past_genex.evaluation.scores import nanmean
from past_genex.evaluation.settings import build_split, encoder_field_um
from past_genex.systems.base import Surroundings
from past_genex.systems.features import EncoderFeatures
from past_genex.systems.registry import build_system

TASK = Task(
    title="Expression from H&E: intra, inter, cross",
    group="expression",
    data="eight synthetic patients of four cancer types, 25,415 cells, 300 genes, none seen in pretraining",
    split="held-out regions with a buffer (intra), patients of a type (inter), cancer types (cross), and "
    "random cells, which leaks on purpose",
    systems=("ridge:demo", "untrained:demo", "retrieval:demo", "mean", "neighbours", "shuffled:demo"),
    by="setting",
    metrics=(
        Metric("r", unit="Pearson's r, mean over genes", interval="95 % CI"),
        Metric("r within slides", unit="Pearson's r, mean over genes"),
    ),
    plot=Plot("r", mark=0.0, where=("intra", "inter", "cross")),
    wanted=(
        published("ridge:published", "past genex SLIDES.zarr --encoders published.safetensors -o results"),
        Wanted(
            "ST-Net",
            label="stnet",
            why="trained anew in each of the folds, which takes hours on a CPU; its style of network is "
            "measured on HER2+ spots below",
            get="nothing is missing",
            run="past genex --systems stnet -o results",
        ),
        *encoders(label="ridge:{}", run="past genex --encoders {} -o results"),
    ),
    tracked=(
        near("rows", "intra", "ridge:demo", "r within slides", within=0.02),
        near("rows", "inter", "ridge:demo", "r within slides", within=0.02),
        near("rows", "cross", "ridge:demo", "r within slides", within=0.02),
        near("rows", "inter", "untrained:demo", "r within slides", within=0.03),
        near("rows", "inter", "shuffled:demo", "r within slides", within=0.02),
    ),
    pictures=("genes",),
)
HER2ST = Task(
    name="genex-her2st",
    title="Expression from H&E: HER2+ breast spots, real",
    group="expression",
    data="5 sections of 3 patients of the HER2+ breast cohort, 250 genes; spots of 100 µm, not cells",
    split="each patient left out in turn",
    systems=(
        "ImageNet EfficientNet-Lite0",
        "ST-Net-style DenseNet, scratch",
        "PAST, pretrained contrastively",
        "the same encoder, untrained",
        "PAST, retrieval",
        "mean",
        "shuffled embeddings",
    ),
    metrics=(
        Metric("r", unit="Pearson's r, mean over genes", interval="95 % CI"),
        Metric("per slide", unit="Pearson's r, mean over genes"),
    ),
    plot=Plot("r", mark=0.0),
    wanted=(
        *encoders(
            "uni",
            "conch",
            label="ridge:{}",
            run="past genex A.zarr B.zarr C.zarr --encoders {} -o results",
        ),
    ),
    command="python -m benchmarks genex --data her2st",
    note="PAST is here a small encoder pretrained on the same few sections. What is measured is the method "
    "at this size, not the paper's model.",
)

SETTINGS = ("intra", "inter", "cross", "random")
SYSTEMS = {
    "full": ("ridge:demo", "untrained:demo", "retrieval:demo", "mean", "neighbours", "shuffled:demo"),
    "ci": ("ridge:demo", "untrained:demo", "mean", "shuffled:demo"),
}
PATIENTS = {"full": 8, "ci": 6}
"""The first patients of the embedded cohort, whom the demo encoder has not seen; in ci, two cancer types have
two patients, and two have one and are left out between patients and types."""


def run(profile: str, data: Path | None = None) -> Report:
    """Evaluates every system under every setting.

    Args:
        profile: `full`, or `ci` with fewer slides and systems.
        data: "her2st", or its folder, for the real spots; by default the synthetic patients.
    """
    if data is not None:
        from benchmarks.her2st_study import run_her2st

        return run_her2st(profile, None if str(data) == "her2st" else data)
    start = time.perf_counter()
    configs, slides = patients(profile)
    target = Target("median")
    surroundings = Surroundings(target)
    best, types = zip(*(ceiling(s, c, target) for s, c in zip(slides, configs, strict=True)), strict=True)
    rim = encoder_field_um("demo")
    rows: list[list[str]] = []
    contents: dict[str, Any] = {}
    r: dict[tuple[str, str], float] = {}
    exceeded = 0
    own = [build_system(name, surroundings) for name in SYSTEMS[profile]]
    groups = {"": (rim, own)}  # a public encoder's field, and so its buffer, is its own
    for name in present_encoders() if profile == "full" else []:
        groups[f", {name}"] = encoder_field_um(name), [build_system(f"ridge:{name}", surroundings)]
    for setting, (suffix, (buffer, systems)) in itertools.product(SETTINGS, groups.items()):
        evaluation = evaluate(build_split(setting, slides, rim_um=buffer), systems, target)
        content = report(evaluation, subsets={"all": evaluation.scores[0].genes})
        contents[setting + suffix] = content
        exceeded += _above(evaluation, slides, best)
        for row in content["subsets"]["all"]["systems"]:
            r[setting, row["system"]] = row["r_per_slide"]
            rows.append(_row(setting, row))
    top = float(np.mean([nanmean(values) for values in best]))
    rows.append(["best possible", "expectation given the true rates", "", "", digits(top), ""])
    rare = rare_types(slides, types, surroundings)
    rows += [["rare type", name, f"F1 {digits(score)}", "", "", ""] for name, score in rare.items()]
    shuffled = {setting: r[setting, "shuffled:demo"] for setting in SETTINGS}
    wanted = ("intra", "inter", "cross")
    order, ranked = " >= ".join(wanted), [r[setting, "ridge:demo"] for setting in wanted]
    checks = {
        order: all(a >= b for a, b in itertools.pairwise(ranked)),
        "pretrained beats untrained": all(
            r[setting, "ridge:demo"] > r[setting, "untrained:demo"] for setting in SETTINGS
        ),
        "below the ceiling": exceeded == 0 and all(value < top for value in r.values()),
        "shuffled is 0": all(abs(value) < 0.02 for value in shuffled.values()),
    }
    missed = [name for name, held in checks.items() if not held]
    seconds = time.perf_counter() - start
    figure = ", ".join(f"{s} {r[s, 'ridge:demo']:.3f}" for s in SETTINGS)
    return Report(
        name="genex",
        profile=profile,
        columns=["setting", "system", "r", "95 % CI", "r within slides", "sd over types"],
        rows=rows,
        goal="r within slides: " + "; ".join(checks) + " within 0.02",
        figure=f"{figure}; best possible {top:.3f}; {seconds:.0f} s"
        + (f"; missed: {missed}" if missed else ""),
        passed=not missed,
        details={"checks": checks, "reports": contents, "rare_types": rare, "seconds": seconds},
    )


def present_encoders() -> list[str]:
    """The public encoders whose weights are on this machine."""
    return [s.name for s in list_encoders() if s.name in IMAGE_ENCODERS and s.weights is not None]


def _row(setting: str, row: dict[str, Any]) -> list[str]:
    return [
        setting + (" (LEAKS)" if setting == "random" else ""),
        row["system"],
        digits(row["r"]),
        f"{digits(row['low'])} to {digits(row['high'])}",
        digits(row["r_per_slide"]),
        digits(row["sd_over_types"]),
    ]


def patients(profile: str) -> tuple[list[TissueConfig], list[ExpressionSlide]]:
    """The synthetic patients' configurations and slides, made once into the cache."""
    number = PATIENTS[profile]
    configs = cohort(FIRST - 1 + number, divergence=DIVERGENCE)[FIRST - 1 :]
    return configs, [ExpressionSlide(path) for path in default_cohort(patients=number)]


def _above(evaluation: Evaluation, slides: list[ExpressionSlide], best: tuple[np.ndarray, ...]) -> int:
    """Slides on which a system's mean r over genes is above the best possible predictor's."""
    above = 0
    for scores in evaluation.scores:
        table, r = scores.slide_r()
        for name, values in zip(table["slide"], r, strict=True):
            number = next(i for i, slide in enumerate(slides) if slide.name == name)
            known = slides[number].genes.get_indexer(scores.genes)
            top = np.where(known >= 0, best[number][known], np.nan)
            both = np.isfinite(top) & np.isfinite(values)
            above += bool(values[both].mean() > top[both].mean())
    return above


def rare_types(
    slides: list[ExpressionSlide], types: tuple[np.ndarray, ...], surroundings: Surroundings
) -> dict[str, float]:
    """F1 of the rare cell types where images take the labels of other patients' cells by retrieval."""
    image, cell = load_encoders("demo", "joint")
    images = EncoderFeatures(image, surroundings)
    banks = [joint_features(slide, cell, cache=surroundings.cache) for slide in slides]
    given, truth = [], []
    for number, slide in enumerate(slides):
        others = [i for i, other in enumerate(slides) if other.patient != slide.patient]
        bank = np.concatenate([banks[i] for i in others])
        labels = np.concatenate([types[i] for i in others])
        known = np.isfinite(bank).all(axis=1)
        given.append(retrieve_labels(np.asarray(images.of(slide)), bank[known], labels[known])[0])
        truth.append(types[number])
    scores = type_scores(np.concatenate(truth), np.concatenate(given))
    return {name: float(scores.table.loc[name, "f1"]) for name in scores.rare}
