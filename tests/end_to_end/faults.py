"""Callbacks that make a training fail, named by class path in the tests' command lines."""

import os
import signal
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from past_core.training.checkpoint_io import AtomicCheckpointIO


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class KillAtStep(pl.Callback):
    """SIGKILL after so many steps, before anything else happens there."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            _die()


class KillWhileWriting(pl.Callback):
    """SIGKILL with the first half of a checkpoint on the disk."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        assert isinstance(trainer.strategy.checkpoint_io, AtomicCheckpointIO)
        save = torch.save

        def half(content: dict, file: Any) -> None:
            save(content, file)
            if content["global_step"] == self.step:
                file.flush()
                path = Path(file.name)
                os.truncate(path, path.stat().st_size // 2)
                _die()

        torch.save = half


class Poison(pl.Callback):
    """A weight of one side becomes NaN before a step."""

    def __init__(self, step: int, side: str = "image", rank: int | None = None) -> None:
        self.step, self.side, self.rank = step, side, rank

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        if trainer.global_step == self.step and self.rank in (None, trainer.global_rank):
            with torch.no_grad():
                getattr(module.model, f"{self.side}_projection").fc.weight[0, 0] = float("nan")
