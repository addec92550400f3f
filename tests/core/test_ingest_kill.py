"""Ingest killed by SIGKILL at any moment: a store is there whole or not at all, and the rerun finishes."""

import json
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from made_bundles import made_bundle

from past_core.ingest.records import FOLDER
from past_core.ingest.store import SlideStore, StoreNotFoundError

KILLS = 20
SERVER = """
import contextlib, importlib, json, os, signal, sys, tempfile, time
import spatialdata
import past_core.ingest.write, past_core.ingest.xenium, past_core.ingest.outlines, past_core.ingest.describe
import past_core.ingest.quality.reflag
from past_core.cli import past_main

# Libraries are imported once and not yet used; every run is a process of its own. What a whole run has
# imported besides is imported here after it, so that the next ones find it.
for line in sys.stdin:
    delay, arguments = json.loads(line)
    imported = tempfile.TemporaryFile("w+")
    child = os.fork()
    if not child:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.argv = ["past", *arguments]
        try:
            past_main()
        finally:
            if delay is None:
                json.dump(list(sys.modules), imported)
                imported.flush()
            os._exit(0)
    began, end = time.monotonic(), None if delay is None else time.monotonic() + delay
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if end is not None and time.monotonic() >= end:
            os.killpg(child, signal.SIGKILL)
            end = None
        time.sleep(0.002)
    seconds = time.monotonic() - began
    imported.seek(0)
    for name in json.loads(imported.read() or "[]"):
        if name not in sys.modules:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
    imported.close()
    print(seconds, flush=True)
"""


@pytest.fixture(scope="module")
def ingest():
    """Runs `past ingest ARGS` (or another verb), killed after a delay in seconds if one is given.

    Returns how long it ran.
    """
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )

    def run(*arguments, kill=None, verb="ingest"):
        server.stdin.write(json.dumps([kill, [verb, *map(str, arguments)]]) + "\n")
        server.stdin.flush()
        line = server.stdout.readline()
        assert line, f"the server ended with {server.wait()}"
        return float(line)

    yield run
    server.stdin.close()
    server.wait(30)
    server.stdout.close()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return made_bundle(tmp_path_factory.mktemp("bundle"), "a", size_um=130)


def arguments(bundle, out, patient, *more):
    he = bundle / f"{bundle.name}_he_image.ome.tif"
    return bundle, "--he", he, "-o", out, "--patient", patient, *more


def content(path):
    """All that a store holds, and the patient in it."""
    store = SlideStore(path)
    pixels = [store.read(n, 0, 0, size.height, size.width) for n, size in enumerate(store.levels)]
    manifest = {key: value for key, value in store.manifest.items() if key != "patient"}
    parts = [store.counts.toarray(), store.centroids, store.neighbors, store.distances, *pixels]
    return store.patient, manifest, store.obs, parts


def assert_same(found, expected):
    assert found[1] == expected[1]
    assert found[2].equals(expected[2])
    for one, other in zip(found[3], expected[3], strict=True):
        np.testing.assert_array_equal(one, other)


def moments(duration, number, seed):
    """Moments spread over a run, one in each of as many equal parts, and a little beyond its end."""
    rng = np.random.default_rng(seed)
    return (np.arange(number) + rng.random(number)) / number * duration * 1.05


@pytest.fixture(scope="module")
def reference(ingest, bundle, tmp_path_factory):
    """What a whole run makes, and the seconds that it takes."""
    out = tmp_path_factory.mktemp("reference") / "a.zarr"
    ingest(*arguments(bundle, out, "new"))  # the first is slower: files are not in memory yet
    seconds = ingest(*arguments(bundle, out, "new", "--overwrite"))
    return content(out), seconds


def test_a_killed_run_leaves_nothing_or_a_whole_store(ingest, bundle, reference, tmp_path):
    expected, seconds = reference
    out, whole, partial = tmp_path / "a.zarr", 0, 0
    for delay in moments(seconds, KILLS, seed=8):
        ingest(*arguments(bundle, out, "new"), kill=delay)
        partial += any(item.name.endswith(".partial") for item in tmp_path.iterdir())
        try:
            found = content(out)
        except StoreNotFoundError:
            assert not out.exists()
            continue
        whole += 1
        assert_same(found, expected)
        assert found[0] == "new"
        for item in tmp_path.iterdir():
            assert item == out or item.name.startswith(".a.zarr."), item
        # The next one has to make it again.
        shutil.rmtree(out)
    assert partial >= KILLS // 5, "hardly a kill met the writer"
    assert whole < KILLS
    ingest(*arguments(bundle, out, "new"))
    assert_same(content(out), expected)
    assert [item.name for item in tmp_path.iterdir()] == ["a.zarr"], "leftovers were not swept"


def test_overwriting_leaves_the_old_or_the_new_store(ingest, bundle, reference, tmp_path):
    expected, seconds = reference
    out, seen = tmp_path / "a.zarr", []
    ingest(*arguments(bundle, out, "old"))
    for delay in moments(seconds, KILLS // 2, seed=9):
        ingest(*arguments(bundle, out, "new", "--overwrite"), kill=delay)
        found = content(out)
        assert_same(found, expected)
        seen.append(found[0])
    assert set(seen) <= {"old", "new"}
    ingest(*arguments(bundle, out, "new", "--overwrite"))
    assert content(out)[0] == "new"
    assert [item.name for item in tmp_path.iterdir()] == ["a.zarr"]


def test_killed_flags_are_the_old_or_the_new_ones(ingest, bundle, tmp_path):
    """`past qc --write`: flags, reasons, neighbours and manifest change together or not at all."""
    out, kept = tmp_path / "stores" / "a.zarr", tmp_path / "kept.zarr"
    ingest(*arguments(bundle, out, "p"))
    flag = (out, "--set", "minimal", "--set", "min_counts=60", "--write")
    shutil.copytree(out, kept)
    old = content(out)
    ingest(*flag, verb="qc")  # the first is slower
    new = content(out)
    assert 0 < new[2]["qc_pass"].sum() != old[2]["qc_pass"].sum()
    assert new[1]["qc"]["options"]["min_counts"] == 60
    shutil.rmtree(out)
    shutil.copytree(kept, out)
    seconds, seen, partial = ingest(*flag, verb="qc"), [], 0
    for delay in moments(seconds, KILLS // 4, seed=10):
        shutil.rmtree(out)
        shutil.copytree(kept, out)
        ingest(*flag, kill=delay, verb="qc")
        partial += any(item.name.endswith(".partial") for item in out.parent.iterdir())
        found = content(out)
        seen.append(found[1] == new[1])
        assert_same(found, new if seen[-1] else old)
    assert partial, "no kill met the writer"
    assert not all(seen)
    ingest(*flag, verb="qc")
    assert_same(content(out), new)
    assert [item.name for item in out.parent.iterdir()] == ["a.zarr"], "leftovers were not swept"


def test_a_killed_sheet_goes_on(bundle, tmp_path):
    """The whole run is killed in the second of three slides; the rerun skips the first, makes the others."""
    he = bundle / f"{bundle.name}_he_image.ome.tif"
    rows = "".join(f"{name},{bundle},{he}\n" for name in "xyz")
    (tmp_path / "sheet.csv").write_text(f"slide,bundle,he\n{rows}")
    out = tmp_path / "out"
    command = [sys.executable, "-c", "from past_core.cli import past_main; past_main()", "ingest"]
    command += [str(tmp_path / "sheet.csv"), "-o", str(out)]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not list(out.glob(".y.zarr.*.partial")):
        assert run.poll() is None, "the run ended before its second slide"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    run.kill()
    run.wait()
    # Its workers end with it: what they were writing grows no more.
    time.sleep(1.0)
    assert SlideStore(out / "x.zarr").n_cells
    made = (out / "x.zarr" / "zarr.json").stat().st_mtime_ns
    assert not (out / "z.zarr").exists()
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert " skipped" in done.stdout
    assert "x: skipped: complete" in done.stderr
    assert (out / "x.zarr" / "zarr.json").stat().st_mtime_ns == made
    names = sorted(item.name for item in out.iterdir())
    assert names == [FOLDER, "outcomes.csv", "x.zarr", "y.zarr", "z.zarr"]
    for name in "xyz":
        assert SlideStore(out / f"{name}.zarr").n_cells
