"""The published architecture in a small size, with weights that hide no mistake, and its container."""

import argparse
from dataclasses import replace

import torch

from past_core.models.dual_encoder import DualEncoder, DualEncoderConfig
from past_core.published import published_state

VOCABULARY = 340
"""Token ids: more genes than a cell's 300."""


def small_config(*, graph=True, max_genes=300, max_tokens=300, vocabulary=VOCABULARY):
    """`DualEncoderConfig.published` with fewer channels and layers; lengths as published unless given."""
    published = DualEncoderConfig.published(graph=graph, vocabulary_size=vocabulary)
    options = {**published.image.options, "embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 2}
    return replace(
        published,
        image=replace(published.image, image_size=32, options={**options, "img_size": 32}),
        cell=replace(
            published.cell,
            width=16,
            depth=2,
            heads=4,
            feedforward=24,
            max_genes=max_genes,
            max_tokens=max_tokens,
            graph_widths=(8, 16) if graph else None,
            embedding_std=1.0,
        ),
        projection_dim=12,
    )


def small_model(*, seed=0, **options):
    """Float32, with random biases and norms."""
    torch.manual_seed(seed)
    model = DualEncoder(small_config(**options)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)
            elif name.endswith("in_proj_weight"):
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def container(model, /, **changes):
    """What the release's training writes."""
    state = published_state(model)
    moments = {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(3)}}
    return {
        "model": {key: value.clone() for key, value in state.items()},
        "optimizer": {"state": moments, "param_groups": [{"lr": 5e-4, "betas": (0.9, 0.95), "params": [0]}]},
        "epoch": 15,
        "scaler": {"scale": 65536.0, "growth_factor": 2.0},
        "args": argparse.Namespace(lr=5e-4, batch_size=48, output_dir="out", resume=None),
        **changes,
    }


def save_container(model, path, /, **changes):
    torch.save(container(model, **changes), path)
    return path
