"""What training on several processes needs beyond DDP."""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import FunctionCtx

from past_core.errors import PastError


class GatherError(PastError, ValueError):
    """The processes hold batches that cannot be gathered."""


class _Gather(torch.autograd.Function):
    """all_gather; the gradient of a process's own rows is summed over the losses of all processes."""

    @staticmethod
    def forward(ctx: FunctionCtx, local: Tensor) -> Tensor:
        parts = [torch.empty_like(local) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, local)
        ctx.rows = len(local)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
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
        rows = torch.tensor([len(local)], device=local.device)
        everyone = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(everyone, rows)
        sizes = [int(size) for size in everyone]
        if len(set(sizes)) > 1:
            msg = f"the processes hold batches of {sizes} cells; expected equal ones (drop the last batch)"
            raise GatherError(msg)
    return _Gather.apply(local.contiguous())
