"""Feature-wise linear modulation (Perez et al. 2018), as the paper's generator is conditioned."""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class Modulation(NamedTuple):
    """What one stage is modulated by."""

    gamma: Tensor
    """`(B, C, 1, 1)` for the whole tile, or `(B, C, g, g)` at the nodes of its grid."""
    beta: Tensor
    """As gamma."""


def film(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """`x · (1 + gamma) + beta` (paper, Methods, "Virtual IHC staining"): at 0, 0 nothing changes.

    Args:
        x: `(B, C, H, W)` features.
        gamma: broadcast to x.
        beta: broadcast to x.
    """
    return x * (1 + gamma) + beta


def spread(nodes: Tensor, size: tuple[int, int]) -> Tensor:
    """Values at the nodes of a grid as a map, bilinear; nodes lie in the map's corners.

    Two tiles that share a line of nodes get the same values along it.

    Args:
        nodes: `(B, C, g, g)`, or `(B, C, 1, 1)`, which is given back to be broadcast.
        size: height and width of the map.
    """
    if nodes.shape[-2:] == (1, 1):
        return nodes
    return F.interpolate(nodes, size=size, mode="bilinear", align_corners=True)


def modulate(x: Tensor, by: Modulation | None) -> Tensor:
    """`film` with gamma and beta spread over x; x itself where there is nothing to modulate by."""
    if by is None:
        return x
    size = (x.shape[-2], x.shape[-1])
    return film(x, spread(by.gamma, size), spread(by.beta, size))
