"""Trains a task on one fold and predicts with it: by Lightning, quietly, without logs or checkpoints."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, Protocol

import lightning.pytorch as pl
import numpy as np
import torch
from torch.utils.data import DataLoader

from past_core.training.finite import NonFiniteError
from past_surv.data.batches import SurvivalBatch, collate
from past_surv.data.fold_data import FoldData
from past_surv.data.patients import PatientSampler
from past_surv.tasks.base import SHOWN, SurvivalTask


class TrainingSettings(Protocol):
    """What is asked of the settings; see `systems.trained.Training`."""

    @property
    def batch_size(self) -> int:
        """Patients a batch."""

    @property
    def max_patches(self) -> int | None:
        """Of a training patient; None takes all."""

    @property
    def sampler(self) -> Literal["balanced", "plain"]:
        """How patients are drawn."""

    @property
    def accelerator(self) -> str:
        """Lightning's."""

    @property
    def precision(self) -> str:
        """Lightning's."""


class Run(NamedTuple):
    """What a training came to.

    Attributes:
        steps: of the optimiser.
        loss: of the last epoch, a patient's mean; NaN where no step was taken.
        scores: Harrell's C of the watched rows after each epoch, where some were watched; 0.5 where it is
            undefined, so that such an epoch is not chosen.
    """

    steps: int
    loss: float
    scores: list[float]


class FoldLoaders(pl.LightningDataModule):
    """Loaders of a fold's training rows, and of rows to be scored, for a trainer.

    Args:
        data: the fold.
        settings: of the training.
        rows: to be scored or predicted.
        seed: of order, choice of patches and dropout.
    """

    def __init__(
        self, data: FoldData, settings: TrainingSettings, *, rows: np.ndarray | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        self.data, self.settings, self.rows, self.seed = data, settings, rows, seed

    def train_dataloader(self) -> DataLoader:
        """The training rows, by the sampler; patches are drawn anew each epoch."""
        rows, settings = self.data.train_rows, self.settings
        return DataLoader(
            self.data.patients(rows, max_patches=settings.max_patches),
            batch_size=settings.batch_size,
            sampler=PatientSampler(self.data.classes(rows), settings.sampler, seed=self.seed),
            collate_fn=collate,
        )

    def val_dataloader(self) -> DataLoader[SurvivalBatch] | list:
        """The rows to be scored, with all their patches; nothing where none were given."""
        if self.rows is None:
            return []
        patients = self.data.patients(self.rows)
        return DataLoader(patients, batch_size=self.settings.batch_size, collate_fn=collate)

    predict_dataloader = val_dataloader


class _Watch(pl.Callback):
    """Keeps the last epoch's loss, and the scores by epoch."""

    def __init__(self) -> None:
        self.loss = float("nan")
        self.scores: list[float] = []

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reads the loss."""
        self.loss = float(trainer.callback_metrics.get("train/loss_epoch", float("nan")))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reads the score."""
        assert isinstance(pl_module, SurvivalTask)
        self.scores.append(pl_module.scored.get("val/c_index", 0.5))


def fit(
    task: SurvivalTask,
    data: FoldData,
    settings: TrainingSettings,
    *,
    epochs: int,
    seed: int,
    score: np.ndarray | None = None,
) -> Run:
    """Trains a new task on a fold's training rows; its initial weights are a function of the seed.

    Args:
        task: its network is built here.
        data: the fold.
        settings: of the training.
        epochs: all are trained, and the last one's weights stay.
        seed: of weights, order, choice of patches and dropout. Torch's generator is left changed.
        score: rows whose C is measured after every epoch. Never those that the fold scores: the caller's
            inner fold alone.
    """
    rows = None if score is None else score[~np.isin(score, data.left_out)]
    loaders, watch = FoldLoaders(data, settings, rows=rows, seed=seed), _Watch()
    torch.manual_seed(seed)
    with _quiet():
        trainer = _trainer(
            settings, max_epochs=epochs, callbacks=[watch], limit_val_batches=0 if rows is None else 1.0
        )
        trainer.fit(task, datamodule=loaders)
    return Run(trainer.global_step, watch.loss, watch.scores)


def predicted(
    task: SurvivalTask, data: FoldData, rows: np.ndarray, settings: TrainingSettings
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows that the network can read, `(n,)`, their risks `(n,)` and survival `(n, K)`, float64.

    Raises:
        NonFiniteError: a risk is NaN or infinite; names the cases.
    """
    rows = rows[~np.isin(rows, data.left_out)]
    with _quiet():
        trainer = _trainer(settings)
        made: Any = trainer.predict(task, datamodule=FoldLoaders(data, settings, rows=rows))
    batches = [batch for batch in made or [] if len(batch.row)]
    if not batches:
        return np.zeros(0, np.int64), np.zeros(0), np.zeros((0, len(data.intervals)))
    row, risk, survival = (torch.cat(column).cpu().numpy() for column in zip(*batches, strict=True))
    require_finite_risks(data, row, risk)
    return row, risk.astype(np.float64), survival.astype(np.float64)


def require_finite_risks(data: FoldData, row: np.ndarray, risk: np.ndarray) -> None:
    """Refuses risks that are not finite.

    Raises:
        NonFiniteError: so they are; names the cases.
    """
    bad = data.cohort.cases[row[~np.isfinite(risk)]]
    if len(bad):
        raise NonFiniteError(
            f"{data.cohort.name}, fold {data.fold.name}: the risks of {len(bad)} cases are not finite, such "
            f"as {', '.join(map(str, bad[:SHOWN]))}. Look at their embeddings and "
            "genes, or train at a lower learning rate"
        )


def _trainer(settings: TrainingSettings, **options: Any) -> pl.Trainer:
    precision: Any = settings.precision  # Lightning refuses what it does not know
    return pl.Trainer(
        accelerator=settings.accelerator,
        devices=1,
        precision=precision,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        **options,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences what Lightning says at the start of each of many short trainings."""
    names = [
        name
        for name in logging.root.manager.loggerDict
        if name.startswith(("lightning.", "lightning_fabric"))
    ]
    before = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # Bags are read from memory-mapped files: workers would add a process to each of several runs.
            warnings.filterwarnings("ignore", message=".*does not have many workers")
            warnings.filterwarnings("ignore", message=".*`isinstance.treespec")
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
