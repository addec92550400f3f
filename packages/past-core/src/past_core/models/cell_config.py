"""What the cell encoder is made of."""

from dataclasses import dataclass
from typing import Any, Literal

from past_core.models.errors import ModelError
from past_core.vocabulary import CONTEXT_LENGTH

CONTEXT_KINDS = ("assay", "organism", "modality")
_CHOICES: dict[str, tuple[str, ...]] = {
    "activation": ("relu", "gelu"),
    "pool": ("genes", "positions"),
    "graph_input": ("h0", "token_ids"),
    "graph_edges": ("star", "complete"),
    "fusion": ("attention", "add", "weighted_add"),
    "pad_embedding": ("zero", "random"),
    "initialization": ("torch", "published"),
    "missing_means": ("drop", "one"),
}


@dataclass(frozen=True)
class CellEncoderConfig:
    """The cell encoder. The defaults are the paper's; where it is silent, the published code's.

    The fields from `max_tokens` on are where the published checkpoint departs from the paper;
    `DualEncoderConfig.published` sets them, and docs/published.md says why each matters.

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
        max_tokens: most tokens that the transformer sees, the three context tokens included; what is longer
            is cut. None: 3 + `max_genes`. Published: 300, so that 297 of the 300 genes reach it.
        spare_tokens: rows of the embedding table after the vocabulary's, which no token uses. Published: 5.
        pool: "genes", the mean over gene tokens; "positions", over all positions after the context up to
            `max_tokens`, padding included, so that a cell with few genes comes close to the padding's state.
        graph_input: "h0", a cell's mean token and position embedding; "token_ids", the ids of its gene
            tokens (`max_genes` of them, `PAD` after the last) as numbers, whose size means nothing.
        graph_edges: "star", between centre and neighbours; "complete", between all cells of a neighbourhood.
        graph_distances: give the GAT the distances between cells as a feature of its edges.
        graph_widths: channels of each GAT layer's output; None: `width`. The last must be `width`.
        graph_last_norm: LayerNorm after the last GAT layer too.
        graph_hidden_dropout: dropout between GAT layers.
        fusion: "attention"; "add", 0.6 f_trans + 0.4 f_graph; "weighted_add", the same with learned shares
            s and 1 - s, s = sigmoid(0.7) at first.
        fusion_bias: added to the logits of the fusion's attention: for f_trans and for f_graph.
        pad_embedding: initial embedding of `PAD`, which is never trained: "zero", or "random" as other
            tokens. It matters where padding is pooled.
        initialization: of the transformer: "torch", its layers' own; "published", Xavier-normal weights and
            zero biases, with the same attention input weights in all layers.
        context_order: order of the three context tokens, for who makes tokens.
        missing_means: genes without a mean, for who makes tokens: "drop" them, or divide by "one".
        dead_tensors: keep the published code's parameters that act on nothing, frozen, so that its checkpoint
            comes back whole: a layer that the others were copied from, and a transform of distances.
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
    max_tokens: int | None = None
    spare_tokens: int = 0
    pool: Literal["genes", "positions"] = "genes"
    graph_input: Literal["h0", "token_ids"] = "h0"
    graph_edges: Literal["star", "complete"] = "star"
    graph_distances: bool = True
    graph_widths: tuple[int, ...] | None = None
    graph_last_norm: bool = False
    graph_hidden_dropout: float = 0.0
    fusion: Literal["attention", "add", "weighted_add"] = "attention"
    fusion_bias: tuple[float, float] | None = None
    pad_embedding: Literal["zero", "random"] = "zero"
    initialization: Literal["torch", "published"] = "torch"
    context_order: tuple[str, str, str] = CONTEXT_KINDS
    missing_means: Literal["drop", "one"] = "drop"
    dead_tensors: bool = False

    def __post_init__(self) -> None:
        sizes = (self.width, self.depth, self.heads, self.feedforward, self.max_genes)
        if min(sizes) < 1 or min(self.vocabulary_size, self.spare_tokens) < 0:
            msg = f"sizes must be positive: {self}"
            raise ModelError(msg)
        if self.graph_layers < 0 or not 0 <= self.dropout < 1 or not 0 <= self.graph_hidden_dropout < 1:
            msg = (
                f"graph_layers {self.graph_layers} must be >= 0, dropout {self.dropout} and "
                f"graph_hidden_dropout {self.graph_hidden_dropout} in [0, 1)"
            )
            raise ModelError(msg)
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise ModelError(_unknown(name, getattr(self, name), known))
        if sorted(self.context_order) != sorted(CONTEXT_KINDS):
            msg = f"context_order {self.context_order} is no order of {', '.join(CONTEXT_KINDS)}"
            raise ModelError(msg)
        if self.max_tokens is not None and not CONTEXT_LENGTH < self.max_tokens <= self.longest_input:
            msg = f"max_tokens {self.max_tokens} must lie in {CONTEXT_LENGTH + 1}..{self.longest_input}"
            raise ModelError(msg)
        self._check_heads()

    def _check_heads(self) -> None:
        _divides("heads", self.heads, self.width)
        if not self.graph_layers:
            return
        widths = self.graph_outputs
        if len(widths) != self.graph_layers or widths[-1] != self.width:
            msg = f"graph_widths {widths} must be {self.graph_layers} widths, the last {self.width}"
            raise ModelError(msg)
        for width in widths:
            _divides("graph_heads", self.graph_heads, width)
        if self.fusion == "attention":
            _divides("fusion_heads", self.fusion_heads, self.width)
            if self.fusion_bias is not None and len(self.fusion_bias) != 2:
                msg = f"fusion_bias {self.fusion_bias} must be two numbers, for f_trans and f_graph"
                raise ModelError(msg)
        elif self.fusion_bias is not None:
            msg = f"fusion_bias belongs to fusion='attention', not to {self.fusion!r}"
            raise ModelError(msg)

    @property
    def longest_input(self) -> int:
        """Most tokens of a sequence that the encoder takes."""
        return CONTEXT_LENGTH + self.max_genes

    @property
    def positions(self) -> int:
        """Most tokens that the transformer sees: rows of the position table."""
        return self.longest_input if self.max_tokens is None else self.max_tokens

    @property
    def graph_outputs(self) -> tuple[int, ...]:
        """Channels of each GAT layer's output."""
        return (self.width,) * self.graph_layers if self.graph_widths is None else self.graph_widths


def _divides(name: str, heads: int, width: int) -> None:
    if heads < 1 or width % heads:
        msg = f"width {width} is not a multiple of {name} {heads}"
        raise ModelError(msg)


def _unknown(name: str, value: Any, known: tuple[str, ...]) -> str:
    expected = f"{', '.join(map(repr, known[:-1]))} or {known[-1]!r}"
    if name == "fusion" and value in ("gated", "film", "concat"):
        return (
            f"fusion={value!r} exists in the published code, but its network is not described anywhere, "
            f"so it is not built; expected {expected}"
        )
    return f"{name}={value!r} is not known; expected {expected}"
