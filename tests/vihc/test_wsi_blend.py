"""Windows and their blending against whole-image accumulators, and whether seams show."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_stainer import draw_slide

from past_vihc.wsi.blend import Blender
from past_vihc.wsi.grid import Axis, Grid, GridError, make_grid, windows_with_tissue
from past_vihc.wsi.seams import SeamError, seam_ratio


def weights(axis: Axis, index: int) -> np.ndarray:
    """A window's weights along one axis, float32; a window without a neighbour counts up to its end."""
    found = np.full(axis.tile, 256, np.float32)
    if index:
        found[: axis.margin] = 0
        found[axis.margin : axis.margin + axis.ramp] = axis.weights()
    if index + 1 < axis.count:
        found[axis.stride + axis.margin :] = 0
        found[axis.stride + axis.margin : axis.stride + axis.margin + axis.ramp] = (
            256 - axis.weights().astype(int)
        )
    return found


def accumulated(grid: Grid, tiles: dict[tuple[int, int], np.ndarray], background: int) -> np.ndarray:
    """The usual way: float32 sums of weighted windows and of weights, over the whole image."""
    rows, columns = grid.rows, grid.columns
    shape = tuple((axis.count - 1) * axis.stride + axis.tile for axis in (rows, columns))
    total, weight = np.zeros((3, *shape), np.float32), np.zeros(shape, np.float32)
    for row in range(rows.count):
        for column in range(columns.count):
            w = np.outer(weights(rows, row), weights(columns, column))
            y, x = row * rows.stride, column * columns.stride
            window = tiles.get((row, column), np.float32(background))
            total[:, y : y + rows.tile, x : x + columns.tile] += w * window
            weight[y : y + rows.tile, x : x + columns.tile] += w
    inside = np.s_[: rows.size, : columns.size]
    assert (weight[inside] == 256 * 256).all()
    return np.floor(total[:, *inside] / weight[inside] + 0.5).astype(np.uint8)


def blended(
    grid: Grid, tiles: dict[tuple[int, int], np.ndarray], background: int, segment: int
) -> np.ndarray:
    active = np.zeros((grid.rows.count, grid.columns.count), bool)
    for place in tiles:
        active[place] = True
    out = np.full((3, grid.rows.size, grid.columns.size), background, np.uint8)

    def sink(y: int, x: int, block: np.ndarray) -> None:
        out[:, y : y + block.shape[1], x : x + block.shape[2]] = block

    blender = Blender(grid, active, sink, background=background)
    blender.per_segment = segment
    for row in range(grid.rows.count):
        for first, stop in blender.segments():
            there = {c: tiles[row, c] for c in range(first, stop) if (row, c) in tiles}
            blender.segment(row, (first, stop), there)
    return out


@given(
    height=st.integers(1, 200),
    width=st.integers(1, 300),
    tile=st.integers(4, 64),
    overlap=st.floats(0.25, 0.5),
    field=st.integers(0, 40),
    share=st.floats(0, 1),
    segment=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_blending_equals_whole_image_accumulators(
    height: int, width: int, tile: int, overlap: float, field: int, share: float, segment: int, seed: int
) -> None:
    try:
        grid = make_grid(height, width, tile=tile, overlap=overlap, receptive_field=field)
    except GridError:  # of 5 px, no whole number is a quarter to a half
        return
    rng = np.random.default_rng(seed)
    background = int(rng.integers(0, 256))
    tiles = {
        (r, c): rng.integers(0, 256, (3, tile, tile), dtype=np.uint8)
        for r in range(grid.rows.count)
        for c in range(grid.columns.count)
        if rng.random() < share
    }
    np.testing.assert_array_equal(
        blended(grid, tiles, background, segment), accumulated(grid, tiles, background)
    )


def test_equal_windows_give_the_image_back() -> None:
    image = np.ascontiguousarray(draw_slide(230, 310).transpose(2, 0, 1))
    grid = make_grid(230, 310, tile=64)
    padded = np.pad(image, ((0, 0), (0, 64), (0, 64)))
    tiles = {
        (r, c): padded[:, r * 48 : r * 48 + 64, c * 48 : c * 48 + 64]
        for r in range(grid.rows.count)
        for c in range(grid.columns.count)
    }
    np.testing.assert_array_equal(blended(grid, tiles, 255, 3), image)


def test_the_receptive_field_is_discarded_as_far_as_most_of_the_overlap_is_left() -> None:
    assert make_grid(900, 900, tile=128, receptive_field=3).rows == Axis(900, 128, 96, 3, 26)
    assert make_grid(900, 900, tile=128, receptive_field=90).rows == Axis(900, 128, 96, 4, 24)
    assert make_grid(900, 900, tile=128, overlap=0.5, step=64).rows.stride == 64
    assert make_grid(900, 900, tile=256, overlap=0.25, step=64).rows.stride == 192
    assert make_grid(900, 900, tile=128, overlap=0.25, step=64).rows.stride == 64  # 96 is between nodes


@pytest.mark.parametrize("overlap", [0.0, 0.24, 0.51, -1, float("nan")])
def test_other_overlaps_are_refused(overlap: float) -> None:
    with pytest.raises(GridError, match=r"0\.25 to 0\.5"):
        make_grid(900, 900, tile=128, overlap=overlap)
    with pytest.raises(GridError, match="smaller overlap"):
        make_grid(900, 900, tile=128, overlap=0.4, step=100)


def test_every_window_with_weight_on_tissue_is_stained_and_none_far_from_it() -> None:
    grid = make_grid(1000, 1200, tile=64, receptive_field=3)
    mask = np.zeros((63, 75), bool)  # 16 px a pixel
    mask[30:33, 40:43] = True
    active = windows_with_tissue(grid, mask, 16.0)
    for row in range(grid.rows.count):
        for column in range(grid.columns.count):
            (top, bottom), (left, right) = grid.rows.support(row), grid.columns.support(column)
            touches = top < 33 * 16 and bottom > 30 * 16 and left < 43 * 16 and right > 40 * 16
            near = top < 34 * 16 and bottom > 29 * 16 and left < 44 * 16 and right > 39 * 16
            assert active[row, column] >= touches
            assert active[row, column] <= near or touches
    assert not windows_with_tissue(grid, np.zeros_like(mask), 16.0).any()
    assert windows_with_tissue(grid, np.ones_like(mask), 16.0).all()


def tiles_with_jumps(grid: Grid, image: np.ndarray, jump: float) -> dict[tuple[int, int], np.ndarray]:
    rng = np.random.default_rng(4)
    padded = np.pad(image, ((0, 0), (0, grid.tile), (0, grid.tile)), mode="symmetric").astype(float)
    tiles = {}
    for r in range(grid.rows.count):
        for c in range(grid.columns.count):
            y, x = r * grid.stride, c * grid.stride
            window = padded[:, y : y + grid.tile, x : x + grid.tile] + rng.uniform(-jump, jump)
            tiles[r, c] = np.clip(np.rint(window), 0, 255).astype(np.uint8)
    return tiles


def test_no_seam_shows_where_hard_stitching_shows_them() -> None:
    image = np.ascontiguousarray(draw_slide(700, 800, seed=2).transpose(2, 0, 1))
    y, x = np.mgrid[:700, :800]
    tissue = np.hypot((y - 350) / 700, (x - 400) / 800) < 0.37  # on glass there is little to see
    soft = make_grid(700, 800, tile=128, receptive_field=44)
    hard = make_grid(700, 800, tile=128, hard=True)
    assert soft.stride == hard.stride
    tiles = tiles_with_jumps(soft, image, 10)
    lines = (hard.rows.lines(), hard.columns.lines())
    borders = (soft.rows.borders(), soft.columns.borders())
    smooth = blended(soft, tiles, 255, 4)
    assert seam_ratio(image, *lines, mask=tissue) == pytest.approx(1, abs=0.05)
    assert seam_ratio(smooth, *lines, mask=tissue) == pytest.approx(1, abs=0.05)
    assert seam_ratio(smooth, *borders, mask=tissue) == pytest.approx(1, abs=0.05)
    assert seam_ratio(blended(hard, tiles, 255, 4), *lines, mask=tissue) > 1.3


def test_seam_ratio_of_known_images() -> None:
    image = np.zeros((3, 20, 30), np.uint8)
    image[:, :, 10:] = 90
    rows, columns = np.array([5]), np.array([10])
    assert seam_ratio(image, rows, columns) == np.inf
    assert seam_ratio(np.zeros_like(image), rows, columns) == 1
    ramp = np.broadcast_to(np.arange(30, dtype=np.uint8), (3, 20, 30))
    assert seam_ratio(ramp, np.array([], int), columns) == pytest.approx(1 / (28 * 20 / (28 * 20 + 19 * 30)))
    right = np.zeros((20, 30), bool)
    right[:, 12:] = True
    with pytest.raises(SeamError, match="0 gradients that count on them"):
        seam_ratio(image, np.array([], int), columns, mask=right)
