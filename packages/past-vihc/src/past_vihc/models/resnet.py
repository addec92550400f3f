"""CycleGAN's ResNet generator (Johnson et al. 2016; Zhu et al. 2017), RegGAN's too, with room for FiLM."""

from collections.abc import Sequence

from torch import Tensor, nn

from past_vihc.models.film import Modulation, modulate
from past_vihc.models.layers import Norm, Step, draw_weights, make_norm, margin


class ResidualBlock(nn.Module):
    """x + norm(conv(relu(film(norm(conv(x)))))), 3 × 3, reflected at the border."""

    def __init__(self, channels: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect")
        self.norm1 = make_norm(norm, channels)
        self.activation = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect")
        self.norm2 = make_norm(norm, channels)

    def forward(self, x: Tensor, by: Modulation | None) -> Tensor:
        """`(B, C, H, W)` to the same."""
        y = self.activation(modulate(self.norm1(self.conv1(x)), by))
        return x + self.norm2(self.conv2(y))


class UpStage(nn.Module):
    """Transposed 3 × 3 convolution to twice the size, norm, film, relu."""

    def __init__(self, channels: int, out: int, norm: Norm) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(channels, out, 3, stride=2, padding=1, output_padding=1)
        self.norm = make_norm(norm, out)
        self.activation = nn.ReLU()

    def forward(self, x: Tensor, by: Modulation | None) -> Tensor:
        """`(B, C, H, W)` to `(B, out, 2H, 2W)`."""
        return self.activation(modulate(self.norm(self.conv(x)), by))


class ResnetTrunk(nn.Module):
    """c7-w, d-2w, d-4w, `blocks` residual blocks, u-2w, u-w, c7-3, tanh.

    Args:
        width: w, channels at full size; 64 in the papers.
        blocks: residual blocks; 9 in the papers.
        norm: see `make_norm`.

    Attributes:
        stages: channels of the stages that FiLM modulates: every block, then both up stages.
        multiple: sides of images are multiples of it.
        receptive_field: pixels from an output pixel to the farthest input pixel that it depends on.
    """

    multiple = 4

    def __init__(self, *, width: int = 64, blocks: int = 9, norm: Norm = "instance") -> None:
        super().__init__()
        self.down = nn.Sequential(
            nn.Conv2d(3, width, 7, padding=3, padding_mode="reflect"),
            make_norm(norm, width),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            make_norm(norm, 2 * width),
            nn.ReLU(),
            nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1),
            make_norm(norm, 4 * width),
            nn.ReLU(),
        )
        self.blocks = nn.ModuleList(ResidualBlock(4 * width, norm) for _ in range(blocks))
        self.up = nn.ModuleList([UpStage(4 * width, 2 * width, norm), UpStage(2 * width, width, norm)])
        self.out = nn.Conv2d(width, 3, 7, padding=3, padding_mode="reflect")
        self.stages = (*(4 * width for _ in range(blocks)), 2 * width, width)
        draw_weights(self)
        ends, halved, same = Step(7, 1, 3), Step(3, 2, 1), Step(3, 1, 1)
        doubled = Step(3, 2, 1, transposed=True)
        steps = [ends, halved, halved, *[same] * (2 * blocks), doubled, doubled, ends]
        self.receptive_field = margin(steps, period=self.multiple)

    def forward(self, x: Tensor, by: Sequence[Modulation] | None = None) -> Tensor:
        """Translates.

        Args:
            x: `(B, 3, H, W)` in -1..1; H and W multiples of 4.
            by: what each of `stages` is modulated by; None is the plain trunk.

        Returns:
            `(B, 3, H, W)` in -1..1.
        """
        film = by if by is not None else [None] * len(self.stages)
        x = self.down(x)
        for stage, modulation in zip([*self.blocks, *self.up], film, strict=True):
            x = stage(x, modulation)
        return self.out(x).tanh()
