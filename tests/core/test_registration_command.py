"""`past register` on bundles, and `past ingest --registration` with what it made."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from made_registered import bulge, changed_report, he_of, made_bundle, matrix_of, truth_of, wrong_matrix
from made_stores import same_micrometres
from PIL import Image
from typer.testing import CliRunner

from past_core.cli import build_app
from past_core.ingest.store import SlideStore
from past_core.registration import run

OVERLAYS = {
    f"overlay-{place}.png"
    for place in (
        *("top-left", "top-right", "bottom-left", "bottom-right"),
        *("centre", "densest", "worst-match"),
    )
}
FILES = {"alignment.csv", "report.html", "report.json", "residuals.png"} | OVERLAYS


@pytest.fixture(scope="module")
def warped(tmp_path_factory):
    return made_bundle(tmp_path_factory.mktemp("command") / "W", seed=4, warped=True)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return made_bundle(tmp_path_factory.mktemp("command") / "O", seed=9)


@pytest.fixture(scope="module")
def registered(warped, tmp_path_factory):
    """A registration of the bent tissue from a matrix that is off by 5 µm, as the command leaves it."""
    folder = tmp_path_factory.mktemp("command")
    wrong = wrong_matrix(warped, folder / "wrong.csv", 0.2, (4.0, -3.0))
    command = ["register", "--bundle", warped, "--he", he_of(warped), "--matrix", wrong, "-o", folder / "out"]
    result = CliRunner().invoke(build_app(), [str(part) for part in command])
    assert result.exit_code == 0, result.output
    assert "refinement against the image accepted" in result.output
    return folder / "out"


def test_a_matrix_is_refined_and_all_is_written(registered):
    assert {path.name for path in registered.iterdir()} == FILES
    report = json.loads((registered / "report.json").read_text())
    assert report["method"] == "matrix, refined against the image"
    assert report["verdict"] == "good"
    assert report["correction"]["kind"] in ("thin-plate", "blended-rigid")
    assert report["held_out_um"] < 1.5 < report["refinement"]["before_um"]
    assert report["source"]["he"]["width"] == 1200
    for path in OVERLAYS:
        with Image.open(registered / path) as picture:
            assert min(picture.size) > 500
            assert np.asarray(picture.convert("L")).std() > 20


def test_the_page_needs_nothing_else(registered):
    page = (registered / "report.html").read_text()
    assert page.count("data:image/jpeg;base64,") == len(OVERLAYS) + 1
    assert not re.search(r"(src|href)=['\"](?!data:)", page)
    assert "<script" not in page
    assert ">good</span>" in page


@pytest.fixture
def one_overlay(monkeypatch):
    """Draws one place instead of all, to save time."""
    places = run.choose_places
    monkeypatch.setattr(run, "choose_places", lambda *given: places(*given)[4:5])
    return FILES - OVERLAYS | {"overlay-centre.png"}


def ingested(past, bundle, he, registration, store):
    return past("ingest", bundle, "--he", he, "--registration", registration, "-o", store)


def test_ingest_uses_matrix_and_correction(past, registered, warped, tmp_path):
    status, _, stderr = ingested(past, warped, he_of(warped), registered, tmp_path / "s.zarr")
    assert status == 0, stderr
    store = SlideStore(tmp_path / "s.zarr")
    record = store.manifest["registration"]
    assert record["verdict"] == "good"
    assert record["correction"]["kind"] in ("thin-plate", "blended-rigid")
    assert record["correction_undone_within_um"] < 1e-3 * 0.2125
    assert len(record["report_sha256"]) == 64
    assert record["source"]["bundle"]["name"] == warped.name
    # The truth: the H&E shows at p what lies at p + bulge(p) of the tissue.
    truth = pd.read_parquet(warped / "truth.parquet").set_index("cell_id")
    tissue = truth.loc[store.cell_ids, ["x_um", "y_um"]].to_numpy(float)
    inside = ((tissue > 20) & (tissue < 280)).all(axis=1)
    he = store.centroids * store.mpp
    off = np.linalg.norm(he + bulge(he) - tissue, axis=1)[inside]
    assert off.mean() < 0.6
    # The matrix alone, or the one that the bundle came with, is far off.
    assert np.linalg.norm(tissue - he, axis=1)[inside].mean() > 2

    # At another resolution the same cells are at the same places of the tissue.
    target = ("--target-mpp", 0.4, "-o", tmp_path / "t.zarr")
    given = ("--he", he_of(warped), "--registration", registered)
    status, _, stderr = past("ingest", warped, *given, *target)
    assert status == 0, stderr
    resampled = SlideStore(tmp_path / "t.zarr")
    assert resampled.mpp == pytest.approx(0.4)
    assert resampled.manifest["registration"]["correction"] == record["correction"]
    same_micrometres(resampled, store)


def test_ingest_refuses_what_does_not_belong(past, registered, warped, other, tmp_path):
    cases = [
        ((warped, he_of(other), registered), "was made for another H&E"),
        ((other, he_of(warped), registered), "was made for another bundle"),
        ((warped, he_of(warped), tmp_path), "report.json not found"),
        (
            (warped, he_of(warped), changed_report(registered, tmp_path / "r", verdict="reject")),
            "verdict is reject",
        ),
    ]
    for given, words in cases:
        status, _, stderr = ingested(past, *given, tmp_path / "s.zarr")
        assert status == 1
        assert words in stderr
        assert not (tmp_path / "s.zarr").exists()
    both = ["--registration", registered, "--alignment", matrix_of(warped)]
    status, _, stderr = past("ingest", warped, "--he", he_of(warped), *both, "-o", tmp_path / "s.zarr")
    assert status == 1
    assert "give one" in stderr


def test_a_doubtful_registration_warns(past, registered, warped, tmp_path, caplog):
    doubtful = changed_report(registered, tmp_path / "r", verdict="check", reasons=["look again"])
    assert ingested(past, warped, he_of(warped), doubtful, tmp_path / "s.zarr")[0] == 0
    assert "verdict check: look again" in caplog.text


def test_a_right_matrix_is_kept_to_the_bit(past, other, tmp_path, one_overlay):
    out = tmp_path / "out"
    command = ("register", "--bundle", other, "--he", he_of(other), "--matrix", matrix_of(other), "-o", out)
    status, stdout, stderr = past(*command, "--no-refine")
    assert status == 0, stderr
    assert stdout.startswith("good")
    np.testing.assert_array_equal(
        np.loadtxt(out / "alignment.csv", delimiter=","), np.loadtxt(matrix_of(other), delimiter=",")
    )


def test_another_tissues_image_is_rejected(past, other, warped, tmp_path, one_overlay):
    out = tmp_path / "out"
    matrix = ("--matrix", matrix_of(warped))
    status, stdout, stderr = past("register", "--bundle", warped, "--he", he_of(other), *matrix, "-o", out)
    assert status == 1
    assert stdout.startswith("reject")
    assert "do not use this registration" in stderr
    assert {path.name for path in out.iterdir()} == one_overlay - {"alignment.csv", "residuals.png"}


def test_keypoints_are_refined(past, other, tmp_path, one_overlay):
    points = sorted(other.glob("keypoints_region*.csv"))
    out = tmp_path / "out"
    status, _, stderr = past("register", *points, "--bundle", other, "--he", he_of(other), "-o", out)
    assert status == 0, stderr
    report = json.loads((out / "report.json").read_text())
    refinement = report["refinement"]
    assert refinement["accepted"] == (refinement["after_um"] < refinement["before_um"])
    assert report["pairs"] == 36
    grid = np.array([[20.0, 20], [280, 20], [20, 280], [280, 280]]) / 0.25
    matrix = np.array(report["matrix_px"])
    off = (grid @ matrix[:2, :2].T + matrix[:2, 2]) * 0.2125 - truth_of(other)(grid * 0.25)
    assert np.linalg.norm(off, axis=1).max() < (0.2 if refinement["accepted"] else 1.5)
    assert {path.name for path in out.iterdir()} == one_overlay


def test_keypoints_of_another_place_are_rejected(past, other, tmp_path, one_overlay):
    """Pairs that agree among themselves, but put the cells 36 µm beside their nuclei."""
    points = []
    for path in sorted(other.glob("keypoints_region*.csv")):
        table = pd.read_csv(path)
        points.append(tmp_path / path.name)
        table.assign(alignmentX=table.alignmentX + 120, alignmentY=table.alignmentY - 80).to_csv(
            points[-1], index=False
        )
    out = tmp_path / "out"
    status, stdout, _ = past("register", *points, "--bundle", other, "--he", he_of(other), "-o", out)
    assert status == 1
    assert stdout.startswith("reject")
    assert "none of the bundle's nuclei is found in the H&E, though it shows" in stdout
    assert {path.name for path in out.iterdir()} == one_overlay - {"alignment.csv"}
    report = json.loads((out / "report.json").read_text())
    assert report["wrong_pairs"] == 0
    assert report["refinement"]["against"] == report["reasons"][0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "open the bundle in Xenium Explorer"),
        (["--matrix", "m.csv"], "a matrix alone is checked against the images"),
        (["--matrix", "m.csv", "--bundle", "b"], "fixedX,fixedY,alignmentX,alignmentY"),
        (["--matrix", "m.csv", "--bundle", "b", "--he", "h.png"], "m.csv not found"),
    ],
)
def test_too_little_to_register_with(past, tmp_path, options, words):
    status, _, stderr = past("register", *options, "-o", tmp_path / "out")
    assert status == 1
    assert words in stderr
    assert not (tmp_path / "out").exists()
