"""Tissue mask and tile grid on painted and real slides."""

import numpy as np
import pytest
import tifffile

from past_core.slides import SlideError, open_slide, tile_grid, tissue_mask

PINK, GLASS = (214, 150, 190), (243, 242, 244)


def paint(tmp_path, mask, *, mpp=1.0, colour=PINK):
    """A slide whose tissue is where `mask` says, with a scanner's noise."""
    rng = np.random.default_rng(0)
    image = np.where(mask[:, :, None], np.array(colour), np.array(GLASS)) + rng.normal(0, 3, (*mask.shape, 3))
    path = tmp_path / "slide.tif"
    tifffile.imwrite(path, image.clip(0, 255).astype(np.uint8), photometric="rgb", tile=(128, 128))
    return open_slide(path, mpp=mpp)


def test_mask_finds_the_tissue(tmp_path):
    truth = np.zeros((800, 1000), bool)
    truth[160:480, 240:800] = True
    mask, downsample = tissue_mask(paint(tmp_path, truth))
    assert downsample == 8
    assert mask.shape == (100, 125)
    assert (mask != truth[4::8, 4::8]).mean() < 0.01


def test_grid_covers_the_tissue_and_nothing_else(tmp_path):
    truth = np.zeros((800, 1000), bool)
    truth[160:480, 240:800] = True
    slide = paint(tmp_path, truth)
    grid = tile_grid(slide, tile_um=80)
    wanted = {(row, column) for row in range(2, 6) for column in range(3, 10)}
    assert {tuple(i) for i in grid.index.tolist()} == wanted
    np.testing.assert_allclose(grid.centres, (grid.index[:, ::-1] + 0.5) * 80)
    assert (grid.tissue > 0.9).all()
    # Borders of the tissue count by their share.
    assert len(tile_grid(slide, tile_um=112, min_tissue=0.9).centres) < len(
        tile_grid(slide, tile_um=112, min_tissue=0.1).centres
    )


def test_all_tissue_and_all_glass(tmp_path):
    slide = paint(tmp_path, np.ones((300, 450), bool))
    grid = tile_grid(slide, tile_um=100)
    assert len(grid.centres) == 3 * 5  # the last column hangs over the border
    with pytest.raises(SlideError, match="no tissue"):
        tile_grid(paint(tmp_path, np.zeros((300, 400), bool)), tile_um=100)


def test_black_and_grey_are_not_tissue(tmp_path):
    truth = np.zeros((400, 400), bool)
    truth[:200] = True
    for colour in ((0, 0, 0), (120, 120, 120)):
        with pytest.raises(SlideError, match="no tissue"):
            tile_grid(paint(tmp_path, truth, colour=colour), tile_um=100)


def test_specks_are_dropped(tmp_path):
    truth = np.zeros((800, 800), bool)
    truth[40:50, 40:50] = truth[400:700, 400:700] = True
    mask, _ = tissue_mask(paint(tmp_path, truth))
    assert not mask[:20, :20].any()
    assert mask[55:80, 55:80].all()


def test_refuses(tmp_path):
    slide = paint(tmp_path, np.ones((100, 100), bool))
    for size in (0, -1, float("nan"), 0.5):
        with pytest.raises(SlideError, match="tiles of"):
            tile_grid(slide, tile_um=size)
    slide.mpp = None
    with pytest.raises(SlideError, match="--mpp"):
        tile_grid(slide, tile_um=100)


def test_real_svs(shared_data):
    slide = open_slide(shared_data / "wsi" / "CMU-1-Small-Region.svs")
    mask, _ = tissue_mask(slide)
    assert 0.3 < mask.mean() < 0.45
    grid = tile_grid(slide, tile_um=112)
    assert 50 < len(grid.centres) < 80
    image = slide.read_field(grid.centres, field_um=112, size=16)
    assert image.max(axis=(1, 2, 3)).min() > 0
    assert (image.mean(axis=(1, 2, 3)) < 240).all()
