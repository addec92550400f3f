"""Warping and the registration network: known displacements are undone."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from past_vihc.losses import l1, registered_l1, smoothness
from past_vihc.models.registration import RegistrationNetwork
from past_vihc.models.warp import FlowError, affine_flow, random_affine, warp


def smooth_images(n: int, size: int, seed: int = 0) -> torch.Tensor:
    noise = np.random.default_rng(seed).normal(size=(n, 3, size, size))
    made = ndimage.gaussian_filter(noise, (0, 0, 2, 2), mode="wrap")
    return torch.from_numpy(made / np.abs(made).max()).float()


@settings(max_examples=15)
@given(st.integers(-4, 4), st.integers(-4, 4))
def test_warp_by_whole_pixels_takes_the_pixels_there(dy: int, dx: int) -> None:
    image = smooth_images(1, 16)
    flow = torch.tensor([dy, dx], dtype=torch.float32).view(1, 2, 1, 1).expand(1, 2, 16, 16)
    y, x = np.clip(np.arange(16) + dy, 0, 15), np.clip(np.arange(16) + dx, 0, 15)
    np.testing.assert_allclose(warp(image, flow)[0].numpy(), image[0].numpy()[:, y][:, :, x], atol=1e-5)


@settings(max_examples=15)
@given(st.integers(0, 10_000))
def test_warp_equals_scipys_bilinear_map(seed: int) -> None:
    rng = np.random.default_rng(seed)
    image, flow = rng.normal(size=(9, 13)), rng.normal(0, 2, size=(2, 9, 13))
    at = np.mgrid[:9, :13] + flow
    wanted = ndimage.map_coordinates(image, at, order=1, mode="nearest")
    tensors = (torch.from_numpy(array).float()[None] for array in (image[None], flow))
    np.testing.assert_allclose(warp(*tensors)[0, 0].numpy(), wanted, atol=1e-4)


def test_warp_is_float32_in_autocast_and_refuses_other_shapes() -> None:
    image, flow = smooth_images(1, 16), torch.full((1, 2, 16, 16), 0.5)
    with torch.autocast("cpu", torch.bfloat16):
        made = warp(image.bfloat16(), flow.bfloat16())
    assert made.dtype == torch.float32
    with pytest.raises(FlowError, match="dy and dx"):
        warp(image, flow[:, :1])


def test_affine_flow_turns_about_the_centre() -> None:
    image = smooth_images(1, 17)
    zero = torch.zeros(1)
    quarter = affine_flow(torch.tensor([np.pi / 2]).float(), zero + 1, torch.zeros(1, 2), (17, 17))
    turned = warp(image, quarter)
    assert any(torch.allclose(turned, torch.rot90(image, k, (2, 3)), atol=1e-4) for k in (1, 3))
    still = affine_flow(zero, zero + 1, torch.zeros(1, 2), (17, 17))
    assert torch.equal(still, torch.zeros(1, 2, 17, 17))


def test_random_affine_repeats_and_spares() -> None:
    image = smooth_images(2, 32)
    draw = [
        random_affine(image, torch.Generator().manual_seed(seed), rotation=5, translation=0.1, scale=0.1)
        for seed in (1, 1, 2)
    ]
    assert torch.equal(draw[0], draw[1])
    assert not torch.equal(draw[0], draw[2])
    assert random_affine(image, torch.Generator()) is image


@pytest.mark.parametrize(("depth", "size"), [(7, (64, 40)), (3, (33, 50))])
def test_registration_starts_at_no_displacement_whatever_the_size(depth: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network = RegistrationNetwork(depth=depth, width=4)
    fake, real = torch.randn(1, 3, *size), torch.randn(1, 3, *size)
    flow = network(fake, real)
    assert torch.equal(flow, torch.zeros(1, 2, *size))
    # Places are float32 between -1 and 1: 64 px round by some millionths of a pixel.
    torch.testing.assert_close(warp(fake, flow), fake, rtol=0, atol=1e-4)


def test_registration_recovers_a_known_shift() -> None:
    torch.manual_seed(0)
    network = RegistrationNetwork(depth=3, width=8)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    shift = torch.tensor([2.0, -3.0])
    flow = shift.view(1, 2, 1, 1)
    for step in range(80):
        still = smooth_images(2, 32, seed=step)
        moved = warp(still, flow.expand(2, 2, 32, 32))
        made = network(still, moved)
        loss = 20 * registered_l1(still, moved, made) + 10 * smoothness(made)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    still = smooth_images(2, 32, seed=1000)  # images that it never saw
    moved = warp(still, flow.expand(2, 2, 32, 32))
    with torch.no_grad():
        made = network(still, moved)
    assert float(registered_l1(still, moved, made)) < 0.5 * float(l1(still, moved))
    found = made[:, :, 8:-8, 8:-8].mean(dim=(0, 2, 3))
    assert float((found - shift).abs().max()) < 1.0
