"""`past survival` from arguments to files, and its pictures."""

import json
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from past_core.errors import PastError
from past_surv.commands.matrix import MatrixError, matrix_of
from past_surv.commands.survival import survival
from past_surv.data import default
from past_surv.evaluation.kaplan import RiskSplit, risk_splits
from past_surv.figures.curves import FigureError, curve_grid, p_text
from past_surv.figures.forest import difference_forest, score_bars
from past_surv.figures.table import rank_table

GROUPS = "one,two\nG0,G1\nG2,G3\n"


def frame(name: str, n: int = 60, seed: int = 0) -> pd.DataFrame:
    stream = np.random.default_rng(seed)
    age, genes = stream.integers(30, 80, n), stream.normal(size=(n, 4))
    return pd.DataFrame(
        {
            "case_id": [f"{name}{i:03}" for i in range(n)],
            "slide_id": [f"{name}{i:03}-DX1.svs" for i in range(n)],
            "survival_months": (
                stream.exponential(40 * np.exp(-0.04 * (age - 55) - genes[:, 0])) + 0.1
            ).round(3),
            "censorship": (stream.random(n) < 0.4).astype(int),
            "age": age,
            "is_female": stream.integers(0, 2, n),
            **{f"G{k}_rnaseq": genes[:, k] for k in range(4)},
        }
    )


def written(folder: Path, name: str, seed: int = 0) -> Path:
    path = folder / f"{name}.csv"
    frame(name, seed=seed).to_csv(path, index=False)
    return path


def bags(folder: Path, *names: str) -> Path:
    """Bags as `past bags` writes them, of every slide but one of each cohort."""
    stream, out = np.random.default_rng(0), folder / "bags"
    out.mkdir(exist_ok=True)
    for slide in (slide for name in names for slide in frame(name)["slide_id"][1:]):
        with h5py.File(out / f"{slide.removesuffix('.svs')}.h5", "w") as file:
            file["features"] = stream.normal(size=(4, 8)).astype(np.float16)
            file["coords"] = stream.uniform(0, 1000, (4, 2))
    return out


def run(*arguments: object) -> tuple[int, str]:
    app = typer.Typer()
    app.command()(survival)
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=True)
    if isinstance(result.exception, PastError):
        raise result.exception
    return result.exit_code, result.output


def test_networks_on_slides_without_lightning_are_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = {
        "joined": [],
        "encoders": [f"noise={bags(tmp_path, 'a')}"],
        "splits": None,
        "folds": 2,
        "seeds": 1,
        "groups": None,
        "vectors": None,
        "options": [],
    }
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MatrixError, match=r"mil train with Lightning.*past-surv\[train\].*snn"):
        matrix_of([written(tmp_path, "a")], systems="mil,snn", **arguments)
    assert matrix_of([written(tmp_path, "a")], systems="snn", **arguments).systems == ["snn"]


def test_the_systems_are_listed(tmp_path: Path) -> None:
    code, output = run("--list")
    assert code == 0
    assert "cox-age-sex: Cox on age and sex" in output
    assert "past-multi:" in output
    code, output = run(written(tmp_path, "luad"))
    assert code == 2
    assert "a folder to write is needed" in output


@pytest.mark.slow
def test_from_tables_to_files_and_again(tmp_path: Path) -> None:
    (tmp_path / "groups.csv").write_text(GROUPS)
    joined = f"{written(tmp_path, 'coad')},{written(tmp_path, 'read', 1)}"
    arguments = (
        written(tmp_path, "luad"), "--cohort", f"both={joined}",
        "-o", tmp_path / "out", "--folds", 3, "--systems", "snn,mcat", "--resamples", 30,
        "--groups", tmp_path / "groups.csv", "--encoders", f"made={bags(tmp_path, 'luad', 'coad')}",
        "--option", "mcat.epochs=1", "--option", "snn.epochs=1",
    )  # fmt: skip
    code, output = run(*arguments)
    # Half of the second cohort has no bag: its patients have genes, so that this does not stop it.
    assert code == 0, output
    assert "18 of 18 cells computed, 0 kept, 0 failed" in output
    out = tmp_path / "out"
    report = json.loads((out / "report.json").read_text())
    assert set(report["cohorts"]) == {"luad", "both"}
    assert report["cohorts"]["both"].startswith("both: 120 patients")
    assert {row["label"] for row in report["summary"]} == {"cox-age-sex", "snn", "mcat (made)"}
    mcat = next(row for row in report["summary"] if row["label"] == "mcat (made)" and row["cohort"] == "luad")
    assert mcat["parameters"] > 1_000_000  # capacity differs between encoders, so that it is in the table
    for name in ("kaplan-meier-pooled.png", "kaplan-meier-per-fold.png", "bars-harrell.png", "ranks.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    first = {path: path.read_bytes() for path in out.rglob("*.csv")}
    code, output = run(*arguments)
    assert (code, "0 of 18 cells computed, 18 kept, 0 failed" in output) == (0, True)
    assert {path: path.read_bytes() for path in out.rglob("*.csv")} == first
    assert not list(out.rglob(".*"))


def test_a_failed_cell_is_named_and_the_status_is_1(tmp_path: Path) -> None:
    table = frame("one")
    table["age"], table["is_female"] = 60, 1  # a Cox model on what does not vary
    table.to_csv(tmp_path / "one.csv", index=False)
    path = written(tmp_path, "two")
    code, output = run(
        path, tmp_path / "one.csv", "-o", tmp_path / "out", "--folds", 3, "--systems", "cox-age-sex"
    )
    assert code == 1
    assert "3 of 6 cells computed, 0 kept, 3 failed" in output
    assert "do not vary" in (tmp_path / "out" / "summary.md").read_text()
    assert set(pd.read_csv(tmp_path / "out" / "predictions.csv")["cohort"]) == {"two"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"tables": []}, "no cohort; give tables"),
        ({"joined": ["both"]}, "'both'; expected --cohort NAME=a.csv,b.csv"),
        ({"encoders": ["uni"]}, "'uni'; expected --encoders NAME=FOLDER"),
        ({"encoders": ["a=.", "a=.."]}, "two encoders are called 'a'"),
        ({"systems": " , "}, "names nothing; there are cox-age-sex"),
        ({"systems": "snm"}, "did you mean snn"),
        ({"options": ["snn=3"]}, "expected SYSTEM.NAME=VALUE"),
        ({"options": ["coxnet.strengths=3"]}, "'coxnet' is not run"),
        ({"options": ["snn.epoch=3"]}, "snn has epochs"),
    ],
)
def test_arguments_that_cannot_be_used(tmp_path: Path, arguments: dict[str, object], said: str) -> None:
    given = {
        "tables": [written(tmp_path, "luad")], "joined": [], "systems": "snn", "encoders": [], "splits": None,
        "folds": 5, "seeds": 1, "groups": None, "vectors": None, "options": [],
    } | arguments  # fmt: skip
    with pytest.raises(PastError, match=said.replace("(", r"\(").replace(".", r"\.")):
        matrix_of(given.pop("tables"), **given)


def test_options_and_default_systems(tmp_path: Path) -> None:
    given = {
        "joined": [], "systems": None, "encoders": [], "splits": None, "folds": 5, "seeds": 2,
        "groups": None, "vectors": None, "options": ["snn.epochs=3", "snn.l1=1e-3"],
    }  # fmt: skip
    table = [written(tmp_path, "luad")]
    plain = matrix_of(table, **given)
    assert plain.systems == ["cox-age-sex", "coxnet", "snn", "clinical+omics"]
    assert plain.options == {"snn": {"epochs": 3, "l1": 1e-3}}
    slides = matrix_of(table, **given | {"encoders": [f"uni={tmp_path}"]})
    assert slides.systems == [*plain.systems, "mil"]
    groups = tmp_path / "groups.csv"
    everything = matrix_of(
        table, **given | {"encoders": [f"uni={tmp_path}"], "groups": groups, "vectors": groups}
    )
    assert everything.systems == [*plain.systems, "mil", "mcat", "past-multi"]
    with pytest.raises(MatrixError, match="no options"):
        matrix_of(table, **given | {"options": ["cox-age-sex.columns=age"]})


def test_demo_is_the_embedded_cohort_with_its_bags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, groups, folder = written(tmp_path, "made"), tmp_path / "groups.csv", bags(tmp_path, "made")
    groups.write_text(GROUPS)
    source = SimpleNamespace(table=table, signatures=groups)
    monkeypatch.setattr(default, "default_survival_data", lambda: SimpleNamespace(source=source))
    monkeypatch.setattr(default, "default_bags", lambda encoder: SimpleNamespace(folder=folder))
    given = {
        "joined": [], "systems": None, "encoders": [], "splits": None, "folds": 3, "seeds": 1,
        "groups": None, "vectors": None, "options": [],
    }  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()  # as `past demo demo` leaves it: no cohort table
    matrix = matrix_of([Path("demo")], **given)
    assert [source.name for source in matrix.cohorts] == ["demo"]
    assert matrix.encoders == {"demo": folder}
    assert matrix.groups == groups
    assert "mcat" in matrix.systems
    other = matrix_of([Path("demo")], **given | {"encoders": [f"own={folder}"]})
    assert list(other.encoders) == ["own"]


def splits(n: int = 40, systems: tuple[str, ...] = ("a",)) -> list[RiskSplit]:
    stream = np.random.default_rng(0)
    parts = [
        pd.DataFrame(
            {
                "cohort": "made", "case_id": np.arange(n).astype(str), "encoder": "none", "system": system,
                "seed": 0, "fold": "0", "risk": stream.normal(size=n), "time": stream.exponential(20, n) + 1,
                "event": stream.integers(0, 2, n),
            }
        )
        for system in systems
    ]  # fmt: skip
    return [split for split in risk_splits(pd.concat(parts)) if split.split == "pooled"]


def test_curves_carry_the_numbers_at_risk() -> None:
    found = splits()
    figure = curve_grid(found, rows=["made", "other"], columns=["none/a", "none/b"], unit="days")
    axis = figure.axes[0]
    assert len(axis.collections) == 2  # a band a group
    texts = [text.get_text() for text in axis.texts]
    assert any(text.startswith("p = ") for text in texts)
    # At time 0 everybody is at risk.
    assert texts.count("20") >= 2
    assert axis.get_xlabel() == "days"
    assert [text.get_text() for text in figure.axes[1].texts] == ["not run"]
    steps = axis.lines[0].get_ydata()
    assert steps[0] == 1
    assert (np.diff(steps) <= 0).all()


def test_what_cannot_be_drawn() -> None:
    found = splits()
    with pytest.raises(FigureError, match="comes twice"):
        curve_grid([*found, *found], rows=["made"], columns=["none/a"])
    with pytest.raises(FigureError, match="no cohort"):
        curve_grid(found, rows=[], columns=["none/a"])
    empty = pd.DataFrame({"cohort": [], "label": [], "metric": [], "difference": [], "low": [], "high": []})
    for draw in (
        lambda: score_bars(empty, empty),
        lambda: difference_forest(empty),
        lambda: rank_table(empty, empty),
    ):
        with pytest.raises(FigureError, match="to draw"):
            draw()


def test_small_p_values_are_readable() -> None:
    assert p_text(0.0314) == "= 0.031"
    assert p_text(4.1e-6) == "= 4.1e\N{MINUS SIGN}6"
    assert p_text(4.1e-16) == "= 4.1e\N{MINUS SIGN}16"


def test_many_comparisons_keep_the_clearest() -> None:
    rows = pd.DataFrame(
        {
            "cohort": "made", "metric": "harrell", "first": [f"s{i}" for i in range(50)], "second": "b",
            "difference": np.linspace(0, 0.2, 50), "low": -0.1, "high": 0.3, "p_holm": 0.5, "resolved": False,
        }
    )  # fmt: skip
    axis = difference_forest(rows).axes[0]
    assert len(axis.get_yticklabels()) == 30
    assert axis.get_yticklabels()[-1].get_text().startswith("made: s49")
    assert "20 more in comparisons.csv" in axis.get_title(loc="left")
