"""Training on two ranks: as one process, killed and resumed, and as two nodes under torchrun."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from past_core.checkpoint import load_checkpoint
from past_core.cli import run_lightning

pytestmark = pytest.mark.slow  # several processes that import Lightning

HERE = Path(__file__).parent
CONF = HERE.parent / "conf" / "pretrain.yaml"
BIN = Path(sys.executable).parent
SECONDS = 240
LAST = ["--trainer.callbacks", "past_core.callbacks.LastCheckpoint", "--trainer.callbacks.every_n_steps", "4"]
TWO = ["--data.batch_size", "32", "--trainer.devices", "2", "--trainer.strategy", "ddp"]


def fit(slides: Sequence[Path], root: Path, *options: str) -> list[str]:
    """The arguments of `lightning` for a training on these slides that writes to `root`."""
    return [
        *("fit", "-c", str(CONF), "--data.slides", "[" + ",".join(map(str, slides)) + "]"),
        *("--trainer.default_root_dir", str(root), "--trainer.logger.init_args.save_dir", str(root)),
        *("--trainer.limit_val_batches", "0", *LAST, *options),
    ]


class Group:
    """A command, and every process that it starts, which all end with the block."""

    def __init__(self, command: list[str], output: Path) -> None:
        output.parent.mkdir(parents=True, exist_ok=True)
        self.output = output
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE)}
        environment["PATH"] = f"{BIN}{os.pathsep}{environment['PATH']}"
        with output.open("w") as file:
            self.process = subprocess.Popen(
                command, env=environment, stdout=file, stderr=file, start_new_session=True
            )

    def wait(self) -> int:
        return self.process.wait(SECONDS)

    def end(self) -> None:
        """Kills what is left of the session."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.process.wait()


def run(*commands: list[str], folder: Path) -> list[int]:
    """Runs commands side by side and returns how they ended."""
    groups = [Group(command, folder / f"output{number}") for number, command in enumerate(commands)]
    try:
        return [group.wait() for group in groups]
    finally:
        for group in groups:
            group.end()


def succeed(*commands: list[str], folder: Path) -> dict[str, torch.Tensor]:
    """Runs commands that must succeed and returns the weights they came to."""
    ended = run(*commands, folder=folder)
    said = "\n".join(path.read_text()[-3000:] for path in sorted(folder.glob("output*")))
    assert not any(ended), said
    return load_checkpoint(next(folder.rglob("last.ckpt"))).model.state_dict()


def two_nodes(slides: Sequence[Path], root: Path) -> list[list[str]]:
    """Two launchers of one process each, as on two machines; they meet on loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nodes = ["--data.batch_size", "32", "--trainer.devices", "1", "--trainer.num_nodes", "2"]
    arguments = fit(slides, root, *nodes, "--trainer.strategy", "ddp", "--ckpt_path", "auto")
    launch = [str(BIN / "torchrun"), "--nnodes", "2", "--nproc_per_node", "1"]
    launch += ["--master_addr", "127.0.0.1", "--master_port", str(port)]
    return [[*launch, "--node_rank", str(node), "--no-python", "lightning", *arguments] for node in range(2)]


def test_killed_on_two_ranks_it_goes_on_to_the_bits_of_two_nodes(
    tiny_slides: Sequence[Path], tmp_path: Path
) -> None:
    """Dropout and augmentation are on; both ranks die in the second epoch, after step 8 was saved.

    They resume, and end where two nodes under torchrun end to which nothing happened.
    """
    root = tmp_path / "killed"
    command = [str(BIN / "lightning"), *fit(tiny_slides, root, *TWO)]
    fault = ["--trainer.callbacks+", "faults.KillAtStep", "--trainer.callbacks.step", "10"]
    (ended,) = run([*command, *fault], folder=root)
    assert ended == -signal.SIGKILL, (root / "output0").read_text()[-3000:]
    assert torch.load(next(root.rglob("last.ckpt")))["global_step"] == 8
    resumed = succeed([*command, "--ckpt_path", "last"], folder=root)
    whole = succeed(*two_nodes(tiny_slides, tmp_path / "nodes"), folder=tmp_path / "nodes")
    assert torch.load(next(root.rglob("last.ckpt")))["global_step"] > 10
    for key, value in whole.items():
        assert torch.equal(resumed[key], value), key


def test_two_ranks_take_the_steps_of_one(tiny_slides: Sequence[Path], tmp_path: Path) -> None:
    """Two processes of 32 cells end where one of 64 does: the loss is over all ranks' cells."""
    # What differs between ranks on purpose is switched off: augmentation and dropout.
    same = ["--model.augmentation.dihedral", "false", "--model.augmentation.gain_sigma", "0"]
    same += ["--model.augmentation.channel_sigma", "0", "--model.projection_dropout", "0"]
    same += ["--model.cell.dropout", "0", "--trainer.precision", "64-true", "--trainer.max_steps", "3"]
    same += ["--data.shards", "2"]  # the same cells in every step, whatever the number of ranks
    command = [str(BIN / "lightning"), *fit(tiny_slides, tmp_path / "two", *TWO, *same)]
    weights = succeed(command, folder=tmp_path / "two")
    one = run_lightning(fit(tiny_slides, tmp_path / "one", *same, "--data.batch_size", "64")).trainer
    for key, value in one.lightning_module.model.state_dict().items():
        assert torch.allclose(weights[key].double(), value, rtol=1e-6, atol=1e-9), key
