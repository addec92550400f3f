"""The `lightning` command: LightningCLI, with checkpoints that are whole, and runs that can go on."""

import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from past_core.atomic import refusal
from past_core.locks import OutputBusyError, claimed
from past_core.training.resume import latest_checkpoint, require_checkpoint

PATIENCE = 30.0
"""Seconds to wait for another run that is making its folder."""
PLUGIN = "past_core.training.checkpoint_io.AtomicCheckpointIO"


class TrainingCLI(LightningCLI):
    """LightningCLI that knows what `--ckpt_path` means for a run in numbered folders.

    `last` is the newest whole checkpoint below `trainer.default_root_dir`, and an error where there is none;
    `auto` is the same or, where there is none, a fresh start, so that one command both starts and resumes;
    a folder is the newest whole checkpoint in it. With `last` and `auto` the run goes on in its own folder;
    with a path it gets a new one, as ever in Lightning.

    A run takes its folder before it does anything else: one that cannot be written to is said at once, and
    two runs that start together get two folders.
    """

    def __init__(self, args: Sequence[str] | None = None) -> None:
        super().__init__(
            args=None if args is None else list(args),
            save_config_kwargs={"overwrite": True},
            trainer_defaults={"plugins": {"class_path": PLUGIN}},
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parses, and keeps the checkpoint's path from LightningCLI, which would read the whole file."""
        super().parse_arguments(parser, args)
        options = self._options
        self._checkpoint = options.get("ckpt_path")
        if self._checkpoint is not None:
            options.ckpt_path = None

    @property
    def _options(self) -> Namespace:
        return self.config[self.config.subcommand]

    def before_instantiate_classes(self) -> None:
        """Finds the checkpoint that is meant."""
        wanted, root = self._checkpoint, self._options.trainer.default_root_dir
        if wanted is None:
            return
        if wanted in ("last", "auto"):
            found = latest_checkpoint(root or ".") if wanted == "auto" else require_checkpoint(root or ".")
            if found is not None:
                _go_on_in_its_folder(self._options.trainer.get("logger"), found)
        else:
            found = require_checkpoint(wanted) if Path(wanted).is_dir() else wanted
        self._options.ckpt_path = None if found is None else str(found)

    def before_fit(self) -> None:
        """Makes the run's folder, unless it lies behind a URL.

        Raises:
            OutputWriteError: It cannot be made.
        """
        for logger in self.trainer.loggers:
            if isinstance(logger, (TensorBoardLogger, CSVLogger)) and "://" not in str(logger.root_dir):
                _make_folder(logger)


@rank_zero_only
def _make_folder(logger: TensorBoardLogger | CSVLogger) -> None:
    """Makes a logger's folder; the number of a new one is the next that is free, of one run alone."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            with claimed(Path(logger.root_dir) / "version"):
                folder = Path(logger.log_dir)  # looks for the number
                try:
                    folder.mkdir(parents=True, exist_ok=True)
                except OSError as error:
                    raise refusal(error, folder) or error from error
                return
        except OutputBusyError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _go_on_in_its_folder(logger: Any, checkpoint: Path) -> None:
    """Gives a logger with numbered folders the number of the run that the checkpoint is of."""
    init = logger.get("init_args") if isinstance(logger, Namespace) else None
    if init is None or init.get("save_dir") is None or init.get("version") is not None:
        return
    run = checkpoint.parent.parent
    base = Path(init.save_dir) / (init.get("name") or "")
    number = run.name.removeprefix("version_")
    inside = checkpoint.parent.name == "checkpoints" and run.parent.resolve() == base.resolve()
    if inside and number.isdigit():
        init.version = int(number)
        warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
