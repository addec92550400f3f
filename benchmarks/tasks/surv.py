"""Do slides add to age, sex and genes, and does the evaluation give the figures that are known?

On the simulator's cohort half of the hazard is visible in the H&E alone: MCAT with a pretrained encoder has
to beat the genes alone, and the same MCAT on noise instead of patches, by paired bootstrap over patients.
PAST-multi stands beside it. `--data tcga` (or a folder of such tables) runs the floor of six real cohorts on
their published folds without slides: Cox on age and sex, Coxnet, the network on genes, and both joined.
Cells that are done are kept in the cache, so that a run that was cut off goes on.
"""

import os
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.report import Report
from benchmarks.task import Metric, Plot, Task, Wanted, encoders, near, published
from past_core.synthetic.cache import cache_folder
from past_surv.evaluation.plan import Matrix, plan_of
from past_surv.evaluation.report import MatrixReport, report_of
from past_surv.evaluation.run import run_cells
from past_surv.evaluation.sources import cohort_source

TASK = Task(
    title="Survival: a cohort of known hazard",
    group="survival",
    data="the simulator's cohort: 320 patients, 352 slides, genes, copy numbers and mutations",
    split="five folds, no site on both sides, three seeds, scored out of fold",
    systems=(
        "cox-age-sex",
        "snn",
        "mcat (demo)",
        "mcat (random)",
        "mil (demo)",
        "past-multi (demo)",
    ),
    metrics=(
        Metric("C", unit="Harrell's C, mean over folds", interval="95 % CI"),
        Metric("Uno to tau", unit="IPCW C"),
    ),
    plot=Plot("C", mark=0.5),
    wanted=(
        published(
            "(published)", "past survival COHORT.csv --groups GROUPS.csv --encoders published=BAGS -o results"
        ),
        *encoders(
            label="({})", run="past survival COHORT.csv --groups GROUPS.csv --encoders {}=BAGS -o results"
        ),
    ),
    tracked=(
        near("details", "summary", "label=cox-age-sex", "harrell", within=0.005),
        near("details", "summary", "label=snn", "harrell", within=0.08),
        near("details", "summary", "label=mcat (demo)", "harrell", within=0.08),
        near("details", "summary", "label=mil (demo)", "harrell", within=0.08),
        near("details", "true_hazard", "true hazard", within=0.001),
    ),
    note="The last rows are the simulator's own hazard and its parts: what could be reached at best.",
    pictures=("survival",),
)
TCGA = Task(
    name="surv-tcga",
    title="Survival: six real cohorts without slides",
    group="survival",
    data="TCGA BRCA, LUAD, LUSC, SKCM, COADREAD, UCEC: clinical tables and genes; overall survival",
    split="the five published folds of each cohort, three seeds, scored out of fold",
    by="cohort",
    systems=("cox-age-sex", "coxnet", "snn", "clinical+omics"),
    metrics=(
        Metric("C", unit="Harrell's C, mean over folds", interval="95 % CI"),
        Metric("Uno to tau", unit="IPCW C"),
    ),
    plot=Plot("C", mark=0.5),
    wanted=(
        Wanted(
            "MCAT, PAST and PAST-multi on slides",
            label="mcat",
            why="the cohorts' slides (some 3,000) are not part of this measurement",
            get="slides from portal.gdc.cancer.gov, then `past bags SLIDES.csv --encoder NAME -o BAGS`",
            run="past survival luad.csv --encoders NAME=BAGS --splits splits -o luad",
        ),
        *encoders(
            label="({})", run="past survival COHORT.csv --groups GROUPS.csv --encoders {}=BAGS -o results"
        ),
    ),
    tracked=(
        near("details", "summary", "label=cox-age-sex", "harrell", within=0.005),
        near("details", "summary", "label=snn", "harrell", within=0.05),
    ),
    command="python -m benchmarks surv --data tcga",
    note="The column `known` is an earlier measurement on the same folds, not a figure of a paper.",
)

COHORTS = ("brca", "luad", "lusc", "skcm", "coadread", "ucec")
FLOOR = {
    "cox-age-sex": (0.627, 0.537, 0.555, 0.569, 0.602, 0.571),
    "coxnet": (0.568, 0.648, 0.515, 0.595, 0.572, 0.588),
    "snn": (0.555, 0.583, 0.520, 0.593, 0.597, 0.611),
    "clinical+omics": (0.616, 0.584, 0.548, 0.598, 0.639, 0.601),
}
"""Harrell's C that were measured before on the same folds, by system and cohort."""
WITHIN = {"cox-age-sex": 0.005, "snn": 0.02}
"""How near the figures have to be: Cox in every cohort, the network's mean over cohorts (or above)."""
REAL = {
    "full": (COHORTS, ("cox-age-sex", "coxnet", "snn", "clinical+omics"), 3),
    "ci": (("skcm",), ("cox-age-sex", "snn"), 1),
}
"""Cohorts, systems and seeds by profile."""
SYNTHETIC = {
    "full": {"patients": 320, "folds": 5, "seeds": 3, "epochs": 20},
    "ci": {"patients": 40, "folds": 2, "seeds": 1, "epochs": 2},
}
GENES, SLIDE, NOISE, MULTI = "snn", "mcat (demo)", "mcat (random)", "past-multi (demo)"
MULTI_SOURCE = "bulk"
"""Where PAST-multi's vectors come from: of the three sources, the one that needs no `past predict`."""
COLUMNS = ["cohort", "system", "C", "± folds", "95 % CI", "Uno to tau", "known", "patients, deaths"]


def run(profile: str, data: Path | None = None) -> Report:
    """Runs the matrix and compares.

    Args:
        profile: `full`, or `ci` with less of everything.
        data: "tcga" for the real tables in PAST_SHARED_DATA, or a folder with them; by default the
            simulator's cohort.
    """
    return _synthetic(profile) if data is None else _real(profile, _folder(data))


def _real(profile: str, folder: Path) -> Report:
    start = time.perf_counter()
    cohorts, systems, seeds = REAL[profile]
    sources = [
        cohort_source([folder / f"tcga_{name}_all_clean.csv.zip"], splits=folder / "splits")
        for name in cohorts
    ]
    matrix = Matrix(cohorts=sources, systems=systems, groups=folder / "signatures.csv", seeds=seeds)
    report = _reported(matrix, "surv-tcga", profile)
    found = report.summary.set_index(["label", "cohort"])["harrell"]
    off = {
        name: max(abs(found[name, c] - FLOOR[name][COHORTS.index(c)]) for c in cohorts) for name in systems
    }
    known = sum(FLOOR["snn"][COHORTS.index(c)] for c in cohorts) / len(cohorts)
    short = known - float(found["snn"].mean())
    passed = off["cox-age-sex"] <= WITHIN["cox-age-sex"] and not report.failed
    if profile == "full":  # in ci, one seed of one cohort says nothing of the mean
        passed = passed and short <= WITHIN["snn"]
    means = ", ".join(f"{name} {found[name].mean():.3f}" for name in systems)
    return Report(
        name="surv-tcga",
        profile=profile,
        columns=COLUMNS,
        rows=[_row(row, FLOOR[row.label][COHORTS.index(row.cohort)]) for row in report.summary.itertuples()],
        goal="Cox on age and sex within 0.005 of the known figure in every cohort; the network's mean within "
        "0.02 or above",
        figure=f"means {means}; Cox off by {off['cox-age-sex']:.4f} at most, network {-short:+.3f}; "
        f"{time.perf_counter() - start:.0f} s",
        passed=passed,
        details=_details(report) | {"largest_difference": off},
    )


def simulated(profile: str) -> tuple[MatrixReport, Path, float]:
    """The matrix on the simulator's cohort.

    Args:
        profile: as in `run`.

    Returns:
        Its report, the table of true hazards, and the seconds that slides and bags took.
    """
    from past_surv.data.default import default_bags, default_survival_data
    from past_surv.data.vectors import patient_vectors, write_vectors

    start = time.perf_counter()
    size = SYNTHETIC[profile]
    made = default_survival_data(patients=size["patients"])
    folders = {name: default_bags(name, patients=size["patients"]).folder for name in ("demo", "random")}
    work = cache_folder(None) / "benchmark-surv"
    vectors = write_vectors(
        patient_vectors(MULTI_SOURCE, made.cohort, encoder="demo"), work / f"{MULTI_SOURCE}.parquet"
    )
    prepared = time.perf_counter() - start
    # As published, and as in recipes/surv.yaml: nothing was chosen by a score.
    steps = {"epochs": size["epochs"], "learning_rate": 2e-4}
    trained = steps | {"accumulate": 32, "batch_size": 8}
    options = dict.fromkeys(("mil", "mcat", "past-multi"), trained) | {GENES: steps | {"batch_size": 32}}
    matrix = Matrix(
        cohorts=[cohort_source([made.source.table], name="synthetic", folds=size["folds"])],
        systems=["cox-age-sex", GENES, "mcat", "mil", "past-multi"],
        encoders=folders,
        groups=made.source.signatures,
        vectors=vectors,
        seeds=size["seeds"],
        options=options,
    )
    report = _reported(matrix, "surv", profile, without={("random", "mil"), ("random", "past-multi")})
    return report, made.source.truth, prepared


def _synthetic(profile: str) -> Report:
    start = time.perf_counter()
    report, truth_table, prepared = simulated(profile)
    pairs = report.comparisons[report.comparisons["metric"] == "harrell"]
    against = {name: _against(pairs, SLIDE, name) for name in (GENES, NOISE, MULTI)}
    won = {name: against[name]["low"] > 0 for name in (GENES, NOISE)}
    passed = not report.failed and (profile == "ci" or all(won.values()))
    differences = ", ".join(
        f"less {name} {a['difference']:+.3f} ({a['low']:+.3f} to {a['high']:+.3f})"
        for name, a in against.items()
    )
    truth = _truth(truth_table, report)
    value = report.summary.set_index("label").loc[SLIDE, "harrell"]
    return Report(
        name="surv",
        profile=profile,
        columns=COLUMNS,
        rows=[_row(row, truth.get(row.label)) for row in report.summary.itertuples()]
        + [["synthetic", name, f"{c:.3f}", "", "", "", "", ""] for name, c in truth.items()],
        goal="MCAT on the pretrained encoder beats genes only, and noise instead of patches (paired "
        "bootstrap, 95 % interval above 0)"
        if profile == "full"
        else "every cell runs",
        figure=f"{SLIDE} {value:.3f}, {differences}; {time.perf_counter() - start:.0f} s, of which "
        f"{prepared:.0f} s for slides and bags",
        passed=passed,
        details=_details(report) | {"against": against, "true_hazard": truth},
    )


def _reported(
    matrix: Matrix, name: str, profile: str, *, without: Collection[tuple[str, str]] = ()
) -> MatrixReport:
    """Runs a matrix but for the encoders and systems named, and reports it."""
    plan = plan_of(matrix)
    cells = [cell for cell in plan.cells if (cell.encoder, cell.system) not in without]
    jobs = 1 if profile == "ci" else 2  # starting processes takes longer than the small matrix
    run = run_cells(cells, cache_folder(None) / "benchmarks" / name, jobs=jobs)
    return report_of(run, plan.notes)


def _row(row: Any, known: float | None) -> list[str]:
    return [
        row.cohort,
        row.label,
        f"{row.harrell:.3f}",
        f"{row.harrell_sd:.3f}",
        f"{row.harrell_low:.3f} to {row.harrell_high:.3f}",
        f"{row.uno_tau:.3f}",
        "" if known is None else f"{known:.3f}",
        f"{row.patients}, {row.events}",
    ]


def _against(pairs: pd.DataFrame, first: str, second: str) -> dict[str, float]:
    """The difference first − second, whichever way round the table has it."""
    for a, b, sign in ((first, second, 1), (second, first, -1)):
        rows = pairs[(pairs["first"] == a) & (pairs["second"] == b)]
        if len(rows):
            row = rows.iloc[0]
            low, high = sorted((sign * row["low"], sign * row["high"]))
            return {"difference": sign * row["difference"], "low": low, "high": high, "p_holm": row["p_holm"]}
    raise LookupError(f"{first} and {second} were not compared")


def _truth(path: Path, report: MatrixReport) -> dict[str, float]:
    """Harrell's C of the simulator's true hazard, and of each part of it, on the scored patients."""
    from past_surv.metrics.concordance import harrell_c

    scored = report.predictions.drop_duplicates("case_id").set_index("case_id")
    truth = pd.read_csv(path, dtype={"case_id": str}).set_index("case_id").loc[scored.index]
    arrays = scored["event"].to_numpy(bool), scored["time"].to_numpy()
    parts = {
        "true hazard": "log_hazard",
        "its visible part": "image_score",
        "its part in genes": "gene_score",
        "its part in age": "age_score",
    }
    return {name: float(harrell_c(*arrays, truth[c].to_numpy()).value) for name, c in parts.items()}


def _details(report: MatrixReport) -> dict[str, Any]:
    comparisons = report.comparisons.astype(object).where(report.comparisons.notna(), None)
    summary = report.summary.astype(object).where(report.summary.notna(), None)
    return {
        "cohorts": report.cohorts,
        "settings": {k: v for k, v in report.settings.items() if k != "inputs"},
        "summary": summary.to_dict("records"),
        "comparisons": comparisons.to_dict("records"),
        "notes": report.notes,
        "failed": report.failed,
    }


def _folder(data: Path) -> Path:
    if data.is_dir():
        return data
    shared = Path(os.environ.get("PAST_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
    folder = shared / data
    if not (folder / "signatures.csv").is_file():
        raise FileNotFoundError(
            f"{folder}: no signatures.csv there; set PAST_SHARED_DATA, or name the folder"
        )
    return folder
