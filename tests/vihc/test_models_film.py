"""FiLM and generators: maths, the start as the plain trunk, continuity between tiles, reach of a pixel."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from past_vihc.models.conditioning import Conditioning, ConditioningError
from past_vihc.models.discriminator import Discriminator
from past_vihc.models.film import film, modulate, spread
from past_vihc.models.generator import FiLMGenerator, GeneratorError
from past_vihc.models.scaling import ScalingError, to_uint8, to_unit

FLOATS = st.floats(-4, 4, width=32)
SMALL = {"width": 4, "blocks": 2, "depth": 3, "hidden": 8}


def images(n: int = 2, size: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.rand((n, 3, size, size), generator=torch.Generator().manual_seed(seed)) * 2 - 1


def stirred(generator: FiLMGenerator, seed: int = 0) -> FiLMGenerator:
    """Draws the last layers of the conditioning, as training would."""
    torch.manual_seed(seed)
    for stage in generator.conditioning.stages:
        torch.nn.init.normal_(stage.weight, 0, 0.3)
        torch.nn.init.normal_(stage.bias, 0, 0.3)
    return generator


@given(arrays(np.float32, array_shapes(min_dims=4, max_dims=4, max_side=4), elements=FLOATS), FLOATS, FLOATS)
def test_film_scales_and_shifts(x: np.ndarray, gamma: float, beta: float) -> None:
    made = film(torch.from_numpy(x), torch.tensor(gamma), torch.tensor(beta))
    np.testing.assert_allclose(made.numpy(), x * (1 + np.float32(gamma)) + np.float32(beta), atol=1e-5)
    same = film(torch.from_numpy(x), torch.zeros(()), torch.zeros(()))
    assert torch.equal(same, torch.from_numpy(x))


@given(arrays(np.float32, (2, 3, 4, 5), elements=FLOATS), arrays(np.float32, (2, 3), elements=FLOATS))
def test_film_of_two_modulations_composes(x: np.ndarray, gamma: np.ndarray) -> None:
    by = torch.from_numpy(gamma)[:, :, None, None]
    twice = film(film(torch.from_numpy(x), by, torch.zeros(())), by, torch.zeros(()))
    np.testing.assert_allclose(twice.numpy(), x * (1 + gamma[:, :, None, None]) ** 2, rtol=1e-4, atol=1e-4)


@given(arrays(np.uint8, (1, 3, 3, 4)))
def test_pixels_survive_the_networks_scale(pixels: np.ndarray) -> None:
    tensor = torch.from_numpy(pixels)
    unit = to_unit(tensor)
    assert float(unit.abs().max()) <= 1
    assert torch.equal(to_uint8(unit), tensor)


def test_scaling_refuses_floats_and_hides_no_nan() -> None:
    with pytest.raises(ScalingError, match=r"float32.*expected uint8"):
        to_unit(torch.zeros(1, 3, 2, 2))
    with pytest.raises(ScalingError, match="1 of 12 values"):
        to_uint8(torch.tensor([float("nan")] + [0.0] * 11).reshape(1, 3, 2, 2))
    assert to_uint8(torch.tensor([[-3.0, 5.0]])).tolist() == [[0, 255]]


@pytest.mark.parametrize("trunk", ["resnet9", "unet"])
@pytest.mark.parametrize("granularity", ["tile", "cells"])
def test_starts_as_the_plain_trunk_to_the_bit(trunk: str, granularity: str) -> None:
    plain = FiLMGenerator(trunk=trunk, **SMALL)
    stains = ("er", "pr")
    made = FiLMGenerator(trunk=trunk, embedding_dim=5, granularity=granularity, stains=stains, **SMALL)
    made.trunk.load_state_dict(plain.trunk.state_dict())
    he, stain = images(), torch.tensor([0, 1])
    embedding = torch.randn((2, 5) if granularity == "tile" else (2, 5, 3, 3))
    assert plain.conditioning is None
    assert torch.equal(made(he, embedding, stain), plain(he))
    stirred(made)
    assert not torch.equal(made(he, embedding, stain), plain(he))
    # Every stage is reached: with all layers but one at 0, that one alone changes the image.
    for number, stage in enumerate(made.conditioning.stages):
        for other, layer in enumerate(made.conditioning.stages):
            torch.nn.init.constant_(layer.weight, 0.05 if other == number else 0.0)
            torch.nn.init.constant_(layer.bias, 0.5 if layer is stage else 0.0)
        assert not torch.equal(made(he, embedding, stain), plain(he)), f"stage {number} changes nothing"


def test_published_sizes() -> None:
    generator = FiLMGenerator()
    assert sum(p.numel() for p in generator.parameters()) == 11_378_179  # CycleGAN's ResNet-9 at width 64
    assert generator.trunk.stages == (*[256] * 9, 128, 64)
    discriminator = Discriminator()
    assert sum(p.numel() for p in discriminator.parameters()) == 2_764_737  # of 70 × 70 PatchGAN, 3 channels
    assert discriminator.receptive_field == 70


@pytest.mark.parametrize("seed", [0, 1])
@torch.no_grad()
def test_neighbouring_tiles_share_gamma_and_beta_on_their_edge(seed: int) -> None:
    torch.manual_seed(seed)
    conditioning = Conditioning((4, 6), embedding_dim=3, granularity="cells", hidden=8)
    for stage in conditioning.stages:
        torch.nn.init.normal_(stage.weight)
    grid = torch.randn(1, 3, 3, 5)  # nodes of two tiles beside one another, the middle column shared
    device = torch.device("cpu")
    left = conditioning(grid[..., :3], None, batch=1, device=device)
    right = conditioning(grid[..., 2:], None, batch=1, device=device)
    for a, b in zip(left, right, strict=True):
        for one, other in ((a.gamma, b.gamma), (a.beta, b.beta)):
            one, other = spread(one, (16, 16)), spread(other, (16, 16))
            torch.testing.assert_close(one[..., -1], other[..., 0], rtol=0, atol=1e-5)
            assert float((one[..., 0] - other[..., 0]).abs().max()) > 0.01  # not one constant


def test_modulation_is_bilinear_between_nodes() -> None:
    nodes = torch.tensor([[0.0, 1.0], [2.0, 5.0]])[None, None]
    y, x = np.mgrid[0:1:4j, 0:1:7j]
    wanted = (1 - y) * (1 - x) * 0 + (1 - y) * x * 1 + y * (1 - x) * 2 + y * x * 5
    np.testing.assert_allclose(spread(nodes, (4, 7))[0, 0].numpy(), wanted, atol=1e-6)
    features = torch.ones(1, 1, 4, 7)
    assert modulate(features, None) is features


@pytest.mark.parametrize(("trunk", "period"), [("resnet9", 4), ("unet", 8)])
def test_receptive_field_is_where_the_gradient_ends(trunk: str, period: int) -> None:
    torch.manual_seed(0)
    generator = FiLMGenerator(trunk=trunk, norm="pixel", **SMALL).double()
    reach, side = generator.receptive_field, 96
    assert reach < 40
    farthest = 0
    for phase in range(period):
        he = torch.rand(1, 3, side, side, dtype=torch.double, requires_grad=True)
        at = side // 2 + phase
        generator(he)[0, :, at, at].sum().backward()
        rows = torch.nonzero(he.grad.abs().sum(dim=(0, 1)).sum(dim=1)).ravel()
        farthest = max(farthest, at - int(rows.min()), int(rows.max()) - at)
    assert farthest == reach


def test_discriminator_sees_seventy_pixels() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator(channels=6, width=4, pooled=False, norm="pixel")
    pair = torch.rand(1, 6, 128, 128, requires_grad=True)
    values = discriminator(pair)
    assert values.shape == (1, 1, 14, 14)
    values[0, 0, 7, 7].backward()
    rows = torch.nonzero(pair.grad.abs().sum(dim=(0, 1, 3))).ravel()
    assert int(rows.max() - rows.min()) + 1 == 70
    assert Discriminator(width=4)(images()).shape == (2, 1)


@pytest.mark.parametrize("norm", ["batch", "pixel"])
def test_other_norms_do_not_depend_on_the_tile(norm: str) -> None:
    torch.manual_seed(0)
    generator = FiLMGenerator(norm=norm, **SMALL)
    generator(images(4, 64))  # running statistics of something
    generator.eval()
    large = images(1, 128, seed=3)
    margin = 32  # a multiple of 4 above the receptive field, so that the grid of strides is the same
    assert generator.receptive_field <= margin
    part = large[..., 4:124, 4:124]
    with torch.no_grad():
        whole, window = generator(large)[..., 32:96, 32:96], generator(part)[..., 28:92, 28:92]
    torch.testing.assert_close(whole, window, rtol=0, atol=1e-6)
    instance = FiLMGenerator(norm="instance", **SMALL).eval()
    with torch.no_grad():
        difference = instance(large)[..., 32:96, 32:96] - instance(part)[..., 28:92, 28:92]
    assert float(difference.abs().max()) > 1e-5


def test_what_does_not_fit_is_refused() -> None:
    tile = FiLMGenerator(embedding_dim=5, **SMALL)
    cells = FiLMGenerator(embedding_dim=5, granularity="cells", stains=("er", "pr"), **SMALL)
    with pytest.raises(ConditioningError, match=r"needs embeddings, \(2, 5\)"):
        tile(images())
    with pytest.raises(ConditioningError, match=r"\(2, 6\); granularity tile expects \(2, 5\)"):
        tile(images(), torch.zeros(2, 6))
    with pytest.raises(ConditioningError, match=r"granularity cells expects \(2, 5, g, g\)"):
        cells(images(), torch.zeros(2, 5), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ConditioningError, match="makes 2 stains; say which"):
        cells(images(), torch.zeros(2, 5, 3, 3))
    with pytest.raises(GeneratorError, match="multiples of 4"):
        tile(images(size=30), torch.zeros(2, 5))
    with pytest.raises(GeneratorError, match=r"expected \(B, 3, H, W\)"):
        tile(torch.zeros(2, 4, 32, 32), torch.zeros(2, 5))
    for settings, message in (
        ({"width": 0}, "width 0"),
        ({"trunk": "vit"}, "trunk 'vit'"),
        ({"norm": "none"}, "norm 'none'"),
        ({"stains": ()}, "at least one name"),
        ({"stains": ("er", "er")}, "each once"),
        ({"blocks": 10**9}, "blocks 1000000000"),
    ):
        with pytest.raises(GeneratorError, match=message):
            FiLMGenerator(**settings)


@torch.no_grad()
def test_several_stains_differ_without_embedding() -> None:
    generator = stirred(FiLMGenerator(stains=("er", "ki67"), **SMALL))
    he = images(1)
    er, ki67 = (generator(he, None, torch.tensor([number])) for number in (0, 1))
    assert float((er - ki67).abs().max()) > 1e-3
