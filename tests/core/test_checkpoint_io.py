"""Checkpoints are whole or not there, whatever happens while they are written; the last one is found."""

import multiprocessing
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from past_core.training.checkpoint_io import AtomicCheckpointIO, CheckpointReadError, CheckpointWriteError
from past_core.training.resume import (
    ResumeError,
    latest_checkpoint,
    require_checkpoint,
    require_same_plan,
)


def content(step: int, *, size: int = 300_000) -> dict:
    weights = torch.full((size,), float(step))
    return {"global_step": step, "loops": {}, "optimizer_states": [], "state_dict": {"model.w": weights}}


def save(path: Path, step: int) -> Path:
    AtomicCheckpointIO().save_checkpoint(content(step), path)
    return path


def in_child(work: Callable[[Path], None], path: Path) -> int:
    """Runs something in a new process and returns how that ended (negative: the signal).

    Not a copy of this one, which may have threads whose locks the copy would wait for.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["past_core.training.checkpoint_io"]
    )  # both tests' processes are copies of one
    child = context.Process(target=work, args=(path,))
    child.start()
    child.join()
    return child.exitcode


def limit_files(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def die_while_writing(path: Path) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # death at the 100,001st byte
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limit_files(100_000)
    save(path, 2)


def write_to_a_full_disk(path: Path) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limit_files(100_000)
    try:
        save(path, 2)
    except CheckpointWriteError as error:
        path.with_name("said").write_text(str(error))


def test_what_is_saved_is_loaded_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    for step in (1, 2):
        save(path, step)
    assert AtomicCheckpointIO().load_checkpoint(path)["global_step"] == 2
    assert [each.name for each in path.parent.iterdir()] == ["last.ckpt"]


def test_killed_while_writing_the_last_one_stays(tmp_path: Path) -> None:
    path = save(tmp_path / "last.ckpt", 1)
    assert in_child(die_while_writing, path) == -signal.SIGXFSZ
    leftovers = [each for each in tmp_path.iterdir() if each != path]
    assert [each.stat().st_size for each in leftovers] == [100_000]
    assert latest_checkpoint(tmp_path) == path
    assert torch.load(path)["state_dict"]["model.w"].eq(1).all()
    save(path, 3)
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_an_error_and_the_last_one_stays(tmp_path: Path) -> None:
    path = save(tmp_path / "last.ckpt", 1)
    said = tmp_path / "said"
    assert in_child(write_to_a_full_disk, path) == 0
    assert "last.ckpt could not be written" in said.read_text()
    assert {each.name for each in tmp_path.iterdir()} == {"last.ckpt", "said"}
    assert torch.load(path)["global_step"] == 1


def test_a_failure_while_collecting_leaves_nothing(tmp_path: Path) -> None:
    class Broken:
        def __reduce__(self) -> tuple:
            raise KeyboardInterrupt

    path = save(tmp_path / "last.ckpt", 1)
    with pytest.raises(KeyboardInterrupt):
        AtomicCheckpointIO().save_checkpoint({**content(2), "broken": Broken()}, path)
    assert list(tmp_path.iterdir()) == [path]
    assert torch.load(path)["global_step"] == 1


def test_code_in_a_checkpoint_is_not_executed(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "executed",)

    torch.save({**content(1), "evil": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(CheckpointReadError, match="never executed"):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "evil.ckpt")
    assert latest_checkpoint(tmp_path) is None
    assert not (tmp_path / "executed").exists()


def test_the_newest_that_is_whole_is_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Newest by time over all versions of a run; damaged, foreign and weights-only files are passed over."""
    good = save(tmp_path / "version_1" / "checkpoints" / "best.ckpt", 4)
    older = save(tmp_path / "version_0" / "checkpoints" / "last.ckpt", 9)
    damaged = save(tmp_path / "version_1" / "checkpoints" / "last.ckpt", 5)
    damaged.write_bytes(damaged.read_bytes()[:-1000])
    weights = {key: value for key, value in content(6).items() if key != "optimizer_states"}
    AtomicCheckpointIO().save_checkpoint(weights, tmp_path / "weights.ckpt")
    torch.save([1, 2], tmp_path / "foreign.ckpt")
    (tmp_path / "empty.ckpt").touch()
    for age, path in enumerate((damaged, good, older)):
        os.utime(path, (2e9 - age, 2e9 - age))
    assert latest_checkpoint(tmp_path) == good
    assert "version_1/checkpoints/last.ckpt cannot be resumed from" in caplog.text
    for path in (good, older):
        path.unlink()
    assert latest_checkpoint(tmp_path) is None
    assert "weights only" in caplog.text
    assert "not a checkpoint of training" in caplog.text
    with pytest.raises(
        ResumeError, match=r"holds no checkpoint that training can go on from.*--ckpt_path auto"
    ):
        require_checkpoint(tmp_path)
    with pytest.raises(ResumeError, match="does not exist"):
        require_checkpoint(tmp_path / "nowhere")


def test_another_plan_is_refused_in_mid_epoch_only(caplog: pytest.LogCaptureFixture) -> None:
    saved = {"ranks": 8, "batch_size": 48, "steps_per_epoch": 100, "seed": 0}
    require_same_plan(saved, saved, step=250)
    require_same_plan({}, saved, step=250)  # a checkpoint from before plans were kept
    assert not caplog.text
    with pytest.raises(ResumeError, match=r"50 steps into an epoch.*ranks 8 -> 4, batch_size 48 -> 96"):
        require_same_plan(saved, {**saved, "ranks": 4, "batch_size": 96}, step=250)
    require_same_plan(saved, {**saved, "ranks": 4}, step=300)
    assert "ranks 8 -> 4" in caplog.text
