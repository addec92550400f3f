"""How close embeddings lie to one another: 1 on average when they have collapsed to a point."""

import torch.nn.functional as F
from torch import Tensor


def mean_cosine(embeddings: Tensor) -> Tensor:
    """Mean cosine between two different rows of (B, dim), B >= 2; a scalar, without gradient."""
    unit = F.normalize(embeddings.detach(), dim=-1)
    n = len(unit)
    return (unit.sum(0).square().sum() - unit.square().sum()) / (n * (n - 1))
