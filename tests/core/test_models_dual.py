"""Both encoders together: heads, temperature, centring, stored configuration, the paper's size."""

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from scipy.special import erf
from torch.utils.flop_counter import FlopCounterMode

from past_core.losses import contrastive_loss
from past_core.models.cell_encoder import CellEncoderConfig
from past_core.models.dual_encoder import (
    DualEncoder,
    DualEncoderConfig,
    ProjectionHead,
    center_projection_heads,
)
from past_core.models.errors import ModelError
from past_core.models.image_encoder import ImageEncoderConfig

CONFIG = DualEncoderConfig(
    image=ImageEncoderConfig(
        name="vit_tiny_patch16_224",
        image_size=32,
        options={"embed_dim": 32, "depth": 1, "num_heads": 2, "mlp_ratio": 2},
    ),
    cell=CellEncoderConfig(
        vocabulary_size=60, width=16, depth=1, heads=2, feedforward=16, max_genes=9, embedding_std=1.0
    ),
    projection_dim=24,
)
PAPER = DualEncoderConfig(image=ImageEncoderConfig(), cell=CellEncoderConfig(vocabulary_size=20_340))


def inputs(n=6, seed=0, k=3):
    random = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (n, 3, 32, 32), generator=random, dtype=torch.uint8)
    tokens = torch.randint(30, 60, (n, 12), generator=random)
    neighbors = torch.randint(-1, n, (n, k), generator=random)
    return images, tokens, torch.arange(n), neighbors, torch.rand(n, k, generator=random)


def test_projection_head_equals_numpy():
    head = ProjectionHead(10, 6).double().eval()
    w = {name: value.detach().numpy() for name, value in head.state_dict().items()}
    x = np.random.default_rng(0).normal(size=(4, 10))
    projected = x @ w["projection.weight"].T + w["projection.bias"]
    gelu = projected * (1 + erf(projected / np.sqrt(2))) / 2
    y = projected + gelu @ w["fc.weight"].T + w["fc.bias"]
    y = y - y.mean(1, keepdims=True)
    y = y / np.sqrt((y**2).mean(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(head(torch.from_numpy(x)).detach().numpy(), y, atol=1e-12)


def test_output_is_what_the_loss_takes():
    model = DualEncoder(CONFIG)
    output = model(*inputs())
    for side in (output.image, output.cell):
        assert side.shape == (6, 24)
        torch.testing.assert_close(side.norm(dim=1), torch.ones(6))
    contrastive_loss(**output._asdict()).loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_encoding_one_side():
    model = DualEncoder(CONFIG).eval()
    images, *cells = inputs()
    output = model(images, *cells)
    torch.testing.assert_close(model.encode_image(images, space="joint"), output.image)
    torch.testing.assert_close(model.encode_cell(*cells, space="joint"), output.cell)
    assert model.encode_image(images).shape == (6, 32)
    assert model.encode_cell(*cells).shape == (6, 16)
    with pytest.raises(ModelError, match="'features' or 'joint'"):
        model.encode_image(images, space="pixels")


def test_unit_vectors_stay_in_float32_under_autocast():
    model = DualEncoder(CONFIG).eval()
    full = model(*inputs())
    with torch.autocast("cpu", torch.bfloat16):
        half = model(*inputs())
    for a, b in zip(full, half, strict=True):
        assert b.dtype == torch.float32
        assert (a - b).abs().max() < 0.05


@pytest.mark.parametrize(("log", "expected"), [(-9.0, 0.01), (math.log(0.07), 0.07), (3.0, 1.0)])
def test_temperature_is_bounded_with_a_live_gradient(log, expected):
    model = DualEncoder(CONFIG)
    torch.nn.init.constant_(model.log_temperature, log)
    temperature = model.temperature
    assert temperature.item() == pytest.approx(expected)
    temperature.backward()
    # d exp(x) / dx at the bound, as if it were not there
    assert model.log_temperature.grad.item() == pytest.approx(expected)


def test_clamped_temperature_has_no_gradient_beyond_its_bounds():
    model = DualEncoder(replace(CONFIG, temperature_form="clamped"))
    assert model.temperature.item() == pytest.approx(0.07)
    for raw, bounded, gradient in ((0.5, 0.5, 1.0), (3.0, 1.0, 0.0), (-1.0, 0.01, 0.0)):
        torch.nn.init.constant_(model.raw_temperature, raw)
        model.raw_temperature.grad = None
        model.temperature.backward()
        assert model.temperature.item() == pytest.approx(bounded)
        assert model.raw_temperature.grad.item() == gradient
    with pytest.raises(ModelError, match="expected 'log' or 'clamped'"):
        replace(CONFIG, temperature_form="square")


def test_configuration_of_before_is_todays_default():
    """Stored configurations lack later fields; what they leave out means what it meant."""
    stored = asdict(CONFIG)
    later = ("max_tokens", "spare_tokens", "pool", "fusion", "fusion_bias", "dead_tensors", "missing_means")
    for field in stored["cell"].copy():
        if field in later or (field.startswith("graph_") and field not in ("graph_layers", "graph_heads")):
            del stored["cell"][field]
    del stored["temperature_form"]
    assert DualEncoderConfig.from_dict(stored) == CONFIG


def test_published_configuration_round_trip():
    published = DualEncoderConfig.published(mpp=0.2738)
    assert DualEncoderConfig.from_dict(json.loads(json.dumps(asdict(published)))) == published
    assert published.image.mpp == 0.2738


def test_centring_spreads_the_embeddings():
    torch.manual_seed(0)
    model = DualEncoder(CONFIG).double()
    model.image_encoder.eval()  # a module that was in eval mode stays there
    batches = [inputs(40, seed) for seed in range(3)]
    found = center_projection_heads(model, batches)
    assert found.cells == 120
    assert found.image_cosine_before > 0.5
    assert max(abs(found.image_cosine_after), abs(found.cell_cosine_after)) < 0.02
    assert model.training
    assert not model.image_encoder.training
    model.eval()
    for side in ("image", "cell"):
        outputs = []
        for images, *cells in batches:
            features = model.encode_image(images) if side == "image" else model.encode_cell(*cells)
            outputs.append(getattr(model, f"{side}_projection")(features).detach())
        outputs = torch.cat(outputs)
        assert outputs.mean(0).abs().max() < 1e-10
        assert outputs.square().mean().sqrt().item() == pytest.approx(1, abs=1e-10)
        unit = torch.nn.functional.normalize(outputs, dim=1)
        cosines = (unit @ unit.T)[~torch.eye(120, dtype=torch.bool)]
        assert abs(cosines.mean().item()) < 0.02
    again = center_projection_heads(model, batches)
    assert abs(again.image_cosine_before - found.image_cosine_after) < 1e-10


def test_centring_makes_the_targets_sharp():
    torch.manual_seed(0)
    model = DualEncoder(CONFIG).eval()
    before = contrastive_loss(**model(*inputs(40))._asdict())
    center_projection_heads(model, [inputs(40, seed) for seed in range(3)])
    after = contrastive_loss(**model(*inputs(40))._asdict())
    assert after.target_diagonal > 0.8 > before.target_diagonal


def test_centring_needs_different_cells():
    model = DualEncoder(CONFIG)
    with pytest.raises(ModelError, match="at least two cells"):
        center_projection_heads(model, [])
    with pytest.raises(ModelError, match="at least two cells"):
        center_projection_heads(model, [inputs(1)])
    same = [x.expand(4, *x.shape[1:]).clone() if x.ndim > 1 else x for x in inputs(1)]
    same[2] = torch.zeros(4, dtype=torch.int64)
    with pytest.raises(ModelError, match="all 4 cells have the same image embedding"):
        center_projection_heads(model, [same])


def test_configuration_round_trip():
    stored = json.loads(json.dumps(asdict(CONFIG)))
    assert DualEncoderConfig.from_dict(stored) == CONFIG
    stored["image"]["weights"] = "/elsewhere/init.pt"
    assert DualEncoderConfig.from_dict(stored) == CONFIG
    kept = DualEncoderConfig.from_dict(stored, keep_weights=True)
    assert kept.image == replace(CONFIG.image, weights="/elsewhere/init.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("cell"), "lacks `image` or `cell`"),
        (lambda s: s.update(width=3), r"unknown keys: \['width'\]"),
        (lambda s: s["cell"].update(wdth=3), r"CellEncoderConfig has unknown keys: \['wdth'\]"),
        (lambda s: s.update(image=3), "ImageEncoderConfig has unknown keys"),
    ],
)
def test_damaged_stored_configurations(change, message):
    stored = asdict(CONFIG)
    change(stored)
    with pytest.raises(ModelError, match=message):
        DualEncoderConfig.from_dict(stored)


def test_wrong_settings_are_refused():
    with pytest.raises(ModelError, match=r"temperature 2.0 must be positive and lie in \[0.01, 1.0\]"):
        replace(CONFIG, temperature=2.0)
    with pytest.raises(ModelError, match="projection_dim 1"):
        replace(CONFIG, projection_dim=1)


def test_the_papers_size():
    """ViT-L/16 and 12 x 512 on 20,340 tokens: 341.2 M parameters, each stage where the literature puts it.

    It also shows that the forward pass never reads a value back from the device: on the meta device
    there is none.
    """
    with torch.device("meta"):
        model = DualEncoder(PAPER)
        count = {name: sum(p.numel() for p in module.parameters()) for name, module in model.named_children()}
        B, U, k, T = 4, 30, 8, 303
        images = torch.empty(B, 3, 224, 224, dtype=torch.uint8)
        tokens = torch.empty(U, T, dtype=torch.int64)
        centres, neighbors = torch.empty(B, dtype=torch.int64), torch.empty(B, k, dtype=torch.int64)
        with FlopCounterMode(display=False) as image_flops:
            features = model.encode_image(images)
        with FlopCounterMode(display=False) as cell_flops:
            model.cell_encoder.transform(tokens[centres])
        output = model(images, tokens, centres, neighbors, torch.empty(B, k))
    assert features.shape == (B, 1024)
    assert output.image.shape == output.cell.shape == (B, 256)
    transformer = sum(p.numel() for p in model.cell_encoder.layers.parameters())
    assert count == {
        "image_encoder": 303_301_632,
        "cell_encoder": 37_384_704,
        "image_projection": 328_704,
        "cell_projection": 197_632,
    }
    assert transformer == 25_233_408
    assert image_flops.get_total_flops() / B == pytest.approx(123.1e9, rel=0.01)
    assert cell_flops.get_total_flops() / B == pytest.approx(17.4e9, rel=0.03)
