"""Callbacks of survival: the table of predictions, and the network's file."""

import logging
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import torch

from past_core.atomic import replacing
from past_core.callbacks import run_folder
from past_core.errors import PastError
from past_core.training.attached import built, data_of, is_fast_dev_run
from past_surv.tasks.base import Predicted, SurvivalTask
from past_surv.tasks.training import require_finite_risks

logger = logging.getLogger(__name__)


class SurvivalCallbackError(PastError, ValueError):
    """Settings of a callback that cannot be."""


class SurvivalPredictions(pl.Callback):
    """In `lightning predict`: `predictions.csv` in the run's folder, one row a scored patient.

    Columns: case_id, cohort, fold, time, event (1 where death was seen), risk (higher means a shorter
    survival; empty for a patient of whom the network can read nothing), and with `nll` survival_K, the
    probability of living beyond interval K, whose later end is in the column's name where it has one.

    Args:
        filename: ending in `.csv`.
    """

    def __init__(self, *, filename: str = "predictions.csv") -> None:
        if not filename.endswith(".csv") or Path(filename).name != filename:
            raise SurvivalCallbackError(f"filename {filename!r}; expected a name ending in .csv")
        self.filename = filename
        self._batches: list[Predicted] = []

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Nobody was predicted yet."""
        self._batches = []

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keeps a batch."""
        self._batches.append(Predicted(*(value.detach().cpu() for value in outputs)))

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the table.

        Raises:
            NonFiniteError: a risk is NaN or infinite.
        """
        if not trainer.is_global_zero:
            return
        batches, self._batches = [batch for batch in self._batches if len(batch.row)], []
        task, data = _task(pl_module), data_of(trainer).data
        rows, risks = data.fold.test, pd.Series(np.nan, index=data.fold.test, dtype=float)
        survival = pd.DataFrame(np.nan, index=rows, columns=survival_columns(data.intervals.edges))
        if batches:
            row, risk, curves = (torch.cat(column).numpy() for column in zip(*batches, strict=True))
            require_finite_risks(data, row, risk)
            risks.loc[row] = risk
            if task.loss == "nll":
                survival.loc[row] = curves
        table = pd.DataFrame(
            {
                "case_id": data.cohort.cases[rows],
                "cohort": data.cohort.name,
                "fold": data.fold.name,
                "time": data.cohort.time[rows],
                "event": data.cohort.event[rows].astype(int),
                "risk": risks.to_numpy(),
            }
        )
        if task.loss == "nll":  # a partial likelihood knows no time
            table = table.join(survival.reset_index(drop=True))
        path = run_folder(trainer) / self.filename
        with replacing(path) as temporary:
            table.to_csv(temporary, index=False)
        logger.info("wrote %s", path)


class ExportSurvival(pl.Callback):
    """At the end of training: writes `model.safetensors` beside the checkpoints, for `past heatmap`.

    The last weights, whole or not at all, by the first rank; with the groups' columns, the scalings and the
    intervals that were learned from the training patients.

    Args:
        filename: ending in `.safetensors`.
    """

    def __init__(self, *, filename: str = "model.safetensors") -> None:
        if not filename.endswith(".safetensors") or Path(filename).name != filename:
            raise SurvivalCallbackError(f"filename {filename!r}; expected a name ending in .safetensors")
        self.filename = filename

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the file."""
        if not trainer.is_global_zero or is_fast_dev_run(trainer):
            return
        from past_surv.models.files import save_survival

        path = run_folder(trainer) / "checkpoints" / self.filename
        task = _task(pl_module)
        save_survival(path, built(task.network), task.manifest)
        logger.info("wrote %s", path)


def _task(module: pl.LightningModule) -> SurvivalTask:
    if not isinstance(module, SurvivalTask):
        raise SurvivalCallbackError(
            f"a callback of survival was given to a {type(module).__name__}; expected a task of "
            "past_surv.tasks"
        )
    return module


def survival_columns(edges: np.ndarray) -> list[str]:
    """Names of the columns of survival: `survival_1_beyond_12.3`, …; the last interval ends nowhere."""
    inner = [f"survival_{k}_beyond_{edge:g}" for k, edge in enumerate(edges[1:-1], start=1)]
    return [*inner, f"survival_{len(edges) - 1}"]
