"""Tiles of the view: the slide's pixels, the layers' outlines and colours."""

import io
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from made_slides import made_slide
from made_view import HEIGHT, WIDTH, view_slide
from PIL import Image
from scipy import ndimage

from past_core.ingest.store import SlideStore
from past_core.ingest.write import SlideData, write_store
from past_core.slides import open_slide
from past_core.slides.stored import StoredSlide
from past_core.view.cache import Cache
from past_core.view.cells import Cells
from past_core.view.colours import CELLS, NUCLEI, REASONS, viridis
from past_core.view.layers import Layers
from past_core.view.tiles import TILE, Grid, TileError, encode_jpeg, read_tile


@pytest.fixture(scope="module")
def slide() -> SlideData:
    return view_slide()


@pytest.fixture(scope="module")
def store(slide: SlideData, tmp_path_factory: pytest.TempPathFactory) -> SlideStore:
    return SlideStore(write_store(slide, tmp_path_factory.mktemp("view") / "s.zarr", block_size=400))


@pytest.fixture(scope="module")
def grid() -> Grid:
    return Grid(WIDTH, HEIGHT)


@pytest.fixture(scope="module")
def layers(store: SlideStore, grid: Grid) -> Layers:
    return Layers(Cells(store), grid)


def whole(layers: Layers, layer: str, level: int, **options) -> np.ndarray:
    """All tiles of a level put together, (h, w, 4)."""
    width, height = layers.grid.size(level)
    image = np.zeros((height, width, 4), np.uint8)
    for y in range(-(-height // TILE)):
        for x in range(-(-width // TILE)):
            tile = np.asarray(Image.open(io.BytesIO(layers.render(layer, level, x, y, **options))))
            image[y * TILE : y * TILE + len(tile), x * TILE : x * TILE + tile.shape[1]] = tile
    return image


# --- the image -----------------------------------------------------------------------------


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_levels_halve_until_one_pixel(width: int, height: int) -> None:
    grid = Grid(width, height)
    assert grid.size(grid.top) == (width, height)
    assert grid.size(0) == (1, 1)
    for level in range(1, grid.top + 1):
        assert grid.size(level - 1) == tuple(-(-side // 2) for side in grid.size(level))
    for level in (-1, grid.top + 1, 10**9):
        with pytest.raises(TileError, match=f"levels 0 to {grid.top}"):
            grid.downsample(level)


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(0, 12))
def test_tiles_cover_a_level_once(width: int, height: int, level: int) -> None:
    grid = Grid(width, height)
    level = min(level, grid.top)
    columns, rows = (-(-side // TILE) for side in grid.size(level))
    boxes = [grid.box(level, x, y) for y in range(rows) for x in range(columns)]
    assert sum(w * h for _, _, w, h in boxes) == np.prod(grid.size(level))
    assert all(0 < w <= TILE and 0 < h <= TILE for _, _, w, h in boxes)
    for x, y in [(columns, 0), (0, rows), (-1, 0), (10**9, 10**9)]:
        with pytest.raises(TileError, match="no tile"):
            grid.box(level, x, y)


def test_tiles_are_the_stores_pixels(store: SlideStore, grid: Grid) -> None:
    stored = StoredSlide(store)
    for level, number in ((grid.top, 0), (grid.top - 1, 1)):
        for x, y in [(0, 0), (1, 1)]:
            left, top, width, height = grid.box(level, x, y)
            pixels = read_tile(stored, grid, level, x, y)
            np.testing.assert_array_equal(pixels, store.read(number, top, left, height, width))
            shown = np.asarray(Image.open(io.BytesIO(encode_jpeg(pixels)))).transpose(2, 0, 1)
            assert np.abs(shown.astype(int) - pixels).max() <= 8
            assert np.abs(shown.astype(int) - pixels).mean() < 1


def test_levels_below_the_pyramid_are_averaged(store: SlideStore, grid: Grid) -> None:
    coarsest = len(store.levels) - 1
    level = grid.top - coarsest - 2
    pixels = read_tile(StoredSlide(store), grid, level, 0, 0)
    width, height = grid.size(level)
    assert pixels.shape == (3, height, width)
    size = store.levels[coarsest]
    source = store.read(coarsest, 0, 0, size.height, size.width)[:, : height // 2 * 4, : width // 2 * 4]
    mean = source.reshape(3, height // 2, 4, width // 2, 4).mean(axis=(2, 4))
    assert np.abs(pixels[:, : height // 2, : width // 2] - mean).max() <= 0.51


def test_a_bare_image_is_read_in_strips(slide: SlideData, tmp_path: Path, monkeypatch) -> None:
    Image.fromarray(slide.image.transpose(1, 2, 0)).save(tmp_path / "he.png")
    bare = open_slide(tmp_path / "he.png")
    grid = Grid(bare.width, bare.height)
    level = grid.top - 2
    at_once = read_tile(bare, grid, level, 0, 0)
    monkeypatch.setattr("past_core.view.tiles.STRIP_PIXELS", 4 * 4 * 300)
    np.testing.assert_array_equal(read_tile(bare, grid, level, 0, 0), at_once)
    blocks = slide.image[:, :1280, :1024].reshape(3, 320, 4, 256, 4).mean(axis=(2, 4))
    assert np.abs(at_once[:, :320, :256] - blocks).max() <= 0.51


# --- outlines ------------------------------------------------------------------------------


@pytest.mark.parametrize(("layer", "colour"), [("cells", CELLS), ("nuclei", NUCLEI)])
def test_painted_pixels_lie_on_the_outlines(
    slide: SlideData, layers: Layers, layer: str, colour: tuple[int, int, int]
) -> None:
    image = whole(layers, layer, layers.grid.top)
    rows, columns = np.nonzero(image[..., 3])
    assert (image[rows, columns, :3] == colour).all()
    frame = slide.cell_boundaries if layer == "cells" else slide.nucleus_boundaries
    parts = [part.exterior for shape in frame.geometry for part in getattr(shape, "geoms", [shape])]
    lines = shapely.union_all(parts)
    shapely.prepare(lines)
    middle = shapely.points(columns + 0.5, rows + 0.5)
    assert shapely.dwithin(middle[::20], lines, 1.8).all()
    # And every stretch of outline is painted.
    share = np.tile(np.linspace(0, 1, 50), len(parts))
    along = shapely.line_interpolate_point(np.repeat(parts, 50), share, normalized=True)
    x, y = shapely.get_coordinates(along).T
    assert (image[np.floor(y).astype(int), np.floor(x).astype(int), 3] > 20).mean() > 0.98
    around = ndimage.maximum_filter(image[..., 3], 3)
    assert (around[np.floor(y).astype(int), np.floor(x).astype(int)] > 60).all()


def test_outlines_cross_the_edges_of_tiles(layers: Layers) -> None:
    image = whole(layers, "cells", layers.grid.top)
    outlines = layers.cells.outlines
    assert outlines is not None
    crossing = (outlines.boxes[:, 0] < TILE - 2) & (outlines.boxes[:, 2] > TILE + 2)
    assert crossing.sum() > 5
    for number in np.flatnonzero(crossing):
        ring = shapely.LinearRing(outlines.polygon(number))
        cut = ring.intersection(shapely.LineString([(TILE, 0), (TILE, HEIGHT)]))
        for point in getattr(cut, "geoms", [cut]):
            row = int(point.y)
            assert image[row - 1 : row + 2, TILE - 1, 3].any()
            assert image[row - 1 : row + 2, TILE, 3].any()


def test_far_away_cells_are_dots(layers: Layers, store: SlideStore) -> None:
    level = layers.grid.top - 4
    image = whole(layers, "cells", level)
    x, y = np.floor(store.centroids / 16).astype(int).T
    assert (image[y, x, 3] > 0).mean() > 0.9
    assert (image[..., 3] > 0).mean() < 0.8


# --- colours -------------------------------------------------------------------------------


def test_a_cell_has_the_colour_of_its_expression(layers: Layers, store: SlideStore) -> None:
    counts = store.counts.toarray().astype(float)
    column = 4
    totals = counts.sum(axis=1)
    values = np.log1p(counts[:, column] / np.maximum(totals, 1) * 1e4)
    top = np.quantile(values[values > 0], 0.99)
    image = whole(layers, "expression", layers.grid.top, gene=column)
    x, y = np.floor(store.centroids).astype(int).T
    assert (image[y, x, 3] == 255).all()
    expected = viridis(np.clip(values / top, 0, 1)).astype(int)
    assert np.abs(image[y, x, :3].astype(int) - expected).max() <= 1
    assert len(np.unique(expected, axis=0)) > 10
    # Filled are the cells, and nothing else.
    outlines = layers.cells.outlines
    assert outlines is not None
    area = shapely.union_all([shapely.Polygon(outlines.polygon(k)) for k in range(len(outlines))])
    rows, columns = np.nonzero(image[..., 3] == 255)
    shapely.prepare(area)
    assert shapely.dwithin(shapely.points(columns + 0.5, rows + 0.5)[::50], area, 0.8).all()
    assert abs(image[..., 3].sum() / 255 / area.area - 1) < 0.1


def test_far_away_pixels_show_the_mean_of_their_cells(layers: Layers, store: SlideStore) -> None:
    column, level = 4, layers.grid.top - 6
    gene = layers.cells.gene(column)
    image = whole(layers, "expression", level, gene=column)
    at = np.floor(store.centroids / 64).astype(int)
    width = layers.grid.size(level)[0]
    flat = at[:, 1] * width + at[:, 0]
    number = np.bincount(flat, minlength=image.shape[0] * width)
    mean = np.bincount(flat, gene.values, len(number)) / np.maximum(number, 1)
    expected = viridis(mean / gene.top).reshape(*image.shape[:2], 3)
    covered = number.reshape(image.shape[:2]) > 0
    assert number.max() > 1
    np.testing.assert_array_equal(image[..., 3] > 0, covered)
    assert np.abs(image[covered, :3].astype(int) - expected[covered]).max() <= 1


def test_flagged_cells_alone_are_coloured_by_their_reason(layers: Layers, store: SlideStore) -> None:
    reasons = [name for name, _ in layers.cells.reasons]
    assert reasons == ["no_genes"]
    image = whole(layers, "qc", layers.grid.top)
    x, y = np.floor(store.centroids).astype(int).T
    failed = ~store.passed
    assert 10 < failed.sum() < len(failed) / 2
    assert (image[y[failed], x[failed]] == (*REASONS[0], 255)).all()
    assert (image[y[~failed], x[~failed], 3] == 0).all()
    coarse = whole(layers, "qc", layers.grid.top - 5)
    rows, columns = np.nonzero(coarse[..., 3])
    assert (coarse[rows, columns, :3] == REASONS[0]).all()
    assert 0 < len(rows) <= failed.sum()


def test_another_gene_keeps_the_places(store: SlideStore, grid: Grid, monkeypatch) -> None:
    layers, drawn = Layers(Cells(store), grid), []
    original = Layers._raster
    monkeypatch.setattr(Layers, "_raster", lambda *a, **k: drawn.append(1) or original(*a, **k))
    tiles = {layers.render("expression", grid.top, 0, 0, gene=gene) for gene in (1, 2, 3)}
    assert len(tiles) == 3
    assert len(drawn) == 1


def test_a_slide_without_outlines_shows_its_centres(tmp_path: Path) -> None:
    store = SlideStore(write_store(made_slide(outlines=False), tmp_path / "s.zarr"))
    (store.path / "shapes" / "cell_boundaries" / "shapes.parquet").unlink()
    layers = Layers(Cells(store), Grid(store.levels[0].width, store.levels[0].height))
    image = whole(layers, "expression", layers.grid.top, gene=0)
    x, y = np.floor(store.centroids).astype(int).T
    assert (image[y, x, 3] == 255).all()
    assert not whole(layers, "nuclei", layers.grid.top).any()


def test_viridis_is_matplotlibs() -> None:
    from matplotlib import colormaps

    expected = np.asarray(colormaps["viridis"].colors) * 255
    assert np.abs(viridis(np.arange(256) / 255) - expected).max() < 1.5
    np.testing.assert_array_equal(viridis(np.array([-3.0, 9.0])), viridis(np.array([0.0, 1.0])))


# --- the cache -----------------------------------------------------------------------------


@given(st.lists(st.integers(0, 9), max_size=60))
def test_the_cache_stays_within_its_bytes(keys: list[int]) -> None:
    cache: Cache[bytes] = Cache(20, len)
    for key in keys:
        assert cache.get(key, partial(bytes, key)) == bytes(key)
        assert cache.bytes <= 20
    made = []
    if keys:
        cache.get(keys[-1], lambda: made.append(1) or b"")
        assert not made
    assert cache.get("large", lambda: bytes(99)) == bytes(99)
    assert len(cache) == cache.bytes == 0
