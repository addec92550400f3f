"""CONCH's visual tower: a ViT-B/16 at 448 px whose tokens one learned query pools.

Lu et al., "A visual-language foundation model for computational pathology", Nature Medicine 2024. The
embedding is the pooled, normalised token before the projection into the space of captions, which its authors
recommend for everything but retrieval by text.
"""

from collections.abc import Mapping
from typing import Any

import timm
import torch
from torch import Tensor, nn

IGNORED = (
    "text.*",
    "text_decoder.*",
    "logit_scale",
    "visual.proj_contrast",
    "visual.attn_pool_caption.*",
    "visual.ln_caption.*",
)
"""Keys of the release that belong to captions: text tower, decoder, their pooler and the projection."""


class AttentionalPool(nn.Module):
    """Learned queries that attend to all tokens (Lee et al., "Set Transformer", 2019)."""

    def __init__(self, dim: int, context: int, *, heads: int, queries: int) -> None:
        super().__init__()
        self.query = nn.Parameter(0.02 * torch.randn(queries, dim))
        self.attn = nn.MultiheadAttention(dim, heads, kdim=context, vdim=context, batch_first=True)
        self.ln_q, self.ln_k = nn.LayerNorm(dim), nn.LayerNorm(context)

    def forward(self, tokens: Tensor) -> Tensor:
        """Pools (B, N, context) to (B, queries, dim)."""
        keys = self.ln_k(tokens)
        queries = self.ln_q(self.query).expand(len(tokens), -1, -1)
        return self.attn(queries, keys, keys, need_weights=False)[0]


class ConchTower(nn.Module):
    """Tokens of the trunk, one query, a normalisation: (B, 3, L, L) to (B, dim)."""

    def __init__(
        self, *, image_size: int = 448, width: int = 768, depth: int = 12, heads: int = 12, dim: int = 512
    ) -> None:
        super().__init__()
        self.num_features = dim
        self.trunk: Any = timm.create_model(  # whatever timm makes of it
            "vit_base_patch16_224",
            img_size=image_size,
            num_classes=0,
            embed_dim=width,
            depth=depth,
            num_heads=heads,
        )
        self.attn_pool_contrast = AttentionalPool(dim, width, heads=8, queries=1)
        self.ln_contrast = nn.LayerNorm(dim)

    def forward(self, images: Tensor) -> Tensor:
        """Embeds normalised patches."""
        pooled = self.attn_pool_contrast(self.trunk.forward_features(images))
        return self.ln_contrast(pooled[:, 0])


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The release's names to the tower's."""
    return {key.removeprefix("visual."): value for key, value in state.items()}
