"""Stains: golden round trips, QuPath's and scikit-image's vectors, numpy against torch, jitter."""

import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage import color

from past_core.stains import (
    STAINS,
    StainError,
    StainSet,
    deconvolve,
    optical_density,
    reconstruct,
    stain_jitter,
    stain_set,
)

# QuPath's default "H-DAB" and "H&E" presets, as its documentation and scripts print them.
QUPATH = {
    "qupath-hdab": [[0.65111, 0.70119, 0.29049], [0.26917, 0.56824, 0.77759]],
    "qupath-he": [[0.65111, 0.70119, 0.29049], [0.2159, 0.8012, 0.5581]],
}


@pytest.mark.parametrize("name", QUPATH)
def test_qupath_vectors(name):
    np.testing.assert_allclose(stain_set(name).matrix[:2], QUPATH[name], atol=5e-5)


@pytest.mark.parametrize(
    ("name", "reference"), [("ruifrok-hed", color.rgb_from_hed), ("ruifrok-hdab", color.rgb_from_hdx)]
)
def test_scikit_image_vectors(name, reference):
    unit = reference / np.linalg.norm(reference, axis=1, keepdims=True)
    np.testing.assert_allclose(stain_set(name).matrix, unit, atol=1e-3)


@pytest.mark.parametrize("name", STAINS)
def test_rows_have_unit_length_and_the_residual_is_perpendicular(name):
    matrix = stain_set(name).matrix
    np.testing.assert_allclose(np.linalg.norm(matrix, axis=1), 1)
    if len(STAINS[name].vectors) == 2:
        np.testing.assert_allclose(matrix[2] @ matrix[:2].T, 0, atol=1e-15)


@given(
    name=st.sampled_from(sorted(STAINS)),
    first=st.floats(0, 1.0),
    second=st.floats(0, 1.0),
    white=st.sampled_from([255.0, 240.0, (250.0, 245.0, 241.0)]),
)
def test_a_mixture_of_two_stains_round_trips(name, first, second, white):
    """Golden: a pixel c_H·h + c_D·d, made by hand, within the gamut (values above 1)."""
    h, d = (np.array(v) / np.linalg.norm(v) for v in STAINS[name].vectors[:2])
    density = first * h + second * d
    pixel = (np.array(white) * 10**-density).reshape(3, 1, 1)
    np.testing.assert_allclose(deconvolve(pixel, name, white=white)[:2, 0, 0], [first, second], atol=1e-6)
    np.testing.assert_allclose(deconvolve(pixel, name, white=white)[2, 0, 0], 0, atol=1e-6)
    back = reconstruct(np.array([first, second, 0.0]).reshape(3, 1, 1), name, white=white)
    np.testing.assert_allclose(back, pixel, atol=1e-6)


def test_scikit_image_agrees_up_to_its_scale():
    """Its values are natural logs over ln(1e-6), on vectors that are not of unit length, clipped at 0."""
    image = np.random.default_rng(0).integers(1, 256, (12, 10, 3), dtype=np.uint8)
    matrix = color.rgb_from_hdx
    theirs = np.log(image / 255) / np.log(1e-6) @ np.linalg.inv(matrix)
    ours = deconvolve(image.transpose(2, 0, 1).astype(float), "ruifrok-hdab").transpose(1, 2, 0)
    np.testing.assert_allclose(ours, 6 * theirs * np.linalg.norm(matrix, axis=1), atol=2e-3)


def test_optical_density_by_hand():
    image = np.array([255, 25, 0], np.uint8).reshape(3, 1, 1)
    want = [0, np.log10(255 / 25), np.log10(255)]
    np.testing.assert_allclose(optical_density(image).ravel(), want, atol=1e-6)
    assert optical_density(image).dtype == np.float32
    assert optical_density(image, white=200)[0] == 0  # brighter than white is no stain


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_numpy_and_torch_agree(dtype):
    image = np.random.default_rng(1).integers(0, 256, (2, 4, 3, 9, 7)).astype(dtype)
    tensor = torch.from_numpy(image)
    for white in (255.0, (250.0, 251.0, 252.0)):
        ours, theirs = (
            deconvolve(image, "qupath-he", white=white),
            deconvolve(tensor, "qupath-he", white=white),
        )
        assert isinstance(theirs, torch.Tensor)
        assert str(ours.dtype) == str(theirs.dtype).removeprefix("torch.")
        np.testing.assert_allclose(ours, theirs.numpy(), atol=2e-6)
        np.testing.assert_allclose(
            reconstruct(ours, "qupath-he", white=white),
            reconstruct(theirs, "qupath-he", white=white).numpy(),
            rtol=2e-5,
        )


@pytest.mark.parametrize("kind", ["uint8", "float"])
def test_jitter_scales_optical_density(kind):
    images = torch.randint(1, 256, (5, 3, 8, 9), dtype=torch.uint8)
    noise = torch.randn(5, 4)
    out = stain_jitter(
        images if kind == "uint8" else images.float(), gain_sigma=0.2, channel_sigma=0.1, noise=noise
    )
    assert out.dtype == torch.float32
    assert out.shape == images.shape
    gain = np.exp(0.2 * noise[:, :1].numpy() + 0.1 * noise[:, 1:].numpy())[:, :, None, None]
    want = -np.log10(images.numpy() / 255) * gain
    np.testing.assert_allclose(-np.log10(out.numpy() / 255), want, atol=1e-5)


def test_jitter_keeps_white_and_is_nothing_without_noise():
    images = torch.randint(0, 256, (3, 3, 6, 6), dtype=torch.uint8)
    torch.testing.assert_close(
        stain_jitter(images, noise=torch.zeros(3, 4)), images.float(), atol=1e-4, rtol=0
    )
    white = torch.full((2, 3, 4, 4), 255, dtype=torch.uint8)
    assert (stain_jitter(white, noise=torch.randn(2, 4)) == 255).all()


def test_jitter_has_the_stated_spread():
    images = torch.full((20_000, 3, 1, 1), 128, dtype=torch.uint8)
    noise = torch.randn(20_000, 4, generator=torch.Generator().manual_seed(0))
    out = stain_jitter(images, noise=noise).flatten(1).numpy()
    log_gain = np.log(np.log(out / 255) / np.log(128 / 255))
    np.testing.assert_allclose(log_gain.std(axis=0), np.hypot(0.12, 0.12), rtol=0.03)
    np.testing.assert_allclose(np.corrcoef(log_gain.T)[0, 1], 0.5, atol=0.03)


def test_jitter_is_fast():
    images = torch.randint(0, 256, (128, 3, 112, 112), dtype=torch.uint8)
    noise = torch.randn(128, 4)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        stain_jitter(images, noise=noise)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.04


def test_refuses():
    with pytest.raises(StainError, match="qupath-he"):
        deconvolve(np.zeros((3, 2, 2)), "mauve")
    for function in (optical_density, lambda image: reconstruct(image, "qupath-he")):
        with pytest.raises(StainError, match="3, H, W"):
            function(np.zeros((2, 2, 3)))
    with pytest.raises(StainError, match="4"):
        stain_jitter(torch.zeros(2, 3, 4, 4), noise=torch.zeros(3, 4))
    own = StainSet("own", ("a", "b", "c"), ((1, 0, 0), (0, 1, 0)))
    assert stain_set(own).matrix[2].tolist() == [0, 0, 1]
