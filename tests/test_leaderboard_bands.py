"""The small profile's bands: inside, outside, missing; what a run writes and what it returns."""

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

import benchmarks.report as report_module
import benchmarks.running as running
from benchmarks import fingerprints
from benchmarks.__main__ import main
from benchmarks.bands import at, compare
from benchmarks.report import Report
from benchmarks.results_files import RESULTS
from benchmarks.task import Task, at_least, at_most, near, no_worse, read_tasks

REFERENCE = {
    "columns": ["setting", "system", "r", "ratio"],
    "rows": [["intra", "ours", "0.290", "x 8.0"], ["inter", "ours", "0.200", "x 4.0"]],
    "details": {"memory": 2.0, "equal": True, "list": [{"label": "a", "v": 1.0}, {"label": "b", "v": 2.0}]},
}
TRACKED = (
    near("rows", "inter", "ours", "r", within=0.02),
    at_least("rows", "intra", "ours", "ratio", share=0.5),
    at_most("details", "memory", times=1.5),
    no_worse("details", "list", "label=b", "v", drop=0.5),
    near("details", "equal", within=0.0),
)


def changed(**details: object) -> dict:
    return json.loads(json.dumps(REFERENCE)) | {"details": REFERENCE["details"] | details}


def test_paths_reach_rows_details_lists_and_printed_numbers() -> None:
    found = [at(REFERENCE, each.path) for each in TRACKED]
    assert found == [0.2, 8.0, 2.0, 2.0, 1.0]
    assert at(REFERENCE, ("details", "list", 0, "v")) == 1.0
    absent = [("rows", "cross", "ours", "r"), ("rows", "inter", "ours", "q"), ("details", "no")]
    absent += [("details", "list", 9, "v"), ("details", "list", "label=c", "v"), ("details", "memory", "x")]
    for path in absent:
        assert at(REFERENCE, path) is None


def test_the_reference_itself_is_inside() -> None:
    assert all(f.inside and f.compared for f in compare("t", REFERENCE, REFERENCE, TRACKED))


@pytest.mark.parametrize(("memory", "inside"), [(2.0, True), (3.0, True), (3.01, False), (0.1, True)])
def test_upper_bounds(memory: float, inside: bool) -> None:
    (found,) = compare("t", changed(memory=memory), REFERENCE, TRACKED[2:3])
    assert found.inside is inside
    assert ("OUTSIDE" in str(found)) is not inside


@pytest.mark.parametrize(
    ("ratio", "inside"), [("x 8.0", True), ("x 4.0", True), ("x 3.9", False), ("x 99", True)]
)
def test_speeds_have_lower_bounds_only(ratio: str, inside: bool) -> None:
    run = changed() | {"rows": [["intra", "ours", "0.290", ratio]]}
    (found,) = compare("t", run, REFERENCE, TRACKED[1:2])
    assert found.inside is inside


@pytest.mark.parametrize("r", ["0.181", "0.219"])
def test_both_sides_of_a_band(r: str) -> None:
    within = changed() | {"rows": [["inter", "ours", r, "x 1"]]}
    assert compare("t", within, REFERENCE, TRACKED[:1])[0].inside
    beyond = changed() | {"rows": [["inter", "ours", str(0.4 - float(r) + 0.04), "x 1"]]}
    tight = (near("rows", "inter", "ours", "r", within=0.005),)
    assert not compare("t", beyond, REFERENCE, tight)[0].inside


def test_a_figure_that_the_run_lacks_or_that_is_nan_is_outside() -> None:
    lacking = changed() | {"rows": []}
    found = compare("t", lacking, REFERENCE, TRACKED[:1])[0]
    assert not found.inside
    assert "no such figure" in str(found)
    assert not compare("t", changed(memory=float("nan")), REFERENCE, TRACKED[2:3])[0].inside


def test_a_figure_that_the_reference_lacks_is_not_compared() -> None:
    found = compare("t", REFERENCE, changed() | {"rows": []}, TRACKED[:1])[0]
    assert found.inside
    assert not found.compared
    assert "not compared" in str(found)


def test_a_negative_reference_keeps_its_relative_band_around_it() -> None:
    (found,) = compare("t", changed(memory=-2.0), changed(memory=-2.0), (at_least("details", "memory"),))
    assert found.low == -3.0
    assert found.inside


def test_the_committed_references_hold_every_tracked_figure() -> None:
    tasks = {task.name: task for task in read_tasks()}
    references = sorted(RESULTS.glob("*-ci.json"))
    assert references
    for path in references:
        content = json.loads(path.read_text())
        tracked = tasks[content["name"]].tracked
        assert tracked
        for finding in compare(content["name"], content, content, tracked):
            assert finding.compared, str(finding)
            assert finding.inside, str(finding)


# --- runs ---------------------------------------------------------------------------------------------------


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    """A made task whose figure the test sets, and folders of its own."""
    state = {"value": 1.0, "passed": True, "results": tmp_path / "results", "runs": tmp_path / "runs"}
    state["results"].mkdir()
    monkeypatch.setattr(report_module, "RESULTS", state["results"])
    monkeypatch.setattr(report_module, "RUNS", state["runs"])
    monkeypatch.setattr(running, "RESULTS", state["results"])
    monkeypatch.setattr(running._hold, "__defaults__", (state["results"],))
    module = ModuleType("benchmarks.tasks.made_up")

    def run(profile: str, data: Path | None = None) -> Report:
        details = {"v": state["value"], "seeds": [3]}
        return Report("made-up", profile, ["what", "v"], [["a", "1"]], "g", "f", state["passed"], details)

    module.run = run
    monkeypatch.setitem(sys.modules, "benchmarks.tasks.made_up", module)
    tracked = (near("details", "v", within=0.1),)
    state["task"] = Task(
        title="T", group="speed", data="", split="", systems=(), metrics=(), tracked=tracked,
        name="made-up", module="made-up",
    )  # fmt: skip
    return state


def go(state: dict, *, profile: str = "ci", accept: bool = False) -> int:
    return running.run_tasks(["made-up"], [state["task"]], profile=profile, data=None, accept=accept)


def test_without_a_reference_ci_passes_and_says_how_to_make_one(runner: dict, capsys) -> None:
    assert go(runner) == 0
    said = capsys.readouterr().out
    assert "no made-up-ci.json" in said
    assert "python -m benchmarks made-up --profile ci --accept" in said
    assert "total: " in said
    assert "seconds: made-up" in said
    assert (runner["runs"] / "made-up-ci.json").is_file()
    assert not list(runner["results"].iterdir())


def test_an_accepted_outcome_is_the_reference_of_later_runs(runner: dict, capsys) -> None:
    assert go(runner, accept=True) == 0
    written = json.loads((runner["results"] / "made-up-ci.json").read_text())
    assert written["seeds"] == [3]
    assert written["device"]
    assert written["seconds"] is not None
    assert written["code"]["sources"]
    assert written["data"]["fingerprint"]
    before = (runner["results"] / "made-up-ci.json").read_bytes()
    runner["value"] = 1.05
    assert go(runner) == 0
    runner["value"] = 1.2
    assert go(runner) == 1
    error = capsys.readouterr().err
    assert "made-up: v: found 1.2, OUTSIDE 0.9 to 1.1 (reference 1)" in error
    assert "--accept" in error
    assert (runner["results"] / "made-up-ci.json").read_bytes() == before


def test_an_outcome_that_misses_its_goal_is_not_accepted(runner: dict, capsys) -> None:
    runner["passed"] = False
    assert go(runner, accept=True) == 1
    assert not list(runner["results"].iterdir())
    assert "not accepted" in capsys.readouterr().err


def test_full_results_are_written_without_a_comparison(runner: dict) -> None:
    assert go(runner, profile="full") == 0
    assert [path.name for path in runner["results"].iterdir()] == ["made-up.json"]


def test_accept_goes_with_ci_only(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["step", "--accept"])
    assert "--accept goes with --profile ci" in capsys.readouterr().err


def test_a_report_of_a_device_finds_its_task() -> None:
    tasks = read_tasks()
    for name, wanted in (("step-NVIDIA-H200", "step"), ("vihc-speed-NVIDIA-H200", "vihc-speed"),
                         ("genex-her2st", "genex-her2st"), ("surv-tcga", "surv-tcga")):  # fmt: skip
        report = Report(name, "full", [], [], "", "", True)
        found = running.declared(report, tasks)
        assert found is not None
        assert found.name == wanted


def test_fingerprints_follow_content(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"1")
    first = fingerprints.data(tmp_path)
    assert first == fingerprints.data(tmp_path)
    assert first["what"] == tmp_path.name
    (tmp_path / "a.tif").write_bytes(b"2")
    assert fingerprints.data(tmp_path)["fingerprint"] != first["fingerprint"]
    assert fingerprints.data(Path("tcga-of-no-such-folder"))["fingerprint"] == ""
    assert len(fingerprints.code()["sources"]) == 16
    default = fingerprints.data(None)
    assert default["what"] == "embedded default"
    assert len(default["fingerprint"]) == 16
