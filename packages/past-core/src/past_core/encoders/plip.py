"""PLIP: the image side of CLIP ViT-B/32, from a release in the layout of Hugging Face's CLIP.

Huang et al., "A visual-language foundation model for pathology image analysis using medical Twitter", Nature
Medicine 2023. The embedding is the class token after the projection into the space of captions, unnormalised.
"""

import re
from collections.abc import Mapping

import timm
import torch
from torch import Tensor, nn

IGNORED = ("text_model.*", "text_projection.*", "logit_scale", "vision_model.embeddings.position_ids")
"""The text side, and a table of consecutive numbers."""

_NAMES = {
    r"visual_projection\.weight": "projection.weight",
    r"vision_model\.embeddings\.patch_embedding\.(weight)": r"trunk.patch_embed.proj.\1",
    r"vision_model\.pre_layrnorm\.(.+)": r"trunk.norm_pre.\1",  # spelt so
    r"vision_model\.post_layernorm\.(.+)": r"trunk.norm.\1",
    r"vision_model\.encoder\.layers\.(\d+)\.layer_norm([12])\.(.+)": r"trunk.blocks.\1.norm\2.\3",
    r"vision_model\.encoder\.layers\.(\d+)\.mlp\.(fc[12])\.(.+)": r"trunk.blocks.\1.mlp.\2.\3",
    r"vision_model\.encoder\.layers\.(\d+)\.self_attn\.out_proj\.(.+)": r"trunk.blocks.\1.attn.proj.\2",
}


class PlipTower(nn.Module):
    """Class token of the trunk, projected: (B, 3, 224, 224) to (B, dim)."""

    def __init__(self, *, width: int = 768, depth: int = 12, heads: int = 12, dim: int = 512) -> None:
        super().__init__()
        self.num_features = dim
        self.trunk = timm.create_model(
            "vit_base_patch32_clip_quickgelu_224",
            num_classes=0,
            embed_dim=width,
            depth=depth,
            num_heads=heads,
        )
        self.projection = nn.Linear(width, dim, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Embeds normalised patches."""
        return self.projection(self.trunk(images))


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The release's names to timm's, which keeps queries, keys and values in one matrix."""
    out: dict[str, Tensor] = {}
    rest = dict(state)
    if (token := rest.pop("vision_model.embeddings.class_embedding", None)) is not None:
        out["trunk.cls_token"] = token.reshape(1, 1, -1)
    if (places := rest.pop("vision_model.embeddings.position_embedding.weight", None)) is not None:
        out["trunk.pos_embed"] = places[None]
    for key in sorted(k for k in rest if ".self_attn.q_proj." in k):
        parts = [key.replace(".q_proj.", f".{part}_proj.") for part in "qkv"]
        if all(part in rest for part in parts):
            if (found := re.fullmatch(r"vision_model\.encoder\.layers\.(\d+)\..*\.(\w+)", key)) is None:
                continue  # not one of a layer: refused below by its name
            layer, kind = found.groups()
            out[f"trunk.blocks.{layer}.attn.qkv.{kind}"] = torch.cat([rest.pop(part) for part in parts])
    for key, value in rest.items():
        names = [re.sub(pattern, name, key) for pattern, name in _NAMES.items() if re.fullmatch(pattern, key)]
        out[names[0] if names else key] = value  # what is unknown stays, and is refused by its own name
    return out
