"""Correlation of pictures: exact shifts, parts of a pixel, nothing from nothing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from past_core.registration.correlate import band_pass, correlation, peak
from past_core.registration.nuclei_points import dapi_nuclei


def nuclei(seed, size=120):
    """Discs of several sizes, drawn with soft borders at any part of a pixel."""
    rng = np.random.default_rng(seed)
    middles, radii = rng.uniform(-10, size + 10, (80, 2)), rng.uniform(3, 6, 80)

    def draw(shift=(0.0, 0.0)):
        x, y = np.arange(size) + 0.5, (np.arange(size) + 0.5)[:, None]
        image = np.zeros((size, size))
        for (cx, cy), r in zip(middles + np.array(shift), radii, strict=True):
            image = np.maximum(image, np.clip(r - np.hypot(x - cx, y - cy) + 0.5, 0, 1))
        return image

    return draw


def test_it_is_the_normalised_product_at_every_place():
    rng = np.random.default_rng(0)
    picture, image = rng.normal(size=(9, 7)), rng.normal(size=(15, 11))
    found = correlation(picture, image)
    assert found.shape == (7, 5)
    for row in range(7):
        for column in range(5):
            part = image[row : row + 9, column : column + 7]
            wanted = (picture * part).sum() / np.sqrt((picture**2).sum() * (part**2).sum())
            assert found[row, column] == pytest.approx(wanted, abs=1e-9)


@given(st.integers(0, 2**16), st.floats(-7, 7), st.floats(-7, 7))
def test_a_shift_is_found_to_a_tenth_of_a_pixel(seed, x, y):
    draw = nuclei(seed)
    image, moved = band_pass(draw((x, y)), mpp=0.5), band_pass(draw(), mpp=0.5)
    found = peak(correlation(moved[10:-10, 10:-10], image))
    assert found.inside
    assert found.score > 0.9
    np.testing.assert_allclose(found.shift, [x, y], atol=0.1)


@given(st.integers(0, 2**16), st.floats(0.1, 10), st.floats(-5, 5))
def test_brightness_and_contrast_do_not_matter(seed, gain, offset):
    draw = nuclei(seed)
    image, picture = draw((2, -3)), band_pass(draw(), mpp=0.5)[10:-10, 10:-10]
    first = correlation(picture, band_pass(image, mpp=0.5))
    second = correlation(picture, band_pass(gain * image + offset, mpp=0.5))
    np.testing.assert_allclose(first, second, atol=1e-3)


def test_empty_pictures_match_nothing():
    image = nuclei(1)()
    assert not correlation(np.zeros((20, 20)), image).any()
    assert not correlation(image[:20, :20], np.zeros((30, 30))).any()
    assert not peak(np.zeros((5, 5))).inside


def test_a_maximum_on_the_border_is_told():
    surface = ndimage.gaussian_filter(np.eye(21)[:, ::-1] * 0, 1)
    surface[0, 7] = 1.0
    assert not peak(surface).inside
    surface[5, 7] = 2.0
    found = peak(surface)
    assert found.inside
    np.testing.assert_allclose(found.shift, [-3, -5], atol=1e-9)


def test_real_dapi_lies_on_the_real_haematoxylin_of_its_section(shared_data):
    image = np.asarray(Image.open(shared_data / "ihc/deepliif/train_Bladder1.png").convert("RGB"))
    tiles = [image[:, first : first + 512] for first in range(0, 3072, 512)]
    nuclei = band_pass(dapi_nuclei(tiles[2].max(axis=2), pixel_size=0.5), mpp=0.5)
    stain = band_pass(255 - tiles[1].mean(axis=2), mpp=0.5)
    quarters = [(slice(a, a + 256), slice(b, b + 256)) for a in (0, 256) for b in (0, 256)]
    found = [peak(correlation(nuclei[q][24:-24, 24:-24], stain[q])) for q in quarters]
    shifts = np.array([f.shift for f in found]) * 0.5
    assert min(f.score for f in found) > 0.6
    assert np.abs(shifts - np.median(shifts, axis=0)).max() < 2.0
    # Nuclei of another place do not match.
    for mine, theirs in zip(quarters, quarters[1:] + quarters[:1], strict=True):
        assert peak(correlation(nuclei[mine][24:-24, 24:-24], stain[theirs])).score < 0.5
