"""Checkpoints: both containers give the same model; damage and foreign files are told, code never runs."""

import contextlib
import json
import os
import pickle
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_models import lightning_content, made_checkpoint, save_lightning
from safetensors.torch import load_file, save_file

from past_core.checkpoint import (
    CheckpointError,
    CheckpointNotFoundError,
    describe_checkpoint,
    export_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from past_core.errors import PastError
from past_core.tokens import Vocabulary, VocabularyError


@pytest.fixture(scope="module")
def made():
    return made_checkpoint()


@pytest.fixture(scope="module")
def ckpt(made, tmp_path_factory):
    return save_lightning(made, tmp_path_factory.mktemp("ckpt") / "last.ckpt")


@pytest.fixture(scope="module")
def shared(ckpt):
    return export_checkpoint(ckpt, ckpt.with_name("shared.safetensors"))


def equal(a, b):
    assert a.vocabulary == b.vocabulary
    np.testing.assert_array_equal(a.gene_means, b.gene_means)
    assert a.model.config == b.model.config
    own, other = a.model.state_dict(), b.model.state_dict()
    assert own.keys() == other.keys()
    assert all(torch.equal(own[key], other[key]) for key in own)


def test_both_containers_come_back_whole(made, ckpt, shared):
    for path in (ckpt, shared):
        loaded = load_checkpoint(path)
        equal(loaded, made)
        assert not loaded.model.training
        assert loaded.info == {"software": "test", "training": {"slides": ["A"]}}
        images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
        torch.testing.assert_close(loaded.model.encode_image(images), made.model.encode_image(images))


def test_save_needs_nothing_of_the_trainer(made, tmp_path):
    path = save_checkpoint(made, tmp_path / "new" / "a.safetensors")
    equal(load_checkpoint(path), made)
    assert [p.name for p in path.parent.iterdir()] == ["a.safetensors"]  # no temporary file stays
    with pytest.raises(CheckpointError, match="--overwrite"):
        save_checkpoint(made, path)
    save_checkpoint(made, path, overwrite=True)
    with pytest.raises(CheckpointError, match=r"\.safetensors"):
        save_checkpoint(made, tmp_path / "a.pt")


def test_export_marks_the_demo(ckpt, tmp_path):
    path = export_checkpoint(ckpt, tmp_path / "demo.safetensors", demo=True)
    assert load_checkpoint(path).info["demo"] is True
    again = export_checkpoint(path, tmp_path / "again.safetensors")
    assert load_checkpoint(again).info["demo"] is True
    assert "optimizer_states" not in path.read_bytes().decode("latin1")


def test_describe(ckpt, shared, made):
    for path in (ckpt, shared):
        facts = describe_checkpoint(path)
        assert facts["parameters"] == sum(p.numel() for p in made.model.parameters())
        assert facts["vocabulary"] == {
            "genes": 12,
            "fingerprint": made.vocabulary.fingerprint,
            "with mean": 11,
        }
        assert facts["model"]["image"]["image_size"] == 32
        assert facts["container"] == path.suffix[1:]
        json.dumps(facts)


def test_another_vocabulary_is_refused_by_name(ckpt, made):
    other = Vocabulary.from_panel(["ENSG00000000001", "ENSG00000000002"])
    with pytest.raises(VocabularyError) as caught:
        load_checkpoint(ckpt, vocabulary=other)
    assert made.vocabulary.fingerprint[:12] in str(caught.value)
    assert other.fingerprint[:12] in str(caught.value)
    equal(load_checkpoint(ckpt, vocabulary=made.vocabulary), made)


def test_missing_file(tmp_path):
    with pytest.raises(CheckpointNotFoundError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "no.ckpt")


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_code_is_never_executed(made, tmp_path):
    trap = tmp_path / "trap"
    content = lightning_content(made) | {"callbacks": Evil(trap)}
    torch.save(content, tmp_path / "a.ckpt")
    (tmp_path / "b.ckpt").write_bytes(pickle.dumps(content))
    for name in ("a.ckpt", "b.ckpt"):
        with pytest.raises(CheckpointError, match="never executed"):
            load_checkpoint(tmp_path / name)
    assert not trap.exists()


@pytest.mark.parametrize(
    "content",
    [{"model": {"a": torch.zeros(1)}, "epoch": 1}, {"state_dict": {"fc.weight": torch.zeros(1)}}, [1, 2], {}],
)
def test_foreign_checkpoints(content, tmp_path):
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match=r"checkpoint of PAST|holds a list"):
        load_checkpoint(tmp_path / "a.ckpt")


def test_foreign_safetensors(tmp_path):
    save_file({"fc.weight": torch.zeros(3)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"holds fc\.weight"):
        load_checkpoint(tmp_path / "a.safetensors")


def test_other_format(made, tmp_path):
    with pytest.raises(CheckpointError, match="format 7"):
        load_checkpoint(save_lightning(made, tmp_path / "a.ckpt", format=7))


def test_weights_missing_left_over_or_misshapen(made, tmp_path):
    def check(match, change):
        content = lightning_content(made)
        change(content["state_dict"])
        torch.save(content, tmp_path / "a.ckpt")
        with pytest.raises(CheckpointError, match=match):
            load_checkpoint(tmp_path / "a.ckpt")

    key = "model.cell_projection.fc.weight"
    check(r"missing cell_projection\.fc\.weight", lambda s: s.pop(key))
    check("unexpected extra", lambda s: s.update({"model.extra": torch.zeros(1)}))
    check(r"fc\.weight is \(3,\), expected \(8, 8\)", lambda s: s.update({key: torch.zeros(3)}))
    check("NaN", lambda s: s.update({key: torch.full((8, 8), torch.nan)}))


def test_parts_that_contradict_each_other(made, tmp_path):
    with pytest.raises(CheckpointError, match="gene means"):
        load_checkpoint(save_lightning(made, tmp_path / "a.ckpt", gene_means=torch.zeros(3)))
    other = Vocabulary.from_panel(["ENSG00000000001"])
    means = torch.zeros(1, dtype=torch.float64)
    path = save_lightning(made, tmp_path / "b.ckpt", vocabulary=other.to_dict(), gene_means=means)
    with pytest.raises(CheckpointError, match="tokens"):
        load_checkpoint(path)
    tampered = made.vocabulary.to_dict()
    tampered["genes"] = [*tampered["genes"][:-1], "ENSG99999999999"]
    with pytest.raises(VocabularyError, match="fingerprint"):
        load_checkpoint(save_lightning(made, tmp_path / "c.ckpt", vocabulary=tampered))
    config = {**lightning_content(made)["past"]["model"], "novelty": 1}
    with pytest.raises(PastError, match="novelty"):
        load_checkpoint(save_lightning(made, tmp_path / "d.ckpt", model=config))


def test_claimed_sizes_are_checked_before_allocation(made, tmp_path):
    config = lightning_content(made)["past"]["model"]
    config["cell"] = {**config["cell"], "feedforward": 10**10}
    with pytest.raises(CheckpointError, match=r"expected \(10000000000, 16\)"):
        load_checkpoint(save_lightning(made, tmp_path / "a.ckpt", model=config))
    (tmp_path / "b.safetensors").write_bytes(struct.pack("<Q", 2**60) + b"{}")
    with pytest.raises(CheckpointError, match="truncated"):
        load_checkpoint(tmp_path / "b.safetensors")


@settings(max_examples=40, deadline=None)
@given(fraction=st.floats(0, 0.999), container=st.sampled_from(["ckpt", "safetensors"]))
def test_truncated_anywhere(ckpt, shared, tmp_path_factory, fraction, container):
    whole = (ckpt if container == "ckpt" else shared).read_bytes()
    path = tmp_path_factory.mktemp("cut") / f"a.{container}"
    path.write_bytes(whole[: int(fraction * len(whole))])
    with pytest.raises(CheckpointError, match=r"truncated|damaged"):
        load_checkpoint(path)


def test_damaged_bytes_never_give_a_foreign_error(made, shared, tmp_path):
    whole = bytearray(shared.read_bytes())
    rng = np.random.default_rng(0)
    path = tmp_path / "a.safetensors"
    for _ in range(60):
        damaged = bytearray(whole)
        for position in rng.integers(0, 4000, 4):
            damaged[position] = rng.integers(256)
        path.write_bytes(damaged)
        with contextlib.suppress(PastError):
            load_checkpoint(path)


def test_half_precision_weights_load(shared, made, tmp_path):
    from safetensors import safe_open

    with safe_open(shared, "pt") as file:
        metadata = file.metadata()
    tensors = {k: v if v.dtype == torch.float64 else v.bfloat16() for k, v in load_file(shared).items()}
    save_file(tensors, tmp_path / "a.safetensors", metadata=metadata)
    weight = load_checkpoint(tmp_path / "a.safetensors").model.cell_projection.fc.weight
    assert weight.dtype == torch.float32
    torch.testing.assert_close(weight, made.model.cell_projection.fc.weight, atol=2e-3, rtol=1e-2)


def test_verb_export(ckpt, tmp_path):
    import typer
    from typer.testing import CliRunner

    from past_core.commands.export import export

    app = typer.Typer()
    app.command()(export)
    target = tmp_path / "x.safetensors"
    result = CliRunner().invoke(app, [str(ckpt), "-o", str(target), "--demo"])
    assert result.exit_code == 0, result.output
    assert describe_checkpoint(target)["demo"]
