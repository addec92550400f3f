"""What training on several processes needs beyond DDP."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from past_core.errors import PastError


class GatherError(PastError, ValueError):
    """The processes hold batches that cannot be gathered."""


class StepMismatchError(PastError, RuntimeError):
    """The processes went on from different checkpoints."""


class _Gather(torch.autograd.Function):
    """all_gather; the gradient of a process's own rows is summed over the losses of all processes."""

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        parts = [torch.empty_like(local) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, local)
        ctx.rows = len(local)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        start = dist.get_rank() * ctx.rows
        return gradient[start : start + ctx.rows]


def gather_with_gradient(local: Tensor, *, check: bool = True) -> Tensor:
    """Rows of all processes, in the order of their ranks; the tensor itself in a single process.

    With the full loss computed by every process on the gathered rows, and gradients averaged over
    processes (DDP), N processes of B cells have the loss and the gradients of one process with N * B.

    Args:
        local: (B, ...), the same B on every process.
        check: compare B first. This exchanges one number, and waits for the device.

    Returns:
        (N * B, ...).

    Raises:
        GatherError: B differs between processes (raised on all of them).
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return local
    if check:
        sizes = _from_everyone(len(local), local.device)
        if len(set(sizes)) > 1:
            msg = f"the processes hold batches of {sizes} cells; expected equal ones (drop the last batch)"
            raise GatherError(msg)
    return _Gather.apply(local.contiguous())


def require_same_step(step: int, device: torch.device) -> None:
    """Compares the processes' step, which differs where they did not find the same checkpoint.

    Args:
        step: optimiser steps that this process has taken.
        device: of this process, for the exchange.

    Raises:
        StepMismatchError: the steps differ (raised on all processes).
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return
    steps = _from_everyone(step, device)
    if len(set(steps)) > 1:
        msg = (
            f"the processes stand at steps {steps}: they resumed from different checkpoints. A shared "
            "folder may show a file late; name one with --ckpt_path, on a file system that all nodes see"
        )
        raise StepMismatchError(msg)


def _from_everyone(number: int, device: torch.device) -> list[int]:
    """One integer of each process, in the order of their ranks; waits for the device."""
    own = torch.tensor([number], device=device)
    everyone = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(everyone, own)
    return torch.cat(everyone).tolist()
