"""What the cell encoder is made of."""

from dataclasses import dataclass
from typing import Literal

from past_core.models.errors import ModelError


@dataclass(frozen=True)
class CellEncoderConfig:
    """Size of the cell encoder. The defaults are the paper's; where it is silent, the published code's.

    Args:
        vocabulary_size: number of token ids, `Vocabulary.size`. 0, as in a recipe, means that training fills
            it in from its data; no network can be built with it.
        width: channels of tokens and output.
        depth: transformer layers.
        heads: attention heads of each.
        feedforward: hidden channels of each.
        dropout: in the transformer, on the GAT's attention and in the fusion.
        max_genes: most gene tokens of a cell; three context tokens come on top.
        norm_first: normalise before attention and feed-forward (easier to train small and at high rates),
            with a last LayerNorm after the stack, instead of after them.
        activation: "relu" or "gelu", of the feed-forward.
        graph_layers: GAT layers; 0 leaves out the graph branch and the fusion.
        graph_heads: attention heads of each GAT layer.
        fusion_heads: attention heads of the fusion.
        fusion_residual: add f_trans to the fused vector, then LayerNorm, as the published code does.
        embedding_std: standard deviation of the initial token and position embeddings.
    """

    vocabulary_size: int = 0
    width: int = 512
    depth: int = 12
    heads: int = 16
    feedforward: int = 1024
    dropout: float = 0.0
    max_genes: int = 300
    norm_first: bool = False
    activation: Literal["relu", "gelu"] = "relu"
    graph_layers: int = 2
    graph_heads: int = 4
    fusion_heads: int = 4
    fusion_residual: bool = True
    embedding_std: float = 0.02

    def __post_init__(self) -> None:
        sizes = (self.width, self.depth, self.heads, self.feedforward, self.max_genes)
        if min(sizes) < 1 or self.vocabulary_size < 0:
            msg = f"sizes must be positive: {self}"
            raise ModelError(msg)
        if self.graph_layers < 0 or not 0 <= self.dropout < 1:
            msg = f"graph_layers {self.graph_layers} must be >= 0, dropout {self.dropout} in [0, 1)"
            raise ModelError(msg)
        if self.activation not in ("relu", "gelu"):
            msg = f"activation={self.activation!r} is not known; expected 'relu' or 'gelu'"
            raise ModelError(msg)
        used = ["heads", *(["graph_heads", "fusion_heads"] if self.graph_layers else [])]
        for name in used:
            heads = getattr(self, name)
            if heads < 1 or self.width % heads:
                msg = f"width {self.width} is not a multiple of {name} {heads}"
                raise ModelError(msg)
