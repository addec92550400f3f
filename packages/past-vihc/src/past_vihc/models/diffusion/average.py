"""The moving average of a network's weights, which is what images are sampled from."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def warmed_decay(updates: int, decay: float) -> float:
    """Decay of the average after so many updates: (1 + n)/(10 + n) until that reaches `decay`.

    A constant 0.9999 would still hold mostly the random start after some thousand steps.
    """
    return min(decay, (1 + updates) / (10 + updates))


Weights = tuple[Tensor, ...] | list[Tensor]


def _moving(decay: float) -> Callable[[Weights, Weights, Tensor | int], None]:
    @torch.no_grad()
    def update(average: Weights, current: Weights, updates: Tensor | int) -> None:
        torch._foreach_lerp_(average, current, 1 - warmed_decay(int(updates), decay))

    return update


def averaged(network: nn.Module, *, decay: float = 0.9999) -> AveragedModel:
    """A copy of a network for the exponential moving average of its weights, with warm-up.

    Call `update_parameters(network)` after each optimiser step. Weights and count are in its state, so that a
    checkpoint restores both; they take no gradient, so that neither DDP nor an optimiser sees them.
    """
    return AveragedModel(network, multi_avg_fn=_moving(decay)).requires_grad_(requires_grad=False)
