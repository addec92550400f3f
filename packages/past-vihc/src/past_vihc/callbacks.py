"""What training of virtual stains writes: panels, the generator's file, tables, and predicted tiles."""

import logging
from pathlib import Path

import lightning.pytorch as pl
import numpy as np

from past_core.atomic import replacing
from past_core.callbacks import _publish, run_folder
from past_vihc.data.batch import StainBatch
from past_vihc.figures.panels import stain_panel
from past_vihc.files import save_generator
from past_vihc.markers import marker
from past_vihc.tasks.base import StainTask

logger = logging.getLogger(__name__)


class StainPanel(pl.Callback):
    """After every validation and test: H&E, virtual and real stain of the same held-out tiles, `panels.png`.

    Args:
        tiles: rows of the panel, those with the widest range of real stain in the first held-out batches.
        batches: held-out batches that are looked at.
    """

    def __init__(self, *, tiles: int = 5, batches: int = 4) -> None:
        self.tiles, self.batches = tiles, batches

    def on_validation_end(self, trainer: pl.Trainer, pl_module: StainTask) -> None:
        """Draws the validation tiles."""
        if not trainer.sanity_checking:
            self._draw(trainer, pl_module, trainer.datamodule.val_dataloader())

    def on_test_end(self, trainer: pl.Trainer, pl_module: StainTask) -> None:
        """Draws the test tiles."""
        self._draw(trainer, pl_module, trainer.datamodule.test_dataloader())

    def _draw(self, trainer: pl.Trainer, pl_module: StainTask, loader: object) -> None:
        if not trainer.is_global_zero:
            return
        rows: list[tuple[float, StainBatch, int]] = []
        for number, batch in enumerate(loader):
            if number == self.batches:
                break
            spread = batch.ihc.float().flatten(1).std(dim=1).tolist()
            rows += [(value, batch, row) for row, value in enumerate(spread)]
        if not rows:
            return
        chosen = sorted(rows, key=lambda entry: -entry[0])[: self.tiles]
        batch = _gather([(batch, row) for _, batch, row in chosen])
        made = pl_module.translate(batch._replace(**_moved(batch, pl_module)))
        data = trainer.datamodule
        stain = marker(data.stains[int(batch.stain[0])]).label
        figure = stain_panel(
            batch.he.numpy(),
            {f"virtual {stain}": made.cpu().numpy()},
            batch.ihc.numpy(),
            labels=batch.case,
            real_name=f"real {stain}",
            title="synthetic, held out" if data.synthetic else "held out",
            tile_um=data.tile * data.mpp,
        )
        _publish(trainer, "panels", figure)


class ExportGenerator(pl.Callback):
    """At the end of training: `checkpoints/generator.safetensors`, which `past stain --model` takes."""

    def on_fit_end(self, trainer: pl.Trainer, pl_module: StainTask) -> None:
        """Writes it on the first rank; tasks without a file of their own are left out."""
        if not trainer.is_global_zero or pl_module.checkpoint_entry() is None:
            return
        model = pl_module.stain_model()
        path = save_generator(
            run_folder(trainer) / "checkpoints" / "generator.safetensors", model.generator, model.info
        )
        logger.info("wrote %s", path)


class TileTable(pl.Callback):
    """After a test: `tiles.csv`, `nuclei.csv` and `cases.csv` with what was measured."""

    def on_test_end(self, trainer: pl.Trainer, pl_module: StainTask) -> None:
        """Writes the tables on the first rank."""
        if not trainer.is_global_zero:
            return
        folder, evaluator = run_folder(trainer), pl_module.evaluator
        tables = {"tiles": evaluator.table(), "nuclei": evaluator.nuclei(), "cases": evaluator.cases()}
        for name, table in tables.items():
            with replacing(folder / f"{name}.csv") as temporary:
                table.to_csv(temporary, index=False)
        logger.info("wrote tiles.csv, nuclei.csv and cases.csv to %s", folder)


class StainPredictions(pl.Callback):
    """With `lightning predict`: virtual tiles as `predictions/CASE/STAIN_TILE.png`."""

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: StainTask,
        outputs: object,
        batch: StainBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Writes a batch; every rank writes its own."""
        from PIL import Image

        folder = run_folder(trainer) / "predictions"
        for row, image in enumerate(outputs.cpu().numpy()):
            stain = trainer.datamodule.stains[int(batch.stain[row])]
            path = folder / _folder_name(batch.case[row]) / f"{stain}_{int(batch.index[row]):06}.png"
            with replacing(path) as temporary:
                Image.fromarray(np.ascontiguousarray(np.moveaxis(image, 0, -1))).save(temporary)


def _folder_name(case: str) -> str:
    """A case's name as one folder, whatever it holds."""
    name = "".join(character if character.isalnum() or character in "-_." else "_" for character in case)
    return Path(name.strip(".") or "case").name


def _gather(rows: list[tuple[StainBatch, int]]) -> StainBatch:
    """One batch of chosen rows of several."""
    import torch

    fields = {}
    for name in StainBatch._fields:
        values = [getattr(batch, name)[row] for batch, row in rows]
        fields[name] = values if name == "case" else torch.stack(values)
    return StainBatch(**fields)


def _moved(batch: StainBatch, pl_module: StainTask) -> dict[str, object]:
    """The batch's tensors on the task's device."""
    return {
        name: value.to(pl_module.device)
        for name, value in zip(StainBatch._fields, batch, strict=True)
        if name != "case"
    }
