"""Slides at another resolution: antialiasing, geometry, the same micrometres in a patch, the command."""

import logging

import dask.array as da
import geopandas as gpd
import numpy as np
import pytest
import shapely
import tifffile
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from made_slides import made_slide

from past_core.cli import past_main
from past_core.ingest.checks import SlideDataError
from past_core.ingest.store import SlideStore
from past_core.ingest.target import to_resolution
from past_core.ingest.write import write_store
from past_core.slides import SlideError, open_slide
from past_core.slides.arrays import ArraySlide
from past_core.slides.resampled import ResampledSlide

HEIGHT, WIDTH = 1200, 1500


def smooth(height=HEIGHT, width=WIDTH, period=140.0):
    """`(3, H, W)` without detail finer than `period` pixels, which survives any resampling here."""
    y, x = np.mgrid[:height, :width] + 0.5
    waves = [np.sin(2 * np.pi * (x * a + y * b) / period) for a, b in ((1, 0.2), (0.3, 1), (0.7, -0.6))]
    return np.stack([(127.5 + 100 * wave).round().astype(np.uint8) for wave in waves])


SMOOTH = smooth()


def recorded(**changes):
    """A slide of 0.25 µm with everything that lies in its pixels: outlines, positions, matrices."""
    matrix = np.array([[1.1, 0.2, 30.0], [-0.2, 1.1, -12.0], [0.0, 0.0, 1.0]])
    data = made_slide(
        height=HEIGHT,
        width=WIDTH,
        image=changes.pop("image", SMOOTH),
        registration={
            "method": "matrix",
            "matrix": matrix.tolist(),
            "morphology_mpp": 0.2125,
            "scale_mpp": 0.2376,
            "rotation_deg": -10.3,
            "shapes_to_image": np.linalg.inv(matrix),
        },
        **changes,
    )
    data.table.obs["pxl_col_in_fullres"] = data.table.obsm["spatial"][:, 0]
    return data


@pytest.mark.parametrize("factor", [1.5, 2.0, 3.0, 4.4, 9.0])
def test_a_checkerboard_becomes_grey_and_not_a_pattern(factor):
    board = np.indices((400, 400)).sum(axis=0) % 2 * 255
    slide = ArraySlide(np.broadcast_to(board.astype(np.uint8), (3, 400, 400)), 0.25, "board")
    resampled = ResampledSlide(slide, 0.25 * factor)
    inner = resampled.read(0, 2, 2, resampled.height - 4, resampled.width - 4).astype(float)
    # A pixel that averages n x n squares of the board is off grey by no more than one square's share.
    assert np.abs(inner - 127.5).max() <= 127.5 / factor**2 + 1
    assert abs(inner.mean() - 127.5) < 2
    # Taking every n-th pixel instead would give black and white, or stripes.
    assert inner.std() < 127.5 / factor**2 + 0.6


def test_levels_of_a_resampled_slide_are_read_from_the_levels_that_fit(tmp_path):
    image = np.ascontiguousarray(smooth(2400, 3000).transpose(1, 2, 0))
    half = image.reshape(1200, 2, 1500, 2, 3).mean((1, 3)).round().astype(np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        options = {"tile": (256, 256), "photometric": "rgb", "metadata": None}
        tiff.write(image, **options)
        tiff.write(half, subfiletype=1, **options)
    with open_slide(tmp_path / "a.tif", mpp=0.2) as source:
        resampled = ResampledSlide(source, 0.3)
        assert (resampled.height, resampled.width, resampled.mpp) == (1600, 2000, pytest.approx(0.3))
        assert [(v.downsample, v.mpp) for v in resampled.levels] == [
            (1.0, pytest.approx(0.3)),
            (2.0, pytest.approx(0.6)),
        ]
        read = []
        real = source.read
        source.read = lambda level, *window: read.append(level) or real(level, *window)
        for number, (level, factor) in enumerate(zip(resampled.levels, (1.5, 3.0), strict=True)):
            window = resampled.read(number, -5, 100, 200, 300)
            assert (window[:, :5] == 255).all()
            y = (np.arange(195) + 0.5) * factor
            x = (np.arange(100, 400) + 0.5) * factor
            expected = image[np.floor(y).astype(int)[:, None], np.floor(x).astype(int)].transpose(2, 0, 1)
            assert np.abs(window[:, 5:].astype(int) - expected).max() <= 8
            assert level.height == round(2400 / factor)
        assert read == [0, 1]


def test_native_resolution_is_kept_as_it_is():
    data = recorded()
    for mpp in (0.25, 0.2512):
        same = to_resolution(data, mpp)
        assert same.image is data.image
        assert same.table is data.table
        assert same.mpp == 0.25
        assert same.report["target_mpp"] == {"native": 0.25, "target": mpp}


def test_a_level_that_fits_is_taken_and_its_own_resolution_kept():
    class Two(ArraySlide):
        """Its second level is marked, so that it shows which was read."""

        def __init__(self):
            super().__init__(SMOOTH, 0.249, "two")
            self.levels = ResampledSlide(ArraySlide(SMOOTH, 0.249, "two"), 0.249).levels

        def _read(self, level, y, x, height, width):
            return np.full((3, height, width), level, np.uint8)

    scaled = to_resolution(recorded(image=Two(), mpp=0.249), 0.5)
    assert scaled.mpp == pytest.approx(0.498)
    assert (scaled.image.read(0, 0, 0, 5, 5) == 1).all()
    assert scaled.report["target_mpp"] == {"native": 0.249, "target": 0.5}


@settings(max_examples=25)
@given(target=st.floats(0.15, 2.0), native=st.floats(0.2, 1.1))
def test_everything_in_pixels_is_scaled_alike(target, native):
    data = recorded(mpp=native)
    scaled = to_resolution(data, target)
    factor = scaled.mpp / data.mpp
    old, new = data.table.obsm["spatial"], scaled.table.obsm["spatial"]
    np.testing.assert_allclose(new * scaled.mpp, old * data.mpp)
    np.testing.assert_allclose(scaled.table.obs["pxl_col_in_fullres"], new[:, 0])
    for name in ("cell_boundaries", "nucleus_boundaries"):
        before, after = getattr(data, name), getattr(scaled, name)
        assert before.index.equals(after.index)
        np.testing.assert_allclose(after.area * scaled.mpp**2, before.area * data.mpp**2)
        np.testing.assert_allclose(after.bounds * factor, before.bounds)
    ones = np.ones((len(old), 1))
    matrices = [np.asarray(slide.registration["matrix"]) for slide in (data, scaled)]
    np.testing.assert_allclose(np.hstack([new, ones]) @ matrices[1].T, np.hstack([old, ones]) @ matrices[0].T)
    shapes = np.hstack([old, ones]) @ matrices[0].T  # in the shapes' own coordinates
    np.testing.assert_allclose((shapes @ np.asarray(scaled.registration["shapes_to_image"]).T)[:, :2], new)
    assert scaled.registration["scale_mpp"] == pytest.approx(0.2376 * factor)
    assert scaled.registration["rotation_deg"] == -10.3
    assert data.table.obsm["spatial"] is old
    assert data.registration["scale_mpp"] == 0.2376


@settings(max_examples=20)
@given(
    target=st.sampled_from([0.3, 0.5, 0.625, 0.9]),
    x=st.floats(200, WIDTH - 200),
    y=st.floats(200, HEIGHT - 200),
    field=st.sampled_from([28.0, 56.0]),
)
def test_a_patch_shows_the_same_micrometres(target, x, y, field):
    """Read from the resampled slide or from the native one: the same field around the same cell."""
    native = ArraySlide(SMOOTH, 0.25, "native")
    with ResampledSlide(native, target) as resampled:
        size = round(field / 0.9)
        point = np.array([[x, y]])
        one = native.read_field(point, field, size).astype(int)
        two = resampled.read_field(point / resampled.downsample, field, size).astype(int)
        # Each is placed to half a pixel of its own grid.
        shift = 0.5 * (field / size) / 0.25 * 1.01 + 0.5 * target / 0.25
        slope = 100 * 2 * np.pi / 140 * 1.25
        assert np.abs(one - two).max() <= shift * slope * 2**0.5 + 3


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """The same slide, native and at 0.5 µm."""
    folder = tmp_path_factory.mktemp("stores")
    data = recorded()
    write_store(data, folder / "native.zarr")
    write_store(to_resolution(data, 0.5), folder / "half.zarr")
    return open_slide(folder / "native.zarr"), open_slide(folder / "half.zarr")


def test_stores_show_the_same_cells_in_the_same_micrometres(stores):
    native, half = stores
    assert (native.mpp, half.mpp) == (0.25, 0.5)
    assert (half.height, half.width) == (600, 750)
    order = [{c: k for k, c in enumerate(slide.store.cell_ids)} for slide in (native, half)]
    common = sorted(order[0])
    assert common == sorted(order[1])
    rows = [[o[c] for c in common] for o in order]
    places = [slide.store.centroids[r] * slide.mpp for slide, r in zip(stores, rows, strict=True)]
    np.testing.assert_allclose(places[0], places[1])
    # Neighbours are the same cells at the same distances, in µm.
    distances = [np.sort(slide.store.distances[r], axis=1) for slide, r in zip(stores, rows, strict=True)]
    np.testing.assert_allclose(distances[0], distances[1], rtol=1e-5)
    counts = [slide.store.counts[r] for slide, r in zip(stores, rows, strict=True)]
    assert (counts[0] != counts[1]).nnz == 0
    patches = [
        slide.read_field(slide.store.centroids[r], 28.0, 56).astype(int)
        for slide, r in zip(stores, rows, strict=True)
    ]
    assert np.abs(patches[0] - patches[1]).max() <= 12
    assert np.abs(patches[0] - patches[1]).mean() < 3


def test_the_store_keeps_the_native_resolution_on_record(stores):
    manifest = stores[1].store.manifest
    assert manifest["report"]["target_mpp"] == {"native": 0.25, "target": 0.5}
    matrix = np.asarray(manifest["registration"]["matrix"])
    original = np.asarray(stores[0].store.manifest["registration"]["matrix"])
    np.testing.assert_allclose(matrix @ (10.0, 20.0, 1.0), original @ (20.0, 40.0, 1.0))
    import spatialdata

    shapes = [spatialdata.read_zarr(slide.store.path).shapes["cell_boundaries"] for slide in stores]
    areas = [frame.area * slide.mpp**2 for frame, slide in zip(shapes, stores, strict=True)]
    np.testing.assert_allclose(areas[1].loc[areas[0].index], areas[0])


def test_more_than_twofold_upsampling_warns_once(caplog):
    slide = ArraySlide(SMOOTH[:, :64, :64], 0.5, "coarse")
    with caplog.at_level(logging.WARNING):
        ResampledSlide(slide, 0.3)
        assert not caplog.records
        resampled = ResampledSlide(slide, 0.2)
        resampled.read(0, 0, 0, 20, 20)
        to_resolution(made_slide(image=slide, mpp=0.5), 0.2)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "upsampled 2.5 x" in caplog.text
    assert (resampled.height, resampled.width) == (160, 160)


def test_pixels_are_read_tile_by_tile_when_they_are_written(tmp_path):
    """The image is never whole in memory: not at to_resolution, and in windows of bounded size after it."""
    read = []

    def block(block_info=None):
        place = block_info[None]["array-location"]
        read.append(place)
        return SMOOTH[:, : place[1][1] - place[1][0], : place[2][1] - place[2][0]]

    side = 6000
    chunks = ((3,), (500,) * 12, (500,) * 12)
    image = da.map_blocks(block, chunks=chunks, dtype=np.uint8, meta=np.empty((0, 0, 0), np.uint8))
    data = made_slide(height=side, width=side, image=image)
    scaled = to_resolution(data, 0.5)
    assert not read
    windows = []
    real = scaled.image.read
    scaled.image.read = lambda level, y, x, height, width: (
        windows.append(height * width) or real(level, y, x, height, width)
    )
    write_store(scaled, tmp_path / "a.zarr")
    assert max(windows) <= 2048**2
    assert len({tuple(map(tuple, place)) for place in read}) == 144
    store = SlideStore(tmp_path / "a.zarr")
    assert (store.levels[0].height, store.levels[0].width) == (3000, 3000)


@pytest.mark.parametrize("mpp", [0.0, -1.0, float("nan"), float("inf")])
def test_a_senseless_target_is_refused(mpp):
    with pytest.raises(SlideDataError, match="--target-mpp"):
        to_resolution(made_slide(), mpp)


def test_a_slide_that_states_no_resolution_takes_the_readers(tmp_path):
    """A bundle's alignment may be what tells the resolution, or better than the file."""
    image = np.ascontiguousarray(SMOOTH.transpose(1, 2, 0))
    tifffile.imwrite(tmp_path / "a.tif", image, tile=(256, 256), photometric="rgb", metadata=None)
    for stated in (None, 0.26):
        slide = open_slide(tmp_path / "a.tif", mpp=stated)
        with pytest.raises(SlideError) if stated is None else pytest.MonkeyPatch.context():
            slide.require_mpp()
        scaled = to_resolution(made_slide(image=slide, mpp=0.25), 0.5)
        assert (scaled.image.height, scaled.image.width, scaled.mpp) == (600, 750, 0.5)


@pytest.fixture
def hest(tmp_path):
    """An AnnData of cells and its image, as files."""
    data = made_slide(height=HEIGHT, width=WIDTH)
    image = np.ascontiguousarray(SMOOTH.transpose(1, 2, 0))
    tifffile.imwrite(tmp_path / "a.tif", image, tile=(256, 256), photometric="rgb", metadata=None)
    genes = data.table.var.copy()
    genes.index = [f"ENSG{number:011d}" for number in range(3, 3 + len(genes))]
    AnnData(
        X=data.table.X, obs=data.table.obs, var=genes, obsm={"spatial": data.table.obsm["spatial"]}
    ).write_h5ad(tmp_path / "a.h5ad")
    return tmp_path


def test_the_command(hest, monkeypatch, capsys):
    def past(*arguments):
        monkeypatch.setattr("sys.argv", ["past", *map(str, arguments)])
        try:
            past_main()
        except SystemExit as stop:
            return stop.code or 0
        return 0

    arguments = ["ingest", "--hest", hest / "a.h5ad", "--he", hest / "a.tif", "--mpp", 0.25]
    native, half = hest / "native.zarr", hest / "half.zarr"
    assert past(*arguments, "-o", native) == 0
    assert past(*arguments, "-o", half, "--target-mpp", 0.5) == 0
    one, two = SlideStore(native), SlideStore(half)
    assert (one.mpp, two.mpp) == (0.25, 0.5)
    assert "target_mpp" not in one.manifest["report"]
    assert two.manifest["report"]["target_mpp"] == {"native": 0.25, "target": 0.5}
    where = dict(zip(two.cell_ids, two.centroids * 2, strict=True))
    np.testing.assert_allclose([where[cell] for cell in one.cell_ids], one.centroids)
    capsys.readouterr()
    assert past(*arguments, "-o", hest / "c.zarr", "--target-mpp", 0) != 0
    assert "--target-mpp is 0" in capsys.readouterr().err
    assert not (hest / "c.zarr").exists()


def test_circles_and_multipolygons_are_scaled_too():
    data = made_slide(outlines=False)
    assert to_resolution(data, 0.5).cell_boundaries is None
    parts = shapely.MultiPolygon([shapely.box(0, 0, 4, 4), shapely.box(8, 8, 10, 12)])
    ids = data.table.obs_names
    data.cell_boundaries = gpd.GeoDataFrame(geometry=[parts] * len(ids), index=ids)
    scaled = to_resolution(data, 0.5)
    assert scaled.cell_boundaries.geometry.iloc[0].equals(
        shapely.affinity.scale(parts, 0.5, 0.5, origin=(0, 0))
    )
