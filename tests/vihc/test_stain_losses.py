"""Losses against numpy, scipy and the deconvolution that scores are made of."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from past_core.stains import deconvolve, reconstruct
from past_vihc.losses import (
    LossError,
    dab_density,
    dab_l1,
    gaussian_pyramid,
    l1,
    lsgan,
    pyramid_l1,
    registered_l1,
    smoothness,
)

UNIT = st.floats(-1, 1, width=32)
IMAGES = arrays(np.float32, (2, 3, 16, 12), elements=UNIT)


def tensors(*values: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(value) for value in values]


@given(arrays(np.float32, (3, 1), elements=st.floats(-3, 3, width=32)))
def test_lsgan(values: np.ndarray) -> None:
    (tensor,) = tensors(values)
    assert float(lsgan(tensor, real=True)) == pytest.approx(((values - 1) ** 2).mean(), abs=1e-5)
    assert float(lsgan(tensor, real=False)) == pytest.approx((values**2).mean(), abs=1e-5)


@settings(max_examples=15)
@given(IMAGES, IMAGES)
def test_l1_is_the_mean_difference_with_or_without_a_flow_of_zero(a: np.ndarray, b: np.ndarray) -> None:
    fake, real = tensors(a, b)
    wanted = np.abs(a - b).mean()
    assert float(l1(fake, real)) == pytest.approx(wanted, abs=1e-5)
    assert float(registered_l1(fake, real, torch.zeros(2, 2, 16, 12))) == pytest.approx(wanted, abs=1e-4)


def test_registered_l1_moves_the_fake_and_not_the_real() -> None:
    fake = torch.rand(1, 3, 16, 16)
    real = torch.roll(fake, (-2, 3), (2, 3))  # real[y, x] = fake[y + 2, x - 3] inside
    flow = torch.tensor([2.0, -3.0]).view(1, 2, 1, 1).expand(1, 2, 16, 16)
    inside = (slice(None), slice(None), slice(4, 12), slice(4, 12))
    from past_vihc.models.warp import warp

    assert float(l1(warp(fake, flow)[inside], real[inside])) < 1e-5
    assert float(registered_l1(fake, real, flow)) < 0.5 * float(registered_l1(fake, real, -flow))


@given(arrays(np.float32, (2, 2, 6, 5), elements=st.floats(-8, 8, width=32)))
def test_smoothness(flow: np.ndarray) -> None:
    wanted = (np.diff(flow, axis=2) ** 2).mean() + (np.diff(flow, axis=3) ** 2).mean()
    assert float(smoothness(*tensors(flow))) == pytest.approx(wanted, rel=1e-4, abs=1e-5)


@settings(max_examples=15)
@given(IMAGES)
def test_pyramid_is_the_binomial_one(image: np.ndarray) -> None:
    (tensor,) = tensors(image)
    level = image
    kernel = np.array([1, 4, 6, 4, 1]) / 16
    for made in gaussian_pyramid(tensor, 3):
        np.testing.assert_allclose(made.numpy(), level, atol=1e-5)
        smoothed = ndimage.convolve1d(level, kernel, axis=2, mode="mirror")
        level = ndimage.convolve1d(smoothed, kernel, axis=3, mode="mirror")[:, :, ::2, ::2]


@settings(max_examples=15)
@given(IMAGES, IMAGES)
def test_pyramid_l1_weighs_levels(a: np.ndarray, b: np.ndarray) -> None:
    fake, real = tensors(a, b)
    levels = zip(gaussian_pyramid(fake, 3), gaussian_pyramid(real, 3), strict=True)
    parts = [float((x - y).abs().mean()) for x, y in levels]
    wanted = 0.25 * parts[0] + 0.5 * parts[1] + parts[2]
    assert float(pyramid_l1(fake, real, weights=(0.25, 0.5, 1.0))) == pytest.approx(wanted, abs=1e-5)


@given(arrays(np.float32, (1, 3, 4, 5), elements=st.floats(0, 0.75, width=32)))
def test_dab_density_finds_what_was_rendered(amounts: np.ndarray) -> None:
    amounts[:, 2] = 0
    pixels = reconstruct(amounts, "qupath-hdab")
    found = dab_density(torch.from_numpy(pixels / 127.5 - 1).float())
    np.testing.assert_allclose(found[0].numpy(), amounts[0, 1], atol=2e-3)


@settings(max_examples=15)
@given(IMAGES, IMAGES)
def test_dab_l1_is_of_densities(a: np.ndarray, b: np.ndarray) -> None:
    dab = [deconvolve((image + 1) * 127.5, "qupath-hdab")[:, 1] for image in (a, b)]
    wanted = np.abs(dab[0] - dab[1]).mean()
    assert float(dab_l1(*tensors(a, b))) == pytest.approx(wanted, rel=1e-3, abs=1e-4)


def test_dab_l1_has_gradient_towards_brown() -> None:
    amounts = np.zeros((1, 3, 8, 8), np.float32)
    amounts[:, 0], amounts[:, 1] = 0.1, 0.5
    real = torch.from_numpy(reconstruct(amounts, "qupath-hdab") / 127.5 - 1)
    fake = torch.full((1, 3, 8, 8), 0.5, requires_grad=True)
    optimizer = torch.optim.Adam([fake], 0.02)
    first = float(dab_l1(fake, real).detach())
    for _ in range(100):
        loss = dab_l1(fake, real)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.isfinite(fake).all()
    assert float(dab_l1(fake, real).detach()) < 0.1 * first


def test_losses_are_float32_in_autocast() -> None:
    fake, real = torch.rand(1, 3, 16, 16).bfloat16(), torch.rand(1, 3, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        made = [
            l1(fake, real),
            pyramid_l1(fake, real, weights=(0.5, 1.0)),
            dab_l1(fake, real),
            lsgan(fake, real=True),
        ]
    assert {value.dtype for value in made} == {torch.float32}


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(LossError, match="expected equal ones"):
        l1(torch.zeros(1, 3, 4, 4), torch.zeros(1, 1, 4, 4))
    with pytest.raises(LossError, match="have no 6 levels"):
        pyramid_l1(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16))
    with pytest.raises(LossError, match="but no dab"):
        dab_density(torch.zeros(1, 3, 4, 4), stains="qupath-he")
