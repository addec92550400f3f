"""`past demo --kind`: pairs and cohorts for the other verbs, whole or not at all."""

import json
from pathlib import Path

import pandas as pd
import pytest
import tifffile
from typer.testing import CliRunner

from past_core.cli import build_app
from past_core.commands.demo import DemoError, DemoExistsError
from past_core.commands.demo_data import READER
from past_core.synthetic.cohort import SyntheticError


def demo(*args):
    return CliRunner().invoke(build_app(), ["demo", *map(str, args)])


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PAST_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def test_pairs_have_both_images_their_nuclei_and_the_score_of_a_perfect_reader(tmp_path):
    result = demo(tmp_path / "pairs", "--kind", "pairs", "--patients", 2, "--size", 100)
    assert result.exit_code == 0, result.output
    assert "past stain --sheet" in result.output
    slides = pd.read_csv(tmp_path / "pairs/slides.csv")
    scores = pd.read_csv(tmp_path / "pairs/scores.csv").set_index("slide")
    assert list(slides.name) == list(scores.index)
    assert len(slides) == 2
    for path, name in zip(slides.path, slides.name, strict=True):
        case = (tmp_path / "pairs" / path).parent
        he, ihc = (tifffile.imread(case / file) for file in ("he.tif", "ihc_er.tif"))
        assert he.shape == ihc.shape == (400, 400, 3)
        dab = pd.read_csv(case / "truth_er.csv").dab_od
        expected = 100 * sum((dab >= level).mean() for level in READER)
        assert scores.expert[name] == pytest.approx(expected, abs=0.051)
    assert not list(tmp_path.glob(".*"))


def test_a_cohort_has_a_slide_a_row(tmp_path):
    result = demo(tmp_path / "made", "--kind", "cohort", "--patients", 10, "--size", 100)
    assert result.exit_code == 0, result.output
    table = pd.read_csv(tmp_path / "made/cohort.csv")
    assert set(table.slide_id) == {path.stem for path in (tmp_path / "made/slides").glob("*.tif")}
    assert table.case_id.nunique() == 10
    assert {"survival_months", "censorship", "age"} <= set(table)
    groups = pd.read_csv(tmp_path / "made/signatures.csv")
    assert {f"{gene}_rnaseq" for gene in groups.iloc[:, 0].dropna()} & set(table)
    assert json.loads((tmp_path / "made/truth.json").read_text())["kind"] == "cohort"
    # Only a demo is replaced, and only when asked.
    assert isinstance(demo(tmp_path / "made", "--kind", "cohort").exception, DemoExistsError)
    again = demo(tmp_path / "made", "--kind", "cohort", "--patients", 10, "--size", 100, "--overwrite")
    assert again.exit_code == 0, again.output


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--kind", "pairs", "--version", "2.0"], DemoError),
        (["--kind", "pairs", "--seed", 3], DemoError),
        (["--kind", "cohort", "--stain", "pr"], DemoError),
        (["--stain", "pr"], DemoError),
        (["--kind", "pairs", "--stain", "eosin"], SyntheticError),
        (["--kind", "cohort", "--patients", 2], SyntheticError),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_written(tmp_path: Path, options, error):
    result = demo(tmp_path / "x", *options)
    assert isinstance(result.exception, error), result.output
    assert not list(tmp_path.iterdir())
