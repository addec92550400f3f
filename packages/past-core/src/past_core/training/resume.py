"""Going on with a run: which checkpoint is its last, and whether training may go on from it."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from past_core.errors import PastError
from past_core.foreign.errors import ForeignError
from past_core.foreign.tensors import load_tensors

logger = logging.getLogger(__name__)

SUFFIX = ".ckpt"


class ResumeError(PastError, ValueError):
    """There is nothing to go on from, or not in this way."""


def latest_checkpoint(folder: str | Path) -> Path | None:
    """The checkpoint that was written last below a folder; None where there is none.

    What cannot be read (copied in half, on a disk that failed) is passed over with a warning, and never
    chosen. Nothing in a file is executed.

    Args:
        folder: a run (`runs/pretrain`), one version of it, or its `checkpoints`.
    """
    folder = Path(folder)
    found = [path for path in folder.rglob(f"*{SUFFIX}") if not path.name.startswith(".") and path.is_file()]
    for path in sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True):
        problem = _problem(path)
        if problem is None:
            return path
        logger.warning("%s cannot be resumed from and is passed over: %s", path, problem)
    return None


def require_checkpoint(folder: str | Path) -> Path:
    """`latest_checkpoint`, which must exist.

    Raises:
        ResumeError: the folder is missing or holds no checkpoint to resume from.
    """
    folder = Path(folder)
    path = latest_checkpoint(folder) if folder.is_dir() else None
    if path is None:
        what = "holds no checkpoint that training can go on from" if folder.is_dir() else "does not exist"
        raise ResumeError(
            f"{folder} {what}; check trainer.default_root_dir, start afresh without --ckpt_path, or say "
            "--ckpt_path auto, which goes on where it can and starts otherwise"
        )
    return path


def _problem(path: Path) -> str | None:
    try:
        # Mapped, not read: only what is looked at comes from the disk, so this is quick for any size.
        content = load_tensors(path, mapped=True)
    except ForeignError as error:
        return f"truncated or damaged ({error})"
    if not isinstance(content, Mapping) or not {"loops", "state_dict"} <= set(content):
        return "not a checkpoint of training"
    if "optimizer_states" not in content:
        return "weights only, without the optimizer's state"
    return None


def describe_plan(data: Any, *, world_size: int, steps_per_epoch: int) -> dict[str, float]:
    """What a place in an epoch refers to: the same number of another plan would be other cells.

    Args:
        data: the DataModule.
        world_size: processes.
        steps_per_epoch: optimiser steps of an epoch.
    """
    return {
        "ranks": int(world_size),
        "batch_size": int(data.batch_size),
        "steps_per_epoch": int(steps_per_epoch),
        "seed": int(data.seed),
        "shards": int(data.shards or world_size),
        "group_size": int(data.group_size),
        "open_blocks": int(data.open_blocks),
        "balance": float(data.balance),
    }


def require_same_plan(saved: Mapping[str, float], current: Mapping[str, float], *, step: int) -> None:
    """Refuses to go on in mid-epoch with another plan; between two epochs it is said and allowed.

    Args:
        saved: `describe_plan` of the run that wrote the checkpoint.
        current: `describe_plan` of this run.
        step: optimiser steps that the checkpoint has taken.

    Raises:
        ResumeError: names what differs.
    """
    changed = [
        f"{key} {saved[key]} -> {value}"
        for key, value in current.items()
        if key in saved and saved[key] != value
    ]
    if not changed:
        return
    inside = step % max(1, saved.get("steps_per_epoch", 1))
    if inside:
        raise ResumeError(
            f"the checkpoint stands at step {step}, {inside} steps into an epoch, which is planned "
            f"in another way here ({', '.join(changed)}): some cells would come twice and others never. "
            "Resume with the same data, ranks and batch size, or from a checkpoint between two epochs"
        )
    logger.warning("resumed between two epochs with another plan: %s", ", ".join(changed))
