"""The embedded default slides and `past demo`."""

import logging
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import typer
from typer.testing import CliRunner

from past_core.commands import demo as demo_module
from past_core.ingest.store import SlideStore
from past_core.synthetic import default
from past_core.synthetic.default import DefaultSlidesError, cache_folder, default_slides
from past_core.synthetic.tissue import SyntheticError, TissueConfig

SIZE = 110


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A cache that two callers filled at the same time, what they got, and what was logged."""
    cache = tmp_path_factory.mktemp("cache")
    log = []
    handler = logging.Handler()
    handler.emit = lambda record: log.append(record.getMessage())
    default.logger.addHandler(handler)
    level, _ = default.logger.level, default.logger.setLevel(logging.INFO)
    try:
        with ThreadPoolExecutor(2) as pool:
            calls = [pool.submit(default_slides, cache=cache, patients=2, size_um=SIZE) for _ in range(2)]
            paths = [call.result() for call in calls]
    finally:
        default.logger.setLevel(level)
        default.logger.removeHandler(handler)
    return cache, paths, log


@pytest.fixture
def in_this_process(monkeypatch):
    """Makes slides here, to save the start of workers; returns the patients that were made."""
    made = []

    def make_all(missing, root):
        for config, path in missing:
            default.make_slide(config, path)
            made.append(config.patient)

    monkeypatch.setattr(default, "_make_all", make_all)
    return made


def test_two_callers_at_once_make_each_slide_once(filled):
    _, paths, log = filled
    assert paths[0] == paths[1]
    for patient in ("P1", "P2"):
        assert sum(f"synthetic slide {patient} is ready" in line for line in log) == 1


def test_slides_are_found_again(filled, in_this_process):
    folder, expected, _ = filled
    paths = default_slides(cache=folder, patients=2, size_um=SIZE)
    assert paths == expected[0]
    assert in_this_process == []
    stores = [SlideStore(path) for path in paths]
    assert [store.name for store in stores] == ["P1", "P2"]
    assert [store.patient for store in stores] == ["P1", "P2"]
    assert len({store.cancer_type for store in stores}) == 2
    assert all(store.n_cells > 50 and store.mpp == 0.25 for store in stores)
    leftovers = [path for path in folder.rglob("*") if "partial" in path.name]
    assert leftovers == []


def test_a_patient_is_the_same_whoever_else_is_asked_for(filled, in_this_process):
    folder, expected, _ = filled
    assert default_slides(cache=folder, patients=1, first=2, size_um=SIZE) == expected[0][1:]
    assert in_this_process == []
    with pytest.raises(SyntheticError, match="2 patients from number 0"):
        default_slides(cache=folder, patients=2, first=0, size_um=SIZE)


def test_later_patients_and_their_divergence(tmp_path, in_this_process):
    (path,) = default_slides(cache=tmp_path, patients=1, first=6, size_um=SIZE, divergence=1.0)
    (plain,) = default_slides(cache=tmp_path, patients=1, first=6, size_um=SIZE)
    assert in_this_process == ["P6", "P6"]
    diverged, alike = SlideStore(path), SlideStore(plain)
    assert (diverged.patient, diverged.cancer_type) == ("P6", "lung")
    assert diverged.n_cells == alike.n_cells
    assert list(diverged.obs["cell_type"]) == list(alike.obs["cell_type"])
    assert (diverged.counts != alike.counts).nnz > 0


def test_another_strength_is_another_slide_and_a_damaged_one_is_made_again(tmp_path, in_this_process):
    (first,) = default_slides(cache=tmp_path, patients=1, size_um=SIZE)
    (second,) = default_slides(cache=tmp_path, patients=1, size_um=SIZE, morphology=0.0)
    assert first != second
    (first / "zarr.json").unlink()
    assert default_slides(cache=tmp_path, patients=1, size_um=SIZE) == [first]
    assert SlideStore(first).n_cells > 50
    assert in_this_process == ["P1", "P1", "P1"]


def test_cache_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("PAST_CACHE", str(tmp_path / "elsewhere"))
    assert cache_folder() == tmp_path / "elsewhere"
    assert cache_folder(tmp_path) == tmp_path
    monkeypatch.delenv("PAST_CACHE")
    assert cache_folder().name == "past"


def test_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DefaultSlidesError, match="PAST_CACHE"):
        default_slides(cache=tmp_path / "file", patients=1)


def test_impossible_configuration():
    with pytest.raises(SyntheticError):
        default_slides(morphology=2.0)


def test_failed_worker_tells_why(tmp_path):
    (tmp_path / "file").touch()
    config = TissueConfig(patient="P1", cancer_type="lung", seed=0, size_um=SIZE)
    with pytest.raises(DefaultSlidesError, match=r"status 1(.|\n)*file"):
        default._run_worker([(config, tmp_path / "file" / "P1.zarr")], lambda patient: None)


# --- past demo -----------------------------------------------------------------------------------------


@pytest.fixture
def past_demo():
    app = typer.Typer()
    app.command()(demo_module.demo)

    def run(*arguments):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return run


def test_demo_writes_a_bundle_and_says_what_next(past_demo, tmp_path):
    result = past_demo(tmp_path / "d", "--size", SIZE, "--patient", "Ann", "--cancer-type", "ovarian")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "d" / "Ann_he_image.ome.tif").is_file()
    assert (tmp_path / "d" / "morphology.ome.tif").is_file()
    assert f"past ingest {tmp_path / 'd'} --he {tmp_path / 'd' / 'Ann_he_image.ome.tif'}" in result.output
    assert "lightning fit" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


def test_demo_of_several_patients(past_demo, tmp_path):
    result = past_demo(tmp_path / "d", "--size", SIZE, "--patients", 2)
    assert result.exit_code == 0, result.output
    for patient in ("P1", "P2"):
        assert (tmp_path / "d" / patient / "experiment.xenium").is_file()


def test_what_demo_says_next_works(past_demo, tmp_path, monkeypatch):
    from past_core.cli import build_app

    monkeypatch.chdir(tmp_path)
    said = past_demo("my demo", "--size", SIZE, "--patient", "Ann").output
    commands = [shlex.split(line) for line in said.splitlines() if line.startswith("  past ")]
    assert [command[1] for command in commands] == ["ingest", "info"]
    for command in commands:
        result = CliRunner().invoke(build_app(), command[1:])
        assert result.exit_code == 0, result.output
    store = SlideStore(tmp_path / "Ann.zarr")
    assert (store.name, store.patient, store.cancer_type) == ("Ann", "Ann", "breast")


def test_demo_never_overwrites_what_is_no_demo(past_demo, tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "thesis.txt").touch()
    for options in ([], ["--overwrite"]):
        result = past_demo(tmp_path / "d", "--size", SIZE, *options)
        assert isinstance(result.exception, demo_module.DemoExistsError)
    assert [path.name for path in (tmp_path / "d").iterdir()] == ["thesis.txt"]
    result = past_demo(tmp_path / "d" / "thesis.txt")
    assert isinstance(result.exception, demo_module.DemoExistsError)


def test_demo_replaces_an_earlier_demo_only_when_told_and_only_when_complete(
    past_demo, tmp_path, monkeypatch
):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "truth.json").write_text("old")
    assert isinstance(past_demo(tmp_path / "d").exception, demo_module.DemoExistsError)
    with monkeypatch.context() as patch:
        patch.setattr(
            "past_core.synthetic.bundle.write_outlines", lambda *_: (_ for _ in ()).throw(OSError("full"))
        )
        assert isinstance(past_demo(tmp_path / "d", "--size", SIZE, "--overwrite").exception, OSError)
    assert (tmp_path / "d" / "truth.json").read_text() == "old"
    assert past_demo(tmp_path / "d", "--size", SIZE, "--overwrite").exit_code == 0
    assert (tmp_path / "d" / "experiment.xenium").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["d"]


@pytest.mark.parametrize(
    "options",
    [
        ["--patients", 2, "--patient", "A"],
        ["--patient", "../A"],
        ["--size", 3],
        ["--size", SIZE, "--version", "1.4"],
    ],
)
def test_demo_refuses_impossible_options(past_demo, tmp_path, options):
    from past_core.errors import PastError

    result = past_demo(tmp_path / "d", *options)
    assert isinstance(result.exception, PastError), result.output
    assert not (tmp_path / "d").exists()


def test_demo_module_imports_nothing_heavy():
    code = "import sys, past_core.commands.demo; print(sorted({'torch', 'numpy', 'rich'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "torch" not in result.stdout
    assert "numpy" not in result.stdout
