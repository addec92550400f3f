"""AdamW as the paper trains with it, and its learning rate: linear warm-up, then a cosine by step."""

import math

import lightning.pytorch as pl
import torch
from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from past_core.training.attached import data_of


def adamw(
    model: nn.Module,
    *,
    learning_rate: float,
    weight_decay: float,
    betas: tuple[float, float],
    fused: bool,
) -> AdamW:
    """AdamW that decays matrices only: no biases, norms, or the temperature.

    Args:
        model: whose parameters are trained, already on their device.
        learning_rate: the peak.
        weight_decay: decoupled weight decay.
        betas: decay of the two moments.
        fused: one kernel for all parameters, more than twice as fast on the CPU too; deterministic, so that
            resuming gives equal bits.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in trained if p.ndim >= 2]
    others = [p for p in trained if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=fused)


def warmup_cosine(optimizer: Optimizer, *, warmup: int, total: int, start: float, final: float) -> LambdaLR:
    """A schedule by step; the optimizer's own learning rate is the peak. See `learning_rate_at`."""
    peak = optimizer.param_groups[0]["lr"]

    def factor(step: int) -> float:
        return learning_rate_at(step, warmup=warmup, total=total, start=start, peak=peak, final=final) / peak

    return LambdaLR(optimizer, factor)


def planned_steps(trainer: pl.Trainer) -> tuple[int, int]:
    """Optimiser steps of one epoch and of the whole training.

    Not `trainer.estimated_stepping_batches`: it sets the loaders up before a checkpoint's loops are
    restored, after which their place in the epoch is never restored at all.
    """
    batches, limit = data_of(trainer).batches_per_epoch, trainer.limit_train_batches
    if limit is not None:
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    per_epoch = max(1, batches)
    epochs = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else math.inf
    total = min(per_epoch * epochs, trainer.max_steps if trainer.max_steps > 0 else math.inf)
    return per_epoch, int(total) if math.isfinite(total) else 1000 * per_epoch


def learning_rate_at(step: int, *, warmup: int, total: int, start: float, peak: float, final: float) -> float:
    """Linear warm-up from `start` to `peak` over `warmup` steps, then a cosine to `final` at `total`."""
    if step < warmup:
        return start + (peak - start) * step / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return final + (peak - final) * 0.5 * (1.0 + math.cos(math.pi * progress))
