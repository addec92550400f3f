"""The matrix: what is run, what is kept, what a failure or a kill leaves behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from past_core.errors import PastError
from past_surv.data.cohort import CohortError, CohortNotFoundError
from past_surv.data.splits import SurvivalSplitError
from past_surv.evaluation import cells as cells_room
from past_surv.evaluation.cells import NO_ENCODER, Cell, compute, read
from past_surv.evaluation.plan import Matrix, plan_of
from past_surv.evaluation.report import report_of, write_report
from past_surv.evaluation.run import CHANGED, DIED, attempt, run_cells
from past_surv.evaluation.sources import SourceError, cohort_source, join_cohorts, load
from past_surv.systems.base import FoldPrediction, Predicting


@pytest.fixture(autouse=True)
def _fresh_code_digest() -> None:
    cells_room.code_digest.cache_clear()  # the code may change while tests run


def frame(name: str = "C", n: int = 60, seed: int = 0) -> pd.DataFrame:
    stream = np.random.default_rng(seed)
    age, gene = stream.integers(30, 80, n), stream.normal(size=n)
    return pd.DataFrame(
        {
            "case_id": [f"{name}{i:03}" for i in range(n)],
            "slide_id": [f"{name}{i:03}-DX1.svs" for i in range(n)],
            "survival_months": (stream.exponential(40 * np.exp(-0.04 * (age - 55) - gene)) + 0.1).round(3),
            "censorship": (stream.random(n) < 0.4).astype(int),
            "age": age,
            "is_female": stream.integers(0, 2, n),
            "G0_rnaseq": gene,
            "G1_mut": stream.integers(0, 2, n),
        }
    )


def written(folder: Path, table: pd.DataFrame | None = None, name: str = "made") -> Path:
    path = folder / f"{name}.csv"
    (frame() if table is None else table).to_csv(path, index=False)
    return path


def matrix(folder: Path, **options: object) -> Matrix:
    source = cohort_source([written(folder)], folds=3)
    return Matrix(**({"cohorts": [source], "systems": ["cox-age-sex", "snn"], "seeds": 2} | options))


def quick(folder: Path, **options: object) -> Matrix:
    return matrix(folder, options={"snn": {"epochs": 1}}, **options)


def test_every_cell_of_the_matrix(tmp_path: Path) -> None:
    plan = plan_of(matrix(tmp_path))
    counts = pd.Series([cell.system for cell in plan.cells]).value_counts().to_dict()
    assert counts == {"cox-age-sex": 3, "snn": 6}  # Cox draws nothing, so that one seed is all
    assert plan.notes == ["made: its genes hold no cnv"]
    assert len({cell.key() for cell in plan.cells}) == 9
    assert len({cell.path(tmp_path) for cell in plan.cells}) == 9
    assert {cell.encoder for cell in plan.cells} == {NO_ENCODER}


def test_the_floor_is_in_every_table(tmp_path: Path) -> None:
    plan = plan_of(matrix(tmp_path, systems=["snn"]))
    assert plan.cells[0].system == "cox-age-sex"
    assert any("has to beat age and sex" in note for note in plan.notes)
    table = frame().drop(columns=["age"])
    source = cohort_source([written(tmp_path, table, "ageless")], folds=3)
    plan = plan_of(matrix(tmp_path, cohorts=[source], systems=["snn"]))
    assert {cell.system for cell in plan.cells} == {"snn"}
    assert any("cox-age-sex is left out: the cohort has no column age" in note for note in plan.notes)


def test_a_cohort_without_genes_leaves_systems_on_genes_out(tmp_path: Path) -> None:
    source = cohort_source(
        [written(tmp_path, frame().drop(columns=["G0_rnaseq", "G1_mut"]), "plain")], folds=3
    )
    plan = plan_of(matrix(tmp_path, cohorts=[source]))
    assert {cell.system for cell in plan.cells} == {"cox-age-sex"}
    assert plan.notes == ["plain: snn is left out: the cohort has no columns of genes"]


def test_keys_follow_contents_not_places(tmp_path: Path) -> None:
    def keys(folder: Path, table: pd.DataFrame | None = None, **options: object) -> list[str]:
        folder.mkdir(exist_ok=True)
        source = cohort_source([written(folder, table)], folds=3)
        return [cell.key() for cell in plan_of(matrix(folder, cohorts=[source], **options)).cells]

    first = keys(tmp_path / "a")
    assert keys(tmp_path / "b") == first
    changed = frame()
    changed.loc[0, "age"] += 1
    assert not set(keys(tmp_path / "c", changed)) & set(first)
    epochs = keys(tmp_path / "a", options={"snn": {"epochs": 3}})
    assert epochs[:3] == first[:3]
    assert not set(epochs[3:]) & set(first)
    groups = tmp_path / "groups.csv"
    groups.write_text("all\nG0\n")
    grouped = keys(tmp_path / "a", groups=groups)
    assert grouped[:3] == first[:3]  # Cox reads no groups
    assert not set(grouped[3:]) & set(first)


def test_a_rerun_keeps_what_is_done(tmp_path: Path) -> None:
    plan = plan_of(quick(tmp_path))
    seen: list[tuple[int, int]] = []
    first = run_cells(plan.cells, tmp_path / "out", progress=lambda _, done, of: seen.append((done, of)))
    assert (first.computed, first.kept, first.failed) == (9, 0, [])
    assert seen == [(k, 9) for k in range(1, 10)]
    again = run_cells(plan.cells, tmp_path / "out")
    assert (again.computed, again.kept) == (0, 9)
    for a, b in zip(first.results, again.results, strict=True):
        np.testing.assert_array_equal(a.risk, b.risk)
    plan.cells[4].path(tmp_path / "out").unlink()
    plan.cells[5].path(tmp_path / "out").write_bytes(b"cut off")
    third = run_cells(plan.cells, tmp_path / "out")
    assert (third.computed, third.kept) == (2, 7)
    for a, b in zip(first.results, third.results, strict=True):
        np.testing.assert_array_equal(a.risk, b.risk)


def test_a_result_of_other_software_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = plan_of(quick(tmp_path)).cells[0]
    compute(cell, tmp_path)
    assert read(cell, tmp_path) is not None
    monkeypatch.setattr(cells_room, "software", lambda: {"torch": "9.9"})
    assert read(cell, tmp_path) is None


@pytest.mark.slow
def test_processes_give_the_same(tmp_path: Path) -> None:
    plan = plan_of(quick(tmp_path, seeds=1))
    alone = run_cells(plan.cells, tmp_path / "alone")
    both = run_cells(plan.cells, tmp_path / "both", jobs=2)
    assert (both.computed, both.failed) == (6, [])
    for a, b in zip(alone.results, both.results, strict=True):
        assert str(a.cell) == str(b.cell)
        np.testing.assert_allclose(a.risk, b.risk, atol=1e-6)


def test_software_that_changes_while_it_runs_is_noticed(tmp_path: Path) -> None:
    cell = plan_of(quick(tmp_path)).cells[0]
    assert attempt(cell, tmp_path, "another") == CHANGED
    assert read(cell, tmp_path) is None
    assert attempt(cell, tmp_path, cell.key()) is None
    assert read(cell, tmp_path) is not None


class Faulty(Predicting):
    """Fails in one fold, in the way it is told."""

    name = "faulty"

    def __init__(self, how: str) -> None:
        self.how = how

    def predict(self, cohort: object, fold: object, *, seed: int = 0) -> FoldPrediction:
        risk = np.arange(len(fold.test), dtype=float)
        if fold.name == "1":
            if self.how == "raise":
                raise ZeroDivisionError("by nought")
            risk = {"nan": risk * np.nan, "inf": risk + np.inf, "short": risk[1:]}[self.how]
        return FoldPrediction(risk=risk)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("raise", "ZeroDivisionError: by nought (test_surv_matrix.py, line"),
        ("nan", "the risk is missing for every scored patient"),
        ("inf", "the risk is infinite"),
        ("short", "risks (19,) of 20 scored patients"),
    ],
)
def test_a_cell_that_fails_is_named_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, said: str
) -> None:
    from past_surv.evaluation import building

    plan = plan_of(matrix(tmp_path, systems=["cox-age-sex"]))
    monkeypatch.setattr(building, "build", lambda _: Faulty(how))
    run = run_cells(plan.cells, tmp_path / "out")
    assert (run.computed, len(run.results)) == (2, 2)
    ((cell, why),) = run.failed
    assert cell.fold == 1
    assert said in why
    report = report_of(run, resamples=20)
    assert report.failed == [("made: cox-age-sex, fold 1, seed 0", why)]
    assert any("lacks 1 cells" in note for note in report.notes)
    write_report(report, tmp_path / "out")
    assert why in (tmp_path / "out" / "summary.md").read_text()
    assert not list((tmp_path / "out").rglob("*.part*"))


@pytest.mark.slow
def test_a_process_that_dies_takes_one_cell_with_it(tmp_path: Path) -> None:
    # Every Python process that starts from here kills itself in fold 1.
    plan = plan_of(matrix(tmp_path, systems=["cox-age-sex"]))
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal\n"
        "from past_surv.systems import cox\n"
        "original = cox.ClinicalCox.predict\n"
        "def predict(self, cohort, fold, *, seed=0):\n"
        "    if fold.name == '1':\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return original(self, cohort, fold, seed=seed)\n"
        "cox.ClinicalCox.predict = predict\n"
    )
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(tmp_path)
    try:
        run = run_cells(plan.cells, tmp_path / "out", jobs=2)
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
    assert [(cell.fold, why) for cell, why in run.failed] == [(1, DIED)]
    assert sorted(result.cell.fold for result in run.results) == [0, 2]


SLOW = """
import sys
from pathlib import Path
from past_surv.evaluation.plan import Matrix, plan_of
from past_surv.evaluation.run import run_cells
from past_surv.evaluation.sources import cohort_source
if __name__ == "__main__":
    source = cohort_source([sys.argv[1]], folds=3)
    options = {"snn": {"epochs": 1, "intervals": 2}}
    plan = plan_of(Matrix(cohorts=[source], systems=["cox-age-sex", "snn"], seeds=20, options=options))
    run_cells(plan.cells, Path(sys.argv[2]), jobs=2)
"""


@pytest.mark.slow
def test_a_kill_leaves_whole_files_and_no_processes(tmp_path: Path) -> None:
    script, out = tmp_path / "slow.py", tmp_path / "out"
    script.write_text(SLOW)
    process = subprocess.Popen(
        [sys.executable, str(script), str(written(tmp_path)), str(out)], start_new_session=True
    )
    deadline = time.monotonic() + 240
    while len(list(out.rglob("*.npz"))) < 5:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)  # the parent alone: its processes have to notice
    process.wait()
    while _group_runs(process.pid):
        assert time.monotonic() < deadline, "processes outlive their parent"
        time.sleep(0.1)
    done = [path for path in out.rglob("*.npz") if ".part" not in path.name]
    assert 5 <= len(done) < 63
    for path in done:
        with np.load(path, allow_pickle=False) as file:
            assert json.loads(str(file["record"]))["key"]


def _group_runs(group: int) -> bool:
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            return True
    return False


def test_cohorts_are_joined(tmp_path: Path) -> None:
    second = frame("D", seed=1).drop(columns="G1_mut")
    paths = [written(tmp_path, name="coad"), written(tmp_path, second, name="read")]
    cohort, folds = load(cohort_source(paths, name="coadread", folds=3))
    assert (cohort.name, len(cohort), len(folds)) == ("coadread", 120, 3)
    assert list(cohort.omics) == ["G0_rnaseq"]
    assert cohort.slides["D003"] == ("D003-DX1.svs",)
    assert cohort.time[60:].tolist() == second["survival_months"].tolist()
    with pytest.raises(
        SourceError, match=r"2 tables joined under no name; write --cohort NAME=a\.csv,b\.csv"
    ):
        cohort_source(paths)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"case_id": "C000"}, "case C000 is both in coad.csv and in read.csv"),
        ({"slide_id": "C000-DX1.svs"}, "slide C000-DX1.svs is in coad.csv and read.csv"),
    ],
)
def test_cohorts_that_cannot_be_joined(tmp_path: Path, change: dict[str, str], said: str) -> None:
    second = frame("D", seed=1)
    for column, value in change.items():
        second.loc[0, column] = value
    paths = [written(tmp_path, name="coad"), written(tmp_path, second, name="read")]
    with pytest.raises(CohortError, match=said):
        load(cohort_source(paths, name="both"))
    parts = [load(cohort_source([path]))[0] for path in paths]
    parts[1].omics.columns = ["X_rnaseq", "Y_mut"]
    parts[1].outcome.index = [f"E{i}" for i in range(60)]
    parts[1].slides.clear()
    with pytest.raises(CohortError, match="a and b have no gene in common"):
        join_cohorts(parts, names=["a", "b"])


def test_folds_are_found_by_cohort(tmp_path: Path) -> None:
    path, cases = written(tmp_path), frame()["case_id"]
    for number in range(2):
        folder = tmp_path / "splits" / "tcga_made"
        folder.mkdir(parents=True, exist_ok=True)
        test = cases[number::2].reset_index(drop=True)
        train = cases.drop(cases.index[number::2]).reset_index(drop=True)
        pd.DataFrame({"train": train, "val": test}).to_csv(folder / f"splits_{number}.csv", index=False)
    source = cohort_source([path], splits=tmp_path / "splits")
    assert source.splits == folder
    assert [len(fold.test) for fold in load(source)[1]] == [30, 30]
    before = plan_of(matrix(tmp_path, cohorts=[source])).cells[0].key()
    (folder / "splits_1.csv").rename(folder / "splits_2.csv")
    other = cohort_source([path], splits=tmp_path / "splits")
    assert plan_of(matrix(tmp_path, cohorts=[other])).cells[0].key() != before
    with pytest.raises(SurvivalSplitError, match=r"no folds of cohort 'luad'; expected splits_0\.csv"):
        cohort_source([written(tmp_path, name="tcga_luad_all")], splits=tmp_path / "splits")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"systems": ["nonsense"]}, "no system 'nonsense'"),
        ({"groups": "nowhere.csv"}, "nowhere.csv: no such file"),
        ({"encoders": {"uni": "nowhere"}}, "nowhere: no such folder of bags"),
        ({"encoders": {"a/b": "."}}, "encoder 'a/b'; expected letters"),
        ({"encoders": {"none": "."}}, "stands for systems without slides"),
        ({"cohorts": []}, "nothing to run"),
        ({"systems": ["mcat"]}, "mcat reads slides; give --encoders"),
        ({"systems": ["mcat"], "encoders": {"a": "."}}, "mcat reads named groups of genes; give --groups"),
        ({"systems": ["past-multi"], "encoders": {"a": "."}}, "past-multi reads a vector a patient"),
    ],
)
def test_what_cannot_be_run_is_said_before_anything_runs(
    tmp_path: Path, options: dict[str, object], said: str
) -> None:
    with pytest.raises(PastError, match=said):
        plan_of(matrix(tmp_path, **options))


def test_a_cohort_twice_or_nowhere(tmp_path: Path) -> None:
    source = cohort_source([written(tmp_path)], folds=3)
    with pytest.raises(SourceError, match="two cohorts are called 'made'"):
        plan_of(matrix(tmp_path, cohorts=[source, source]))
    with pytest.raises(CohortNotFoundError, match="no such cohort table"):
        cohort_source([tmp_path / "none.csv"])
    with pytest.raises(SourceError, match=r"cohort '\.\./x'"):
        cohort_source([written(tmp_path)], name="../x")


def test_the_files_say_what_they_hold(tmp_path: Path) -> None:
    plan = plan_of(quick(tmp_path))
    run = run_cells(plan.cells, tmp_path / "out")
    report = report_of(run, plan.notes, resamples=30)
    files = write_report(report, tmp_path / "out")
    content = json.loads((tmp_path / "out" / "report.json").read_text())
    for name in ("predictions.csv", "scores.csv", "comparisons.csv"):
        assert name in files
        assert list(pd.read_csv(tmp_path / "out" / name)) == list(content["columns"][name])
    predictions = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert len(predictions) == 60 * 3
    truth = frame().set_index("case_id")
    np.testing.assert_array_equal(predictions["time"], truth.loc[predictions["case_id"], "survival_months"])
    np.testing.assert_array_equal(predictions["event"], 1 - truth.loc[predictions["case_id"], "censorship"])
    assert predictions.groupby(["system", "seed"])["case_id"].nunique().tolist() == [60, 60, 60]
    assert content["use"] == "research use only"
    assert content["software"]["scikit-survival"]
    assert "Nothing is chosen on the scored fold" in content["settings"]["selection"]
    assert content["settings"]["folds"] == {"made": "made here, no site on both sides"}
    text = (tmp_path / "out" / "summary.md").read_text()
    assert "made: 60 patients" in text
    assert "| cox-age-sex | 0." in text
    brier = pd.read_csv(tmp_path / "out" / "scores.csv").query("metric == 'ibs'")
    assert brier["value"].between(0, 1).all()
    # Both systems are scored at the same moments.
    assert brier.groupby("fold")["reference"].nunique().max() == 1


def test_case_ids_that_look_like_numbers_stay_text(tmp_path: Path) -> None:
    table = frame().assign(case_id=[f"{i:03}" for i in range(60)])
    cell = Cell(
        cohort=cohort_source([written(tmp_path, table)], folds=3), encoder=NO_ENCODER, system="cox-age-sex",
        fold=0, seed=0,
    )  # fmt: skip
    compute(cell, tmp_path)
    found = read(cell, tmp_path)
    cohort, folds = load(cell.cohort)
    assert found.cases.tolist() == cohort.cases[folds[0].test].tolist()
