"""Does the paper's full size build and train on any machine: `recipes/scale/paper.yaml`, two steps on a CPU?

The overlay is run through the `lightning` command's own entry, with what a machine without GPUs must change:
batch size, precision, device. It runs in a process of its own, so that its peak memory can be told. `ci`
takes the same way with encoders of few layers.
"""

import multiprocessing
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from benchmarks.memory import peak_gib
from benchmarks.report import Report
from benchmarks.task import Metric, Task, at_most, near
from past_core.cli import run_lightning

TASK = Task(
    title="The paper's full size on any machine",
    group="pretraining",
    data="embedded default, the paper's vocabulary where it is present",
    split="two optimiser steps of `recipes/scale/paper.yaml`, nothing held out",
    system="what",
    systems=(
        "parameters",
        "of the image encoder",
        "parameters without a gradient",
        "parameters that did not change",
        "peak memory",
    ),
    metrics=(Metric("found", ""),),
    tracked=(
        at_most("details", "peak_gib", times=1.5),
        near("details", "image_parameters", within=0.0),
        near("details", "loss", within=0.5),
    ),
)

RECIPES = Path(__file__).parents[2] / "recipes"
STEPS = 2
BATCH = 4
SHALLOW = ["--model.image.options", "{depth: 2}", "--model.cell.depth", "2"]
PARAMETERS = {"full": (325e6, 350e6), "ci": (30e6, 60e6)}
"""About 340 M with the paper's vocabulary, 330 M with the genes of one panel."""
MEMORY_GIB = {"full": 12.0, "ci": 3.0}


class StepWatch(pl.Callback):
    """Seconds of every step, and which parameters had no gradient or did not change."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Notes the weights."""
        self.seconds: list[float] = []
        self.without_gradient: set[str] = set()
        self._before = _marks(pl_module.model)
        self._start = time.perf_counter()

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Looks at the gradients."""
        for name, parameter in pl_module.model.named_parameters():
            if parameter.grad is None or not parameter.grad.any():
                self.without_gradient.add(name)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Notes the time."""
        self.seconds.append(time.perf_counter() - self._start)
        self._start = time.perf_counter()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Looks at the weights."""
        after = _marks(pl_module.model)
        self.unchanged = [name for name, mark in self._before.items() if mark == after[name]]


def run(profile: str, data: Path | None = None) -> Report:
    """Builds and takes two steps.

    Args:
        profile: `full` is the paper's size; `ci` keeps two layers of each encoder.
        data: folder of slide stores instead of the embedded default.
    """
    with tempfile.TemporaryDirectory() as folder:
        arguments = _arguments(profile, data, folder)
        context = multiprocessing.get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        child = context.Process(target=_train, args=(arguments, sender))
        child.start()
        sender.close()
        try:
            outcome = receiver.recv()
        except EOFError:
            child.join()
            raise RuntimeError(f"the training ended with status {child.exitcode}; see above") from None
        child.join()
    low, high = PARAMETERS[profile]
    bound = MEMORY_GIB[profile]
    passed = (
        low <= outcome["parameters"] <= high
        and outcome["steps"] == STEPS
        and not outcome["without_gradient"]
        and not outcome["unchanged"]
        and outcome["peak_gib"] <= bound
    )
    return Report(
        name="paper",
        profile=profile,
        columns=["what", "found"],
        rows=_rows(outcome),
        goal=(
            f"{STEPS} optimiser steps of {BATCH} cells on the CPU, {low / 1e6:.0f} to {high / 1e6:.0f} M "
            f"parameters, each with a gradient and changed, in under {bound:g} GiB"
        ),
        figure=(
            f"{outcome['parameters'] / 1e6:.0f} M parameters, {outcome['steps']} steps in "
            f"{sum(outcome['seconds']):.0f} s, {outcome['peak_gib']:.1f} GiB at the peak"
        ),
        passed=passed,
        details=outcome,
    )


def _arguments(profile: str, data: Path | None, folder: str) -> list[str]:
    recipes = ["-c", str(RECIPES / "pretrain.yaml"), "-c", str(RECIPES / "scale" / "paper.yaml")]
    arguments = ["fit", *recipes, "--trainer.default_root_dir", folder]
    arguments += ["--trainer.logger.init_args.save_dir", folder, "--trainer.enable_progress_bar", "false"]
    arguments += ["--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.num_nodes", "1"]
    arguments += ["--trainer.precision", "32-true", "--data.batch_size", str(BATCH)]
    # Neither validation nor the 512 cells that centre the heads: half an hour of forward passes on a CPU.
    arguments += ["--trainer.max_steps", str(STEPS), "--trainer.num_sanity_val_steps", "0"]
    arguments += ["--trainer.limit_val_batches", "0", "--model.center_heads", "false"]
    arguments += ["--trainer.enable_checkpointing", "false", "--trainer.enable_model_summary", "false"]
    arguments += ["--trainer.callbacks", f"{__name__}.StepWatch"]
    arguments += ["--data.vocabulary", str(_vocabulary())]
    if profile == "ci":
        arguments += SHALLOW
    if data is not None:
        arguments += ["--data.slides", str(sorted(map(str, data.glob("*.zarr"))))]
    return arguments


def _vocabulary() -> Path | str:
    """The paper's vocabulary where it lies; it is not downloaded for this."""
    shared = Path(os.environ.get("PAST_SHARED_DATA", RECIPES.parents[1] / "shared" / "data"))
    path = shared / "vocabulary" / "nicheformer_vocab_20310.csv"
    return path if path.is_file() else "panel"


def _train(arguments: list[str], sender: Any) -> None:
    """Runs in the child: trains, and sends what came out."""
    start = time.perf_counter()
    trainer = run_lightning(arguments).trainer
    total = time.perf_counter() - start
    watch = next(c for c in trainer.callbacks if isinstance(c, StepWatch))
    model = trainer.lightning_module.model
    sender.send(
        {
            "parameters": sum(p.numel() for p in model.parameters()),
            "image_parameters": sum(p.numel() for p in model.image_encoder.parameters()),
            "cell_parameters": sum(p.numel() for p in model.cell_encoder.parameters()),
            "vocabulary": trainer.datamodule.vocabulary.size,
            "steps": trainer.global_step,
            "seconds": watch.seconds,
            "setup_seconds": total - sum(watch.seconds),
            "peak_gib": peak_gib(),
            "without_gradient": sorted(watch.without_gradient),
            "unchanged": watch.unchanged,
            "loss": float(trainer.callback_metrics["train/loss"]),
        }
    )


def _marks(model: torch.nn.Module) -> dict[str, tuple[float, float]]:
    """What tells a changed tensor without a copy of it."""
    return {
        name: (float(value.sum(dtype=torch.float64)), float(value.square().sum(dtype=torch.float64)))
        for name, value in model.named_parameters()
        for value in [value.detach()]
    }


def _rows(outcome: dict[str, Any]) -> list[list[str]]:
    return [
        ["parameters", f"{outcome['parameters']:,}"],
        ["of the image encoder", f"{outcome['image_parameters']:,}"],
        ["of the cell encoder", f"{outcome['cell_parameters']:,} ({outcome['vocabulary']:,} tokens)"],
        ["parameters without a gradient", ", ".join(outcome["without_gradient"][:3]) or "none"],
        ["parameters that did not change", ", ".join(outcome["unchanged"][:3]) or "none"],
        ["seconds to build and open the data", f"{outcome['setup_seconds']:.0f}"],
        ["seconds of each step", ", ".join(f"{seconds:.1f}" for seconds in outcome["seconds"])],
        ["peak memory", f"{outcome['peak_gib']:.1f} GiB"],
        ["loss", f"{outcome['loss']:.3f}"],
    ]
