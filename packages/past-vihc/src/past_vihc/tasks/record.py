"""What a task records of its generator, and whether a checkpoint is of the same one."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
from torch import nn

from past_core.training.attached import data_of
from past_vihc.files import EncoderInfo, GeneratorInfo, GeneratorMismatchError


def generator_info(task: pl.LightningModule, generator: nn.Module, *, embeddings: str) -> GeneratorInfo:
    """What a generator was trained at and with, from the task's data module, settings and figures.

    Args:
        task: the task, with a trainer.
        generator: its generator.
        embeddings: `true`, `shuffled` or `none`.
    """
    data, dim = data_of(task.trainer), getattr(generator, "embedding_dim", 0)
    encoder, split = data.encoder if dim else None, getattr(data, "split", None)
    cells = bool(dim) and data.granularity == "cells"
    return GeneratorInfo(
        mpp=data.mpp,
        tile=data.tile,
        pitch_um=data.pitch_um if cells else None,
        encoder=None if encoder is None else EncoderInfo(encoder.name, encoder.fingerprint, encoder.dim),
        demo=bool(data.synthetic or (encoder is not None and encoder.demo)),
        card={
            "task": type(task).__name__,
            "settings": plain(dict(task.hparams)),
            "embeddings": embeddings,
            "step": int(task.global_step),
            "epoch": int(task.current_epoch),
            "cases": {}
            if split is None
            else {part: plain(getattr(split, part)) for part in ("train", "val")},
            "metrics": {
                name: float(value)
                for name, value in task.trainer.callback_metrics.items()
                if math.isfinite(float(value))
            },
        },
    )


def require_same_generator(
    saved: Mapping[str, Any] | None, *, stains: Sequence[str], info: GeneratorInfo
) -> None:
    """Refuses a checkpoint of other stains or another encoder; one without a record passes.

    Args:
        saved: the checkpoint's record.
        stains: of the data.
        info: of this run.

    Raises:
        GeneratorMismatchError: names what differs.
    """
    if not saved:
        return
    trained = tuple(saved["config"]["stains"])
    if trained != tuple(stains):
        raise GeneratorMismatchError(
            f"the checkpoint makes {', '.join(trained)}, data.stains is {', '.join(stains)}; give the same "
            "stains in the same order"
        )
    encoder = None if saved["encoder"] is None else EncoderInfo(**saved["encoder"])
    if _fingerprint(encoder) != _fingerprint(info.encoder):
        raise GeneratorMismatchError(
            f"the checkpoint is conditioned by {_named(encoder)}, this run by {_named(info.encoder)}; give "
            "the same data.encoder and data.weights"
        )


def plain(value: Any) -> Any:
    """A setting as JSON has it."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items() if not str(key).startswith("_")}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def _fingerprint(encoder: EncoderInfo | None) -> str | None:
    return None if encoder is None else encoder.fingerprint


def _named(encoder: EncoderInfo | None) -> str:
    return "nothing" if encoder is None else f"{encoder.name} (fingerprint {encoder.fingerprint[:12]})"
