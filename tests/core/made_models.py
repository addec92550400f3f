"""Tiny dual encoders and their checkpoints, made up for tests."""

from dataclasses import asdict

import numpy as np
import torch

from past_core.checkpoint import PastCheckpoint
from past_core.models.cell_encoder import CellEncoderConfig
from past_core.models.dual_encoder import DualEncoder, DualEncoderConfig
from past_core.models.image_encoder import ImageEncoderConfig
from past_core.tokens import Vocabulary


def made_checkpoint(*, n_genes: int = 12, seed: int = 0, size: int = 32, mpp: float = 0.5) -> PastCheckpoint:
    """A random encoder of some ten thousand parameters with the genes of `made_slides`."""
    vocabulary = Vocabulary.from_panel(f"ENSG{number:011d}" for number in range(n_genes))
    config = DualEncoderConfig(
        image=ImageEncoderConfig(
            name="vit_tiny_patch16_224",
            image_size=size,
            mpp=mpp,
            options={"depth": 1, "embed_dim": 16, "num_heads": 2},
        ),
        cell=CellEncoderConfig(
            vocabulary_size=vocabulary.size,
            width=16,
            depth=1,
            heads=2,
            feedforward=16,
            max_genes=8,
            graph_heads=2,
            fusion_heads=2,
            embedding_std=1.0,
        ),
        projection_dim=8,
    )
    torch.manual_seed(seed)
    model = DualEncoder(config).eval()
    means = np.random.default_rng(seed).uniform(100, 2000, n_genes)
    means[-1] = np.nan  # a gene that no training cell expressed
    return PastCheckpoint(model, vocabulary, means, {"software": "test", "training": {"slides": ["A"]}})


def lightning_content(checkpoint: PastCheckpoint) -> dict:
    """What the trainer writes: prefixed weights beside optimizer and loop state."""
    return {
        "state_dict": {f"model.{key}": value for key, value in checkpoint.model.state_dict().items()},
        "optimizer_states": [{"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-3}]}],
        "epoch": 3,
        "pytorch-lightning_version": "2.6.6",
        "past": {
            "format": 1,
            "software": "test",
            "model": asdict(checkpoint.model.config),
            "vocabulary": checkpoint.vocabulary.to_dict(),
            "gene_means": torch.from_numpy(checkpoint.gene_means),
            "training": {"slides": ["A"]},
        },
    }


def save_lightning(checkpoint: PastCheckpoint, path, **changes):
    """Writes a `.ckpt`; `changes` replace entries of its `past`."""
    content = lightning_content(checkpoint)
    content["past"] |= changes
    torch.save(content, path)
    return path
