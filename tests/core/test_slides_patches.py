"""Patches: the convention, exactness at a level, borders, resampling against independent references."""

import logging

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from past_core.slides import Slide, SlideError, iter_patches, open_slide, patch_origin, patches


class MemorySlide(Slide):
    """A pyramid in memory whose levels are true 2 x 2 means."""

    def __init__(self, image, *, mpp=0.25, levels=3):
        self.images = [image]
        for _ in range(levels - 1):
            last = self.images[-1]
            h, w = last.shape[1] // 2, last.shape[2] // 2
            mean = last[:, : 2 * h, : 2 * w].reshape(3, h, 2, w, 2).mean(axis=(2, 4))
            self.images.append(np.floor(mean + 0.5).astype(np.uint8))
        self.reads = 0
        super().__init__("memory", [i.shape[1:] for i in self.images], mpp)

    def _read(self, level, y, x, height, width):
        self.reads += 1
        return self.images[level][:, y : y + height, x : x + width].copy()


@pytest.fixture(scope="module")
def slide():
    return MemorySlide(np.random.default_rng(0).integers(0, 255, (3, 300, 400), dtype=np.uint8))


def padded_crop(image, left, top, size):
    margin = 2 * size
    canvas = np.pad(image, ((0, 0), (margin, margin), (margin, margin)), constant_values=255)
    return canvas[:, top + margin : top + margin + size, left + margin : left + margin + size]


@given(x=st.floats(-1e6, 1e6), size=st.integers(1, 512))
def test_origin_centres_the_point_within_half_a_pixel(x, size):
    left, top = patch_origin(x, -x, size)
    assert -0.5 <= (x - (left + size / 2)) < 0.5 + 1e-9
    assert -0.5 - 1e-9 <= (-x - (top + size / 2)) <= 0.5 + 1e-9


def test_origin_by_hand():
    # An even patch around the corner between pixels 9 and 10; an odd one around the middle of pixel 9.
    assert patch_origin(10.0, 10.0, 4) == (8, 8)
    assert patch_origin(9.5, 9.5, 5) == (7, 7)
    assert patch_origin(10.5, 10.5, 4) == (9, 9)  # a tie goes right and down


@pytest.mark.parametrize(("mpp", "level"), [(0.25, 0), (0.5, 1), (1.0, 2), (None, 0), (0.252, 0)])
def test_patches_at_a_level_are_slices_of_it(slide, mpp, level):
    rng = np.random.default_rng(1)
    centres = rng.uniform((-5, -5), (405, 305), (200, 2))  # some squares hang over every border
    got = patches(slide, centres, mpp=mpp, size=32, block=64)
    scaled = centres / 2**level
    left, top = patch_origin(scaled[:, 0], scaled[:, 1], 32)
    for patch, x, y in zip(got, left, top, strict=True):
        np.testing.assert_array_equal(patch, padded_crop(slide.images[level], x, y, 32))


def test_patches_far_outside_are_white(slide):
    assert (patches(slide, [[-1000, 50], [200, 9000]], mpp=0.25, size=16) == 255).all()


def test_each_block_is_read_once(slide):
    slide.reads = 0
    centres = np.random.default_rng(2).uniform((40, 40), (360, 260), (300, 2))
    patches(slide, centres, mpp=0.25, size=16, block=1000)
    assert slide.reads == 1


@pytest.mark.parametrize("block", [37, 128, 5000])
@pytest.mark.parametrize("mpp", [0.3, 0.7, 1.7, 0.17])
def test_resampled_patches_do_not_depend_on_the_blocks(slide, mpp, block):
    centres = np.random.default_rng(3).uniform((0, 0), (400, 300), (60, 2))
    view = slide.at(mpp)
    whole = view.read(0, 0, view.height, view.width)
    left, top = patch_origin(centres[:, 0] / view.downsample, centres[:, 1] / view.downsample, 24)
    got = patches(slide, centres, mpp=mpp, size=24, block=block)
    for patch, x, y in zip(got, left, top, strict=True):
        np.testing.assert_array_equal(patch, padded_crop(whole, x, y, 24))


@settings(max_examples=20, deadline=None)
@given(batch=st.integers(1, 50), n=st.integers(0, 80), threads=st.integers(1, 3))
def test_the_stream_gives_every_patch_once(batch, n, threads):
    slide = MemorySlide(np.random.default_rng(0).integers(0, 255, (3, 90, 120), dtype=np.uint8), levels=1)
    centres = np.random.default_rng(n).uniform((0, 0), (120, 90), (n, 2))
    out, sizes = np.zeros((n, 3, 8, 8), np.uint8), []
    seen = []
    stream = iter_patches(slide, centres, mpp=0.4, size=8, batch_size=batch, block=30, threads=threads)
    for index, images in stream:
        out[index] = images
        seen.extend(index.tolist())
        sizes.append(len(index))
    assert sorted(seen) == list(range(n))
    assert all(size == batch for size in sizes[:-1])
    np.testing.assert_array_equal(out, patches(slide, centres, mpp=0.4, size=8))


def test_downsampling_is_the_area_average():
    """Against a brute-force integral of the piecewise constant image."""
    image = np.random.default_rng(4).integers(0, 255, (3, 40, 50), dtype=np.uint8)
    slide = MemorySlide(image, mpp=1.0, levels=1)
    scale, fine = 1.6, 5
    view = slide.at(scale)
    assert (view.height, view.width) == (25, 31)
    got = view.read(0, 0, 25, 31).astype(float)
    dense = (
        image.repeat(fine, axis=1).repeat(fine, axis=2).astype(float)
    )  # 8 dense pixels make one of the view
    step = int(scale * fine)
    want = dense[:, : 25 * step, : 31 * step].reshape(3, 25, step, 31, step).mean(axis=(2, 4))
    assert np.abs(got - want).max() <= 0.5 + 1e-3


def test_upsampling_is_linear_and_warns_once(caplog):
    image = np.tile(np.arange(0, 250, 10, dtype=np.uint8), (3, 20, 1))
    slide = MemorySlide(image, mpp=1.0, levels=1)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            patch = slide.read_field([[12.5, 10.0]], field_um=4.0, size=16)[0]
        slide.at(0.6)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 1
    assert "1 µm per pixel" in messages[0]
    assert "0.25" in messages[0]
    assert "4 x" in messages[0]
    # A ramp stays a ramp: 10 per pixel is 2.5 per quarter pixel; x = 12.5 is the middle of pixel 12.
    ramp = 120 + 2.5 * (np.arange(16) - 7.5)
    assert np.abs(patch[0, 8] - ramp).max() <= 0.5 + 1e-3


def test_a_constant_stays_constant_up_to_the_border():
    slide = MemorySlide(np.full((3, 33, 47), 100, np.uint8), mpp=0.3, levels=1)
    for mpp in (0.13, 0.47, 1.1):
        view = slide.at(mpp)
        assert (view.read(0, 0, view.height, view.width) == 100).all()
        assert (view.read(view.height, 0, 3, 5) == 255).all()
        assert (view.read(-3, 0, 3, 5) == 255).all()


@pytest.mark.parametrize(
    ("want", "level", "scale"),
    [(0.25, 0, 1), (0.4, 0, 1.6), (0.498, 1, 1), (0.9, 1, 1.8), (1.0, 2, 1), (4.0, 2, 4), (0.1, 0, 0.4)],
)
def test_the_coarsest_level_that_is_still_finer(slide, want, level, scale):
    view = slide.at(want)
    assert view.level == level
    assert view.scale == pytest.approx(scale)
    assert view.downsample == pytest.approx(scale * 2**level)


def test_field_spans_the_same_tissue_at_every_resolution(tmp_path):
    """A scene scanned at 0.25 and at 0.5 µm per pixel gives the same field, up to rounding."""
    fine = np.random.default_rng(5).integers(0, 255, (3, 256, 256)).astype(np.uint8)
    coarse = fine.reshape(3, 128, 2, 128, 2).mean(axis=(2, 4)).round().astype(np.uint8)
    slides = []
    for image, mpp in ((fine, 0.25), (coarse, 0.5)):
        path = tmp_path / f"{mpp}.tif"
        resolution = (1e4 / mpp, 1e4 / mpp)
        tifffile.imwrite(
            path,
            image.transpose(1, 2, 0),
            photometric="rgb",
            resolution=resolution,
            resolutionunit="CENTIMETER",
        )
        slides.append(open_slide(path))
    centre_um = np.array([[30.1, 28.3]])
    a, b = (s.read_field(centre_um / s.mpp, field_um=28, size=28) for s in slides)
    assert np.abs(a.astype(int) - b).max() <= 1


def test_refuses_what_it_cannot_do(slide):
    unknown = MemorySlide(np.zeros((3, 10, 10), np.uint8), mpp=None, levels=1)
    with pytest.raises(SlideError, match="--mpp"):
        unknown.at(0.5)
    assert unknown.at(None).read(0, 0, 2, 2).shape == (3, 2, 2)
    with pytest.raises(SlideError, match="no level 3"):
        slide.read(3, 0, 0, 1, 1)
    with pytest.raises(SlideError, match="window"):
        slide.read(0, 0, 0, 10**6, 10**6)
    with pytest.raises(SlideError, match="window"):
        slide.read(0, 0, 0, -1, 1)
    with pytest.raises(SlideError, match="point 1"):
        patches(slide, [[0, 0], [np.nan, 1]], mpp=0.25, size=8)
    for bad in (0, -1, float("nan")):
        with pytest.raises(SlideError, match="positive"):
            slide.at(bad)
        with pytest.raises(SlideError, match="mpp"):
            MemorySlide(np.zeros((3, 4, 4), np.uint8), mpp=bad)
