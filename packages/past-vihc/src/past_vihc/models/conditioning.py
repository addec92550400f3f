"""From an embedding of a tile, or a grid of them, to gamma and beta of every stage."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from past_core.errors import PastError
from past_vihc.models.film import Modulation

Granularity = Literal["tile", "cells"]
GRANULARITIES = ("tile", "cells")


class ConditioningError(PastError, ValueError):
    """An embedding or a stain that does not fit the network."""


class Conditioning(nn.Module):
    """LayerNorm, an MLP, and one linear layer a stage, drawn to 0: at first every gamma and beta is 0.

    Args:
        channels: of every stage that is modulated.
        embedding_dim: d, length of an embedding; 0 where only the stain conditions.
        granularity: `tile`, one embedding for the whole tile (the paper), or `cells`, a grid of them between
            whose nodes gamma and beta are interpolated, so that nothing jumps from tile to tile.
        stains: how many stains there are; a learned vector of each is added where they are several.
        hidden: width of the MLP.

    Raises:
        ConditioningError: an unknown granularity, or nothing to condition on.
    """

    def __init__(
        self,
        channels: Sequence[int],
        *,
        embedding_dim: int,
        granularity: Granularity = "tile",
        stains: int = 1,
        hidden: int = 512,
    ) -> None:
        super().__init__()
        if granularity not in GRANULARITIES:
            raise ConditioningError(f"granularity {granularity!r}; expected {', '.join(GRANULARITIES)}")
        if embedding_dim < 1 and stains < 2:
            raise ConditioningError("no embedding and one stain: there is nothing to condition on")
        self.embedding_dim, self.granularity = embedding_dim, granularity
        self.mlp = None
        if embedding_dim:
            self.mlp = nn.Sequential(
                nn.LayerNorm(embedding_dim),
                nn.Linear(embedding_dim, hidden),
                nn.SiLU(),
                nn.Linear(hidden, hidden),
            )
        self.stain = nn.Embedding(stains, hidden) if stains > 1 else None
        self.activation = nn.SiLU()
        stages = [nn.Linear(hidden, 2 * width) for width in channels]
        self.stages = nn.ModuleList(stages)
        for stage in stages:
            nn.init.zeros_(stage.weight)
            nn.init.zeros_(stage.bias)

    def forward(
        self, embedding: Tensor | None, stain: Tensor | None, *, batch: int, device: torch.device
    ) -> list[Modulation]:
        """Gamma and beta of every stage.

        Args:
            embedding: `(B, d)` for `tile`, `(B, d, g, g)` for `cells`; unused where d is 0.
            stain: `(B,)` int64 numbers of the stains; may be None where there is one.
            batch: B.
            device: where an index is made that was not given.

        Returns:
            A `Modulation` a stage: `(B, C, 1, 1)` for `tile`, `(B, C, g, g)` at the nodes for `cells`.

        Raises:
            ConditioningError: another shape, or no stain where there are several.
        """
        hidden: Tensor | float = 0.0
        if self.mlp is not None:
            hidden = self.mlp(self._channels_last(embedding, batch))  # (B, d), or (B, g, g, d)
        if self.stain is not None:
            if stain is None:
                raise ConditioningError(
                    f"this generator makes {self.stain.num_embeddings} stains; say which: stain, (B,) int64"
                )
            if stain.shape != (batch,):
                raise ConditioningError(f"stains of shape {tuple(stain.shape)}; expected ({batch},)")
            vector = self.stain(stain.to(device))
            several = isinstance(hidden, Tensor) and hidden.ndim == 4
            hidden = hidden + (vector[:, None, None] if several else vector)
        hidden = self.activation(hidden)
        return [self._maps(stage(hidden)) for stage in self.stages]

    def _channels_last(self, embedding: Tensor | None, batch: int) -> Tensor:
        d = self.embedding_dim
        form = f"({batch}, {d})" if self.granularity == "tile" else f"({batch}, {d}, g, g)"
        if embedding is None:
            raise ConditioningError(f"this generator is conditioned: it needs embeddings, {form}")
        fits = embedding.ndim == (2 if self.granularity == "tile" else 4)
        if not fits or embedding.shape[:2] != (batch, d):
            raise ConditioningError(
                f"embeddings of shape {tuple(embedding.shape)}; granularity {self.granularity} expects {form}"
            )
        return embedding if embedding.ndim == 2 else embedding.permute(0, 2, 3, 1)

    @staticmethod
    def _maps(values: Tensor) -> Modulation:
        values = values[:, :, None, None] if values.ndim == 2 else values.permute(0, 3, 1, 2)
        return Modulation(*values.chunk(2, dim=1))
