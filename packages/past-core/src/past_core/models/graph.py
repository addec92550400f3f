"""The neighbourhoods of a batch as one graph, and the attention layers over it."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import GATConv


class StarGraph(NamedTuple):
    """Graphs of a batch as one graph. Sample b's centre is node b; its neighbours follow all centres."""

    nodes: Tensor
    """(N,) unique cell of each node; N = B (1 + k)."""
    edges: Tensor
    """(2, E) source and target node, a loop on every node included."""
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


def complete_graph(centres: Tensor, neighbors: Tensor, distances: Tensor) -> StarGraph:
    """Join all cells of a neighbourhood both ways, as the published code does.

    An edge between two neighbours has the mean of their distances to the centre. Arguments and absent
    neighbours are as in `star_graph`.
    """
    B, k = neighbors.shape
    present = torch.cat([neighbors.new_ones(B, 1, dtype=torch.bool), neighbors >= 0], dim=1)
    nodes = torch.cat([centres, neighbors.clamp_min(0).reshape(-1)])
    everyone = torch.arange(B * (1 + k), device=centres.device)
    number = torch.cat([everyone[:B, None], everyone[B:].view(B, k)], dim=1)
    source, target = torch.broadcast_tensors(number[:, :, None], number[:, None, :])
    # An edge that an absent neighbour would end is a loop on it, and so is every edge to itself.
    absent = torch.where(present, -1, number)
    gone = torch.maximum(absent[:, :, None], absent[:, None, :])
    edges = torch.stack([torch.where(gone >= 0, gone, source), torch.where(gone >= 0, gone, target)])
    length = torch.where(present[:, 1:], distances, 0)
    length = torch.cat([length.new_zeros(B, 1), length], dim=1)
    between = (length[:, :, None] + length[:, None, :]) / 2
    between[:, 0] *= 2
    between[:, :, 0] *= 2
    between = between.masked_fill(edges[0] == edges[1], 0)
    return StarGraph(nodes, edges.reshape(2, -1), between.reshape(-1, 1))


class GraphEncoder(nn.Module):
    """GAT layers over the graphs; gives the centres' vectors.

    LayerNorm, ReLU and dropout stand between the layers.

    Args:
        inputs: channels of the node features.
        widths: channels of each layer's output.
        heads: attention heads, concatenated to the output.
        dropout: on the attention coefficients.
        hidden_dropout: between layers.
        distances: whether edges have a feature.
        last_norm: LayerNorm after the last layer too.
        dead_tensors: register the published code's unused transform of distances, frozen.
    """

    def __init__(
        self,
        inputs: int,
        widths: Sequence[int],
        heads: int,
        *,
        dropout: float = 0.0,
        hidden_dropout: float = 0.0,
        distances: bool = True,
        last_norm: bool = False,
        dead_tensors: bool = False,
    ) -> None:
        super().__init__()
        # The graph has its loops (feature 0), as fill_value=0. would add them: GATConv's own way reads the
        # edge list back from the device to look for loops.
        self.convs = nn.ModuleList(
            GATConv(
                before,
                after // heads,
                heads=heads,
                edge_dim=1 if distances else None,
                dropout=dropout,
                add_self_loops=False,
            )
            for before, after in pairwise([inputs, *widths])
        )
        self.norms = nn.ModuleList(map(nn.LayerNorm, widths if last_norm else widths[:-1]))
        self.dropout = nn.Dropout(hidden_dropout)
        self.distances = distances
        if dead_tensors:
            self.distance_transform = nn.Sequential(nn.Linear(1, 1), nn.Sigmoid()).requires_grad_(False)

    def forward(self, features: Tensor, graph: StarGraph, centres: int) -> Tensor:
        """Node features (N, inputs) to the first `centres` nodes' outputs, (B, widths[-1])."""
        lengths = graph.distances if self.distances else None
        for layer, conv in enumerate(self.convs):
            if layer:
                features = self.dropout(F.relu(features))
            features = conv(features, graph.edges, lengths)
            if layer < len(self.norms):
                features = self.norms[layer](features)
        return features[:centres]
