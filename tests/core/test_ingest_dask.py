"""A sheet on a Dask cluster of two workers: the same stores as here, lost workers, clusters not there."""

import contextlib
import json
import os
import shutil
import signal
import socket
import time
import warnings

import numpy as np
import pandas as pd
import pytest
from made_bundles import made_bundle
from test_ingest_sheet import HEADER, outcomes, past, row_of, sheet

import past_core.ingest.dask as on_dask
from past_core.ingest.dask import DaskError, ingest_on_dask
from past_core.ingest.outcome import ingest_row
from past_core.ingest.records import FOLDER
from past_core.ingest.sheet import read_ingest_sheet
from past_core.ingest.store import SlideStore


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Bundles a and b, one that is broken, and their sheet."""
    folder = tmp_path_factory.mktemp("bundles")
    for seed, name in enumerate(("a", "b", "broken")):
        made_bundle(folder, name, seed=seed)
    (folder / "broken" / "cells.parquet").write_bytes(b"PAR1")
    sheet(folder, HEADER + row_of("a") + row_of("gone") + row_of("broken") + row_of("b"))
    return folder


@contextlib.contextmanager
def cluster_of(workers):
    from distributed import LocalCluster

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with LocalCluster(
            n_workers=workers, processes=True, threads_per_worker=1, dashboard_address="127.0.0.1:0"
        ) as cluster:
            yield cluster


@pytest.fixture(scope="module")
def cluster():
    with cluster_of(2) as cluster:
        yield cluster


def content(path):
    """All that a store holds."""
    store = SlideStore(path)
    level = store.levels[0]
    return store.manifest, store.read(0, 0, 0, level.height, level.width), store.counts.toarray(), store


def test_the_same_stores_as_here(cluster, data, tmp_path, monkeypatch):
    monkeypatch.chdir(data)
    out = tmp_path / "dask"
    result = past("sheet.csv", "-o", out, "--dask", cluster.scheduler_address)
    assert result.exit_code == 1
    assert "2 done, 0 skipped, 2 failed" in result.output
    found = outcomes(out)
    assert [found[name]["status"] for name in ("a", "gone", "broken", "b")] == [
        "done",
        "failed",
        "failed",
        "done",
    ]
    assert "cells.parquet" in found["broken"]["message"]
    assert "line 3" in found["gone"]["message"]
    for row in read_ingest_sheet(data / "sheet.csv", tmp_path / "here"):
        if row.slide in "ab":
            assert ingest_row(row).status == "done"
            here, there = content(row.output), content(out / row.output.name)
            assert here[0] == there[0], "the manifest"
            for one, other in zip(here[1:3], there[1:3], strict=True):
                np.testing.assert_array_equal(one, other)
            assert here[3].obs.equals(there[3].obs)
            np.testing.assert_array_equal(here[3].neighbors, there[3].neighbors)
    # Again, by the file that the scheduler writes: what is complete is known there too.
    file = tmp_path / "scheduler.json"
    file.write_text(json.dumps({"type": "Scheduler", "address": cluster.scheduler_address}))
    result = past("sheet.csv", "-o", out, "--dask", file, "--missing", "skip")
    assert "0 done, 3 skipped, 1 failed" in result.output


@pytest.mark.parametrize("where", ["processes", "cluster"])
def test_slides_with_keypoints_are_registered_where_they_are_ingested(cluster, data, tmp_path, where):
    """Two rows of three regions each, and one that two regions contradict; here and on the cluster."""
    for name in "ab":
        he, points = f"{data}/{name}/{name}_he_image.ome.tif", f"{data}/{name}/keypoints_*.csv"
        with (tmp_path / "sheet.csv").open("a") as text:
            if name == "a":
                text.write("slide,bundle,he,keypoints\n")
            text.write(f"{name},{data}/{name},{he},{points}\n")
    for path in sorted((data / "b").glob("keypoints_*.csv")):
        shutil.copy(path, tmp_path)
    wrong = tmp_path / "keypoints_region1.csv"
    table = pd.read_csv(wrong)
    table["fixedX"] += 200 / 0.2125
    table.to_csv(wrong, index=False)
    with (tmp_path / "sheet.csv").open("a") as text:
        text.write(f"wrong,{data}/b,{data}/b/b_he_image.ome.tif,{tmp_path}/keypoints_*.csv\n")
    out = tmp_path / "stores"
    many = ("--jobs", "2") if where == "processes" else ("--dask", cluster.scheduler_address)
    result = past(tmp_path / "sheet.csv", "-o", out, *many)
    assert "2 done, 0 skipped, 1 failed" in result.output
    found = outcomes(out)
    assert "must not be used" in found["wrong"]["message"]
    assert not (out / "wrong.zarr").exists()
    assert (out / "registrations" / "wrong" / "report.html").is_file()
    for name in "ab":
        record = SlideStore(out / f"{name}.zarr").manifest["registration"]
        truth = np.loadtxt(data / name / f"{name}_he_imagealignment.csv", delimiter=",")
        corners = np.array([[0, 0, 1], [400, 0, 1], [0, 400, 1]])
        apart = (corners @ np.asarray(record["matrix"]).T - corners @ truth.T)[:, :2] * 0.2125
        assert np.hypot(*apart.T).max() < 2
        made = np.loadtxt(out / "registrations" / name / "alignment.csv", delimiter=",")
        np.testing.assert_allclose(made, record["matrix"])


def die_in(slide, marker):
    """Makes a worker die by SIGKILL when it has read a slide, once for all workers."""
    import past_core.ingest.run as run

    whole = run.read_slide

    def read_slide(request):
        data = whole(request)
        if request.name == slide:
            try:
                os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return data
            os.kill(os.getpid(), signal.SIGKILL)
        return data

    run.read_slide = read_slide


def test_no_scheduler_is_said_within_ten_seconds(data, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    empty = tmp_path / "scheduler.json"
    empty.write_text("{}")
    for address in (f"127.0.0.1:{port}", "not an address", str(empty)):
        started = time.monotonic()
        with pytest.raises(DaskError, match=r"no Dask scheduler answers at .* give its address"):
            past(data / "sheet.csv", "-o", tmp_path / "out", "--dask", address)
        assert time.monotonic() - started < 10 + 5  # of which the machine may be slow
    assert not list((tmp_path / "out").glob("*.zarr"))


def test_a_scheduler_without_workers(data, tmp_path, monkeypatch):
    monkeypatch.setattr(on_dask, "TIMEOUT_S", 2.0)
    rows = read_ingest_sheet(sheet(data, HEADER + row_of("a"), "one.csv"), tmp_path / "out")
    with cluster_of(0) as cluster, pytest.raises(DaskError, match="has no worker; start some with"):
        list(ingest_on_dask(rows, cluster.scheduler_address))


@pytest.mark.parametrize(("version", "says"), [("0.0.1", "0.0.1"), (None, "not installed")])
def test_workers_of_another_make(version, says, cluster, data, tmp_path, monkeypatch):
    from distributed import Client

    whole = Client.get_versions

    def other(self, **options):
        found = whole(self, **options)
        worker = next(iter(found["workers"].values()))
        worker["packages"]["past-core"] = version
        return found

    monkeypatch.setattr(Client, "get_versions", other)
    rows = read_ingest_sheet(sheet(data, HEADER + row_of("a"), "one.csv"), tmp_path / "out")
    with pytest.raises(DaskError, match=f"has past-core {says}, this machine .*install the same"):
        list(ingest_on_dask(rows, cluster.scheduler_address))
    assert not (tmp_path / "out").exists()


def test_rows_of_lost_workers(cluster, data, tmp_path):
    """A worker is killed at work: its row runs elsewhere, or fails by name where that may not be."""
    from distributed import Client

    text = HEADER + row_of("a") + row_of("b")
    rows = read_ingest_sheet(sheet(data, text, "two.csv"), tmp_path / "out")
    with Client(cluster, set_as_default=False) as client:
        client.run(die_in, "b", str(tmp_path / "once"))
    found = {outcome.slide: outcome for outcome in ingest_on_dask(rows, cluster.scheduler_address)}
    assert (tmp_path / "once").exists()
    assert {name: outcome.status for name, outcome in found.items()} == {"a": "done", "b": "done"}, found
    assert sorted(item.name for item in (tmp_path / "out").iterdir()) == [FOLDER, "a.zarr", "b.zarr"]

    cluster.scheduler.allowed_failures = 0
    before = (tmp_path / "out" / "b.zarr" / "zarr.json").read_bytes()
    with Client(cluster, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)
        client.run(die_in, "b", str(tmp_path / "again"))
    found = {
        outcome.slide: outcome
        for outcome in ingest_on_dask(rows[1:], cluster.scheduler_address, overwrite=True)
    }
    assert found["b"].status == "failed"
    assert "KilledWorker" in found["b"].message
    assert (tmp_path / "out" / "b.zarr" / "zarr.json").read_bytes() == before
    assert SlideStore(tmp_path / "out" / "b.zarr").n_cells
