"""`lightning fit`, killed again and again at random moments, ends with the weights of a run that was not."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from test_resume import arguments

from made_faults import MOMENTS, moments, serving, small_disk
from past_core.training.checkpoint_io import AtomicCheckpointIO, CheckpointWriteError

MODULES = ("past_core.training.lightning_cli", "past_core.pretrain", "past_core.data.datamodule")


# test_resume kills at one moment in CI.
@pytest.mark.skipif(not MOMENTS, reason="a minute; PAST_FAULTS=2 or more kills it so often")
@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_to_equal_bits(tiny_slides: Sequence[Path], tmp_path: Path) -> None:
    """`--ckpt_path auto` after every kill; whatever `last.ckpt` is there then can be loaded."""
    last = Path("version_0", "checkpoints", "last.ckpt")
    with serving(tmp_path / "server", *MODULES) as verbs:

        def fit(root: Path, **fault: object) -> object:
            options = arguments(tiny_slides, root, "--ckpt_path", "auto")
            return verbs("lightning", *options, watch=[root], **fault)

        whole = fit(tmp_path / "whole", learn=str(tmp_path / "modules.json"))
        assert whole.status == 0, whole.text[-3000:]
        weights = torch.load(tmp_path / "whole" / last)["state_dict"]
        root, legs = tmp_path / "killed", []
        for number, share in enumerate(moments(2, seed=5)):
            if number % 2:
                fault = {"at": 1 + int(share * whole.events), "action": {"kind": "kill"}}
            else:
                fault = {"after": share * whole.seconds}
            if fit(root, **fault).status == 0:  # it had come far enough to end: from the start again
                shutil.rmtree(root)
            elif (root / last).exists():
                legs.append(torch.load(root / last)["global_step"])
        done = fit(root)
        assert done.status == 0, done.text[-3000:]
    for key, value in torch.load(root / last)["state_dict"].items():
        assert torch.equal(value, weights[key]), (key, legs)
    assert not [path for path in (root / last).parent.iterdir() if path.name.startswith(".")]


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    writer = AtomicCheckpointIO()
    with small_disk(tmp_path / "small", 2**18) as disk:
        path = disk / "checkpoints" / "last.ckpt"
        writer.save_checkpoint({"weight": torch.ones(30_000)}, path)
        with pytest.raises(CheckpointWriteError, match=r"last\.ckpt.*there is no room for it.*untouched"):
            writer.save_checkpoint({"weight": torch.zeros(60_000)}, path)
        assert [each.name for each in path.parent.iterdir()] == ["last.ckpt"]
        assert writer.load_checkpoint(path)["weight"].sum() == 30_000
