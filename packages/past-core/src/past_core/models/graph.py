"""The neighbourhoods of a batch as one graph, and the attention layers over it."""

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


class GraphEncoder(nn.Module):
    """GAT layers over the graphs; gives the centres' vectors.

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
