"""CTransPath, and CHIEF's patch encoder in its layout: a Swin-T whose patches a convolutional stem makes.

Wang et al., "Transformer-based unsupervised contrastive learning for histopathological image classification",
Medical Image Analysis 2022. The releases hold the names of timm 0.5, where a stage ends with its downsampling
and the windows' index tables were part of the weights.
"""

import re
from collections.abc import Mapping

import timm
from torch import Tensor, nn

IGNORED = ("*.relative_position_index", "*.attn_mask", "head.*")
"""Tables that follow from the window's size, and a classifier."""


class ConvStem(nn.Module):
    """Patches of 4 px from two convolutions of stride 2 and a pointwise one."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        first, second = dim // 8, dim // 4
        self.proj = nn.Sequential(
            nn.Conv2d(3, first, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(first),
            nn.ReLU(inplace=True),
            nn.Conv2d(first, second, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(second),
            nn.ReLU(inplace=True),
            nn.Conv2d(second, dim, 1),
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, H / 4, W / 4, dim)."""
        return self.norm(self.proj(images).permute(0, 2, 3, 1))


def build() -> nn.Module:
    """The network without a classifier: the mean of the last stage's tokens, (B, 768)."""
    model = timm.create_model("swin_tiny_patch4_window7_224", num_classes=0)
    width = model.embed_dim
    if not isinstance(width, int):
        raise TypeError(f"timm's Swin has an embed_dim of {type(width).__name__}; expected its width")
    model.patch_embed = ConvStem(width)
    return model


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of timm 0.5 to those of today, where a stage begins with its downsampling."""
    return {
        re.sub(r"^layers\.(\d)\.downsample\.", lambda m: f"layers.{int(m[1]) + 1}.downsample.", key): value
        for key, value in state.items()
    }
