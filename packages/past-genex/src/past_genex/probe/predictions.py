"""What `lightning predict` keeps: the held-out cells' predictions as AnnData, a file per slide."""

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import torch
import torch.distributed as dist

from past_core.atomic import replacing
from past_core.callbacks import run_folder
from past_core.errors import PastError
from past_core.foreign.names import file_name
from past_core.training.attached import data_of
from past_genex.metrics.pairs import PairMoments
from past_genex.probe.model import USE

if TYPE_CHECKING:
    from past_genex.data.datamodule import ExpressionDataModule
    from past_genex.probe.task import LinearProbe

logger = logging.getLogger(__name__)


class PredictionWriteError(PastError, OSError):
    """Predictions that cannot be written."""


def _names(data: "ExpressionDataModule") -> list[str]:
    """A name for each slide's file; slides of one name are numbered."""
    names = [file_name(slide.name) for slide in data.slides]  # a store says its own name, which may be a path
    return [f"{name}-{i}" if names.count(name) > 1 else name for i, name in enumerate(names)]


class HeldOutPredictions(pl.Callback):
    """Writes `predictions/SLIDE.h5ad` beside the run's checkpoints: predicted X, and layer `measured`.

    Cells are those of the held-out fold, each once whatever the number of ranks; `var["r"]` is Pearson's r
    over them. `past predict` writes all cells of a slide that nobody measured.
    """

    def __init__(self) -> None:
        self._batches: list[dict[str, np.ndarray]] = []

    # Lightning's callbacks are for any task; this one is for a probe, and its outputs.
    def on_predict_batch_end(  # type: ignore[override]
        self,
        trainer: pl.Trainer,
        pl_module: "LinearProbe",
        outputs: dict[str, torch.Tensor],
        *args: object,
    ) -> None:
        """Keeps a batch's predictions on the host."""
        self._batches.append({key: value.cpu().numpy() for key, value in outputs.items()})

    def on_predict_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Brings all ranks' cells together and writes them on the first.

        Raises:
            PredictionWriteError: the folder cannot be written to, or the disk is full.
        """
        batches, self._batches = self._batches, []
        own = {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
        parts: list[dict[str, np.ndarray]] = [own]
        if trainer.world_size > 1:
            parts = [{}] * trainer.world_size
            dist.gather_object(own, parts if trainer.is_global_zero else None)
        if not trainer.is_global_zero:
            return
        data = data_of(trainer)
        whole = {key: np.concatenate([part[key] for part in parts]) for key in own}
        folder = run_folder(trainer) / "predictions"
        for number in np.unique(whole["slide"]):
            rows = np.flatnonzero(whole["slide"] == number)
            rows = rows[np.argsort(whole["cell"][rows], kind="stable")]
            path = folder / f"{_names(data)[number]}.h5ad"
            self._write(path, data, number, whole["cell"][rows], whole["expression"][rows])
            logger.info("wrote %s: %d cells, %d genes", path, len(rows), whole["expression"].shape[1])

    def _write(
        self, path: Path, data: "ExpressionDataModule", number: int, cells: np.ndarray, values: np.ndarray
    ) -> None:
        from anndata import AnnData

        slide = data.slides[number]
        measured = slide.expression(data.target, data.genes, cells).astype(np.float32)
        table = AnnData(
            X=values.astype(np.float32),
            obs=pd.DataFrame(index=pd.Index(slide.cell_ids[cells]).astype(str)),
            var=pd.DataFrame(
                {"symbol": data.symbols, "r": PairMoments.of(values, measured).r},
                index=data.genes.astype(str),
            ),
            obsm={"spatial": np.asarray(slide.xy_um[cells])},
            layers={"measured": measured},
        )
        about = {"slide": slide.name, "encoder": data.encoder.name, "fingerprint": data.encoder.fingerprint}
        about |= {"scale": data.target.name, "held_out": f"{data.split.name}: {data.fold.name}", "use": USE}
        table.uns["past"] = json.dumps(about | {"synthetic": bool(data.encoder.demo)})
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                table.write_h5ad(temporary)
        except OSError as error:
            raise PredictionWriteError(f"{path} cannot be written ({error}); free space there") from error
