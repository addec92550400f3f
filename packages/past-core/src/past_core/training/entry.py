"""What a training adds to its checkpoints, so that networks and tokens can be rebuilt from one file."""

import os
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import lightning.pytorch as pl
import torch

from past_core.checkpoint import settings_of, training_record
from past_core.models.dual_encoder import DualEncoderConfig
from past_core.training.attached import data_of

CHECKPOINT_FORMAT = 1


def checkpoint_entry(
    task: pl.LightningModule,
    config: DualEncoderConfig,
    *,
    targets: str,
    validated_at: int | None,
    plan: dict[str, float],
) -> dict[str, Any]:
    """The `past` entry of a checkpoint: plain values and one tensor.

    Args:
        task: the training, with its trainer and DataModule.
        config: the networks.
        targets: of the loss.
        validated_at: the step of the last validation's figures; None before the first.
        plan: `describe_plan`.
    """
    trainer, data = task.trainer, data_of(task.trainer)
    settings = {
        **settings_of(model=task, data=data),
        "model.image.weights": config.image.weights,
        "trainer.world_size": trainer.world_size,
        "trainer.precision": trainer.precision,
        "trainer.max_epochs": trainer.max_epochs,
        "trainer.gradient_clip_val": trainer.gradient_clip_val,
        "seed_everything": os.environ.get("PL_GLOBAL_SEED"),
    }
    record = training_record(
        data,
        trainer.callback_metrics,
        step=task.global_step,
        epoch=task.current_epoch,
        validated_at=validated_at,
        settings=settings,
    )
    return {
        "format": CHECKPOINT_FORMAT,
        "software": f"past-core {version('past-core')}",
        "model": asdict(config),
        "vocabulary": data.vocabulary.to_dict(),
        "gene_means": torch.as_tensor(data.gene_means, dtype=torch.float64),
        "training": {**record, "targets": targets, "plan": plan},
    }
