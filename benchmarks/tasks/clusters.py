"""Do cells cluster on predicted expression as they do on measured, and into their true types?

Every synthetic patient is left out in turn; expression is predicted from H&E by a probe trained on the
others, and Leiden clusters are made of the predictions alone. They are held against the true types and
against the clusters of measured expression. Beside the systems stand the measured expression itself and the
best possible prediction, the expectation given the true rates.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.ceiling import expectation
from benchmarks.report import Report
from benchmarks.task import Metric, Plot, Task, encoders, near, no_worse, published
from past_core.synthetic.cohort import cohort
from past_genex.clusters import ClusterComparison, compare_clusters
from past_genex.data.default import DIVERGENCE, FIRST, default_cohort
from past_genex.data.slides import ExpressionSlide
from past_genex.data.targets import Target
from past_genex.evaluation.settings import build_split, encoder_field_um
from past_genex.systems.base import Surroundings
from past_genex.systems.registry import build_system

TASK = Task(
    title="Clusters of predicted expression",
    group="expression",
    data="eight synthetic patients of four cancer types, about 3,200 cells and 300 genes each",
    split="each patient left out in turn; as many clusters as measured expression has",
    systems=(
        "ridge:demo",
        "retrieval:demo",
        "untrained:demo",
        "shuffled:demo",
        "best possible",
        "measured expression",
    ),
    metrics=(
        Metric("ARI, types", unit="adjusted Rand index with the true types", interval="range over patients"),
        Metric("NMI, types", unit="normalised mutual information with the true types"),
        Metric("ARI, measured clusters", unit="adjusted Rand index with clusters of measured expression"),
        Metric("macro F1", unit="of types carried over by matching clusters"),
    ),
    plot=Plot("ARI, types", mark=0.0),
    wanted=(
        published("ridge:published", "past predict SLIDE.svs --probe PROBE; past cluster SLIDE.zarr -o out"),
        *encoders(
            "uni", "conch", label="ridge:{}", run="past probe A.zarr B.zarr C.zarr --encoder {} -o PROBE"
        ),
    ),
    tracked=(
        near("rows", "measured expression", "ARI, types", within=0.1),
        near("rows", "ridge:demo", "ARI, types", within=0.1),
        no_worse("rows", "ridge:demo", "macro F1", drop=0.1),
        near("rows", "shuffled:demo", "ARI, types", within=0.05),
    ),
    pictures=("clusters",),
)
SYSTEMS = {
    "full": ("ridge:demo", "retrieval:demo", "untrained:demo", "shuffled:demo"),
    "ci": ("ridge:demo", "shuffled:demo"),
}
PATIENTS = {"full": 8, "ci": 3}
SHOWN = {"full": 8, "ci": 1}
"""How many of the patients are clustered; all of them train."""
MEASURED, BEST = "measured expression", "best possible"
CHANCE = 0.05
"""What shuffled embeddings may reach."""


def run(profile: str, data: Path | None = None) -> Report:
    """Clusters measured and predicted expression of every patient.

    Args:
        profile: `full`, or `ci` with fewer patients and systems.
        data: not used; true types are known of synthetic patients alone.
    """
    start = time.perf_counter()
    target = Target("median")
    slides = [ExpressionSlide(path) for path in default_cohort(patients=PATIENTS[profile])]
    configs = cohort(FIRST - 1 + len(slides), divergence=DIVERGENCE)[FIRST - 1 :]
    shown = range(SHOWN[profile])
    found: list[dict[str, Any]] = []
    truths = [expectation(slides[n], configs[n], target) for n in shown]
    for number in shown:
        values, known, types = truths[number]
        found += _scored(compared(slides[number], values, known, types, target), types, BEST, slides[number])
    for name in SYSTEMS[profile]:
        for number, predicted in left_out(name, slides, target, shown):
            _, known, types = truths[number]
            comparison = compared(slides[number], predicted[:, known], known, types, target)
            found += _scored(comparison, types, name, slides[number])[:1]
    table = pd.DataFrame(found).drop_duplicates(["system", "patient"])
    mean = table.groupby("system", sort=False).mean(numeric_only=True)
    best = mean.loc[MEASURED, "ari_types"]
    ridge, shuffled = mean.loc["ridge:demo", "ari_types"], mean.loc["shuffled:demo", "ari_types"]
    checks = {
        "predicted clusters find types": bool(ridge > 0.1 and ridge > shuffled),
        "shuffled find none": bool(abs(shuffled) < CHANCE),
    }
    if profile == "full":
        checks["pretrained beats untrained"] = bool(ridge > mean.loc["untrained:demo", "ari_types"])
    order = [*SYSTEMS[profile], BEST, MEASURED]
    return Report(
        name="clusters",
        profile=profile,
        columns=[
            "system",
            "ARI, types",
            "range over patients",
            "NMI, types",
            "ARI, measured clusters",
            "macro F1",
            "clusters",
        ],
        rows=[_row(name, table[table["system"] == name]) for name in order],
        goal="ARI with the true types: " + "; ".join(checks) + f" (within {CHANCE:g} of 0)",
        figure=f"ARI with the types {ridge:.3f} on predictions, {best:.3f} on measured expression, "
        f"{shuffled:.3f} shuffled; {time.perf_counter() - start:.0f} s",
        passed=all(checks.values()),
        details={"checks": checks, "patients": table.to_dict("records"), "seeds": [0]},
    )


def left_out(
    name: str, slides: list[ExpressionSlide], target: Target, shown: range
) -> Iterator[tuple[int, np.ndarray]]:
    """Predictions of whole slides, each by a system trained on the other patients.

    Yields:
        Slide number, and `(N, G)` predictions of the slide's own genes.
    """
    system = build_system(name, Surroundings(target))
    split = build_split("patients", slides, rim_um=encoder_field_um("demo"))
    for fold in split.folds:
        for number in sorted(set(fold.test) & set(shown)):
            genes = slides[number].genes
            out = np.full((slides[number].n_cells, len(genes)), np.nan)
            for slide, cells, values in system.predict(split, fold, genes):
                if slide == number:
                    out[cells] = values
            yield number, out


def compared(
    slide: ExpressionSlide, predicted: np.ndarray, known: np.ndarray, types: np.ndarray, target: Target
) -> ClusterComparison:
    """Clusters of both sides, on genes that are predicted for every cell.

    Args:
        slide: the slide, N cells.
        predicted: `(N, K)`.
        known: `(G,)` bool, which of its genes these are.
        types: `(N,)` true types.
        target: the scale.
    """
    whole = np.isfinite(predicted).all(axis=0)
    genes = slide.genes[known][whole]
    measured = slide.expression(target, genes)
    return compare_clusters(measured, predicted[:, whole], genes=genes, labels=types)


def _scored(
    comparison: ClusterComparison, types: np.ndarray, name: str, slide: ExpressionSlide
) -> list[dict[str, Any]]:
    """The predicted side's figures, then the measured side's."""
    from sklearn.metrics import normalized_mutual_info_score

    rows = []
    sides = ((name, comparison.predicted, "predicted"), (MEASURED, comparison.measured, "measured"))
    for system, side, word in sides:
        if side is None:
            continue
        between = 1.0 if word == "measured" else comparison.ari["measured clusters, predicted clusters"]
        rows.append(
            {
                "system": system,
                "patient": slide.patient,
                "ari_types": comparison.ari[f"{word} clusters, {comparison.reference_name}"],
                "nmi_types": float(normalized_mutual_info_score(types, side.clustering.labels)),
                "ari_measured": between,
                "macro_f1": comparison.scores[f"{word} clusters"].macro_f1,
                "clusters": side.clustering.n,
            }
        )
    return rows


def _row(name: str, own: pd.DataFrame) -> list[str]:
    low, high = own["ari_types"].min(), own["ari_types"].max()
    mean = own.mean(numeric_only=True)
    return [
        name,
        f"{mean['ari_types']:.3f}",
        f"{low:.3f} to {high:.3f}",
        *(f"{mean[column]:.3f}" for column in ("nmi_types", "ari_measured", "macro_f1")),
        f"{mean['clusters']:.1f}",
    ]
