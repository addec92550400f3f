"""The transcriptome side: rank tokens of a cell and its spatial neighbourhood become one vector."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import GATConv

from past_core.models.errors import ModelError
from past_core.vocabulary import CONTEXT_LENGTH, PAD


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


class StarGraph(NamedTuple):
    """Star graphs of a batch as one graph. Sample b's centre is node b; its neighbours follow all centres."""

    nodes: Tensor
    """(N,) unique cell of each node; N = B (1 + k)."""
    edges: Tensor
    """(2, E) source and target node: both ways between centre and neighbour, and a loop on every node."""
    distances: Tensor
    """(E, 1) edge feature; 0 on loops."""


def star_graph(centres: Tensor, neighbors: Tensor, distances: Tensor) -> StarGraph:
    """Join every centre both ways to its neighbours.

    An absent neighbour stays as a node that only a loop reaches, so that shapes are the same for every
    batch and nothing waits for the device.

    Args:
        centres: (B,) index of the centre among the unique cells.
        neighbors: (B, k) indices of its neighbours, -1 where absent.
        distances: (B, k) distance over the slide's median neighbour distance; ignored where absent.
    """
    B, k = neighbors.shape
    present = neighbors >= 0
    nodes = torch.cat([centres, neighbors.clamp_min(0).reshape(-1)])
    everyone = torch.arange(B * (1 + k), device=centres.device)
    leaf = everyone[B:].view(B, k)
    # The edge of an absent neighbour becomes one more loop on it, which the centre never sees.
    hub = torch.where(present, everyone[:B, None], leaf)
    leaf, hub = leaf.reshape(-1), hub.reshape(-1)
    edges = torch.stack([torch.cat([leaf, hub, everyone]), torch.cat([hub, leaf, everyone])])
    length = torch.where(present, distances, 0).reshape(-1)
    return StarGraph(nodes, edges, torch.cat([length, length, length.new_zeros(len(everyone))])[:, None])


class GraphEncoder(nn.Module):
    """GAT layers over the star graphs, with the distance as edge feature; gives the centres' vectors.

    Args:
        width: channels in and out.
        layers: GAT layers; LayerNorm and ReLU between them.
        heads: attention heads, concatenated to `width`.
        dropout: on the attention coefficients.
    """

    def __init__(self, width: int, layers: int, heads: int, dropout: float) -> None:
        super().__init__()
        # star_graph adds the loops (feature 0), as fill_value=0. would: GATConv's own way reads the edge
        # list back from the device to look for loops.
        self.convs = nn.ModuleList(
            GATConv(width, width // heads, heads=heads, edge_dim=1, dropout=dropout, add_self_loops=False)
            for _ in range(layers)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers - 1))

    def forward(self, features: Tensor, graph: StarGraph, centres: int) -> Tensor:
        """Node features (N, width) to the first `centres` nodes' outputs, (B, width)."""
        for layer, conv in enumerate(self.convs):
            if layer:
                features = F.relu(self.norms[layer - 1](features))
            features = conv(features, graph.edges, graph.distances)
        return features[:centres]


class CellEncoder(nn.Module):
    """Transformer over a cell's tokens, GAT over its neighbourhood, attention that fuses both.

    Tokens and learned positions make h0. The transformer runs for the centres only, and its output is
    averaged over gene tokens (neither context nor padding): f_trans. Every unique cell's h0 is averaged
    likewise, once, to the node feature of the GAT: f_graph. Fusion is multi-head attention with query
    f_trans, keys and values [f_trans, f_graph].
    """

    def __init__(self, config: CellEncoderConfig) -> None:
        super().__init__()
        if not config.vocabulary_size:
            msg = "vocabulary_size is 0; set it to the vocabulary's size before building the network"
            raise ModelError(msg)
        if config.vocabulary_size <= PAD:
            msg = f"vocabulary_size is {config.vocabulary_size}; set it to the vocabulary's size first"
            raise ModelError(msg)
        self.config = config
        width = config.width
        self.embeddings = nn.Embedding(config.vocabulary_size, width, padding_idx=PAD)
        self.positional_embedding = nn.Embedding(CONTEXT_LENGTH + config.max_genes, width)
        for table in (self.embeddings, self.positional_embedding):
            nn.init.normal_(table.weight, std=config.embedding_std)
        with torch.no_grad():
            self.embeddings.weight[PAD] = 0
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width,
                config.heads,
                config.feedforward,
                dropout=config.dropout,
                activation=config.activation,
                batch_first=True,
                norm_first=config.norm_first,
            )
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(width) if config.norm_first else nn.Identity()
        if config.graph_layers:
            self.graph_encoder = GraphEncoder(width, config.graph_layers, config.graph_heads, config.dropout)
            self.fusion_layer = nn.MultiheadAttention(
                width, config.fusion_heads, dropout=config.dropout, batch_first=True
            )
            self.fusion_norm = nn.LayerNorm(width) if config.fusion_residual else None

    def forward(
        self,
        tokens: Tensor,
        centres: Tensor,
        neighbors: Tensor,
        distances: Tensor,
        lengths: np.ndarray | None = None,
    ) -> Tensor:
        """Features of the centre cells.

        Args:
            tokens: (U, T) int64 tokens of the batch's unique cells, padded with `PAD`, T <= 3 + max_genes.
                Cut them to the longest sequence of the batch (`tokens.trim_padding`).
            centres: (B,) int64, which unique cells are encoded.
            neighbors: (B, k) int64, unique cells around each, -1 where absent.
            distances: (B, k) distance to each in units of the slide's median neighbour distance.
            lengths: (B,) tokens of each centre, on the host; None where unknown.

        Returns:
            (B, width).

        Raises:
            ModelError: shapes that do not fit together, or sequences longer than the configuration's.
        """
        self._check(tokens, centres, neighbors, distances)
        cell = self.transform(tokens[centres])
        if not self.config.graph_layers:
            return cell
        graph = star_graph(centres, neighbors, distances.to(self.embeddings.weight.dtype))
        features = self.node_features(tokens)[graph.nodes]
        return self.fuse(cell, self.graph_encoder(features, graph, len(centres)))

    def transform(self, tokens: Tensor) -> Tensor:
        """f_trans (B, width) of sequences (B, T): the transformer's mean over gene tokens."""
        if tokens.device.type == "cpu":
            # Reading the length back from an accelerator would cost more than its padding.
            tokens = tokens[:, : max(CONTEXT_LENGTH, int((tokens != PAD).sum(1).max()))]
        padding = tokens == PAD
        hidden = self.embeddings(tokens) + self.positional_embedding.weight[: tokens.shape[1]]
        for layer in self.layers:
            hidden = layer(hidden, src_key_padding_mask=padding)
        hidden = self.norm(hidden)
        genes = ~padding[:, CONTEXT_LENGTH:]
        total = hidden[:, CONTEXT_LENGTH:].masked_fill(~genes[..., None], 0).sum(1)
        return total / genes.sum(1, keepdim=True).clamp_min(1)

    def node_features(self, tokens: Tensor) -> Tensor:
        """Mean of h0 over gene tokens for every unique cell, (U, width); 0 for a cell without genes."""
        genes = tokens[:, CONTEXT_LENGTH:]
        # Bags sum as they gather: h0 of all unique cells, (U, T, width), never comes into being.
        identity = F.embedding_bag(genes, self.embeddings.weight, mode="mean", padding_idx=PAD)
        place = torch.arange(CONTEXT_LENGTH, tokens.shape[1], device=tokens.device)
        place = torch.where(genes != PAD, place, 0)  # position 0 is a context token's, free to mean padding
        return identity + F.embedding_bag(place, self.positional_embedding.weight, mode="mean", padding_idx=0)

    def fuse(self, cell: Tensor, graph: Tensor) -> Tensor:
        """Attention of f_trans (B, width) over [f_trans, f_graph], (B, width)."""
        pair = torch.stack([cell, graph], dim=1)
        fused = self.fusion_layer(cell[:, None], pair, pair, need_weights=False)[0][:, 0]
        return fused if self.fusion_norm is None else self.fusion_norm(fused + cell)

    def _check(self, tokens: Tensor, centres: Tensor, neighbors: Tensor, distances: Tensor) -> None:
        longest = CONTEXT_LENGTH + self.config.max_genes
        if tokens.ndim != 2 or not CONTEXT_LENGTH <= tokens.shape[1] <= longest:
            msg = f"tokens have shape {tuple(tokens.shape)}; expected (U, {CONTEXT_LENGTH} to {longest})"
            raise ModelError(msg)
        if centres.ndim != 1 or neighbors.ndim != 2 or len(neighbors) != len(centres):
            msg = (
                f"centres {tuple(centres.shape)} and neighbors {tuple(neighbors.shape)} do not fit; "
                "expected (B,) and (B, k)"
            )
            raise ModelError(msg)
        if distances.shape != neighbors.shape:
            msg = f"distances {tuple(distances.shape)} and neighbors {tuple(neighbors.shape)} must be alike"
            raise ModelError(msg)
