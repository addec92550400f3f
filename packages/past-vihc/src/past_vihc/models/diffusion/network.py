"""The network of the diffusion: a U-Net that sees the H&E beside the noisy stain.

diffusers gives the U-Net. It is imported when a network is built, for only training needs it (extra `train`).
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from past_core.errors import PastError

CHANNELS = 3


class NetworkError(PastError, ValueError):
    """Settings or images that the U-Net cannot have."""


class DiffusersMissingError(PastError, ImportError):
    """The package diffusers is not installed."""


def _check(width: int, multipliers: Sequence[int], attention: Sequence[int], head_dim: int) -> None:
    if width < 4 or width % 4 or not multipliers or min(multipliers) < 1:
        raise NetworkError(
            f"width {width}, multipliers {tuple(multipliers)}; expected a multiple of 4 and at least one "
            "positive multiplier"
        )
    levels = range(len(multipliers))
    if not set(attention) <= set(levels):
        raise NetworkError(f"attention {tuple(attention)}; expected some of {list(levels)}")
    for level in {*attention, len(multipliers) - 1} if attention else ():
        if head_dim < 1 or width * multipliers[level] % head_dim:
            raise NetworkError(
                f"head_dim {head_dim} does not divide the {width * multipliers[level]} channels of level "
                f"{level}, which has attention"
            )


class ConditionedUNet(nn.Module):
    """Predicts the noise in a stain, and values of the variance, from the noisy stain and the H&E.

    The H&E is concatenated to the noisy stain at its own size, as the published super-resolution model does
    with its upsampled input. Scale and shift by the step follow every normalisation (`scale_shift`); what is
    zero at the start in the published code (the output, the second convolution of each residual block, the
    projection of each attention) is zero here. An embedding and the stain's number are added to the step's
    embedding, by layers that start at zero: an ablation begins as the plain network. The step's embedding is
    one vector for a tile, so a grid of embeddings is averaged.

    It is a baseline for evaluation on tiles. Whole slides are stained by generators: no file of a diffusion
    is exported, and `past_vihc.files` loads none.

    Args:
        width: channels of the first level.
        multipliers: channels of each level, in widths; each level halves the image.
        blocks: residual blocks of a level.
        attention: levels with self-attention, and then the middle too, as published; none makes a network of
            convolutions only.
        head_dim: channels of a head.
        dropout: inside residual blocks.
        embedding_dim: d of the embedding; 0 takes none.
        stains: number of stains that one network makes.

    Raises:
        NetworkError: settings that do not fit.
        DiffusersMissingError: no diffusers.

    Source: Nichol & Dhariwal (2021), section 2 and appendix A.
    """

    def __init__(
        self,
        *,
        width: int = 128,
        multipliers: Sequence[int] = (1, 2, 3, 4),
        blocks: int = 2,
        attention: Sequence[int] = (2, 3),
        head_dim: int = 64,
        dropout: float = 0.0,
        embedding_dim: int = 0,
        stains: int = 1,
    ) -> None:
        super().__init__()
        _check(width, multipliers, attention, head_dim)
        if blocks < 1 or embedding_dim < 0 or stains < 1:
            raise NetworkError(
                f"blocks {blocks}, embedding_dim {embedding_dim}, stains {stains}; expected at least 1, 0, 1"
            )
        try:
            from diffusers import UNet2DModel
        except ImportError as error:
            msg = "the diffusion baseline needs diffusers; install past-vihc[train]"
            raise DiffusersMissingError(msg) from error
        self.embedding_dim, self.stains, self.multiple = embedding_dim, stains, 2 ** (len(multipliers) - 1)
        groups = math.gcd(32, width // 4)
        kinds = ["Attn" if level in attention else "" for level in range(len(multipliers))]
        time = 4 * width
        self.unet: Any = UNet2DModel(  # its types hide that it is a Module
            in_channels=2 * CHANNELS,
            out_channels=2 * CHANNELS,
            down_block_types=tuple(f"{kind}DownBlock2D" for kind in kinds),
            up_block_types=tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
            block_out_channels=tuple(width * multiplier for multiplier in multipliers),
            layers_per_block=blocks,
            attention_head_dim=head_dim,
            norm_num_groups=groups,
            attn_norm_num_groups=groups,  # else scale_shift leaves the middle's attention without a norm
            dropout=dropout,
            add_attention=bool(attention),
            resnet_time_scale_shift="scale_shift",
            class_embed_type="identity" if embedding_dim or stains > 1 else None,
        )
        self._zero()
        self.project = self.stain = None
        if embedding_dim:
            first, last = nn.Linear(embedding_dim, time), nn.Linear(time, time)
            self.project = nn.Sequential(nn.LayerNorm(embedding_dim), first, nn.SiLU(), last)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        if stains > 1:
            self.stain = nn.Embedding(stains, time)
            nn.init.zeros_(self.stain.weight)

    def _zero(self) -> None:
        from diffusers.models.attention_processor import Attention
        from diffusers.models.resnet import ResnetBlock2D

        last = [self.unet.conv_out]
        for module in self.unet.modules():
            if isinstance(module, ResnetBlock2D):
                last.append(module.conv2)
            elif isinstance(module, Attention):
                last.append(module.to_out[0])
        for layer in last:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def _condition(
        self, n: int, embedding: Tensor | None, stain: Tensor | None, keep: Tensor
    ) -> Tensor | None:
        """`(B, time)` that is added to the step's embedding; None where there is nothing to add."""
        total = None
        if self.project is not None:
            if embedding is None or embedding.shape[:2] != (n, self.embedding_dim):
                found = "none" if embedding is None else f"shape {tuple(embedding.shape)}"
                raise NetworkError(
                    f"embedding: {found}; expected ({n}, {self.embedding_dim}) or a grid of these"
                )
            vector = embedding if embedding.ndim == 2 else embedding.flatten(2).mean(dim=2)
            total = self.project(vector) * keep[:, None]
        if self.stain is not None:
            if stain is None:
                raise NetworkError(f"no stain; this network makes {self.stains} of them")
            total = self.stain(stain) + (0.0 if total is None else total)
        return total

    def forward(
        self,
        noisy: Tensor,
        t: Tensor,
        he: Tensor,
        embedding: Tensor | None = None,
        stain: Tensor | None = None,
        *,
        keep: Tensor | None = None,
    ) -> Tensor:
        """`(B, 6, H, W)`: the noise, then values of the variance in about [-1, 1].

        Args:
            noisy: `(B, 3, H, W)` stain after step t.
            t: `(B,)` int64 steps.
            he: `(B, 3, H, W)` H&E in [-1, 1].
            embedding: `(B, d)` or `(B, d, g, g)`; ignored by a network without.
            stain: `(B,)` int64 numbers of stains.
            keep: `(B,)` bool; where False the H&E and what the embedding adds are 0, for guidance (Ho &
                Salimans, "Classifier-Free Diffusion Guidance", 2022). The stain stays.

        Raises:
            NetworkError: shapes that do not fit.
        """
        n, _, height, width = noisy.shape
        if noisy.shape != he.shape or height % self.multiple or width % self.multiple:
            raise NetworkError(
                f"a noisy stain of shape {tuple(noisy.shape)} and H&E of {tuple(he.shape)}; expected equal "
                f"shapes with sides that are multiples of {self.multiple} px"
            )
        kept = torch.ones(n, device=he.device) if keep is None else keep.to(he.dtype)
        condition = self._condition(n, embedding, stain, kept)
        inputs = torch.cat([noisy, he if keep is None else he * kept[:, None, None, None]], dim=1)
        return self.unet(inputs, t, class_labels=condition, return_dict=False)[0]
