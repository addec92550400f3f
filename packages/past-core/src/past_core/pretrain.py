"""Contrastive pretraining of the dual encoder as a LightningModule."""

import logging
import math
from dataclasses import asdict, replace
from importlib.metadata import version
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor

from past_core.augment import Augmentation, augment
from past_core.data.batch import CellBatch
from past_core.errors import PastError
from past_core.losses import ContrastiveLoss, contrastive_loss, gather_with_gradient
from past_core.models.cell_encoder import CellEncoderConfig
from past_core.models.dual_encoder import DualEncoder, DualEncoderConfig, center_projection_heads
from past_core.models.image_encoder import ImageEncoderConfig
from past_core.retrieval import SlideEmbeddings, slide_retrieval

logger = logging.getLogger(__name__)

CHECKPOINT_FORMAT = 1
COLLAPSE_COSINE = 0.98
COLLAPSE_INTERVAL = 20
"""Steps between two looks at the cosines."""


class CollapseError(PastError, RuntimeError):
    """Both sides map every cell to one point; nothing can be learned from there."""


class PatchMismatchError(PastError, ValueError):
    """The DataModule cuts patches of another size or resolution than the image encoder takes."""


class ContrastivePretraining(pl.LightningModule):
    """Trains image and cell encoder towards one joint space (paper, Methods, "Contrastive pretraining").

    Args:
        image: the image encoder.
        cell: the cell encoder; its vocabulary size is taken from the data.
        projection_dim: width of the joint space.
        projection_dropout: dropout in both projection heads.
        temperature: initial temperature of the softmax.
        temperature_min: lower bound of the learned temperature.
        temperature_max: upper bound of the learned temperature.
        targets: `similarity` (the paper's soft targets), `identity` (one-hot), `annealed` (from one-hot to
            soft over the first half of training) or `published` (soft, the image direction's transposed).
        center_heads: centre both projection heads on 512 training cells before the first step; never done
            on loaded weights.
        learning_rate: peak learning rate, reached after the first epoch.
        start_learning_rate: learning rate of the first step; warm-up is linear from here.
        final_learning_rate: learning rate at the end of the cosine.
        weight_decay: AdamW's decoupled weight decay, on matrices only.
        betas: AdamW's betas.
        augmentation: flips, quarter turns and stain jitter of the training patches.
        init_from: a checkpoint whose weights training starts from.

    Raises:
        CollapseError: after warm-up both sides' mean off-diagonal cosine exceeds 0.98.
        PatchMismatchError: the DataModule's patches do not fit the image encoder.
    """

    def __init__(
        self,
        image: ImageEncoderConfig,
        cell: CellEncoderConfig,
        *,
        projection_dim: int = 256,
        projection_dropout: float = 0.1,
        temperature: float = 0.07,
        temperature_min: float = 0.01,
        temperature_max: float = 1.0,
        targets: str = "similarity",
        center_heads: bool = True,
        learning_rate: float = 1e-3,
        start_learning_rate: float = 1e-6,
        final_learning_rate: float = 0.0,
        weight_decay: float = 0.05,
        betas: tuple[float, float] = (0.9, 0.95),
        augmentation: Augmentation | None = None,
        init_from: str | None = None,
    ) -> None:
        super().__init__()
        self.config = DualEncoderConfig(
            image=image,
            cell=cell,
            projection_dim=projection_dim,
            projection_dropout=projection_dropout,
            temperature=temperature,
            temperature_min=temperature_min,
            temperature_max=temperature_max,
        )
        self.targets, self.center_heads = targets, center_heads
        self.learning_rate, self.start_learning_rate = learning_rate, start_learning_rate
        self.final_learning_rate = final_learning_rate
        self.weight_decay, self.betas = weight_decay, betas
        self.augmentation = augmentation or Augmentation()
        self.init_from = init_from
        self.model: DualEncoder | None = None
        self.embeddings: list[SlideEmbeddings] = []
        self._collected: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    # --- building -------------------------------------------------------------------------------------------

    def configure_model(self) -> None:
        """Builds the networks once the vocabulary is known, before DDP wraps them; centres fresh heads."""
        if self.model is not None:
            return
        data = self.trainer.datamodule
        image = self.config.image
        if (data.patch_size, data.mpp) != (image.image_size, image.mpp):
            raise PatchMismatchError(
                f"data cuts patches of {data.patch_size} px at {data.mpp} um/px, the image encoder takes "
                f"{image.image_size} px at {image.mpp} um/px; set data.patch_size and data.mpp to these"
            )
        cell = replace(self.config.cell, vocabulary_size=data.vocabulary.size, max_genes=data.max_genes)
        self.config = replace(self.config, cell=cell)
        self.model = DualEncoder(self.config)
        if self.init_from is not None:
            from past_core.checkpoint import load_checkpoint

            loaded = load_checkpoint(self.init_from)
            data.vocabulary.require(loaded.vocabulary.fingerprint)
            self.model.load_state_dict(loaded.model.state_dict())
        elif self.center_heads and self.trainer.training and self.trainer.ckpt_path is None:
            center_projection_heads(
                self.model,
                (batch.inputs for batch in data.centring_batches()),
            )

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW; linear warm-up over the first epoch, then a cosine by step."""
        decayed = [p for p in self.model.parameters() if p.ndim >= 2]
        others = [p for p in self.model.parameters() if p.ndim < 2]
        optimizer = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": self.weight_decay}, {"params": others, "weight_decay": 0.0}],
            lr=self.learning_rate,
            betas=self.betas,
        )
        warmup, total = self._planned_steps()

        def factor(step: int) -> float:
            return (
                learning_rate_at(
                    step,
                    warmup=warmup,
                    total=total,
                    start=self.start_learning_rate,
                    peak=self.learning_rate,
                    final=self.final_learning_rate,
                )
                / self.learning_rate
            )

        self.warmup_steps, self.total_steps = warmup, total
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _planned_steps(self) -> tuple[int, int]:
        """Optimiser steps of one epoch and of the whole training.

        Not `trainer.estimated_stepping_batches`: it sets the loaders up before a checkpoint's loops are
        restored, after which their place in the epoch is never restored at all.
        """
        trainer = self.trainer
        batches = trainer.datamodule.batches_per_epoch
        limit = trainer.limit_train_batches
        if limit is not None:
            batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
        per_epoch = max(1, math.ceil(batches / trainer.accumulate_grad_batches))
        epochs = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else math.inf
        total = min(per_epoch * epochs, trainer.max_steps if trainer.max_steps > 0 else math.inf)
        return per_epoch, int(total) if math.isfinite(total) else 1000 * per_epoch

    # --- training -------------------------------------------------------------------------------------------

    def on_train_batch_start(self, batch: CellBatch, batch_idx: int) -> None:
        """Makes dropout a function of (seed, epoch, step, rank), so that resuming gives equal bits."""
        torch.manual_seed(self._step_seed(batch_idx, purpose=1))

    def _step_seed(self, batch_idx: int, *, purpose: int) -> int:
        key = [self.trainer.datamodule.seed, self.current_epoch, batch_idx, self.global_rank, purpose]
        return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)

    def training_step(self, batch: CellBatch, batch_idx: int) -> Tensor:
        """One step on the loss over the cells of all ranks."""
        generator = torch.Generator().manual_seed(self._step_seed(batch_idx, purpose=2))
        images = augment(batch.images, self.augmentation, generator)
        output = self.model(*batch._replace(images=images).inputs)
        result = contrastive_loss(
            gather_with_gradient(output.image),
            gather_with_gradient(output.cell, check=False),
            output.temperature,
            targets=self.targets,
            identity_weight=self._identity_weight() if self.targets == "annealed" else 0.0,
        )
        n = len(output.image) * self.trainer.world_size
        # Reading values back makes an accelerator wait: look only now and then.
        if self.global_step > self.warmup_steps and self.global_step % COLLAPSE_INTERVAL == 0:
            self._check_collapse(result, n)
        self.log("train/loss", result.loss, prog_bar=True)
        self.log_dict(
            {
                "train/excess_loss": result.excess,
                "train/loss_over_ln_batch": result.loss / math.log(n),
                "train/target_entropy_over_ln_batch": result.target_entropy / math.log(n),
                "train/target_diagonal": result.target_diagonal,
                "train/image_cosine": result.image_cosine,
                "train/cell_cosine": result.cell_cosine,
                "train/temperature": output.temperature,
                "train/learning_rate": self.optimizers().param_groups[0]["lr"],
            }
        )
        return result.loss

    def _identity_weight(self) -> float:
        """Share of one-hot in annealed targets: 1 at the first step, 0 from half of training on."""
        return max(0.0, 1.0 - 2.0 * self.global_step / max(1, self.total_steps))

    def _check_collapse(self, result: ContrastiveLoss, n: int) -> None:
        image_cosine, cell_cosine = float(result.image_cosine), float(result.cell_cosine)
        if min(image_cosine, cell_cosine) > COLLAPSE_COSINE:
            raise CollapseError(
                f"training collapsed at step {self.global_step}: the mean cosine between two cells is "
                f"{image_cosine:.3f} (image) and {cell_cosine:.3f} (cell), the loss "
                f"{float(result.loss.detach()):.3f} with ln(batch) = {math.log(n):.3f}; "
                "keep model.center_heads on, lower model.learning_rate, "
                "or start with model.targets: annealed"
            )

    # --- validation -----------------------------------------------------------------------------------------

    def validation_step(self, batch: CellBatch, batch_idx: int) -> None:
        """Collects the joint embeddings of held-out cells."""
        output = self.model(*batch.inputs)
        self._collected.append(
            (output.image.float().cpu(), output.cell.float().cpu(), batch.slide.cpu(), batch.cell.cpu())
        )

    def on_validation_epoch_end(self) -> None:
        """Retrieval within every held-out slide, in both directions, beside chance."""
        self.embeddings = self._gather_embeddings()
        self._collected.clear()
        stores = self.trainer.datamodule.val_stores
        figures: dict[str, list[float]] = {}
        for slide in self.embeddings:
            per_slide = slide_retrieval(slide, stores[slide.slide].centroids[slide.cells.numpy()])
            for key, value in per_slide.items():
                figures.setdefault(key, []).append(value)
                self.log(f"val_{slide.name}/{key}", value, rank_zero_only=True)
        if not figures:
            return
        means = {f"val/{key}": float(np.mean(values)) for key, values in figures.items()}
        both = min(means["val/enrichment@10/image_to_cell"], means["val/enrichment@10/cell_to_image"])
        self.log_dict(means, sync_dist=False)
        self.log("val/enrichment@10", both, prog_bar=True)

    def _gather_embeddings(self) -> list[SlideEmbeddings]:
        parts = self._collected
        if self.trainer.world_size > 1:
            gathered: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(gathered, parts)
            parts = [part for rank in gathered for part in rank]
        if not parts:
            return []
        image, cell, slide, row = (torch.cat(column) for column in zip(*parts, strict=True))
        data = self.trainer.datamodule
        result = []
        for index in slide.unique().tolist():
            members = torch.nonzero(slide == index).ravel()
            members = members[torch.argsort(row[members])]
            # The supply numbers training slides first.
            number = index - len(data.train_stores)
            result.append(
                SlideEmbeddings(
                    data.val_stores[number].name, number, row[members], image[members], cell[members]
                )
            )
        return result

    # --- checkpoint -----------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what a reader needs to rebuild the networks and their tokens."""
        data = self.trainer.datamodule
        checkpoint["past"] = {
            "format": CHECKPOINT_FORMAT,
            "software": f"past-core {version('past-core')}",
            "model": asdict(self.config),
            "vocabulary": data.vocabulary.to_dict(),
            "gene_means": torch.as_tensor(data.gene_means, dtype=torch.float64),
            "training": {"targets": self.targets, "slides": [store.name for store in data.train_stores]},
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses a checkpoint of another vocabulary before any weight is read."""
        if "past" in checkpoint:
            from past_core.tokens import Vocabulary

            saved = Vocabulary.from_dict(checkpoint["past"]["vocabulary"])
            self.trainer.datamodule.vocabulary.require(saved.fingerprint)


def learning_rate_at(step: int, *, warmup: int, total: int, start: float, peak: float, final: float) -> float:
    """Linear warm-up from `start` to `peak` over `warmup` steps, then a cosine to `final` at `total`."""
    if step < warmup:
        return start + (peak - start) * step / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return final + (peak - final) * 0.5 * (1.0 + math.cos(math.pi * progress))
