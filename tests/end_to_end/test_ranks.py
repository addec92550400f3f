"""Training on two ranks: as one process, killed and resumed, and as two nodes under torchrun."""

import contextlib
import multiprocessing
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

CONF = Path(__file__).parents[1] / "conf" / "pretrain.yaml"
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


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def become_rank(rank: int, port: int, arguments: list[str], output: str) -> None:
    """In a new process: one of two ranks that were started from outside, as Lightning's launcher does."""
    file = os.open(output, os.O_WRONLY | os.O_CREAT)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    os.environ |= {"NODE_RANK": "0", "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"}
    sys.argv = ["lightning"]
    run_lightning(arguments)


def run(arguments: list[str], folder: Path) -> list[int]:
    """Trains on two ranks and returns how they ended (negative: the signal)."""
    folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("forkserver")  # one process imports Lightning, ranks are its copies
    context.set_forkserver_preload(["past_core.pretrain", "past_core.callbacks", "past_core.data.datamodule"])
    port = free_port()
    ranks = [
        context.Process(target=become_rank, args=(rank, port, arguments, str(folder / f"output{rank}")))
        for rank in range(2)
    ]
    try:
        for each in ranks:
            each.start()
        for each in ranks:
            each.join(SECONDS)
    finally:
        for each in ranks:
            each.kill()
            each.join()
    return [each.exitcode for each in ranks]


def run_nodes(commands: list[list[str]], folder: Path) -> list[int]:
    """Runs commands side by side, each in a session of its own that ends with it."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    processes = []
    for number, command in enumerate(commands):
        with (folder / f"output{number}").open("w") as file:
            processes.append(
                subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)
            )
    try:
        return [process.wait(SECONDS) for process in processes]
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def weights(ended: list[int], folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a training that must have succeeded."""
    said = "\n".join(path.read_text()[-3000:] for path in sorted(folder.glob("output*")))
    assert ended == [0, 0], said
    return load_checkpoint(next(folder.rglob("last.ckpt"))).model.state_dict()


def two_nodes(slides: Sequence[Path], root: Path) -> list[list[str]]:
    """Two launchers of one process each, as on two machines; they meet on loopback."""
    nodes = ["--data.batch_size", "32", "--trainer.devices", "1", "--trainer.num_nodes", "2"]
    arguments = fit(slides, root, *nodes, "--trainer.strategy", "ddp", "--ckpt_path", "auto")
    launch = [str(BIN / "torchrun"), "--nnodes", "2", "--nproc_per_node", "1"]
    launch += ["--master_addr", "127.0.0.1", "--master_port", str(free_port())]
    return [[*launch, "--node_rank", str(node), "--no-python", "lightning", *arguments] for node in range(2)]


def test_killed_on_two_ranks_it_goes_on_to_the_bits_of_two_nodes(
    tiny_slides: Sequence[Path], tmp_path: Path
) -> None:
    """Dropout and augmentation are on; both ranks die in the second epoch, after step 8 was saved.

    They resume, and end where two nodes under torchrun end to which nothing happened.
    """
    root, nodes = tmp_path / "killed", tmp_path / "nodes"
    arguments = fit(tiny_slides, root, *TWO)
    fault = ["--trainer.callbacks+", "faults.KillAtStep", "--trainer.callbacks.step", "10"]
    ended = run([*arguments, *fault], root)
    assert ended[0] == -signal.SIGKILL, (root / "output0").read_text()[-3000:]
    assert torch.load(next(root.rglob("last.ckpt")))["global_step"] == 8
    resumed = weights(run([*arguments, "--ckpt_path", "last"], root), root)
    assert torch.load(next(root.rglob("last.ckpt")))["global_step"] > 10
    whole = weights(run_nodes(two_nodes(tiny_slides, nodes), nodes), nodes)
    for key, value in whole.items():
        assert torch.equal(resumed[key], value), key


def test_two_ranks_take_the_steps_of_one(tiny_slides: Sequence[Path], tmp_path: Path) -> None:
    """Two processes of 32 cells end where one of 64 does: the loss is over all ranks' cells."""
    # What differs between ranks on purpose is switched off: augmentation and dropout.
    same = ["--model.augmentation.dihedral", "false", "--model.augmentation.gain_sigma", "0"]
    same += ["--model.augmentation.channel_sigma", "0", "--model.projection_dropout", "0"]
    same += ["--model.cell.dropout", "0", "--trainer.precision", "64-true", "--trainer.max_steps", "3"]
    same += ["--data.shards", "2"]  # the same cells in every step, whatever the number of ranks
    root = tmp_path / "two"
    two = weights(run(fit(tiny_slides, root, *TWO, *same), root), root)
    one = run_lightning(fit(tiny_slides, tmp_path / "one", *same, "--data.batch_size", "64")).trainer
    for key, value in one.lightning_module.model.state_dict().items():
        assert torch.allclose(two[key].double(), value, rtol=1e-6, atol=1e-9), key
