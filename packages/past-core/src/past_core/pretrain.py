"""Contrastive pretraining of the dual encoder as a LightningModule."""

import logging
import math
from dataclasses import replace
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from past_core.augment import Augmentation, augment
from past_core.data.batch import CellBatch
from past_core.distributed import GatherError, gather_with_gradient, require_same_step
from past_core.errors import PastError
from past_core.losses import ContrastiveLoss, contrastive_loss
from past_core.models.cell_encoder import CellEncoderConfig
from past_core.models.dual_encoder import DualEncoder, DualEncoderConfig, center_projection_heads
from past_core.models.image_encoder import ImageEncoderConfig
from past_core.retrieval import SlideEmbeddings, slide_retrieval
from past_core.training.attached import built, data_of, logging_interval
from past_core.training.checks import (
    AccumulationError,
    InitialWeightsError,
    PatchMismatchError,
    TokenMismatchError,
    require_fitting_data,
    require_single_steps,
    start_from,
)
from past_core.training.entry import checkpoint_entry
from past_core.training.execution import set_execution
from past_core.training.finite import FiniteWatch, require_finite_weights
from past_core.training.held_out import EmbeddingCollector
from past_core.training.optimisation import adamw, planned_steps, warmup_cosine
from past_core.training.resume import describe_plan, require_same_plan

__all__ = [
    "AccumulationError",
    "CollapseError",
    "ContrastivePretraining",
    "InitialWeightsError",
    "PatchMismatchError",
    "TokenMismatchError",
]

logger = logging.getLogger(__name__)

COLLAPSE_COSINE = 0.98
COLLAPSE_INTERVAL = 20
"""Steps between two looks at the cosines."""
FINITE_INTERVAL = 20
"""Steps between two looks at the losses on an accelerator; on the CPU looking is free."""


class CollapseError(PastError, RuntimeError):
    """Both sides map every cell to one point; nothing can be learned from there."""


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
        temperature_form: `log`, its logarithm is learned; `clamped`, as in the published code, itself.
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
        microbatch: cells whose activations are held at a time. A batch of any size then fits: the loss is
            still over the whole batch of all ranks, with all its negatives. Costs one more forward pass.
        activation_checkpointing: recompute each layer's activations in the backward pass.
        compile: compile the encoders' layers; left off on the CPU.

    Raises:
        AccumulationError: `trainer.accumulate_grad_batches` above 1; `microbatch` is what is meant.
        NonFiniteError: the loss is NaN or infinite; names the step, the side, the slides and cells.
        CollapseError: after warm-up both sides' mean off-diagonal cosine exceeds 0.98.
        PatchMismatchError: the DataModule's patches do not fit the image encoder.
        TokenMismatchError: the DataModule's tokens do not fit the cell encoder.
        InitialWeightsError: `init_from` holds other networks.
        TokenMismatchError: its tokens are not those of the cell encoder's configuration.
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
        temperature_form: str = "log",
        targets: str = "similarity",
        center_heads: bool = True,
        learning_rate: float = 1e-3,
        start_learning_rate: float = 1e-6,
        final_learning_rate: float = 0.0,
        weight_decay: float = 0.05,
        betas: tuple[float, float] = (0.9, 0.95),
        augmentation: Augmentation | None = None,
        init_from: str | None = None,
        microbatch: int | None = None,
        activation_checkpointing: bool = False,
        compile: bool = False,  # noqa: A002 - the recipe's key
    ) -> None:
        super().__init__()
        form: Any = temperature_form  # of its own names, which the network and the loss check
        self.config = DualEncoderConfig(
            image=image,
            cell=cell,
            projection_dim=projection_dim,
            projection_dropout=projection_dropout,
            temperature=temperature,
            temperature_min=temperature_min,
            temperature_max=temperature_max,
            temperature_form=form,
        )
        self.targets: Any = targets
        self.center_heads = center_heads
        self.learning_rate, self.start_learning_rate = learning_rate, start_learning_rate
        self.final_learning_rate = final_learning_rate
        self.weight_decay, self.betas = weight_decay, betas
        self.augmentation = augmentation or Augmentation()
        self.init_from = init_from
        self.microbatch, self.activation_checkpointing = microbatch, activation_checkpointing
        self.compiled = compile
        self.model: DualEncoder | None = None
        self.embeddings: list[SlideEmbeddings] = []
        self._validated_at: int | None = None
        self._collector = EmbeddingCollector()
        self._cells_per_step: int | None = None
        self._watch = FiniteWatch(1)

    # --- building -------------------------------------------------------------------------------------------

    def configure_model(self) -> None:
        """Builds the networks once the vocabulary is known, before DDP wraps them; centres fresh heads."""
        if self.model is not None:
            return
        require_single_steps(self.trainer.accumulate_grad_batches)
        data = data_of(self.trainer)
        cell = replace(self.config.cell, vocabulary_size=data.vocabulary.size, max_genes=data.max_genes)
        require_fitting_data(data, self.config.image, cell)
        self.config = replace(self.config, cell=cell)
        self.model = DualEncoder(self.config)
        device = self.trainer.strategy.root_device
        set_execution(
            self.model,
            microbatch=self.microbatch,
            activation_checkpointing=self.activation_checkpointing,
            compiled=self.compiled,
            device=device,
        )
        if self.init_from is not None:
            start_from(self.model, self.init_from, data.vocabulary)
        elif self.center_heads and self.trainer.training and self.trainer.ckpt_path is None:
            logger.info("centring the projection heads on training cells, before the first step")
            center_projection_heads(
                self.model.to(device),
                (self._on(device, batch).inputs for batch in data.centring_batches()),
            )

    @staticmethod
    def _on(device: torch.device, batch: CellBatch) -> CellBatch:
        return CellBatch._make(part.to(device) if isinstance(part, Tensor) else part for part in batch)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW; linear warm-up over the first epoch, then a cosine by step."""
        optimizer = adamw(
            built(self.model),
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            betas=self.betas,
            # With 16-mixed the fused kernel would unscale gradients by itself, after they were clipped.
            fused=self.device.type in ("cuda", "cpu") and self.trainer.precision != "16-mixed",
        )
        self.warmup_steps, self.total_steps = planned_steps(self.trainer)
        scheduler = warmup_cosine(
            optimizer,
            warmup=self.warmup_steps,
            total=self.total_steps,
            start=self.start_learning_rate,
            final=self.final_learning_rate,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    # --- training -------------------------------------------------------------------------------------------

    def on_train_start(self) -> None:
        """Nothing was watched yet; every process must stand at the same step."""
        self._watch = FiniteWatch(1 if self.device.type == "cpu" else FINITE_INTERVAL)
        self._cells_per_step = None
        require_same_step(self.global_step, self.device)

    def on_train_end(self) -> None:
        """Looks at what is left to be looked at."""
        self._watch.stop_if_not_finite(self._cell_name)

    def on_train_batch_start(self, batch: CellBatch, batch_idx: int) -> None:
        """Makes dropout a function of (seed, epoch, step, rank), so that resuming gives equal bits."""
        torch.manual_seed(self._step_seed(batch_idx, purpose=1))

    def _step_seed(self, batch_idx: int, *, purpose: int) -> int:
        key = [data_of(self.trainer).seed, self.current_epoch, batch_idx, self.global_rank, purpose]
        return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)

    def training_step(self, batch: CellBatch, batch_idx: int) -> Tensor:
        """One step on the loss over the cells of all ranks."""
        generator = torch.Generator().manual_seed(self._step_seed(batch_idx, purpose=2))
        images = augment(batch.images, self.augmentation, generator)
        output = built(self.model)(*batch._replace(images=images).inputs)
        image, cell = self._gather(output.image, output.cell)
        result = contrastive_loss(
            image,
            cell,
            output.temperature,
            targets=self.targets,
            identity_weight=self._identity_weight() if self.targets == "annealed" else 0.0,
        )
        # Reading values back makes an accelerator wait: look only now and then.
        if self._watch.add(
            self.global_step,
            self.current_epoch,
            loss=result.loss,
            image=output.image,
            cell=output.cell,
            slides=batch.slide,
            rows=batch.cell,
        ):
            self._watch.stop_if_not_finite(self._cell_name)
        if self.global_step > self.warmup_steps and self.global_step % COLLAPSE_INTERVAL == 0:
            self._check_collapse(result, len(image))
        self.log("train/loss", result.loss, prog_bar=True)
        if (self.global_step + 1) % max(1, logging_interval(self.trainer)) == 0:
            self._log_figures(result, output.temperature, len(image))
        return result.loss

    def _gather(self, image: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Both sides' embeddings of all ranks' cells."""
        # Sizes are compared over ranks at the first step. From then on each compares with its own first,
        # which needs no exchange: a rank that deviates stops.
        n, dim = image.shape
        first = self._cells_per_step is None
        if not first and n != self._cells_per_step:
            raise GatherError(
                f"a batch of {n} cells after batches of {self._cells_per_step}; expected equal ones on all "
                "ranks (drop the last batch)"
            )
        self._cells_per_step = n
        both = gather_with_gradient(torch.cat([image, cell], dim=1), check=first)
        return both[:, :dim], both[:, dim:]

    def _log_figures(self, result: ContrastiveLoss, temperature: Tensor, n: int) -> None:
        self.log_dict(
            {
                "train/excess_loss": result.excess,
                "train/loss_over_ln_batch": result.loss / math.log(n),
                "train/target_entropy_over_ln_batch": result.target_entropy / math.log(n),
                "train/target_diagonal": result.target_diagonal,
                "train/image_cosine": result.image_cosine,
                "train/cell_cosine": result.cell_cosine,
                "train/temperature": temperature,
                "train/learning_rate": self.trainer.optimizers[0].param_groups[0]["lr"],
            }
        )

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips as the trainer says; by norm also with fused AdamW in bf16, which Lightning refuses."""
        by_norm = gradient_clip_algorithm in (None, "norm") and self.trainer.precision != "16-mixed"
        if gradient_clip_val and by_norm:
            torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

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

    def _cell_name(self, slide: int, row: int) -> tuple[str, str]:
        data = data_of(self.trainer)
        store = (data.train_stores + data.val_stores)[slide]
        return store.name, str(store.cell_ids[row])

    # --- validation -----------------------------------------------------------------------------------------

    def validation_step(self, batch: CellBatch, batch_idx: int) -> None:
        """Collects the joint embeddings of held-out cells."""
        output = built(self.model)(*batch.inputs)
        self._collector.add(output.image, output.cell, batch.slide, batch.cell)

    def on_validation_epoch_end(self) -> None:
        """Retrieval within every held-out slide, in both directions, beside chance."""
        self._validated_at = None if self.trainer.sanity_checking else self.global_step
        data = data_of(self.trainer)
        stores = data.val_stores
        # The supply numbers training slides first.
        self.embeddings = self._collector.gather(
            [store.name for store in stores], first=len(data.train_stores)
        )
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

    # --- checkpoint -----------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what a reader needs to rebuild the networks and their tokens.

        Raises:
            NonFiniteError: a loss or a weight is not finite; nothing is written then.
        """
        self._watch.stop_if_not_finite(self._cell_name)
        require_finite_weights(built(self.model), step=self.global_step)
        checkpoint["past"] = checkpoint_entry(
            self, self.config, targets=self.targets, validated_at=self._validated_at, plan=self._plan()
        )

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses a checkpoint of another vocabulary, or of another plan in mid-epoch."""
        if "past" not in checkpoint:
            return
        from past_core.tokens import Vocabulary

        past = checkpoint["past"]
        data_of(self.trainer).vocabulary.require(Vocabulary.from_dict(past["vocabulary"]).fingerprint)
        if self.trainer.training:
            saved = past.get("training", {}).get("plan", {})
            require_same_plan(saved, self._plan(), step=checkpoint["global_step"])

    def _plan(self) -> dict[str, float]:
        steps, _ = planned_steps(self.trainer)
        data = data_of(self.trainer)
        return describe_plan(data, world_size=self.trainer.world_size, steps_per_epoch=steps)
