"""Image work of ingest goes tile by tile: no window grows with the slide, and no pixel is read twice."""

import threading
import weakref

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from made_slides import made_slide

from past_core.ingest import checks, pyramid, write
from past_core.ingest.checks import SlideDataError, cell_totals, whole_counts
from past_core.ingest.pyramid import TILE, level_shapes, write_pyramid
from past_core.ingest.store import SlideStore
from past_core.ingest.write import write_store

TILE_BYTES = 3 * TILE * TILE


class CountingImage:
    """An image that exists only in the windows that are asked for, and keeps book of them."""

    dtype = np.dtype(np.uint8)

    def __init__(self, height: int, width: int) -> None:
        self.shape = (3, height, width)
        self.windows: list[tuple[int, int, int, int]] = []
        self.threads: set[str] = set()
        self.live = self.most_live = 0
        self._lock = threading.Lock()

    def __getitem__(self, window):
        channels, rows, columns = window
        y0, y1, _ = rows.indices(self.shape[1])
        x0, x1, _ = columns.indices(self.shape[2])
        with self._lock:
            self.windows.append((y0, y1, x0, x1))
            self.threads.add(threading.current_thread().name)
            self.live += 1
            self.most_live = max(self.most_live, self.live)
        y, x = np.arange(y0, y1)[:, None], np.arange(x0, x1)
        pixels = np.stack([(y // 7 + x) % 251, (y + x // 5) % 241, (y ^ x) % 256]).astype(np.uint8)[channels]
        with self._lock:
            self.live -= 1
        return pixels


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles of 128 px, so that a slide of many tiles is quickly made."""
    monkeypatch.setattr(pyramid, "CHUNK", 16)
    monkeypatch.setattr(pyramid, "TILE", 128)
    monkeypatch.setattr(pyramid, "SMALLEST_LEVEL", 64)


def written(image, folder):
    zarr.open_group(folder, mode="w")
    write_pyramid(image, folder)
    return folder


@pytest.mark.parametrize("size", [(300, 300), (700, 1500), (1500, 700)])
def test_every_pixel_is_read_once_in_windows_of_one_tile(tmp_path, small_tiles, size):
    image = CountingImage(*size)
    written(image, tmp_path)
    assert max(y1 - y0 for y0, y1, _, _ in image.windows) <= 128
    assert max(x1 - x0 for _, _, x0, x1 in image.windows) <= 128
    seen = np.zeros(size, np.int64)
    for y0, y1, x0, x1 in image.windows:
        seen[y0:y1, x0:x1] += 1
    assert (seen == 1).all()


@pytest.mark.parametrize("cores", [1, 2, 64])
def test_tiles_in_work_are_few_whatever_the_cores(tmp_path, small_tiles, monkeypatch, cores):
    monkeypatch.setattr(pyramid, "usable_cores", lambda: cores)
    image = CountingImage(600, 600)
    written(image, tmp_path)
    assert 1 <= image.most_live <= min(cores + 1, 8)
    assert len(image.threads) <= min(cores + 1, 8)


def test_threads_do_not_change_a_byte(tmp_path, small_tiles, monkeypatch):
    def content(cores):
        monkeypatch.setattr(pyramid, "usable_cores", lambda: cores)
        folder = written(CountingImage(500, 650), tmp_path / str(cores))
        return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}

    one, many = content(1), content(7)
    assert len(one) > 100
    assert one == many


def test_progress_counts_up_with_many_threads(tmp_path, small_tiles, monkeypatch):
    monkeypatch.setattr(pyramid, "usable_cores", lambda: 7)
    seen = []
    zarr.open_group(tmp_path, mode="w")
    write_pyramid(CountingImage(500, 650), tmp_path, progress=lambda *at: seen.append(at))
    assert seen == [(done, 24) for done in range(1, 25)]


def test_a_tile_that_cannot_be_read_stops_the_others(tmp_path, small_tiles, monkeypatch):
    monkeypatch.setattr(pyramid, "usable_cores", lambda: 3)

    class Broken(CountingImage):
        def __getitem__(self, window):
            pixels = super().__getitem__(window)
            if window[1].start == 128 and window[2].start == 256:
                raise RuntimeError("bad sector")
            return pixels

    image = Broken(3000, 640)
    zarr.open_group(tmp_path, mode="w")
    before = threading.active_count()
    with pytest.raises(SlideDataError, match=r"x 256 to 384, y 128 to 256 \(bad sector\)"):
        write_pyramid(image, tmp_path)
    assert len(image.windows) < 20  # of 120 tiles
    assert not [t for t in threading.enumerate() if t.name.startswith("past-pyramid")]
    assert threading.active_count() <= before + 1


def test_a_store_is_written_without_a_window_above_one_tile(tmp_path):
    """The whole of `write_store` at its real tile size, on an image that is no array."""
    image = CountingImage(2300, 4200)
    slide = made_slide(height=2300, width=4200)
    slide.image = image
    store = SlideStore(write_store(slide, tmp_path / "s.zarr"))
    areas = [3 * (y1 - y0) * (x1 - x0) for y0, y1, x0, x1 in image.windows]
    assert max(areas) <= TILE_BYTES
    assert sum(areas) == 3 * 2300 * 4200
    assert [(level.height, level.width) for level in store.levels] == level_shapes(2300, 4200)
    np.testing.assert_array_equal(store.read(0, 2000, 2000, 300, 300), image[:, 2000:2300, 2000:2300])


# --- cells ---------------------------------------------------------------------------------------------


@given(st.integers(0, 40), st.integers(1, 30), st.integers(1, 11), st.integers(0, 2**32))
def test_totals_of_some_cells_at_a_time(cells, genes, step, seed):
    rng = np.random.default_rng(seed)
    dense = rng.poisson(0.5, (cells, genes)).astype(np.int32)
    matrix = checks.csr_matrix(dense)
    matrix.data[::3] = 0  # stored, and yet nothing
    expected = matrix.toarray()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checks, "STEP", step)
        sums, found = cell_totals(matrix)
    np.testing.assert_array_equal(sums, expected.sum(axis=1))
    np.testing.assert_array_equal(found, (expected > 0).sum(axis=1))


def test_counts_are_copied_only_where_they_have_to_be_changed():
    matrix = checks.csr_matrix(np.random.default_rng(0).poisson(0.4, (30, 20)).astype(np.float64))
    ids = pd.RangeIndex(30), pd.RangeIndex(20)
    whole = whole_counts(matrix, "slide", *ids)
    assert whole.dtype == np.int32
    assert not np.shares_memory(whole.indices, matrix.indices)
    again = whole_counts(whole, "slide", *ids)
    assert np.shares_memory(again.data, whole.data)
    assert np.shares_memory(again.indices, whole.indices)
    shuffled = whole.copy()
    shuffled.indices[: shuffled.indptr[1]] = shuffled.indices[: shuffled.indptr[1]][::-1].copy()
    shuffled.data[: shuffled.indptr[1]] = shuffled.data[: shuffled.indptr[1]][::-1].copy()
    shuffled.has_sorted_indices = shuffled.has_canonical_format = False
    before = shuffled.indices.copy()
    assert (whole_counts(shuffled, "slide", *ids) != whole).nnz == 0
    np.testing.assert_array_equal(shuffled.indices, before)


@pytest.mark.parametrize("rows", [1, 7, 40, 10_000])
def test_counts_written_some_rows_at_a_time_are_the_same(tmp_path, monkeypatch, rows):
    slide = made_slide()
    monkeypatch.setattr(write, "ROWS", rows)
    path = write_store(slide, tmp_path / "s.zarr")
    store = SlideStore(path)
    expected = slide.table[store.cell_ids].X
    for counts in (store.counts, ad.io.read_elem(zarr.open_group(path, mode="r")["tables/cells/X"])):
        assert counts.shape == expected.shape
        assert counts.dtype == np.int32
        assert (counts != expected).nnz == 0
    import spatialdata

    assert (expected != spatialdata.read_zarr(path).tables["cells"].X).nnz == 0


@pytest.mark.parametrize("consume", [True, False])
def test_a_table_that_is_consumed_is_gone_while_pixels_are_written(tmp_path, consume):
    slide = made_slide()
    table, outlines = weakref.ref(slide.table), weakref.ref(slide.cell_boundaries)
    seen = []
    path = write_store(
        slide,
        tmp_path / "s.zarr",
        consume=consume,
        progress=lambda *_: seen.append((table() is None, outlines() is None)),
    )
    assert set(seen) == {(consume, consume)}
    assert (
        SlideStore(path).counts != SlideStore(write_store(made_slide(), tmp_path / "t.zarr")).counts
    ).nnz == 0
