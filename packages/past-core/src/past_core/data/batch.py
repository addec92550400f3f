"""What one training or validation step receives."""

from typing import NamedTuple

import numpy as np
import torch


class CellBatch(NamedTuple):
    """A batch of B cells with their images, tokens and local graphs.

    U is the number of distinct cells among the B centres and their neighbours: a cell that several
    centres of a block share is tokenised and embedded once.
    """

    images: torch.Tensor
    """`(B, 3, L, L)` uint8, the cell at the centre."""
    tokens: torch.Tensor
    """`(U, T)` int64 rank tokens, padded, cut to the longest of the batch."""
    centres: torch.Tensor
    """`(B,)` int64 rows of `tokens`."""
    neighbors: torch.Tensor
    """`(B, k)` int64 rows of `tokens`, nearest first; -1 where a cell has fewer than k neighbours."""
    distances: torch.Tensor
    """`(B, k)` float32, µm over the slide's median neighbour distance; 0 where absent."""
    slide: torch.Tensor
    """`(B,)` int64 index of the slide."""
    cell: torch.Tensor
    """`(B,)` int64 row of the cell in its slide's table."""
    lengths: np.ndarray
    """`(B,)` int64 tokens of each centre, context included. An array, so that it stays on the host when the
    batch moves to a device: who cuts sequences by length need not wait for the device."""

    @property
    def inputs(
        self,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, np.ndarray]:
        """The arguments of `DualEncoder.forward`."""
        return (self.images, self.tokens, self.centres, self.neighbors, self.distances, self.lengths)
