"""A run that was killed goes on to the same bits; one that cannot go on says so."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from past_core.cli import run_lightning
from past_core.pretrain import AccumulationError
from past_core.training.resume import ResumeError

HERE = Path(__file__).parent
CONF = HERE.parent / "conf" / "pretrain.yaml"
Run = Callable[..., object]


def arguments(slides: Sequence[Path], root: Path, *options: str) -> list[str]:
    """A fit of two epochs, the second with its own learning rates, dropout and augmentation on."""
    return [
        *("fit", "-c", str(CONF), "--data.slides", "[" + ",".join(map(str, slides)) + "]"),
        *("--trainer.default_root_dir", str(root), "--trainer.logger.init_args.save_dir", str(root)),
        *options,
    ]


def killed(command: list[str], root: Path) -> int:
    """Runs `lightning` as a process of its own and returns how it ended."""
    lightning = Path(sys.executable).with_name("lightning")
    root.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE)}
    with (root / "output").open("w") as output:
        return subprocess.run(
            [str(lightning), *command],
            env=environment,
            stdout=output,
            stderr=output,
            check=False,
            timeout=300,
        ).returncode


@pytest.fixture
def run(tiny_slides: Sequence[Path], tmp_path: Path) -> Run:
    return lambda folder, *options: run_lightning(arguments(tiny_slides, tmp_path / folder, *options)).trainer


def weights(trainer: object) -> dict[str, torch.Tensor]:
    return trainer.lightning_module.model.state_dict()


@pytest.mark.slow
def test_killed_while_writing_it_goes_on_to_equal_bits(
    run: Run, tiny_slides: Sequence[Path], tmp_path: Path
) -> None:
    """In mid-epoch, in microbatches, in the same folder, with the history that the run had."""
    option = ["--model.microbatch", "20"]
    whole = run("whole", *option)
    steps = whole.num_training_batches
    assert steps > 4  # the first checkpoint is in mid-epoch
    assert whole.lightning_module.model.microbatch == 20
    root = tmp_path / "killed"
    fault = ["--trainer.callbacks+", "faults.KillWhileWriting", "--trainer.callbacks.step", "8"]
    ended = killed(arguments(tiny_slides, root, *option, *fault), root)
    assert ended == -signal.SIGKILL, (root / "output").read_text()[-3000:]
    checkpoints = root / "version_0" / "checkpoints"
    assert torch.load(checkpoints / "last.ckpt")["global_step"] == 4
    assert any(path.name.startswith(".last.") for path in checkpoints.iterdir())  # the half of step 8's

    resumed = run("killed", *option, "--ckpt_path", "last")
    assert resumed.global_step == whole.global_step
    for key, value in weights(whole).items():
        assert torch.equal(weights(resumed)[key], value), key
    assert {path.name for path in root.iterdir()} == {"version_0", "output"}
    assert {path.name for path in checkpoints.iterdir()} == {"best.ckpt", "last.ckpt"}
    ends = [torch.load(tmp_path / name / "version_0/checkpoints/last.ckpt") for name in ("whole", "killed")]
    for own, theirs in zip(*(end["optimizer_states"][0]["state"].values() for end in ends), strict=True):
        assert all(torch.equal(own[key], theirs[key]) for key in own)
    assert ends[0]["lr_schedulers"] == ends[1]["lr_schedulers"]
    rates = []
    for name in ("whole", "killed"):
        events = EventAccumulator(str(tmp_path / name / "version_0"))
        events.Reload()
        rates.append({(e.step, e.value) for e in events.Scalars("train/loss")})
    assert rates[0] == rates[1]


def test_a_run_goes_on_by_name(run: Run, tmp_path: Path) -> None:
    """`auto` starts where nothing is; `last` and `auto` go on; a folder goes on in a folder of its own.

    Stopped in mid-epoch, between two epochs and after the last, each leg ends as if it had not stopped.
    """
    constant = ["--model.final_learning_rate", "1e-3"]  # the schedule does not ask how long training will be
    last = ["--trainer.callbacks", "past_core.callbacks.LastCheckpoint", "--trainer.limit_val_batches", "0"]
    whole = run("whole", *constant, *last)
    with pytest.raises(ResumeError, match=r"run does not exist.*--ckpt_path auto"):
        run("run", "--ckpt_path", "last")
    legs = [("auto", "steps", 2), ("last", "steps", 3), ("auto", "epochs", 1), ("last", "epochs", 2)]
    checkpoint = tmp_path / "run" / "version_0" / "checkpoints" / "last.ckpt"
    for word, limit, value in legs:
        trainer = run("run", *constant, *last, "--ckpt_path", word, f"--trainer.max_{limit}", str(value))
        steps = value if limit == "steps" else value * whole.num_training_batches
        assert trainer.global_step == torch.load(checkpoint)["global_step"] == steps
        assert trainer.log_dir == str(checkpoint.parents[1])
    assert all(torch.equal(weights(trainer)[key], value) for key, value in weights(whole).items())

    more = ["--trainer.max_epochs", "3", "--trainer.limit_train_batches", "1"]
    copied = run("run", *constant, *last, *more, "--ckpt_path", str(checkpoint.parent))
    assert copied.log_dir.endswith("version_1")
    assert torch.load(checkpoint)["global_step"] == whole.global_step < copied.global_step


def test_what_a_gpu_would_use_runs_together(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """bf16, fused AdamW and clipping (which Lightning refuses), checkpointing; compiling is off here."""
    caplog.set_level("INFO", "past_core")
    options = ["--trainer.precision", "bf16-mixed", "--trainer.gradient_clip_val", "1e-6"]
    options += ["--model.activation_checkpointing", "true", "--model.compile", "true"]
    trainer = run("run", *options, "--trainer.max_steps", "2", "--model.weight_decay", "0")
    assert trainer.optimizers[0].defaults["fused"]
    assert trainer.lightning_module.model.activation_checkpointing
    assert "model.compile is left off" in caplog.text
    gradients = [p.grad for p in trainer.lightning_module.model.parameters()]
    assert torch.nn.utils.get_total_norm(gradients) == pytest.approx(1e-6, rel=1e-2)


def test_another_plan_in_mid_epoch_is_refused(run: Run) -> None:
    run("run", "--trainer.max_steps", "2")
    with pytest.raises(ResumeError, match=r"2 steps into an epoch.*batch_size 64 -> 48"):
        run("run", "--ckpt_path", "last", "--data.batch_size", "48")
    with pytest.raises(ResumeError, match=r"group_size 1 -> 4"):
        run("run", "--ckpt_path", "last", "--data.group_size", "4")
    with pytest.raises(AccumulationError, match=r"model\.microbatch"):
        run("run", "--trainer.accumulate_grad_batches", "2")
