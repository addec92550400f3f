"""Finds the step at which a loss stopped being finite, without making the device wait at every step."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from past_core.errors import PastError

Name = Callable[[int, int], tuple[str, str]]
"""From a slide's index and a row of its table to the slide's name and the cell's id."""

SHOWN = 5
"""Cells named in a message; the others are counted."""


class NonFiniteError(PastError, ArithmeticError):
    """The loss or a weight is NaN or infinite; training cannot go on from there."""


class WatchedStep(NamedTuple):
    """What is kept of a step until it was looked at; the tensors stay on the device."""

    step: int
    epoch: int
    loss: Tensor
    """()."""
    image: Tensor
    """(B,) bool, which cells' image embeddings are not finite."""
    cell: Tensor
    """(B,) bool, which cells' own embeddings are not finite."""
    slides: Tensor
    """(B,) index of the slide."""
    rows: Tensor
    """(B,) row in the slide's table."""


class FiniteWatch:
    """Keeps the last steps' losses on the device and looks at all of them at once.

    Args:
        interval: steps between two looks. A look waits for the device; in between nothing does.
    """

    def __init__(self, interval: int) -> None:
        self.interval = interval
        self._steps: list[WatchedStep] = []

    def add(
        self,
        step: int,
        epoch: int,
        *,
        loss: Tensor,
        image: Tensor,
        cell: Tensor,
        slides: Tensor,
        rows: Tensor,
    ) -> bool:
        """Keeps a step.

        Args:
            step: optimiser steps taken before it.
            epoch: its epoch.
            loss: ().
            image: (B, dim) embeddings of this process's cells.
            cell: (B, dim) embeddings of this process's cells.
            slides: (B,) index of the slide.
            rows: (B,) row in the slide's table.

        Returns:
            Whether it is time to look.
        """
        image, cell = (~torch.isfinite(side.detach()).all(dim=1) for side in (image, cell))
        self._steps.append(WatchedStep(step, epoch, loss.detach(), image, cell, slides, rows))
        return len(self._steps) >= self.interval

    def look(self) -> WatchedStep | None:
        """The first of the kept steps whose loss is not finite, if any; all are then forgotten."""
        steps, self._steps = self._steps, []
        if not steps:
            return None
        finite = torch.isfinite(torch.stack([kept.loss for kept in steps])).tolist()
        return next((kept for kept, good in zip(steps, finite, strict=True) if not good), None)

    def stop_if_not_finite(self, name: Name) -> None:
        """Looks. The loss is that of all ranks' cells, so all ranks stop, at the same step.

        Args:
            name: slide index and row to the slide's name and the cell's id.

        Raises:
            NonFiniteError: one of the kept steps' losses is not finite; names the step, and of every rank the
                side, the slides and a few of the cells.
        """
        kept = self.look()
        if kept is None:
            return
        several = dist.is_available() and dist.is_initialized()
        lines = [describe_step(kept, rank=dist.get_rank() if several else 0, name=name)]
        if several:
            own, lines = lines[0], [""] * dist.get_world_size()
            dist.all_gather_object(lines, own)
        raise NonFiniteError(
            f"the loss is {float(kept.loss)} at step {kept.step} (epoch {kept.epoch}):\n"
            + "\n".join(lines)
            + "\nNothing was saved since; the last checkpoint is from before. Look at these cells, or lower "
            "model.learning_rate, then go on with --ckpt_path last"
        )


def describe_step(kept: WatchedStep, *, rank: int, name: Name) -> str:
    """This process's part of the message: which side, which cells, which slides.

    Args:
        kept: the step.
        rank: this process.
        name: slide index and row to the slide's name and the cell's id.
    """
    cells = list(zip(kept.slides.tolist(), kept.rows.tolist(), strict=True))
    lines = []
    for side, bad in (("image", kept.image.tolist()), ("cell", kept.cell.tolist())):
        members = [cell for cell, is_bad in zip(cells, bad, strict=True) if is_bad]
        if members:
            of = f"{len(members)} of {len(cells)}" if len(members) < len(cells) else f"all {len(cells)}"
            lines.append(f"{side} embeddings not finite for {of} cells: {_some(members, name)}")
    if not lines:
        lines.append(f"all embeddings finite; the batch: {_some(cells, name)}")
    return "\n".join(f"  rank {rank}: {line}" for line in lines)


def not_finite(tensors: Iterable[tuple[str, Tensor]]) -> list[str]:
    """Names of the tensors that hold a NaN or an infinity; waits for the device once."""
    named = [(name, tensor) for name, tensor in tensors if tensor.is_floating_point()]
    if not named:
        return []
    good = torch.stack([torch.isfinite(tensor.detach()).all() for _, tensor in named]).tolist()
    return [name for (name, _), fine in zip(named, good, strict=True) if not fine]


def require_finite_weights(model: nn.Module, *, step: int) -> None:
    """Refuses to go on, or to save, with weights that are not finite.

    Raises:
        NonFiniteError: names a few of the weights, and the step.
    """
    bad = not_finite(model.named_parameters())
    if bad:
        more = f" and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        raise NonFiniteError(
            f"after step {step} the weights {', '.join(bad[:SHOWN])}{more} are not finite, while every "
            "loss up to there was: a gradient overflowed. They were not saved; the last checkpoint is from "
            "before. Lower model.learning_rate or set trainer.gradient_clip_val, then go on with "
            "--ckpt_path last"
        )


def _some(cells: list[tuple[int, int]], name: Name) -> str:
    by_slide: dict[str, list[str]] = {}
    for slide, row in cells:
        slide_name, cell_id = name(slide, row)
        by_slide.setdefault(slide_name, []).append(cell_id)
    return "; ".join(
        f"slide {slide}: {len(ids)} cells ({', '.join(ids[:SHOWN])}{', ...' if len(ids) > SHOWN else ''})"
        for slide, ids in by_slide.items()
    )
