"""The U-Net generator of pix2pix (Isola et al. 2017), with room for FiLM in its up stages."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from past_vihc.models.film import Modulation, modulate
from past_vihc.models.layers import Norm, Step, draw_weights, make_norm, margin


class _Down(nn.Module):
    """(leaky relu), 4 × 4 convolution to half the size, (norm)."""

    def __init__(self, channels: int, out: int, norm: Norm | None, *, first: bool) -> None:
        super().__init__()
        self.activation = nn.Identity() if first else nn.LeakyReLU(0.2)
        self.conv = nn.Conv2d(channels, out, 4, stride=2, padding=1)
        self.norm = nn.Identity() if norm is None else make_norm(norm, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(self.activation(x)))


class _Up(nn.Module):
    """Relu, transposed 4 × 4 convolution to twice the size, norm, film, (dropout)."""

    def __init__(self, channels: int, out: int, norm: Norm, *, dropout: float) -> None:
        super().__init__()
        self.activation = nn.ReLU()
        self.conv = nn.ConvTranspose2d(channels, out, 4, stride=2, padding=1)
        self.norm = make_norm(norm, out)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, by: Modulation | None) -> Tensor:
        return self.dropout(modulate(self.norm(self.conv(self.activation(x))), by))


class UNetTrunk(nn.Module):
    """Encoder and decoder with skip connections; every up stage but the last is modulated.

    Args:
        width: channels after the first halving, doubled up to eightfold; 64 in the paper.
        depth: how often the image is halved; 7 takes 128 px to one.
        norm: see `make_norm`; none in the first and innermost stage, as published.
        dropout: in the three innermost up stages but the innermost, in training only.

    Attributes:
        stages: channels of the stages that FiLM modulates, from the innermost up.
        multiple: sides of images are multiples of it.
        receptive_field: pixels from an output pixel to the farthest input pixel that it depends on.
    """

    def __init__(
        self, *, width: int = 64, depth: int = 7, norm: Norm = "instance", dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.multiple = 2**depth
        channels = [width * min(2**level, 8) for level in range(depth)]
        self.down = nn.ModuleList(
            _Down(
                3 if level == 0 else channels[level - 1],
                channels[level],
                None if level in (0, depth - 1) else norm,
                first=level == 0,
            )
            for level in range(depth)
        )
        inner = list(range(depth - 1, 0, -1))
        self.up = nn.ModuleList(
            _Up(
                channels[level] * (1 if level == depth - 1 else 2),
                channels[level - 1],
                norm,
                dropout=dropout if 0 < number < 4 else 0.0,
            )
            for number, level in enumerate(inner)
        )
        self.activation = nn.ReLU()
        self.out = nn.ConvTranspose2d(channels[0] * (2 if depth > 1 else 1), 3, 4, stride=2, padding=1)
        self.stages = tuple(channels[level - 1] for level in inner)
        draw_weights(self)
        steps = [Step(4, 2, 1)] * depth + [Step(4, 2, 1, transposed=True)] * depth
        self.receptive_field = margin(steps, period=self.multiple)

    def forward(self, x: Tensor, by: Sequence[Modulation] | None = None) -> Tensor:
        """Translates.

        Args:
            x: `(B, 3, H, W)` in -1..1; H and W multiples of `multiple`.
            by: what each of `stages` is modulated by; None is the plain trunk.

        Returns:
            `(B, 3, H, W)` in -1..1.
        """
        film = by if by is not None else [None] * len(self.stages)
        kept: list[Tensor] = []
        for down in self.down:
            x = down(x)
            kept.append(x)
        kept.pop()
        for up, modulation in zip(self.up, film, strict=True):
            x = torch.cat([up(x, modulation), kept.pop()], dim=1)
        return self.out(self.activation(x)).tanh()
