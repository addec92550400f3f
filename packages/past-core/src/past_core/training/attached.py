"""What Lightning attaches to a trainer without declaring it, and what a task has once it is configured."""

from typing import Any, TypeVar

import lightning.pytorch as pl

from past_core.errors import PastError

Part = TypeVar("Part")


class NotBuiltError(PastError, RuntimeError):
    """A task or a DataModule was used before its parts were made."""


def data_of(trainer: pl.Trainer) -> Any:
    """The DataModule that a trainer works on, of whatever class."""
    return trainer.datamodule  # type: ignore[attr-defined]  # set by Lightning's data connector


def callbacks_of(trainer: pl.Trainer) -> list[pl.Callback]:
    """The callbacks of a trainer, in their order."""
    return list(trainer.callbacks)  # type: ignore[attr-defined]  # set by Lightning's callback connector


def logging_interval(trainer: pl.Trainer) -> int:
    """Steps between two lines of the log; 0 for none."""
    return int(trainer.log_every_n_steps)  # type: ignore[attr-defined]  # set by Lightning's logger connector


def is_fast_dev_run(trainer: pl.Trainer) -> bool:
    """Whether the trainer only tries whether a step of everything runs."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]  # set by Lightning's setup functions


def built(part: Part | None) -> Part:
    """A part that `configure_model` of a task, or `setup` of a DataModule, makes.

    Raises:
        NotBuiltError: it has not run yet.
    """
    if part is None:
        raise NotBuiltError(
            "not built yet: the trainer first calls the DataModule's `setup` and the task's `configure_model`"
        )
    return part
