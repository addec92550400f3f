"""Callbacks of virtual staining: panels of fixed tiles, the exported generator, tables, and images."""

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from past_core.atomic import replacing
from past_core.callbacks import _publish, run_folder
from past_core.errors import PastError
from past_core.training.attached import data_of, is_fast_dev_run
from past_vihc.data.batch import StainBatch
from past_vihc.figures.panels import stain_panels

if TYPE_CHECKING:
    from past_vihc.tasks.base import StainTask

logger = logging.getLogger(__name__)


class StainCallbackError(PastError, ValueError):
    """Settings of a callback that cannot be, or a task that it does not fit."""


class StainPanel(pl.Callback):
    """After every validation: H&E, the virtual stain and the real one of the same tiles, as `panels.png`.

    The tiles are spread evenly over the validation tiles that the first rank has, and stay the same
    throughout a run. Also in TensorBoard.

    Args:
        tiles: rows of the picture.
        every_n_validations: how often; the last validation's is drawn at the end of training in any case.
    """

    def __init__(self, *, tiles: int = 6, every_n_validations: int = 1) -> None:
        if tiles < 1 or every_n_validations < 1:
            raise StainCallbackError(
                f"tiles {tiles}, every_n_validations {every_n_validations}; expected both at least 1"
            )
        self.tiles, self.every = tiles, every_n_validations
        self._seen: list[StainBatch] = []
        self._fixed: StainBatch | None = None
        self._validations = 0
        self._drawn_at = -1

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: StainBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Takes the tiles, in the first validation."""
        if trainer.sanity_checking or not trainer.is_global_zero or self._fixed is not None:
            return
        batches = int(min(trainer.num_val_batches[0], 2**31))
        chosen = np.linspace(0, batches - 1, min(self.tiles, batches)).round().astype(np.int64)
        if batch_idx in chosen:
            here = np.linspace(0, len(batch.case) - 1, -(-self.tiles // batches) + 2)[1:-1]
            self._seen.append(_rows(batch, np.unique(here.round().astype(int)).tolist()))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draws the panel, on the first rank."""
        if trainer.sanity_checking:
            return
        if self._fixed is None and self._seen:
            joined = _joined(self._seen)
            self._fixed = _rows(joined, list(range(min(self.tiles, len(joined.case)))))
            self._seen = []
        self._validations += 1
        if self._validations % self.every == 0:
            self._draw(trainer, _task(pl_module))

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draws the generator as it is at the end."""
        if self._drawn_at != trainer.global_step:
            self._draw(trainer, _task(pl_module))

    def _draw(self, trainer: pl.Trainer, task: "StainTask") -> None:
        if not trainer.is_global_zero:
            return
        if self._fixed is None:
            logger.warning("no validation tiles: no panel drawn")
            return
        batch = self._fixed
        made = _translated(task, batch)
        data = data_of(trainer)
        stains = [data.stains[number] for number in batch.stain.tolist()]
        several = len(data.stains) > 1
        figure = stain_panels(
            {"H&E": batch.he.numpy(), "virtual": made.numpy(), "real": batch.ihc.numpy()},
            real="real",
            rows=[f"{c}, {s}" if several else c for c, s in zip(batch.case, stains, strict=True)],
            heading=f"step {trainer.global_step:,}"
            + (f", {stains[0]}" if not several else "")
            + (", synthetic" if data.synthetic else ""),
            bar_um=20.0 if data.tile * data.mpp > 30 else None,
            mpp=data.mpp,
        )
        _publish(trainer, "panels", figure)
        self._drawn_at = trainer.global_step


class ExportGenerator(pl.Callback):
    """At the end of training: writes `generator.safetensors` beside the checkpoints, for `past stain`.

    Taken from the best checkpoint where one was monitored, else from the last weights; the moving average
    where there is one. Whole or not at all, by the first rank. A task whose generator has no such file, as
    diffusion's, is left out and said so.

    Args:
        filename: ending in `.safetensors`.
    """

    def __init__(self, *, filename: str = "generator.safetensors") -> None:
        if not filename.endswith(".safetensors") or Path(filename).name != filename:
            raise StainCallbackError(f"filename {filename!r}; expected a name ending in .safetensors")
        self.filename = filename

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the file."""
        if not trainer.is_global_zero or is_fast_dev_run(trainer):
            return
        from past_vihc.files import export_generator, save_generator

        task = _task(pl_module)
        if task.checkpoint_entry() is None:
            logger.info("%s has no generator file; stain from its checkpoint", type(task).__name__)
            return
        folder = run_folder(trainer) / "checkpoints"
        own = trainer.checkpoint_callback
        if isinstance(own, ModelCheckpoint) and own.dirpath:
            folder = Path(own.dirpath)
        best = _best(trainer)
        if best is not None:
            path = export_generator(best, best.parent / self.filename)
            logger.info("wrote %s, from %s", path, best.name)
        else:
            path = save_generator(folder / self.filename, task.exported(), task.info())
            logger.info("wrote %s, the last weights", path)


class TileTable(pl.Callback):
    """After validation and test: `tiles_val.csv` or `tiles_test.csv` in the run's folder, one row a tile.

    And `cases_….csv` with the figures of every case and stain, which means are over.

    Args:
        validation: after every validation too.
    """

    def __init__(self, *, validation: bool = False) -> None:
        self.validation = validation

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes both, on the first rank."""
        self._write(trainer, pl_module, "test")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes both, on the first rank, where it is wanted."""
        if self.validation and not trainer.sanity_checking:
            self._write(trainer, pl_module, "val")

    def _write(self, trainer: pl.Trainer, pl_module: pl.LightningModule, part: str) -> None:
        evaluator = getattr(pl_module, "evaluator", None)
        if not trainer.is_global_zero or not evaluator:
            return
        for name, table in (("tiles", evaluator.table()), ("cases", evaluator.cases())):
            path = run_folder(trainer) / f"{name}_{part}.csv"
            with replacing(path) as temporary:
                table.to_csv(temporary, index=False)
            logger.info("wrote %s", path)


class StainPredictions(pl.Callback):
    """In `lightning predict`: the virtual stain of every tile as `STAIN_INDEX.png` in a folder for each case.

    Args:
        folder: where to; null is `predictions` in the run's folder.
    """

    def __init__(self, *, folder: str | None = None) -> None:
        self.folder = folder

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: StainBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Writes a batch's images."""
        from PIL import Image

        made = outputs if isinstance(outputs, torch.Tensor) else _translated(_task(pl_module), batch)
        root = run_folder(trainer) / "predictions" if self.folder is None else Path(self.folder)
        stains = data_of(trainer).stains
        images = made.detach().cpu().numpy()
        for image, case, stain, index in zip(
            images, batch.case, batch.stain.tolist(), batch.index.tolist(), strict=True
        ):
            with replacing(root / _safe(case) / f"{stains[stain]}_{index:06d}.png") as temporary:
                Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).save(temporary)


def _best(trainer: pl.Trainer) -> Path | None:
    """The best of the checkpoints that go by a figure."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.monitor and callback.best_model_path:
            path = Path(callback.best_model_path)
            if path.is_file():
                return path
    return None


def _task(module: pl.LightningModule) -> "StainTask":
    from past_vihc.tasks.base import StainTask

    if not isinstance(module, StainTask):
        raise StainCallbackError(
            f"a callback of virtual staining was given to a {type(module).__name__}; expected a task of "
            "past_vihc.tasks"
        )
    return module


def _translated(task: "StainTask", batch: StainBatch) -> torch.Tensor:
    """The virtual stain of a batch, on the CPU: `(B, 3, S, S)` uint8."""
    moved = StainBatch._make(v.to(task.device) if isinstance(v, torch.Tensor) else v for v in batch)
    return task.translate(moved).cpu()


def _rows(batch: StainBatch, rows: list[int]) -> StainBatch:
    """Some tiles of a batch, on the CPU."""
    return StainBatch._make(
        [v[i] for i in rows] if isinstance(v, list) else v[rows].cpu().clone() for v in batch
    )


def _joined(batches: list[StainBatch]) -> StainBatch:
    """Batches as one."""
    return StainBatch._make(
        [item for part in column for item in part] if isinstance(column[0], list) else torch.cat(list(column))
        for column in zip(*batches, strict=True)
    )


def _safe(case: str) -> str:
    """A case's name as that of a folder."""
    return re.sub(r"[^\w.-]", "_", case).lstrip(".") or "case"
