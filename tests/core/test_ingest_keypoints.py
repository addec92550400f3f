"""Slides ingested with keypoints: registered beside the store, used again, refused or doubted by name."""

import json
import os
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from made_bundles import made_bundle
from made_stores import same_micrometres
from test_ingest_sheet import outcomes, sheet

import past_core.registration.run as registering
from past_core.ingest.dask import _absolute
from past_core.ingest.keypoints import REGISTRATIONS
from past_core.ingest.outcome import ingest_row
from past_core.ingest.records import FOLDER
from past_core.ingest.run import IngestError, options_of
from past_core.ingest.sheet import keypoint_files, read_ingest_sheet
from past_core.ingest.store import SlideStore

HEADER = "slide,bundle,he,keypoints\n"
ALL = HEADER + "a,a,a/*_he_image.ome.tif,a/keypoints_*.csv\n"


@pytest.fixture(scope="module", autouse=True)
def one_overlay():
    """Draws one place instead of all, to save time."""
    with pytest.MonkeyPatch.context() as patch:
        places = registering.choose_places
        patch.setattr(registering, "choose_places", lambda *given: places(*given)[:1])
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Slide a, ingested with its three files of keypoints: its folder of data, and that of its store."""
    root = tmp_path_factory.mktemp("keypoints")
    made_bundle(root / "data", "a", seed=0)
    outcome = ingest_row(only_row(root))
    assert (outcome.status, outcome.message) == ("done", "")
    return root


@pytest.fixture
def copied(made, tmp_path):
    """Copies of both that a test may change; times are kept."""
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture
def never_again(monkeypatch):
    """Whoever registers now fails."""
    monkeypatch.setattr(registering, "register", lambda request, folder: 1 / 0)


def only_row(root, text=ALL):
    (row,) = read_ingest_sheet(sheet(root / "data", text), root / "stores")
    return row


def moved(path, um, rows=slice(None)):
    """Moves a region's points (of a file) on the morphology."""
    table = pd.read_csv(path)
    table.loc[table.index[rows], "fixedX"] += um / 0.2125
    table.to_csv(path, index=False)


# --- reading ------------------------------------------------------------------------------------------------


def test_a_cell_names_files_and_patterns(tmp_path, monkeypatch):
    for name in ("b", "k1.csv", "k2.csv", "k10.csv", "set [1].csv", "h.tif"):
        (tmp_path / name).touch()
    text = HEADER + "a,b,h.tif,k1.csv; k2.csv ;\nb,b,h.tif,k?.csv;set [1].csv\n"
    first, second = read_ingest_sheet(sheet(tmp_path, text), tmp_path / "out")
    assert first.request.options["keypoints"] == (tmp_path / "k1.csv", tmp_path / "k2.csv")
    names = [path.name for path in second.request.options["keypoints"]]
    assert names == ["k1.csv", "k2.csv", "set [1].csv"]
    # Another machine's worker has another working folder.
    monkeypatch.chdir(tmp_path)
    (row,) = read_ingest_sheet("sheet.csv", "out")[:1]
    assert all(path.is_absolute() for path in _absolute(row).request.options["keypoints"])


@pytest.mark.parametrize(
    ("cell", "message", "absent"),
    [
        ("gone.csv", "keypoints: nothing at .*gone.csv", True),
        ("h.tif;gone*.csv", r"keypoints: nothing fits .*gone\*.csv", True),
        ("' ; '", "keypoints: nothing at", True),
        (" ; ", "keypoints: no file is named", False),
    ],
)
def test_keypoints_that_are_not_there(cell, message, absent, tmp_path):
    for name in ("b", "h.tif"):
        (tmp_path / name).touch()
    (row,) = read_ingest_sheet(sheet(tmp_path, HEADER + f"a,b,h.tif,{cell}\n"), tmp_path / "out")
    assert re.search(message, row.problem), row.problem
    assert row.absent == absent


def test_keypoints_go_with_bundles_and_instead_of_a_registration(tmp_path):
    (tmp_path / "k.csv").touch()
    keypoints = keypoint_files(["k.csv"], tmp_path)
    with pytest.raises(IngestError, match="--keypoints does not go with --hest, only with BUNDLE"):
        options_of("--hest", {"he": tmp_path, "keypoints": keypoints})
    with pytest.raises(IngestError, match="not both"):
        options_of("BUNDLE", {"he": tmp_path, "keypoints": keypoints, "registration": tmp_path})


# --- registering --------------------------------------------------------------------------------------------


def test_the_store_has_the_registration_beside_it(made):
    folder = made / "stores" / REGISTRATIONS / "a"
    names = {path.name for path in folder.iterdir()}
    assert {"alignment.csv", "report.html", "report.json", "residuals.png"} < names
    store = SlideStore(made / "stores" / "a.zarr")
    record = store.manifest["registration"]
    assert record["method"].startswith("keypoints")
    assert (record["verdict"], record["reasons"]) == ("good", [])
    assert [file["name"] for file in record["source"]["keypoints"]] == [
        f"keypoints_region{number}.csv" for number in (1, 2, 3)
    ]
    np.testing.assert_array_equal(record["matrix"], np.loadtxt(folder / "alignment.csv", delimiter=","))
    truth = pd.read_parquet(made / "data" / "a" / "truth.parquet").set_index("cell_id")
    off = store.centroids * store.mpp - truth.loc[store.cell_ids, ["x_um", "y_um"]].to_numpy(float)
    assert 0 < np.median(np.linalg.norm(off, axis=1)) < 2


def test_what_is_complete_is_not_registered_again(copied, never_again):
    assert ingest_row(only_row(copied)).message == "complete"
    # Nor where only times differ, or nothing is on record.
    os.utime(copied / "data" / "a" / "keypoints_region1.csv", (1, 1))
    assert ingest_row(only_row(copied)).message == "complete"
    shutil.rmtree(copied / "stores" / FOLDER)
    assert ingest_row(only_row(copied)).message == "complete"


def test_a_run_that_goes_on_uses_the_registration_again(copied, never_again):
    shutil.rmtree(copied / "stores" / "a.zarr")
    shutil.rmtree(copied / "stores" / FOLDER)
    assert ingest_row(only_row(copied)).status == "done"


def test_a_registration_at_another_resolution(made, never_again):
    """Of a sheet, by its column: the same cells at the same places of the tissue."""
    folder = f"../stores/{REGISTRATIONS}/a"
    text = f"slide,bundle,he,registration,target_mpp\nb,a,a/*_he_image.ome.tif,{folder},0.5\n"
    assert ingest_row(only_row(made, text)).status == "done"
    resampled = SlideStore(made / "stores" / "b.zarr")
    assert resampled.mpp == pytest.approx(0.5)
    same_micrometres(resampled, SlideStore(made / "stores" / "a.zarr"))


def test_other_keypoints_are_noticed_and_registered(copied):
    folder = copied / "stores" / REGISTRATIONS / "a"
    before = json.loads((folder / "report.json").read_text())
    moved(copied / "data" / "a" / "keypoints_region2.csv", 1.0, slice(0, 1))
    outcome = ingest_row(only_row(copied))
    assert outcome.status == "failed"
    assert re.search(r"a.zarr exists, but .*a does not hold the registration of these", outcome.message)
    assert json.loads((folder / "report.json").read_text()) == before
    assert ingest_row(only_row(copied), overwrite=True).status == "done"
    after = json.loads((folder / "report.json").read_text())
    assert after["matrix_px"] != before["matrix_px"]
    assert after["source"]["fingerprint"] != before["source"]["fingerprint"]


def test_a_rejected_registration_fails_the_row(copied, monkeypatch):
    shutil.rmtree(copied / "stores")
    moved(copied / "data" / "a" / "keypoints_region2.csv", 60.0)
    page = copied / "stores" / REGISTRATIONS / "a" / "report.html"
    for number in range(2):
        outcome = ingest_row(only_row(copied))
        assert outcome.status == "failed"
        assert "must not be used: " in outcome.message
        assert "regions left out are" in outcome.message
        assert f"Look at {page}" in outcome.message
        assert page.is_file()
        assert not (page.parent / "alignment.csv").exists()
        assert not (copied / "stores" / "a.zarr").exists()
        if number == 0:  # the second time it is known
            monkeypatch.setattr(registering, "register", lambda request, folder: 1 / 0)


def test_a_doubtful_one_is_ingested_and_said(past, copied):
    """One region alone, of one slide by the command; then as a row of a sheet."""
    out, data = copied / "one", copied / "data"
    he = data / "a" / "a_he_image.ome.tif"
    keypoints = ("--keypoints", str(data / "a" / "*_region1.csv"), "-o", out / "a.zarr")
    status, stdout, stderr = past("ingest", data / "a", "--he", he, *keypoints)
    assert status == 0, stderr
    assert "check: one region cannot show" in stdout
    record = SlideStore(out / "a.zarr").manifest["registration"]
    assert record["verdict"] == "check"
    assert "one region cannot show" in record["reasons"][0]
    text = ALL.replace("keypoints_*.csv", "keypoints_region1.csv")
    status, _, stderr = past("ingest", sheet(data, text), "-o", out)
    assert status == 0, stderr
    found = outcomes(out)["a"]
    assert found["status"] == "skipped"
    page = out / REGISTRATIONS / "a" / "report.html"
    assert f"complete; registration: check (look at {page}): one region cannot" in found["message"]


def test_a_folder_with_something_else_is_left_alone(copied):
    shutil.rmtree(copied / "stores")
    folder = copied / "stores" / REGISTRATIONS / "a"
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    outcome = ingest_row(only_row(copied))
    assert outcome.status == "failed"
    assert "holds something else than a registration" in outcome.message
    assert (folder / "notes.txt").read_text() == "mine"
