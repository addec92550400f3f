"""`lightning fit`, killed again and again at random moments, ends with the weights of a run that was not."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from test_resume import arguments

from made_faults import MOMENTS, Verbs, moments, read_only, serving, small_disk
from past_core.training.checkpoint_io import AtomicCheckpointIO, CheckpointWriteError
from past_core.training.lightning_cli import TrainingCLI

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


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Verbs]:
    with serving(tmp_path_factory.mktemp("server") / "server", *MODULES) as verbs:
        yield verbs


def test_a_folder_that_is_closed_is_said_before_any_work(
    quick: Verbs, tiny_slides: Sequence[Path], tmp_path: Path
) -> None:
    with small_disk(tmp_path / "closed", 2**20) as root:
        read_only(root)
        ended = quick("lightning", *arguments(tiny_slides, root))
        assert f"{root}/version cannot be written (Read-only file system" in ended.error
        assert "training on" not in ended.text


def test_two_at_once_take_two_folders(quick: Verbs, tiny_slides: Sequence[Path], tmp_path: Path) -> None:
    for ended in quick.together([["lightning", *arguments(tiny_slides, tmp_path / "runs")]] * 2):
        assert ended.status == 0, ended.text[-2000:]
    runs = sorted((tmp_path / "runs").iterdir())
    assert [run.name for run in runs] == ["version_0", "version_1"]
    files = [{str(file.relative_to(run)).split("tfevents")[0] for file in run.rglob("*")} for run in runs]
    assert files[0] == files[1]
    one, other = (torch.load(run / "checkpoints" / "last.ckpt")["state_dict"] for run in runs)
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_run_behind_a_url_makes_no_folder_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for place, made in (("memory://runs", []), ("runs", ["runs"])):
        loggers = [CSVLogger(place, name="")]
        TrainingCLI.before_fit(SimpleNamespace(trainer=SimpleNamespace(loggers=loggers)))
        assert [path.name for path in tmp_path.iterdir()] == made


@pytest.mark.parametrize("kind", ["remove", "truncate"])
def test_slides_that_go_while_it_trains_are_named(
    quick: Verbs, tiny_slides: Sequence[Path], tmp_path: Path, kind: str
) -> None:
    """An error with the slide's name, or the end of a run that had read it."""
    failed = 0
    for number, share in enumerate(moments(2, seed=9)):
        slides = [shutil.copytree(path, tmp_path / str(number) / path.name) for path in tiny_slides]
        options, folder = arguments(slides, tmp_path / f"run{number}"), tmp_path / str(number)
        if not number:
            whole = quick("lightning", *options, watch=[folder])
            assert whole.status == 0, whole.text[-2000:]
        action = {"kind": kind, "paths": [str(slides[0])]}
        at = 1 + int(share * whole.events)
        ended = quick("lightning", *options, watch=[folder], at=at, action=action)
        if ended.status:
            assert str(slides[0]) in ended.error
            failed += 1
    assert failed
