"""A generator's file: equal bits, other files, damage, other encoders, stains it does not make."""

import json
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, safe_open, save_file

from past_vihc.files import (
    KEY,
    EncoderInfo,
    GeneratorFileError,
    GeneratorInfo,
    GeneratorMismatchError,
    GeneratorNotFoundError,
    StainModel,
    UnknownStainError,
    export_generator,
    load_generator,
    save_generator,
)
from past_vihc.markers import MarkerError
from past_vihc.models.generator import FiLMGenerator
from past_vihc.models.scaling import ScalingError

SMALL: dict[str, Any] = {"width": 4, "blocks": 1, "hidden": 8, "embedding_dim": 5, "stains": ("er", "ki67")}
INFO = GeneratorInfo(
    mpp=0.5,
    tile=32,
    pitch_um=8.0,
    encoder=EncoderInfo("enc", "ab" * 32, 5),
    demo=True,
    card={"task": "FiLMTask", "step": 7},
)


@pytest.fixture
def generator() -> FiLMGenerator:
    torch.manual_seed(0)
    made = FiLMGenerator(granularity="cells", norm="batch", **SMALL)
    for stage in made.conditioning.stages:
        torch.nn.init.normal_(stage.weight)
    made(torch.rand(2, 3, 32, 32), torch.randn(2, 5, 3, 3), torch.tensor([0, 1]))  # running statistics
    return made.eval()


@pytest.fixture
def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8), torch.randn(2, 5, 3, 3)


def rewrite(path: Path, change: Any) -> Path:
    """The file with its description changed by a function."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    entry = json.loads(metadata[KEY])
    change(entry)
    save_file(load_file(path), path, metadata=metadata | {KEY: json.dumps(entry)})
    return path


def test_round_trip_gives_equal_bits(
    generator: FiLMGenerator, inputs: tuple[torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    path = save_generator(tmp_path / "generator.safetensors", generator, INFO)
    model = load_generator(path)
    assert (model.stains, model.mpp, model.tile, model.granularity) == (("er", "ki67"), 0.5, 32, "cells")
    assert (model.pitch_um, model.encoder, model.demo, model.card) == (8.0, INFO.encoder, True, INFO.card)
    assert model.receptive_field == generator.receptive_field
    state = model.generator.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in generator.state_dict().items())
    before = StainModel(generator, INFO)
    for stain in ("er", "Ki67"):
        made = model(*inputs, stain)
        assert made.dtype == torch.uint8
        assert torch.equal(made, before(*inputs, stain))
    assert not torch.equal(model(*inputs, "er"), model(*inputs, "ki67"))
    # A tile does not depend on the others of its batch.
    assert torch.equal(model(inputs[0][:1], inputs[1][:1], "er"), model(*inputs, "er")[:1])
    again = save_generator(tmp_path / "again.safetensors", model.generator, model.info)
    assert again.read_bytes() == path.read_bytes()


def test_stains_and_encoders_are_checked(
    generator: FiLMGenerator, inputs: tuple[torch.Tensor, torch.Tensor]
) -> None:
    model = StainModel(generator, INFO)
    with pytest.raises(UnknownStainError, match="not trained on pr; it makes er, ki67"):
        model(*inputs, "pr")
    with pytest.raises(UnknownStainError, match="er, ki67; say which"):
        model(*inputs)
    with pytest.raises(MarkerError, match="no stain 'cd3'"):
        model(*inputs, "cd3")
    with pytest.raises(ScalingError, match="expected uint8"):
        model(inputs[0].float(), inputs[1], "er")
    model.check(SimpleNamespace(name="enc", fingerprint="ab" * 32, dim=5))
    with pytest.raises(GeneratorMismatchError, match=r"trained with enc .*abababababab.*here is other"):
        model.check(SimpleNamespace(name="other", fingerprint="cd" * 32, dim=5))
    with pytest.raises(GeneratorMismatchError, match="conditioned by enc"):
        model.check(None)
    plain = StainModel(FiLMGenerator(width=4, blocks=0), GeneratorInfo(mpp=0.5, tile=32))
    plain.check(None)
    plain.check(SimpleNamespace(name="any", fingerprint="", dim=1))
    assert torch.equal(plain(inputs[0]), plain(inputs[0], None, "ER"))
    with pytest.raises(GeneratorMismatchError, match="length 0, described with an encoder of 5"):
        StainModel(FiLMGenerator(width=4, blocks=0), INFO)
    with pytest.raises(ValueError, match="expected positive numbers"):
        GeneratorInfo(mpp=float("nan"), tile=32)


def test_damage_is_refused(generator: FiLMGenerator, tmp_path: Path) -> None:
    path = save_generator(tmp_path / "generator.safetensors", generator, INFO)
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    with pytest.raises(GeneratorFileError, match="truncated"):
        load_generator(path)
    for change, message in (
        (lambda e: e.update(format=99), "format 99 of a generator"),
        (lambda e: e.update(architecture="os.system"), "class 'os.system'"),
        (lambda e: e["config"].update(width=8), r"weights that do not fit.*expected"),
        (lambda e: e["config"].update(width=10**8), "no generator has these settings: width"),
        (lambda e: e["config"].update(other=1), "damaged"),
        (lambda e: e["config"].update(stains=["er", "cd3"]), "no stain 'cd3'"),
        (lambda e: e.pop("config"), "damaged"),
        (lambda e: e.pop("mpp"), "damaged or incomplete"),
        (lambda e: e.update(mpp=-1), "positive numbers"),
        (lambda e: e.update(encoder={"name": "enc"}), "damaged or incomplete"),
    ):
        path.write_bytes(whole)
        with pytest.raises(GeneratorFileError, match=message):
            load_generator(rewrite(path, change))
    path.write_bytes(whole)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    weights = load_file(path)
    weights["trunk.out.bias"] = weights["trunk.out.bias"] * float("nan")
    save_file(weights, path, metadata=metadata)
    with pytest.raises(GeneratorFileError, match=r"trunk\.out\.bias"):
        load_generator(path)


def test_other_files_are_refused(generator: FiLMGenerator, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(2)}, other, metadata={"past-genex-probe": "{}"})
    with pytest.raises(GeneratorFileError, match=r"no generator of past-vihc.*past-genex-probe, a"):
        load_generator(other)
    mark = tmp_path / "executed"

    class Code:
        def __reduce__(self) -> tuple:
            return Path.touch, (mark,)

    for name in ("code.safetensors", "code.ckpt"):
        (tmp_path / name).write_bytes(pickle.dumps(Code()))
    with pytest.raises(GeneratorFileError, match="not a safetensors file"):
        load_generator(tmp_path / "code.safetensors")
    with pytest.raises(GeneratorFileError, match="never executed"):
        export_generator(tmp_path / "code.ckpt", tmp_path / "out.safetensors")
    torch.save({"state_dict": {}, "epoch": 1}, tmp_path / "foreign.ckpt")
    with pytest.raises(GeneratorFileError, match=r"no checkpoint of a generator.*state_dict, epoch"):
        export_generator(tmp_path / "foreign.ckpt", tmp_path / "out.safetensors")
    assert not mark.exists()
    assert not (tmp_path / "out.safetensors").exists()
    for missing in (tmp_path, tmp_path / "none.safetensors"):
        with pytest.raises(GeneratorNotFoundError, match="expected a generator"):
            load_generator(missing)
    with pytest.raises(GeneratorNotFoundError, match="no such checkpoint"):
        export_generator(tmp_path / "none.ckpt", tmp_path / "out.safetensors")


def test_what_cannot_be_written_leaves_the_old_file(generator: FiLMGenerator, tmp_path: Path) -> None:
    path = save_generator(tmp_path / "generator.safetensors", generator, INFO)
    before = path.read_bytes()
    with pytest.raises(GeneratorFileError, match="give the output that suffix"):
        save_generator(tmp_path / "generator.pt", generator, INFO)
    card = GeneratorInfo(**vars(INFO) | {"card": {"loss": float("nan")}})
    with pytest.raises(GeneratorFileError, match="plain JSON"):
        save_generator(path, generator, card)
    with pytest.raises(GeneratorFileError, match="class Linear"):
        save_generator(path, torch.nn.Linear(1, 1), INFO)
    with torch.no_grad():
        generator.trunk.out.bias.fill_(float("inf"))
    with pytest.raises(GeneratorFileError, match=r"not finite are not written: trunk\.out\.bias"):
        save_generator(path, generator, INFO)
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


def test_demo_loads_or_says_that_it_is_not_there() -> None:
    from importlib.resources import files

    if (files("past_vihc") / "assets" / "demo_generator.safetensors").is_file():
        assert load_generator("demo").demo
    else:
        with pytest.raises(GeneratorNotFoundError, match="no demo generator"):
            load_generator("demo")


def test_inference_imports_no_training_library() -> None:
    code = (
        "import sys, past_vihc.files, past_vihc.losses, past_vihc.models.registration, "
        "past_vihc.models.discriminator; "
        "print([n for n in ('lightning', 'diffusers', 'torchmetrics', 'spatialdata', 'scanpy') "
        "if n in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
