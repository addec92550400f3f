"""Writing slide stores: whole or not at all, flagged, ordered, and readable by others."""

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from made_slides import made_slide
from scipy.sparse import csc_matrix, csr_matrix

from past_core.atomic import writer
from past_core.errors import PastError
from past_core.ingest import pyramid, write
from past_core.ingest.blocks import block_order
from past_core.ingest.checks import SlideDataError
from past_core.ingest.pyramid import SlideImage, halve, level_shapes, write_pyramid
from past_core.ingest.store import SlideStore
from past_core.ingest.write import StoreExistsError, StoreWriteError, write_store
from past_core.remote import RemoteError


def contents(folder: Path) -> list[str]:
    return sorted(item.name for item in folder.iterdir())


# --- the pyramid ------------------------------------------------------------


def mean_of_squares(image: np.ndarray) -> np.ndarray:
    """Independent reference: float64 means over the pixels that exist, rounded half to even."""
    _, height, width = image.shape
    rows, columns = np.arange(0, height, 2), np.arange(0, width, 2)
    sums = np.add.reduceat(np.add.reduceat(image.astype(np.float64), rows, axis=1), columns, axis=2)
    sizes = np.outer(np.minimum(height - rows, 2), np.minimum(width - columns, 2))
    return np.rint(sums / sizes).astype(np.uint8)


@settings(deadline=None)
@given(hnp.arrays(np.uint8, st.tuples(st.just(3), st.integers(1, 9), st.integers(1, 9))))
def test_halve_is_the_mean_of_each_square(image):
    np.testing.assert_array_equal(halve(image), mean_of_squares(image))


def test_halve_keeps_the_mean_brightness():
    image = np.random.default_rng(0).integers(0, 256, (3, 512, 512), dtype=np.uint8)
    mean = image.mean()
    for _ in range(5):
        image = halve(image)
    assert abs(image.mean() - mean) < 0.1


def test_level_shapes():
    assert level_shapes(10, 10) == [(10, 10), (5, 5)]
    assert level_shapes(2500, 2501) == [(2500, 2501), (1250, 1251), (625, 626)]
    assert level_shapes(1024, 100) == [(1024, 100), (512, 50)]
    assert level_shapes(1, 5000)[-1] == (1, 625)


@pytest.mark.parametrize("size", [(300, 400), (257, 129), (128, 512)])
def test_pyramid_of_many_levels_written_tile_by_tile(tmp_path, monkeypatch, size):
    monkeypatch.setattr(pyramid, "CHUNK", 16)
    monkeypatch.setattr(pyramid, "TILE", 128)
    monkeypatch.setattr(pyramid, "SMALLEST_LEVEL", 16)
    image = np.random.default_rng(1).integers(0, 256, (3, *size), dtype=np.uint8)
    zarr.open_group(tmp_path, mode="w")
    seen = []
    write_pyramid(da.from_array(image, chunks=(1, 100, 90)), tmp_path, progress=lambda *at: seen.append(at))
    shapes = level_shapes(*size)
    assert len(shapes) > 4
    expected = image
    for number, shape in enumerate(shapes):
        level = zarr.open_array(tmp_path / f"s{number}", mode="r")
        assert level.shape == (3, *shape)
        assert level.chunks == (3, 16, 16)
        np.testing.assert_array_equal(level[:], expected)
        expected = mean_of_squares(expected)
    tiles = -(-size[0] // 128) * -(-size[1] // 128)
    assert seen == [(done, tiles) for done in range(1, tiles + 1)]


def test_an_open_slide_is_an_image():
    pixels = np.random.default_rng(2).integers(0, 256, (3, 40, 50), dtype=np.uint8)

    class Level:
        height, width = 40, 50

    class Reader:
        levels = (Level,)

        def read(self, level, y, x, height, width):
            assert level == 0
            return pixels[:, y : y + height, x : x + width]

    image = SlideImage(Reader())
    assert image.shape == (3, 40, 50)
    np.testing.assert_array_equal(image[:, 5:20, 7:99], pixels[:, 5:20, 7:])


# --- order and flags ------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 200), st.sampled_from([7, 64, 1000]))
def test_block_order(seed, n, block_size):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 300, 2)
    points = rng.uniform(-20, 320, (n, 2))
    order, blocks = block_order(points, (height, width), block_size=block_size)
    assert np.array_equal(np.sort(order), np.arange(n))
    assert blocks[0, 2] == 0
    assert blocks[-1, 3] == n
    assert (blocks[1:, 2] == blocks[:-1, 3]).all()
    inside = ((points >= 0) & (points < (width, height))).all(axis=1)
    for row, column, start, stop in blocks:
        members = order[start:stop]
        x, y = points[members][inside[members]].T
        assert (x // block_size == column).all()
        assert (y // block_size == row).all()
        assert 0 <= row * block_size < height
        assert 0 <= column * block_size < width


def test_bad_cells_are_flagged_and_kept(tmp_path):
    slide = made_slide()
    counts = slide.table.X.tolil()
    counts[[3, 5]] = 0
    slide.table.X = counts.tocsr()
    slide.table.obsm["spatial"][[5, 9]] = [[-1.0, 50.0], [899.0, 700.0]]
    store = SlideStore(write_store(slide, tmp_path / "s.zarr"))
    assert store.n_cells == 60
    by_id = store.obs["qc_reason"].astype(str)[slide.table.obs_names]
    assert by_id.iloc[3] == "no_genes"
    assert by_id.iloc[5] == "no_genes;outside_image"
    assert by_id.iloc[9] == "outside_image"
    assert (by_id == "").sum() == 57 == store.passed.sum()
    assert store.manifest["qc"] == {
        "cells": 60,
        "passed": 57,
        "reasons": {"no_genes": 2, "outside_image": 2},
    }
    assert (store.neighbors[~store.passed] == -1).all()
    assert store.passed[store.neighbors[store.passed]].all()


@pytest.mark.parametrize("kind", ["dense", "csc", "duplicates", "float", "wide"])
def test_counts_of_every_kind(tmp_path, kind):
    slide = made_slide(n_cells=10)
    counts = slide.table.X.toarray()
    if kind == "duplicates":
        values = csr_matrix(counts)
        half = csr_matrix(
            (np.ones(2 * values.nnz), np.repeat(values.indices, 2), values.indptr * 2), shape=counts.shape
        )
        counts = half.toarray().astype(int)
        slide.table.X = half
    else:
        kinds = {"dense": np.asarray, "csc": csc_matrix, "float": lambda c: c / 1.0, "wide": np.uint64}
        slide.table.X = kinds[kind](counts)
    store = SlideStore(write_store(slide, tmp_path / "s.zarr"))
    row = slide.table.obs_names.get_indexer(store.cell_ids)
    np.testing.assert_array_equal(store.counts.toarray(), counts[row])


def test_input_is_left_alone(tmp_path):
    slide = made_slide(n_cells=10)
    before = slide.table.copy()
    write_store(slide, tmp_path / "s.zarr")
    assert list(slide.table.obs.columns) == list(before.obs.columns)
    assert not slide.table.obsp
    np.testing.assert_array_equal(slide.table.X.toarray(), before.X.toarray())


# --- refusals ------------------------------------------------------------


def change(**kwargs):
    return lambda slide: [setattr(slide, key, value) for key, value in kwargs.items()]


def put(value):
    def apply(slide):
        counts = slide.table.X.astype(np.float64).tolil()
        counts[4, 2] = value
        slide.table.X = counts.tocsr()

    return apply


def spatial(row, value):
    def apply(slide):
        slide.table.obsm["spatial"][row] = value

    return apply


def ids(cells=None, genes=None):
    def apply(slide):
        if cells:
            slide.table.obs_names = cells
        if genes:
            slide.table.var_names = genes

    return apply


REFUSED = {
    "nan count": (put(np.nan), r"nan of gene 'ENSG00000000002' in cell 'cell-\d+' \(row 4\)"),
    "negative count": (put(-1.0), "1 counts are not whole numbers from 0; first: -1.0"),
    "fraction": (put(0.5), "raw counts are needed"),
    "infinite": (put(np.inf), "inf of gene"),
    "huge": (put(2.0**31), "not whole numbers"),
    "no cells": (lambda s: setattr(s, "table", s.table[:0].copy()), "there are no cells"),
    "no genes": (lambda s: setattr(s, "table", s.table[:, :0].copy()), "there are no genes"),
    "nan position": (spatial(7, np.nan), r"1 cells have no finite position, first cell 'cell-\d+' \(row 7\)"),
    "no positions": (lambda s: s.table.obsm.clear(), r'obsm\["spatial"\] must hold'),
    "outside": (spatial(slice(0, 20), (5000.0, 0.0)), "20 of 60 cells lie outside the image .*at most 10%"),
    "all empty": (lambda s: setattr(s.table, "X", csr_matrix((60, 12))), "none of 60 cells passes QC"),
    "same cell": (ids(cells=["a"] * 60), "cell id 'a' occurs more than once"),
    "same gene": (ids(genes=["b"] * 12), "gene id 'b' occurs more than once"),
    "mpp": (change(mpp=0.0), "pixel size is 0.0"),
    "nan mpp": (change(mpp=float("nan")), "pixel size is nan"),
    "grey": (change(image=np.zeros((1, 700, 900), np.uint8)), r"expected \(3, H, W\) uint8"),
    "16 bits": (change(image=np.zeros((3, 700, 900), np.uint16)), "type uint16"),
    "no pixels": (change(image=np.zeros((3, 0, 900), np.uint8)), r"expected \(3, H, W\)"),
}


@pytest.mark.filterwarnings("ignore:.*names are not unique")
@pytest.mark.parametrize("case", REFUSED)
def test_refused(tmp_path, case):
    slide = made_slide()
    damage, message = REFUSED[case]
    damage(slide)
    with pytest.raises(SlideDataError, match=message):
        write_store(slide, tmp_path / "s.zarr")
    assert contents(tmp_path) == []


def test_more_cells_outside_on_request(tmp_path):
    slide = made_slide()
    spatial(slice(0, 20), (5000.0, 0.0))(slide)
    store = SlideStore(write_store(slide, tmp_path / "s.zarr", max_outside=0.5))
    assert store.manifest["qc"]["reasons"] == {"outside_image": 20}


# --- whole or not at all ------------------------------------------------------------


def test_existing_output_is_refused_before_any_work(tmp_path):
    (tmp_path / "s.zarr").mkdir()
    slide = made_slide(image=None)  # would fail if it were looked at
    with pytest.raises(StoreExistsError, match="--overwrite"):
        write_store(slide, tmp_path / "s.zarr")
    assert issubclass(StoreExistsError, PastError)


def test_overwrite_only_ever_replaces_a_slide_store(tmp_path):
    precious = tmp_path / "thesis"
    precious.mkdir()
    (precious / "chapter.txt").write_text("x")
    with pytest.raises(StoreExistsError, match="only slide stores"):
        write_store(made_slide(), precious, overwrite=True)
    assert (precious / "chapter.txt").read_text() == "x"


def test_a_fault_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_args, **_kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr(write, "write_pyramid", fail)
    with pytest.raises(StoreWriteError, match=r"cannot be written \(no space left"):
        write_store(made_slide(), tmp_path / "s.zarr")
    assert contents(tmp_path) == []


def test_an_image_that_breaks_off(tmp_path):
    def block(block_info=None):
        if block_info[None]["chunk-location"] == (0, 1, 0):
            raise RuntimeError("broken tile")
        return np.zeros(block_info[None]["chunk-shape"], np.uint8)

    meta = np.zeros((0, 0, 0), np.uint8)
    image = da.map_blocks(block, chunks=((3,), (350, 350), (900,)), dtype=np.uint8, meta=meta)
    with pytest.raises(SlideDataError, match=r"image cannot be read at x 0 to 900.*broken tile"):
        write_store(made_slide(image=image), tmp_path / "s.zarr")
    assert contents(tmp_path) == []


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreWriteError, match="cannot be written"):
        write_store(made_slide(), tmp_path / "file" / "s.zarr")


def test_a_fault_while_overwriting_keeps_the_old_store(tmp_path, monkeypatch):
    path = write_store(made_slide(), tmp_path / "s.zarr")
    monkeypatch.setattr(write, "write_pyramid", lambda *_a, **_k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_store(made_slide(name="new"), path, overwrite=True)
    assert contents(tmp_path) == ["s.zarr"]
    assert SlideStore(path).name == "made"
    monkeypatch.undo()
    write_store(made_slide(name="new"), path, overwrite=True)
    assert contents(tmp_path) == ["s.zarr"]
    assert SlideStore(path).name == "new"


@pytest.mark.slow
def test_killed_midway_leaves_no_store(tmp_path):
    """SIGKILL while pixels are written: nothing runs afterwards, and still there is no store."""
    code = textwrap.dedent(f"""
        import os, signal, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from made_slides import made_slide
        from past_core.ingest import pyramid
        from past_core.ingest.write import write_store
        pyramid.TILE = 256
        def kill(done, total):
            if done == total // 2:
                os.kill(os.getpid(), signal.SIGKILL)
        write_store(made_slide(), {str(tmp_path / "s.zarr")!r}, progress=kill)
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / "s.zarr").exists()
    assert all(name.startswith(".s.zarr.") and name.endswith(".partial") for name in contents(tmp_path))
    write_store(made_slide(), tmp_path / "s.zarr")
    assert SlideStore(tmp_path / "s.zarr").n_cells == 60
    assert contents(tmp_path) == ["s.zarr"]


def test_a_store_set_aside_by_a_killed_writer_goes_only_once_a_new_one_stands(tmp_path, monkeypatch):
    host = writer().split("-")[0]
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True
    )
    aside = write_store(made_slide(), tmp_path / "s.zarr").rename(
        tmp_path / f".s.zarr.{host}-{gone.stdout.strip()}-0123abcd.old"
    )
    with monkeypatch.context() as patch:
        patch.setattr(write, "write_pyramid", lambda *_a, **_k: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write_store(made_slide(), tmp_path / "s.zarr")
    assert contents(tmp_path) == [aside.name]
    write_store(made_slide(name="new"), tmp_path / "s.zarr")
    assert contents(tmp_path) == ["s.zarr"]


@pytest.mark.parametrize("url", ["s3://bucket/s.zarr", Path("s3://bucket/s.zarr"), "gs://bucket/s.zarr"])
def test_a_url_is_refused_before_any_work(tmp_path, monkeypatch, url):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RemoteError, match="local disk only"):
        write_store(made_slide(image=None), url)
    assert contents(tmp_path) == []


def test_two_writers_of_one_path(tmp_path, monkeypatch):
    """The second to finish must not destroy what the first completed."""
    real = write.write_pyramid

    def meanwhile(*args, **kwargs):
        monkeypatch.setattr(write, "write_pyramid", real)
        write_store(made_slide(name="first"), tmp_path / "s.zarr")
        real(*args, **kwargs)

    monkeypatch.setattr(write, "write_pyramid", meanwhile)
    with pytest.raises(StoreExistsError):
        write_store(made_slide(name="second"), tmp_path / "s.zarr")
    assert SlideStore(tmp_path / "s.zarr").name == "first"
    assert contents(tmp_path) == ["s.zarr"]


# --- what others read ------------------------------------------------------------


def test_hashes_of_sources(tmp_path):
    import hashlib

    (tmp_path / "a.bin").write_bytes(b"abc" * 1000)
    (tmp_path / "tree" / "x").mkdir(parents=True)
    (tmp_path / "tree" / "x" / "b").write_bytes(b"1")
    sources = {"a": tmp_path / "a.bin", "tree": tmp_path / "tree"}
    store = SlideStore(write_store(made_slide(sources=sources), tmp_path / "s.zarr"))
    hashes = store.manifest["sources"]
    assert hashes["a"] == hashlib.sha256(b"abc" * 1000).hexdigest()
    before = hashes["tree"]
    (tmp_path / "tree" / "x" / "b").rename(tmp_path / "tree" / "x" / "c")
    assert write.sha256(tmp_path / "tree") != before
    assert str(tmp_path) not in str(store.manifest)


@pytest.fixture(scope="module")
def read_back(tmp_path_factory):
    spatialdata = pytest.importorskip("spatialdata")
    slide = made_slide(nucleus_boundaries=None)
    slide.nucleus_boundaries = slide.cell_boundaries.iloc[[4, 2, 2]].assign(cell_id=lambda frame: frame.index)
    path = write_store(slide, tmp_path_factory.mktemp("sd") / "s.zarr")
    return slide, SlideStore(path), spatialdata.read_zarr(path)


def test_spatialdata_reads_it(read_back):
    from spatialdata import get_values
    from spatialdata.transformations import get_transformation

    slide, store, data = read_back
    assert sorted(name for _, name, _ in data.gen_elements()) == [
        "cell_boundaries",
        "cells",
        "he",
        "nucleus_boundaries",
    ]
    assert sorted(data.coordinate_systems) == ["global", "microns"]
    for element in (data.images["he"], data.shapes["cell_boundaries"], data.shapes["nucleus_boundaries"]):
        to_global, to_microns = (
            get_transformation(element, to_coordinate_system=system).to_affine_matrix(("x", "y"), ("x", "y"))
            for system in ("global", "microns")
        )
        np.testing.assert_array_equal(to_global, np.eye(3))
        np.testing.assert_array_equal(to_microns, np.diag([0.25, 0.25, 1]))
    np.testing.assert_array_equal(data.images["he"]["scale0"]["image"].to_numpy(), slide.image)
    assert data.attrs["past"] == store.manifest
    values = get_values("n_counts", sdata=data, element_name="cell_boundaries", table_name="cells")
    assert list(values["n_counts"]) == list(store.obs["n_counts"])


def test_outlines_follow_the_rows(read_back):
    slide, store, data = read_back
    cells = data.shapes["cell_boundaries"]
    assert list(cells.index) == list(store.cell_ids)
    centres = np.column_stack([cells.centroid.x, cells.centroid.y])
    np.testing.assert_allclose(centres, store.centroids)
    nuclei = data.shapes["nucleus_boundaries"]
    wanted = slide.cell_boundaries.index[[4, 2, 2]]
    assert sorted(nuclei["cell_id"]) == sorted(wanted)
    rows = store.obs.index.get_indexer(nuclei["cell_id"])
    assert (np.diff(rows) >= 0).all()


def test_circles_stand_for_cells_without_outlines(tmp_path):
    import spatialdata

    slide = made_slide(outlines=False)
    slide.table.obs.loc[slide.table.obs_names[:30], "cell_area_um2"] = np.nan
    path = write_store(slide, tmp_path / "s.zarr")
    circles = spatialdata.read_zarr(path).shapes["cell_boundaries"].loc[slide.table.obs_names]
    np.testing.assert_allclose(circles["radius"][:30], 5.0 / 0.25)
    np.testing.assert_allclose(circles["radius"][30:], np.sqrt(9.0 / np.pi) / 0.25)


@pytest.mark.slow
def test_squidpy_works_on_the_table(read_back):
    sq = pytest.importorskip("squidpy")
    import pandas as pd

    _, store, data = read_back
    table = data.tables["cells"].copy()
    kind = np.arange(table.n_obs) % 3
    table.obs["kind"] = pd.Categorical(kind.astype(str))
    sq.gr.interaction_matrix(table, cluster_key="kind", connectivity_key="spatial")
    counted = np.zeros((3, 3))
    np.add.at(counted, (np.repeat(kind, 8), kind[store.neighbors.ravel()]), 1)
    np.testing.assert_array_equal(table.uns["kind_interactions"], counted)
    sq.gr.nhood_enrichment(
        table, cluster_key="kind", connectivity_key="spatial", n_perms=20, seed=0, show_progress_bar=False
    )
    np.testing.assert_array_equal(table.uns["kind_nhood_enrichment"]["count"], counted)
    sq.gr.centrality_scores(table, cluster_key="kind", connectivity_key="spatial", show_progress_bar=False)
    assert table.uns["kind_centrality_scores"].notna().to_numpy().all()
