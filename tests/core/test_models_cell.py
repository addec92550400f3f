"""The cell encoder against numpy in float64, and what must not change its output."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import erf
from torch_geometric.nn import GATConv

from past_core.models.cell_encoder import CellEncoder, CellEncoderConfig, star_graph
from past_core.models.errors import ModelError
from past_core.vocabulary import PAD

VOCABULARY = 60
SMALL = {
    "vocabulary_size": VOCABULARY,
    "width": 16,
    "depth": 2,
    "heads": 4,
    "feedforward": 24,
    "max_genes": 9,
    "graph_heads": 2,
    "fusion_heads": 2,
    "embedding_std": 1.0,
}


def encoder(**changes):
    torch.manual_seed(3)
    model = CellEncoder(CellEncoderConfig(**{**SMALL, **changes})).double()
    with torch.no_grad():  # no parameter at a value (0, 1) that would hide a mistake
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 or name.endswith(("bias", "att_edge")):
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def batch(seed=0, unique=9, cells=5, k=4, *, longest=12, absent=0.3):
    """Random tokens of unique cells (the last without genes), centres and neighbours."""
    random = np.random.default_rng(seed)
    tokens = np.full((unique, longest), PAD)
    for row in range(unique):
        genes = random.integers(1, longest - 2) if row < unique - 1 else 0
        tokens[row, :3] = [9, 5, 4]
        tokens[row, 3 : 3 + genes] = 30 + random.permutation(VOCABULARY - 30)[:genes]
    centres = random.permutation(unique - 1)[:cells]
    neighbors = np.where(random.random((cells, k)) < absent, -1, random.integers(0, unique, (cells, k)))
    distances = np.where(neighbors >= 0, random.gamma(2, 0.5, (cells, k)), np.inf)
    return [torch.from_numpy(array) for array in (tokens, centres, neighbors, distances)]


# --- the reference -----------------------------------------------------------------------------------------


def weights(model):
    return {name: value.detach().numpy() for name, value in model.state_dict().items()}


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def layer_norm(x, w, name):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]


def attention(query, keys, w, name, heads):
    """Multi-head attention of (n, d) over (m, d)."""
    d = query.shape[1]
    kernel, bias = w[f"{name}.in_proj_weight"], w[f"{name}.in_proj_bias"]
    q = query @ kernel[:d].T + bias[:d]
    k = keys @ kernel[d : 2 * d].T + bias[d : 2 * d]
    v = keys @ kernel[2 * d :].T + bias[2 * d :]
    out = np.zeros_like(q)
    for part in np.split(np.arange(d), heads):
        out[:, part] = softmax(q[:, part] @ k[:, part].T / np.sqrt(len(part))) @ v[:, part]
    return out @ w[f"{name}.out_proj.weight"].T + w[f"{name}.out_proj.bias"]


def feed_forward(x, w, name, activation):
    hidden = x @ w[f"{name}.linear1.weight"].T + w[f"{name}.linear1.bias"]
    hidden = np.maximum(hidden, 0) if activation == "relu" else hidden * (1 + erf(hidden / np.sqrt(2))) / 2
    return hidden @ w[f"{name}.linear2.weight"].T + w[f"{name}.linear2.bias"]


def h0_of(tokens, w):
    tokens = tokens[tokens != PAD]
    return w["embeddings.weight"][tokens] + w["positional_embedding.weight"][: len(tokens)]


def f_trans(tokens, w, config):
    x = h0_of(tokens, w)
    for i in range(config.depth):
        name = f"layers.{i}"
        attend = lambda x, name=name: attention(x, x, w, f"{name}.self_attn", config.heads)  # noqa: E731
        if config.norm_first:
            x = x + attend(layer_norm(x, w, f"{name}.norm1"))
            x = x + feed_forward(layer_norm(x, w, f"{name}.norm2"), w, name, config.activation)
        else:
            x = layer_norm(x + attend(x), w, f"{name}.norm1")
            x = layer_norm(x + feed_forward(x, w, name, config.activation), w, f"{name}.norm2")
    if config.norm_first:
        x = layer_norm(x, w, "norm")
    return x[3:].mean(0)


def gat_layer(x, edges, w, name, heads):
    """One GAT layer; `edges` maps a target node to its (source, distance) pairs, loops included."""
    z = x @ w[f"{name}.lin.weight"].T
    without = np.zeros((z.shape[1], 1)), np.zeros((1, heads, z.shape[1] // heads))
    edge, edges_attention = (
        w.get(f"{name}.{kind}", none)
        for kind, none in zip(("lin_edge.weight", "att_edge"), without, strict=True)
    )
    edge = edge[:, 0]
    out = np.zeros_like(z)
    for h, part in enumerate(np.split(np.arange(z.shape[1]), heads)):
        source, target = (w[f"{name}.att_{kind}"][0, h] for kind in ("src", "dst"))
        length = edges_attention[0, h]
        for i, incoming in edges.items():
            score = np.array(
                [z[j, part] @ source + z[i, part] @ target + d * edge[part] @ length for j, d in incoming]
            )
            share = softmax(np.where(score > 0, score, 0.2 * score))
            out[i, part] = sum(a * z[j, part] for a, (j, _) in zip(share, incoming, strict=True))
    return out + w[f"{name}.bias"]


def reference(model, tokens, centres, neighbors, distances):
    config, w = model.config, weights(model)
    tokens, centres, neighbors, distances = (x.numpy() for x in (tokens, centres, neighbors, distances))
    means = np.zeros((len(tokens), config.width))
    for cell, row in enumerate(tokens):
        if (row[3:] != PAD).any():
            means[cell] = h0_of(row[: config.positions], w)[3:].mean(0)
    out = []
    for centre, around, lengths in zip(centres, neighbors, distances, strict=True):
        cell = f_trans(tokens[centre][: config.positions], w, config)
        if not config.graph_layers:
            out.append(cell)
            continue
        present = [(j, d) for j, d in zip(around, lengths, strict=True) if j >= 0]
        x = means[[centre, *(j for j, _ in present)]]
        edges = {0: [(0, 0.0), *((n + 1, d) for n, (_, d) in enumerate(present))]}
        edges |= {n + 1: [(n + 1, 0.0), (0, d)] for n, (_, d) in enumerate(present)}
        if config.graph_edges == "complete":
            for i, (_, a) in enumerate(present):
                edges[i + 1] += [(j + 1, (a + b) / 2) for j, (_, b) in enumerate(present) if i != j]
        for layer in range(config.graph_layers):
            if layer:
                x = np.maximum(layer_norm(x, w, f"graph_encoder.norms.{layer - 1}"), 0)
            x = gat_layer(x, edges, w, f"graph_encoder.convs.{layer}", config.graph_heads)
        if config.graph_last_norm:
            x = layer_norm(x, w, f"graph_encoder.norms.{config.graph_layers - 1}")
        if config.fusion != "attention":
            share = 0.6 if config.fusion == "add" else 1 / (1 + np.exp(-w["fusion_alpha"]))
            out.append(share * cell + (1 - share) * x[0])
            continue
        fused = attention(cell[None], np.stack([cell, x[0]]), w, "fusion_layer", config.fusion_heads)[0]
        out.append(layer_norm(fused + cell, w, "fusion_norm") if config.fusion_residual else fused)
    return np.stack(out)


# --- tests -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"graph_layers": 1, "norm_first": True, "activation": "gelu"},
        {"graph_layers": 3, "fusion_residual": False},
        {"graph_layers": 0, "norm_first": True},
        {"graph_edges": "complete", "graph_last_norm": True, "fusion": "add"},
        {"graph_widths": (8, 16), "graph_distances": False, "fusion": "weighted_add"},
        {"max_tokens": 7, "spare_tokens": 3, "graph_edges": "complete"},
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_equals_numpy(changes, training):
    model = encoder(**changes).train(training)
    inputs = batch()
    with torch.set_grad_enabled(training):
        output = model(*inputs)
    np.testing.assert_allclose(output.detach().numpy(), reference(model, *inputs), rtol=0, atol=1e-10)


def test_padding_changes_nothing():
    model = encoder()
    tokens, *rest = batch(longest=9)
    padded = torch.nn.functional.pad(tokens, (0, 3), value=PAD)
    torch.testing.assert_close(model(padded, *rest), model(tokens, *rest), rtol=0, atol=1e-10)


def test_padding_costs_no_attention(monkeypatch):
    """The transformer sees the centres only, cut to the longest of them."""
    model = encoder()
    seen = []
    model.layers[0].register_forward_hook(lambda _module, args, _output: seen.append(tuple(args[0].shape)))
    tokens, centres, neighbors, distances = batch()
    tokens[centres, 7:] = PAD
    longest = int((tokens[centres] != PAD).sum(1).max())
    assert longest < tokens.shape[1]
    model(tokens, centres, neighbors, distances)
    assert seen == [(len(centres), longest, 16)]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.randoms(use_true_random=False))
def test_orders_change_nothing(seed, random):
    """Order of the cells in the batch, of a cell's neighbours, and place of the unique cells."""
    model = encoder()
    tokens, centres, neighbors, distances = batch(seed)
    straight = model(tokens, centres, neighbors, distances)

    order = list(range(len(centres)))
    random.shuffle(order)
    shuffled = model(tokens, centres[order], neighbors[order], distances[order])
    torch.testing.assert_close(shuffled, straight[order], rtol=0, atol=1e-10)

    around = list(range(neighbors.shape[1]))
    random.shuffle(around)
    torch.testing.assert_close(
        model(tokens, centres, neighbors[:, around], distances[:, around]), straight, rtol=0, atol=1e-10
    )

    # Unique cells elsewhere, some held twice: what counts is what is in them.
    copies = torch.cat([tokens, tokens]).flip(0)
    place = torch.tensor([2 * len(tokens) - 1 - i - len(tokens) * random.randint(0, 1) for i in range(9)])
    moved = torch.where(neighbors >= 0, place[neighbors.clamp_min(0)], -1)
    torch.testing.assert_close(model(copies, place[centres], moved, distances), straight, rtol=0, atol=1e-10)


def test_absent_neighbours_are_as_if_never_there():
    model = encoder()
    tokens, centres, neighbors, distances = batch(absent=0)
    neighbors[:, 2:] = -1
    distances[:, 2:] = torch.tensor([float("inf"), float("nan")], dtype=torch.float64)
    torch.testing.assert_close(
        model(tokens, centres, neighbors, distances),
        model(tokens, centres, neighbors[:, :2], distances[:, :2]),
        rtol=0,
        atol=1e-10,
    )


def test_neighbours_and_their_distances_matter():
    model = encoder()
    tokens, centres, neighbors, distances = batch(absent=0)
    straight = model(tokens, centres, neighbors, distances)
    assert (model(tokens, centres, neighbors, distances * 2) - straight).abs().max() > 1e-4
    other = model(tokens, centres, (neighbors + 1) % len(tokens), distances)
    assert (other - straight).abs().max() > 1e-4


def test_star_graph_equals_self_loops_of_torch_geometric():
    """Loops of feature 0 and redirected edges give what GATConv's own self-loops give on the real edges."""
    torch.manual_seed(0)
    _, centres, neighbors, distances = batch()
    own = GATConv(6, 3, heads=2, edge_dim=1, add_self_loops=False).double()
    theirs = GATConv(6, 3, heads=2, edge_dim=1, add_self_loops=True, fill_value=0.0).double()
    theirs.load_state_dict(own.state_dict())
    features = torch.randn(9, 6, dtype=torch.float64)
    graph = star_graph(centres, neighbors, distances)
    nodes = features[graph.nodes]
    b, j = (neighbors >= 0).nonzero(as_tuple=True)
    leaf = len(centres) + b * neighbors.shape[1] + j
    edges = torch.cat([torch.stack([leaf, b]), torch.stack([b, leaf])], dim=1)
    lengths = distances[b, j].repeat(2)[:, None]
    torch.testing.assert_close(
        own(nodes, graph.edges, graph.distances)[: len(centres)],
        theirs(nodes, edges, lengths)[: len(centres)],
        rtol=0,
        atol=1e-12,
    )


@pytest.mark.parametrize("graph_layers", [0, 1, 2])
@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("edges", ["star", "complete"])
@pytest.mark.parametrize("neighbours", ["some", "none", "no columns"])
def test_every_parameter_gets_a_gradient(graph_layers, norm_first, edges, neighbours):
    model = encoder(graph_layers=graph_layers, norm_first=norm_first, graph_edges=edges)
    tokens, centres, neighbors, distances = batch()
    if neighbours == "none":
        neighbors = torch.full_like(neighbors, -1)
    elif neighbours == "no columns":
        neighbors, distances = neighbors[:, :0], distances[:, :0]
    output = model(tokens, centres, neighbors, distances)
    (output * torch.randn_like(output)).sum().backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not without
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert not model.embeddings.weight.grad[PAD].any()


def test_layers_start_different():
    model = CellEncoder(CellEncoderConfig(**SMALL))
    first, second = model.layers
    assert not torch.equal(first.self_attn.in_proj_weight, second.self_attn.in_proj_weight)
    assert not model.embeddings.weight[PAD].any()


def test_autocast_stays_close():
    model = encoder(norm_first=True).float()
    tokens, centres, neighbors, distances = batch()
    full = model(tokens, centres, neighbors, distances)
    with torch.autocast("cpu", torch.bfloat16):
        half = model(tokens, centres, neighbors, distances)
    assert half.isfinite().all()
    assert (half.float() - full).abs().max() < 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 3}, "width 16 is not a multiple of heads 3"),
        ({"graph_heads": 5}, "graph_heads 5"),
        ({"fusion_heads": 0}, "fusion_heads 0"),
        ({"depth": 0}, "must be positive"),
        ({"dropout": 1.0}, "dropout 1.0"),
        ({"graph_layers": -1}, "graph_layers -1"),
        ({"activation": "tanh"}, "'relu' or 'gelu'"),
        ({"vocabulary_size": 0}, "vocabulary_size is 0"),
        ({"fusion": "film"}, "fusion='film' exists in the published code, but its network is not described"),
        ({"fusion": "sum"}, "fusion='sum' is not known; expected 'attention', 'add' or 'weighted_add'"),
        ({"fusion": "add", "fusion_bias": (0.0, 1.0)}, "fusion_bias belongs to fusion='attention'"),
        ({"fusion_bias": (0.0,)}, "must be two numbers"),
        ({"graph_widths": (16, 8)}, "must be 2 widths, the last 16"),
        ({"graph_widths": (7, 16)}, "width 7 is not a multiple of graph_heads 2"),
        ({"max_tokens": 13}, "max_tokens 13 must lie in 4..12"),
        ({"context_order": ("assay", "assay", "organism")}, "is no order of assay, organism, modality"),
        ({"pool": "cls"}, "pool='cls' is not known; expected 'genes' or 'positions'"),
    ],
)
def test_wrong_configurations_are_refused(change, message):
    with pytest.raises(ModelError, match=re.escape(message)):
        CellEncoder(CellEncoderConfig(**{**SMALL, **change}))


def test_wrong_shapes_are_refused():
    model = encoder()
    tokens, centres, neighbors, distances = batch()
    with pytest.raises(ModelError, match=r"tokens have shape \(9, 13\); expected \(U, 3 to 12\)"):
        model(torch.nn.functional.pad(tokens, (0, 1)), centres, neighbors, distances)
    with pytest.raises(ModelError, match="do not fit"):
        model(tokens, centres, neighbors[:2], distances[:2])
    with pytest.raises(ModelError, match="must be alike"):
        model(tokens, centres, neighbors, distances[:, :2])
