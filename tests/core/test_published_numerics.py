"""The published forward pass and loss against an independent reference in numpy, float64.

Only the ViT is timm's own. Names of weights in the reference are the published ones.
"""

from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from made_published import small_config, small_model
from scipy.special import erf

from past_core.losses import contrastive_loss
from past_core.models.cell_encoder import CellEncoder
from past_core.models.dual_encoder import DualEncoder
from past_core.published import published_state
from past_core.vocabulary import PAD

HEADS, FUSION_HEADS = 4, 4
CONTEXT = [4, 9, 5]


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def layer_norm(x, w, name, eps=1e-5):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * w[f"{name}.weight"] + w[f"{name}.bias"]


def linear(x, w, name):
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def attention(query, keys, w, name, heads, bias):
    """(n, d) over (m, d), `bias` (n, m) added to the logits."""
    d = query.shape[1]
    kernel, offset = w[f"{name}.in_proj_weight"], w[f"{name}.in_proj_bias"]
    q, k, v = (
        x @ kernel[i * d : (i + 1) * d].T + offset[i * d : (i + 1) * d]
        for i, x in enumerate((query, keys, keys))
    )
    out = np.zeros_like(q)
    for part in np.split(np.arange(d), heads):
        out[:, part] = softmax(q[:, part] @ k[:, part].T / np.sqrt(len(part)) + bias) @ v[:, part]
    return linear(out, w, f"{name}.out_proj")


def cell_encoder(tokens, w, depth):
    """tokens (300,): padded; padding attends and is pooled, but nobody attends to it."""
    x = w["cell_encoder.embeddings.weight"][tokens] + w["cell_encoder.positional_embedding.weight"]
    bias = np.where(tokens == PAD, -np.inf, 0.0)[None]
    for i in range(depth):
        name = f"cell_encoder.encoder.layers.{i}"
        x = layer_norm(x + attention(x, x, w, f"{name}.self_attn", HEADS, bias), w, f"{name}.norm1")
        y = linear(np.maximum(linear(x, w, f"{name}.linear1"), 0), w, f"{name}.linear2")
        x = layer_norm(x + y, w, f"{name}.norm2")
    return x[3:].mean(0)


def gat(x, w, name):
    """GAT over a complete graph with loops, one head, no edge feature."""
    z = x @ w[f"{name}.lin.weight"].T
    score = z @ w[f"{name}.att_dst"][0, 0] + (z @ w[f"{name}.att_src"][0, 0])[:, None]  # (source, target)
    share = softmax(np.where(score > 0, score, 0.2 * score).T)  # (target, source)
    return share @ z + w[f"{name}.bias"]


def graph_encoder(nodes, w):
    """nodes (n, 300) token ids as numbers, the centre last."""
    x = gat(nodes, w, "graph_encoder.convs.0")
    x = np.maximum(layer_norm(x, w, "graph_encoder.norms.0"), 0)
    return layer_norm(gat(x, w, "graph_encoder.convs.1"), w, "graph_encoder.norms.1")[-1]


def head(x, w, name):
    p = linear(x, w, f"{name}.projection")
    y = linear(p * (1 + erf(p / np.sqrt(2))) / 2, w, f"{name}.fc")
    return layer_norm(y + p, w, f"{name}.layer_norm")


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def log_softmax(x):
    return np.log(softmax(x))


def loss(image, cell, temperature):
    t = np.clip(temperature, 0.01, 1.0)
    logits = cell @ image.T / t
    targets = softmax((image @ image.T + cell @ cell.T) / 2 / t)
    cells = -(targets * log_softmax(logits)).sum(1)
    images = -(targets.T * log_softmax(logits.T)).sum(1)
    return ((cells + images) / 2).mean()


def reference(w, images, genes, neighbors, *, graph, depth=2, positions=300):
    """The whole model; `genes` holds each cell's gene tokens, most remarkable first, not padded."""
    vit = timm.create_model(
        "vit_large_patch16_224", num_classes=0, init_values=1e-5, dynamic_img_size=True,
        img_size=32, embed_dim=32, depth=2, num_heads=2, mlp_ratio=2,
    )  # fmt: skip
    prefix = "image_encoder.model."
    vit.load_state_dict({k.removeprefix(prefix): torch.from_numpy(v) for k, v in w.items() if prefix in k})
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    pixels = (images / 255 - mean[:, None, None]) / std[:, None, None]
    with torch.no_grad():
        features = vit.double().eval().forward_features(torch.from_numpy(pixels))[:, 0].numpy()

    def padded(ids, length):
        return np.array((list(ids) + [PAD] * length)[:length])

    cells = []
    for centre, around in enumerate(neighbors):
        fused = cell_encoder(padded([*CONTEXT, *genes[centre][:300]], positions), w, depth)
        if graph:
            nodes = np.stack([padded(genes[i], 300) for i in [*around[around >= 0], centre]]).astype(float)
            pair = np.stack([fused, graph_encoder(nodes, w)])
            attended = attention(fused[None], pair, w, "fusion_layer", FUSION_HEADS, np.array([[0.0, -1.0]]))
            fused = layer_norm(attended[0] + fused, w, "fusion_norm")
        cells.append(fused)
    return unit(head(features, w, "image_projection")), unit(head(np.stack(cells), w, "cell_projection"))


def made_inputs(cells=5, k=3, seed=0):
    """Cells with no, few, 297, 298 and 310 genes; tokens as ours."""
    random = np.random.default_rng(seed)
    genes = [30 + random.permutation(310)[:n] for n in (4, 0, 297, 298, 310)[:cells]]
    neighbors = random.integers(0, cells, (cells, k))
    neighbors[0, 1] = neighbors[2, 2] = -1
    tokens = np.full((cells, 303), PAD)
    for row, ids in enumerate(genes):
        tokens[row, : 3 + len(ids[:300])] = [*CONTEXT, *ids[:300]]
    images = random.integers(0, 256, (cells, 3, 32, 32), dtype=np.uint8)
    return images, genes, neighbors, tokens


def arguments(images, neighbors, tokens):
    arrays = (images, tokens, np.arange(len(tokens)), neighbors, np.ones(neighbors.shape))
    return [torch.from_numpy(array) for array in arrays]


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("temperature", [0.07, 0.001, 1.3])
def test_equals_the_published_numerics(graph, temperature):
    model = small_model(graph=graph).double()
    model.raw_temperature.data.fill_(temperature)
    w = {name: value.numpy() for name, value in published_state(model).items()}
    images, genes, neighbors, tokens = made_inputs()
    image, cell = reference(w, images, genes, neighbors, graph=graph)
    output = model(*arguments(images, neighbors, tokens))
    # The encoder normalises with mean and std kept in float32.
    np.testing.assert_allclose(output.image.detach(), image, rtol=0, atol=1e-6)
    np.testing.assert_allclose(output.cell.detach(), cell, rtol=0, atol=1e-9)
    found = contrastive_loss(**output._asdict(), targets="published").loss
    assert found.item() == pytest.approx(loss(image, cell, temperature), abs=1e-5)
    found.backward()
    assert (model.raw_temperature.grad.item() == 0) == (temperature != 0.07)


def test_training_and_inference_agree_but_for_dropout():
    model = small_model().double().train()
    model.cell_projection.eval()
    model.cell_encoder.graph_encoder.eval()
    batch = arguments(*(made_inputs()[i] for i in (0, 2, 3)))
    assert torch.equal(model(*batch).cell, model.eval()(*batch).cell)


@pytest.mark.parametrize("graph", [True, False])
def test_padding_counts_and_microbatches_do_not_change_it(graph):
    model = small_model(graph=graph).double()
    images, _, neighbors, tokens = made_inputs()
    batch = arguments(images, neighbors, tokens)
    whole = model(*batch).cell
    model.microbatch = 2
    torch.testing.assert_close(model(*batch).cell, whole)
    # Trimmed to the longest of the batch, as batches come, and with lengths from the host.
    near = np.minimum(neighbors[:2], 1)
    trimmed = arguments(images[:2], near, tokens[:2, :12])
    full = arguments(images[:2], near, tokens[:2])
    expected = model(*full).cell
    torch.testing.assert_close(model(*trimmed, np.array([7, 3])).cell, expected)
    with torch.no_grad():
        model.cell_encoder.embeddings.weight[PAD] += 1
    assert (model(*full).cell - expected).abs().max() > 1e-4


@pytest.mark.parametrize("change", [{"pool": "genes"}, {"graph_edges": "star"}, {"max_tokens": 200}])
def test_fields_of_the_configuration_matter(change):
    """The reference would notice: the same weights under another configuration give something else."""
    model = small_model().double()
    batch = arguments(*(made_inputs()[i] for i in (0, 2, 3)))
    other = DualEncoder(replace(model.config, cell=replace(model.config.cell, **change))).double().eval()
    state = model.state_dict()
    positions = state["cell_encoder.positional_embedding.weight"]
    state["cell_encoder.positional_embedding.weight"] = positions[: other.config.cell.positions]
    other.load_state_dict(state)
    assert (model(*batch).cell - other(*batch).cell).abs().max() > 1e-3


def test_ids_keep_their_digits_under_autocast():
    model = small_model(vocabulary=20_340)
    images, _, neighbors, tokens = made_inputs()
    batch = arguments(images, neighbors, np.where(tokens >= 30, tokens + 19_000, tokens))
    graph = model.cell_encoder.graph_encoder
    seen = []
    graph.register_forward_hook(lambda _module, args, output: seen.append((args[0], output)))
    model(*batch)
    with torch.autocast("cpu", torch.bfloat16):
        assert model(*batch).cell.isfinite().all()
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))


@pytest.mark.parametrize("graph", [True, False])
def test_every_trained_parameter_gets_a_gradient(graph):
    model = small_model(graph=graph).train()
    images, _, neighbors, tokens = made_inputs()
    contrastive_loss(
        **model(*arguments(images, neighbors, tokens))._asdict(), targets="published"
    ).loss.backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert without == frozen
    assert len(frozen) == (14 if graph else 12)


def test_starts_as_published():
    torch.manual_seed(0)
    model = CellEncoder(small_config().cell)
    first, second = model.layers
    assert torch.equal(first.self_attn.in_proj_weight, second.self_attn.in_proj_weight)
    assert not torch.equal(first.linear1.weight, second.linear1.weight)
    assert not first.linear1.bias.any()
    expected = (2 / (16 + 24)) ** 0.5  # Xavier
    assert first.linear1.weight.std().item() == pytest.approx(expected, rel=0.15)
    assert model.embeddings.weight[PAD].any()
    assert model.embeddings.weight.shape == (345, 16)
