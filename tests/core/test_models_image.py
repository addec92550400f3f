"""The image encoder: normalisation, position code, weights from files, and errors that name the remedy."""

import pickle

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from past_core.models.errors import ModelError, WeightsNotFoundError
from past_core.models.image_encoder import ImageEncoder, ImageEncoderConfig, sincos_positions

TINY = {"embed_dim": 32, "depth": 1, "num_heads": 2, "mlp_ratio": 2}


def tiny(**changes):
    return ImageEncoderConfig(
        **{"name": "vit_tiny_patch16_224", "image_size": 48, "options": TINY, **changes}
    )


def pixels(size=48, n=2):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (n, 3, size, size), dtype=np.uint8))


def test_normalises_as_the_formula_says():
    encoder = ImageEncoder(tiny()).double()
    images = pixels()
    mean = np.array([0.485, 0.456, 0.406])[:, None, None]
    std = np.array([0.229, 0.224, 0.225])[:, None, None]
    expected = (images.numpy() / 255 - mean) / std
    np.testing.assert_allclose(encoder.normalize(images).numpy(), expected, atol=1e-6)
    torch.testing.assert_close(encoder(images.double()), encoder(images))


def test_is_the_timm_model_with_its_class_token():
    encoder = ImageEncoder(tiny()).eval()
    images = pixels()
    tokens = encoder.model.forward_features(encoder.normalize(images))
    assert tokens.shape == (2, 1 + 9, 32)
    torch.testing.assert_close(encoder(images), tokens[:, 0])
    assert encoder.dim == 32
    assert all(key.startswith("model.") for key in encoder.state_dict())  # mean and std are configuration


@pytest.mark.parametrize(
    ("name", "options"),
    [("resnet18", {}), ("mobilenetv3_small_050", {}), ("vit_tiny_patch16_224", TINY)],
)
def test_any_timm_model_tells_its_width(name, options):
    encoder = ImageEncoder(ImageEncoderConfig(name=name, image_size=64, options=options)).eval()
    assert encoder(pixels(64)).shape == (2, encoder.dim)


@pytest.mark.parametrize("grid", [(7, 7), (4, 4), (3, 5)])
def test_sincos_code(grid):
    dim = 24
    code = sincos_positions(*grid, dim).numpy()
    frequencies = [10_000 ** (-i / 6) for i in range(6)]
    for row in range(grid[0]):
        for column in range(grid[1]):
            expected = [f(x * w) for x in (row, column) for f in (np.sin, np.cos) for w in frequencies]
            np.testing.assert_allclose(code[row * grid[1] + column], expected, atol=1e-12)


def test_sincos_initialises_patches_and_not_the_class_token():
    encoder = ImageEncoder(tiny(position_init="sincos", image_size=112))
    position = encoder.model.pos_embed
    assert position.shape == (1, 1 + 49, 32)
    assert position.requires_grad
    assert not position[0, 0].any()
    torch.testing.assert_close(position[0, 1:].double(), sincos_positions(7, 7, 32) * 0.5, atol=1e-6, rtol=0)


@pytest.mark.parametrize("position_init", ["timm", "sincos"])
def test_every_parameter_gets_a_gradient(position_init):
    encoder = ImageEncoder(tiny(position_init=position_init))
    output = encoder(pixels())
    (output * torch.randn_like(output)).sum().backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("kind", ["safetensors", "bin", "wrapped"])
def test_initial_weights(tmp_path, kind):
    torch.manual_seed(1)
    source = timm.create_model("vit_tiny_patch16_224", img_size=48, num_classes=7, **TINY)
    path = tmp_path / f"weights.{'pt' if kind == 'wrapped' else kind}"
    if kind == "safetensors":
        save_file(source.state_dict(), path)
    else:
        torch.save({"model": source.state_dict()} if kind == "wrapped" else source.state_dict(), path)
    encoder = ImageEncoder(tiny(weights=str(path))).eval()
    images = pixels()
    expected = source.eval().forward_features(encoder.normalize(images))[:, 0]
    torch.testing.assert_close(encoder(images), expected)


def test_initial_positions_of_another_image_size_are_resampled(tmp_path):
    """Their grid is interpolated, the class token's entry stays, and everything else is loaded as it is."""
    torch.manual_seed(1)
    source = timm.create_model("vit_tiny_patch16_224", img_size=96, num_classes=7, **TINY)
    with torch.no_grad():
        # A plane over the image: after interpolation it is still that plane, away from the border.
        place = (torch.arange(6) + 0.5) / 6
        source.pos_embed[0, 1:, 0] = (place[:, None] + 2 * place[None]).flatten()
    torch.save(source.state_dict(), tmp_path / "weights.bin")
    model = ImageEncoder(tiny(weights=str(tmp_path / "weights.bin"), image_size=192)).model
    torch.testing.assert_close(model.pos_embed[:, 0], source.pos_embed[:, 0])
    place = (torch.arange(12) + 0.5) / 12
    inner = slice(3, -3)
    expected = (place[:, None] + 2 * place[None])[inner, inner]
    torch.testing.assert_close(model.pos_embed[0, 1:, 0].view(12, 12)[inner, inner], expected)
    torch.testing.assert_close(model.blocks[0].attn.qkv.weight, source.blocks[0].attn.qkv.weight)


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('executed')",))


def test_wrong_weights_are_refused(tmp_path):
    with pytest.raises(WeightsNotFoundError, match="no weights at"):
        ImageEncoder(tiny(weights=str(tmp_path / "none.pt")))
    path = tmp_path / "weights.pt"
    path.write_bytes(pickle.dumps({"cls_token": Evil()}, protocol=2))
    with pytest.raises(ModelError, match="cannot be read as tensors only"):
        ImageEncoder(tiny(weights=str(path)))
    path.write_bytes(b"PK\x03\x04 truncated")
    with pytest.raises(ModelError, match="cannot be read as tensors only"):
        ImageEncoder(tiny(weights=str(path)))
    torch.save({"epoch": 3}, path)
    with pytest.raises(ModelError, match="holds no state dict"):
        ImageEncoder(tiny(weights=str(path)))
    state = ImageEncoder(tiny()).model.state_dict()
    torch.save({key: value for key, value in state.items() if key != "cls_token"}, path)
    with pytest.raises(ModelError, match="missing cls_token"):
        ImageEncoder(tiny(weights=str(path)))
    torch.save({**state, "extra": torch.ones(1)}, path)
    with pytest.raises(ModelError, match="unexpected extra"):
        ImageEncoder(tiny(weights=str(path)))
    torch.save({**state, "pos_embed": torch.zeros(1, 9, 32)}, path)  # 8 places are no square
    with pytest.raises(ModelError, match=r"pos_embed is \(1, 9, 32\), expected \(1, 17, 32\)"):
        ImageEncoder(tiny(weights=str(path), image_size=64))
    truncated = tmp_path / "weights.safetensors"
    save_file(state, truncated)
    truncated.write_bytes(truncated.read_bytes()[:-100])
    with pytest.raises(ModelError, match="not a complete safetensors file"):
        ImageEncoder(tiny(weights=str(truncated)))


def test_wrong_names_and_options_are_refused():
    with pytest.raises(ModelError, match="did you mean vit_large_patch16_224"):
        ImageEncoder(ImageEncoderConfig(name="vit_large_patch16_225"))
    with pytest.raises(ModelError, match="no model 'hf-hub:"):
        ImageEncoder(ImageEncoderConfig(name="hf-hub:someone/something"))
    with pytest.raises(ModelError, match="timm cannot build resnet18"):
        ImageEncoder(ImageEncoderConfig(name="resnet18", options={"embed_dim": 3}))
    with pytest.raises(ModelError, match="no learned position embedding"):
        ImageEncoder(ImageEncoderConfig(name="resnet18", position_init="sincos"))
    with pytest.raises(ModelError, match="multiple of 4, got 30"):
        ImageEncoder(tiny(position_init="sincos", options={**TINY, "embed_dim": 30}))
    with pytest.raises(ModelError, match="expected 'timm' or 'sincos'"):
        ImageEncoder(tiny(position_init="zeros"))
    with pytest.raises(ModelError, match="must be positive"):
        tiny(mpp=0)
    with pytest.raises(ModelError, match="std positive"):
        tiny(std=(0.2, 0.2, 0.0))


@pytest.mark.parametrize("shape", [(2, 3, 56, 56), (2, 1, 48, 48), (3, 48, 48)])
def test_wrong_input_is_refused(shape):
    encoder = ImageEncoder(tiny(mpp=0.5))
    with pytest.raises(ModelError, match=r"\(B, 3, 48, 48\), that is 24 µm at 0.5 µm/px"):
        encoder(torch.zeros(shape, dtype=torch.uint8))
