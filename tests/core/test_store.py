"""Slide stores: what was written is read, and damage is told."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import zarr
from made_slides import made_slide

from past_core.errors import PastError
from past_core.ingest.contents import Contents
from past_core.ingest.store import SlideStore, StoreError, StoreNotFoundError, is_store
from past_core.ingest.write import write_store


@pytest.fixture(scope="module")
def slide():
    return made_slide()


@pytest.fixture(scope="module")
def path(slide, tmp_path_factory):
    return write_store(slide, tmp_path_factory.mktemp("store") / "made.zarr", k=5, block_size=256)


@pytest.fixture(scope="module")
def store(path):
    return SlideStore(path)


@pytest.fixture
def copy(path, tmp_path):
    return shutil.copytree(path, tmp_path / "copy.zarr")


def change_manifest(path: Path, **changes) -> None:
    content = json.loads((path / "zarr.json").read_text())
    content["attributes"]["past"] |= changes
    (path / "zarr.json").write_text(json.dumps(content))


def test_light_imports():
    """Reading a store must not cost what writing one does, nor drag in the trainer."""
    code = (
        "import sys, past_core.ingest.store; "
        "print([m for m in ('spatialdata', 'torch', 'lightning', 'geopandas', 'scanpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_table_comes_back_in_block_order(slide, store):
    table = slide.table
    assert store.n_cells == table.n_obs
    assert sorted(store.cell_ids) == sorted(table.obs_names)
    row = table.obs_names.get_indexer(store.cell_ids)
    np.testing.assert_array_equal(store.centroids, table.obsm["spatial"][row])
    np.testing.assert_array_equal(store.counts.toarray(), table.X.toarray()[row])
    assert store.counts.dtype == np.int32
    assert store.counts.has_sorted_indices
    assert list(store.genes.index) == list(table.var_names)
    assert list(store.genes["symbol"]) == list(table.var["symbol"])
    assert store.passed.all()
    assert list(store.obs["n_counts"]) == table.X.toarray()[row].sum(axis=1).tolist()
    assert (store.obs["cell_area_um2"] == 9.0).all()


def test_blocks_hold_the_cells_of_their_square(store):
    size = store.block_size
    assert size == 256
    covered = []
    for block_row, block_column, start, stop in store.blocks:
        assert stop > start
        x, y = store.centroids[start:stop].T
        assert (x // size == block_column).all()
        assert (y // size == block_row).all()
        covered += range(start, stop)
    assert covered == list(range(store.n_cells))
    keys = [tuple(block[:2]) for block in store.blocks]
    assert keys == sorted(keys)
    assert len(keys) == len(set(keys)) > 4


def test_neighbours_are_the_nearest_cells(store):
    assert store.neighbors.shape == store.distances.shape == (60, 5)
    gaps = np.hypot(*(store.centroids[:, None] - store.centroids[None]).transpose(2, 0, 1)) * store.mpp
    np.fill_diagonal(gaps, np.inf)
    np.testing.assert_array_equal(store.neighbors, np.argsort(gaps, axis=1)[:, :5])
    np.testing.assert_allclose(store.distances, np.sort(gaps, axis=1)[:, :5], rtol=1e-6)
    assert store.median_distance == pytest.approx(np.median(store.distances))
    assert store.manifest["neighbors"]["median_um"] == pytest.approx(store.median_distance)


def test_manifest(store):
    assert (store.name, store.patient, store.cancer_type) == ("made", "P1", "breast")
    assert (store.assay, store.organism, store.modality, store.mpp) == ("xenium", "human", "spatial", 0.25)
    assert store.manifest["software"].startswith("past-core ")
    assert store.manifest["qc"] == {"cells": 60, "passed": 60, "reasons": {}}


def test_a_slide_without_a_patient_is_its_own(copy):
    change_manifest(copy, patient=None)
    assert SlideStore(copy).patient == "made"


def test_pixels_equal_what_was_written_and_what_zarr_reads(slide, store):
    assert np.array_equal(store.read(0, 0, 0, 700, 900), slide.image)
    for number, level in enumerate(store.levels):
        pixels = zarr.open_array(store.path / "images" / "he" / f"s{number}", mode="r")[:]
        assert pixels.shape == (3, level.height, level.width)
        assert level.mpp == store.mpp * 2**number
        assert np.array_equal(store.read(number, 0, 0, level.height, level.width), pixels)


@pytest.mark.parametrize(
    "window",
    [
        (0, 0, 224, 224),
        (250, 250, 20, 20),
        (-30, -40, 100, 110),
        (650, 850, 100, 110),
        (-5, 100, 800, 7),
        (695, -224, 224, 225),
        (-300, 0, 224, 224),
        (700, 900, 5, 5),
        (10_000, 10_000, 3, 2),
    ],
)
def test_white_outside_the_image(slide, store, window):
    y, x, height, width = window
    pad = 11_000
    # An independent answer by fancy indexing: white where the index is out of range.
    rows, columns = np.arange(y, y + height), np.arange(x, x + width)
    inside = ((rows >= 0) & (rows < 700))[:, None] & ((columns >= 0) & (columns < 900))[None]
    expected = slide.image[:, np.clip(rows, 0, 699)[:, None], np.clip(columns, 0, 899)[None]].copy()
    expected[:, ~inside] = 255
    assert pad > y
    result = store.read(0, y, x, height, width)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, expected)
    result[:] = 0  # the caller's own
    np.testing.assert_array_equal(store.read(0, y, x, height, width), expected)


@pytest.mark.parametrize(("level", "height"), [(-1, 5), (9, 5), (0, 0), (0, -3)])
def test_impossible_windows(store, level, height):
    with pytest.raises(StoreError, match="cannot read"):
        store.read(level, 0, 0, height, 5)


def test_threads_share_a_store(path, slide):
    store = SlideStore(path)
    starts = np.random.default_rng(0).integers(-50, 650, (200, 2))
    with ThreadPoolExecutor(8) as pool:
        windows = list(pool.map(lambda at: store.read(0, int(at[0]), int(at[1]), 64, 64), starts))
    padded = np.pad(slide.image, ((0, 0), (50, 64), (50, 64)), constant_values=255)
    for (y, x), window in zip(starts, windows, strict=True):
        assert np.array_equal(window, padded[:, y + 50 : y + 114, x + 50 : x + 114])


def test_sent_to_another_process(store):
    again = pickle.loads(pickle.dumps(store))
    assert again.path == store.path
    assert np.array_equal(again.read(1, 5, 5, 20, 20), store.read(1, 5, 5, 20, 20))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("used_before", [False, True])
def test_a_forked_process_gets_an_error_not_an_abort(path, used_before):
    code = f"""
import os
from past_core.ingest.store import SlideStore, StoreError
store = SlideStore({str(path)!r})
if {used_before}:
    store.read(0, 0, 0, 5, 5)
child = os.fork()
if not child:
    try:
        store.read(0, 0, 0, 5, 5)
    except StoreError as error:
        os._exit(7 if "spawn" in str(error) else 8)
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["7" if used_before else "0"]


# --- damage --------------------------------------------------------------------------------


def test_missing_path(tmp_path):
    with pytest.raises(StoreNotFoundError, match="past ingest"):
        SlideStore(tmp_path / "none.zarr")
    assert issubclass(StoreNotFoundError, FileNotFoundError)
    assert issubclass(StoreNotFoundError, PastError)


def test_not_a_store(tmp_path):
    (tmp_path / "file.zarr").write_text("x")
    (tmp_path / "folder").mkdir()
    zarr.open_group(tmp_path / "foreign.zarr", mode="w").attrs["other"] = 1
    for name, message in [
        ("file.zarr", "not a slide store"),
        ("folder", "not a slide store"),
        ("foreign.zarr", "--spatialdata"),
    ]:
        with pytest.raises(StoreError, match=message):
            SlideStore(tmp_path / name)
        assert not is_store(tmp_path / name)


def test_other_format_version(copy):
    change_manifest(copy, format=2)
    with pytest.raises(StoreError, match="format version 2, this past-core reads version 1"):
        SlideStore(copy)
    assert is_store(copy)


def test_manifest_without_a_key(copy):
    content = json.loads((copy / "zarr.json").read_text())
    del content["attributes"]["past"]["mpp"]
    (copy / "zarr.json").write_text(json.dumps(content))
    with pytest.raises(StoreError, match="lacks mpp"):
        SlideStore(copy)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("images/he/zarr.json", "is missing"),
        ("images/he/s0/zarr.json", "is missing"),
        ("images/he/s1/c/0/1/0", "s1 lacks 1 chunks"),
        ("images/he/s0/c", "s0 lacks 12 chunks"),
        ("tables/cells", "is missing"),
        ("tables/cells/zarr.json", "is missing"),
        ("tables/cells/X/zarr.json", "is missing"),
        ("tables/cells/obsm/spatial/zarr.json", "is missing"),
        ("tables/cells/obsp/spatial_distances/zarr.json", "is missing"),
    ],
)
def test_truncated_on_opening(copy, part, message):
    target = copy / part
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    with pytest.raises(StoreError, match=message):
        SlideStore(copy)


def test_damaged_metadata(copy):
    file = copy / "images" / "he" / "zarr.json"
    file.write_text(file.read_text()[:50])
    with pytest.raises(StoreError, match="cannot be read"):
        SlideStore(copy)


@pytest.mark.parametrize("part", ["", "obsm/spatial"])
def test_metadata_cut_short_while_it_is_opened(copy, part, monkeypatch):
    """Between the look at what the store holds and zarr's own."""
    checked = Contents.missing

    def cut_short(self, folder):
        found = checked(self, folder)
        if folder == "tables/cells/var/_index":  # the last that is looked at
            file = copy / "tables" / "cells" / part / "zarr.json"
            file.write_text(file.read_text()[:50])
        return found

    monkeypatch.setattr(Contents, "missing", cut_short)
    with pytest.raises(StoreError, match="tables/cells cannot be read"):
        SlideStore(copy)


@pytest.mark.parametrize("part", ["X/data", "X/indices", "obs/qc_pass", "obsp/spatial_distances/data"])
def test_lost_values_are_never_zeros(copy, part):
    (copy / "tables" / "cells" / part / "c" / "0").unlink()
    with pytest.raises(StoreError, match=f"{part} lacks 1 chunks"):
        SlideStore(copy)


def test_counts_that_are_not_the_written_ones(copy):
    array = zarr.open_array(copy / "tables" / "cells" / "X" / "data", mode="r+")
    array[3] = array[3] + 1
    with pytest.raises(StoreError, match="counts have"):
        SlideStore(copy).counts  # noqa: B018


def test_damaged_chunks(copy):
    for chunk in (copy / "images/he/s0/c/0/0/0", copy / "tables/cells/obs/qc_pass/c/0"):
        chunk.write_bytes(chunk.read_bytes()[:10])
    store = SlideStore(copy)
    with pytest.raises(StoreError, match="image level 0"):
        store.read(0, 0, 0, 10, 10)
    with pytest.raises(StoreError, match="obs"):
        store.obs  # noqa: B018


def test_blocks_that_do_not_cover_the_rows(copy):
    change_manifest(copy, blocks=[[0, 0, 0, 10]])
    with pytest.raises(StoreError, match="do not cover"):
        SlideStore(copy)


def test_empty_slide(copy):
    change_manifest(copy, blocks=[])
    array = json.loads((copy / "tables/cells/obsm/spatial/zarr.json").read_text())
    array["shape"] = [0, 2]
    (copy / "tables/cells/obsm/spatial/zarr.json").write_text(json.dumps(array))
    with pytest.raises(StoreError, match="holds no cells"):
        SlideStore(copy)
