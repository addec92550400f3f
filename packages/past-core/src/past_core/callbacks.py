"""Callbacks of pretraining: pictures that show what was learned, in TensorBoard and as PNG files."""

import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from past_core.figures import joint_map, retrieval_panel
from past_core.pretrain import ContrastivePretraining
from past_core.retrieval import SlideEmbeddings, partner_ranks
from past_core.training.attached import data_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)


def run_folder(trainer: pl.Trainer) -> Path:
    """The run's folder, asked on one rank alone: `trainer.log_dir` would wait for all of them."""
    logger = trainer.logger
    return Path(
        getattr(logger, "log_dir", None) or getattr(logger, "save_dir", None) or trainer.default_root_dir
    )


def _publish(trainer: pl.Trainer, tag: str, figure: "Figure") -> None:
    """Writes a figure to `<log dir>/<tag>.png` and to every TensorBoard logger."""
    folder = run_folder(trainer)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{tag}.png"
    figure.savefig(path, dpi=110)
    logger.info("wrote %s", path)
    for each in trainer.loggers:
        if isinstance(each, TensorBoardLogger):
            each.experiment.add_figure(tag, figure, global_step=trainer.global_step, close=False)


class LastCheckpoint(ModelCheckpoint):
    """Writes `checkpoints/last.ckpt` every few steps and at the end, each time in place of the one before.

    Lightning's own `save_last` writes only beside a checkpoint of another kind: without a new best there is
    no new last one. Killed at any moment, training goes on from here with `--ckpt_path last`.

    Args:
        every_n_steps: optimiser steps between two writes; about what you can bear to compute twice.
    """

    def __init__(self, *, every_n_steps: int = 500) -> None:
        super().__init__(
            filename="last",
            every_n_train_steps=every_n_steps,
            save_top_k=1,
            enable_version_counter=False,
        )

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        """Writes every few steps, and where training stops in mid-epoch.

        There it cannot wait for the end of training: the trainer has closed the epoch by then, and would not
        go on inside it.
        """
        super().on_train_batch_end(trainer, *args, **kwargs)
        inside = not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if inside and (trainer.should_stop or trainer.global_step == trainer.max_steps):
            self._write(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes what the last steps came to."""
        self._write(trainer)

    def _write(self, trainer: pl.Trainer) -> None:
        if not self._should_skip_saving_checkpoint(trainer):
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))


class RetrievalPanel(pl.Callback):
    """After every validation: image queries and the cells whose transcriptomes were retrieved for them.

    Args:
        queries: rows of the panel, spread evenly over the first held-out slide.
        retrieved: cells shown per query.
    """

    def __init__(self, *, queries: int = 8, retrieved: int = 6) -> None:
        self.queries, self.retrieved = queries, retrieved

    # Lightning's callbacks are for any task; this one is for pretraining.
    def on_validation_end(  # type: ignore[override]
        self, trainer: pl.Trainer, pl_module: ContrastivePretraining
    ) -> None:
        """Draws the panel."""
        if trainer.sanity_checking or not trainer.is_global_zero or not pl_module.embeddings:
            return
        slide = pl_module.embeddings[0]
        n = len(slide.cells)
        query = torch.linspace(0, n - 1, min(self.queries, n) + 2)[1:-1].round().long()
        top = (slide.image[query] @ slide.cell.T).topk(min(self.retrieved, n), dim=1).indices
        rows = slide.cells.numpy()
        data = data_of(trainer)
        size = data.patch_size
        images = data.patches(slide.slide, rows[query.numpy()])
        found = data.patches(slide.slide, rows[top.numpy().ravel()]).reshape(*top.shape, 3, size, size)
        ranks = partner_ranks(slide.image, slide.cell)[query].int().tolist()
        figure = retrieval_panel(
            images,
            found,
            ranks,
            partner=(top == query[:, None]).numpy(),
            title=f"{slide.name}: retrieved by image among {n:,} transcriptomes (green: the cell itself)",
        )
        _publish(trainer, "retrieval", figure)


class JointUMAP(pl.Callback):
    """At the end of training: one UMAP of image and cell embeddings of the held-out slides.

    Args:
        cells: cells drawn over all held-out slides; each gives two points.
        seed: seed of the map.
    """

    def __init__(self, *, cells: int = 1500, seed: int = 0) -> None:
        self.cells, self.seed = cells, seed

    # Of this task alone, as above.
    def on_fit_end(  # type: ignore[override]
        self, trainer: pl.Trainer, pl_module: ContrastivePretraining
    ) -> None:
        """Draws the map from the last validation's embeddings."""
        if not trainer.is_global_zero or not pl_module.embeddings:
            return
        image, cell, slides = self._sample(pl_module.embeddings)
        if len(image) < 16:
            logger.warning("only %d held-out cells: no UMAP drawn", len(image))
            return
        from sklearn.cluster import KMeans
        from umap import UMAP

        cluster = KMeans(min(8, len(cell)), random_state=self.seed, n_init=3).fit_predict(cell)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # UMAP announces that a seed means one thread
            # Numba, on which UMAP builds, sets OpenMP's threads for the whole process: with another number,
            # sums round differently and nothing after it would be equal to the bit.
            threads = torch.get_num_threads()
            try:
                points = UMAP(metric="cosine", random_state=self.seed, n_neighbors=15).fit_transform(
                    np.concatenate([image, cell])
                )
            finally:
                torch.set_num_threads(threads)
        n = len(image)
        figure = joint_map(
            points,
            colourings={
                "side": np.repeat(["image", "transcriptome"], n),
                "cluster of the transcriptome": np.tile([f"{c + 1}" for c in cluster], 2),
                "slide": np.tile(slides, 2),
            },
            title=f"UMAP of the joint space: {n:,} held-out cells, both sides",
        )
        _publish(trainer, "umap", figure)

    def _sample(self, embeddings: list[SlideEmbeddings]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        image = torch.cat([slide.image for slide in embeddings]).numpy()
        cell = torch.cat([slide.cell for slide in embeddings]).numpy()
        names = np.concatenate([np.repeat(slide.name, len(slide.cells)) for slide in embeddings])
        chosen = np.sort(np.random.default_rng(self.seed).permutation(len(image))[: self.cells])
        return image[chosen], cell[chosen], names[chosen]
