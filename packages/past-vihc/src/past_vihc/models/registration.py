"""RegGAN's registration network: how the real stain lies beside the virtual one. Training alone needs it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _Conv(nn.Module):
    """3 × 3 (or 1 × 1) convolution and leaky relu; no norm."""

    def __init__(self, channels: int, out: int, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.conv(x), 0.2)


class _Residual(nn.Module):
    """x + conv(leaky relu(conv(x)))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = _Conv(channels, channels), nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(x))


class RegistrationNetwork(nn.Module):
    """A residual U-Net from two images to the displacements that lay the first on the second.

    (Kong et al. 2021, "Breaking the dilemma of medical image-to-image translation".) Its last layer is drawn
    to 0: at first nothing is displaced.

    Args:
        depth: how often the images are halved; 7 as published, fewer for small tiles and short training.
        width: channels of the first level; twice as many in the others, four times in the middle. 32 as
            published.
        channels: of both images together.
    """

    def __init__(self, *, depth: int = 7, width: int = 32, channels: int = 6) -> None:
        super().__init__()
        down = [width, *[2 * width] * (depth - 1)]
        before = [channels, *down[:-1]]
        self.down = nn.ModuleList(
            nn.Sequential(_Conv(a, b), _Residual(b)) for a, b in zip(before, down, strict=True)
        )
        self.middle = nn.Sequential(
            _Conv(down[-1], 4 * width, 1),
            *(_Residual(4 * width) for _ in range(3)),
            _Conv(4 * width, down[-1], 1),
        )
        up, below = [*[2 * width] * (depth - 1), width], [down[-1], *[2 * width] * (depth - 1)]
        self.up = nn.ModuleList(
            nn.Sequential(_Conv(a + skip, b), _Residual(b))
            for a, skip, b in zip(below, reversed(down), up, strict=True)
        )
        self.refine = nn.Sequential(_Residual(width), _Conv(width, width, 1))
        self.out = nn.Conv2d(width, 2, 3, padding=1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, a=0.2, nonlinearity="leaky_relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.out.weight)

    def forward(self, fake: Tensor, real: Tensor) -> Tensor:
        """The flow that `warp(fake, flow)` needs to lie on `real`.

        Args:
            fake: `(B, 3, H, W)` float; sides of any length.
            real: `(B, 3, H, W)`.

        Returns:
            `(B, 2, H, W)` float32 dy, dx in pixels.
        """
        x = torch.cat([fake, real], dim=1)
        kept = []
        for down in self.down:
            x = down(x)
            kept.append(x)
            # Rounded up, so that sides that are not divisible keep their last row.
            x = F.max_pool2d(x, 2, ceil_mode=True)
        x = self.middle(x)
        for up, skip in zip(self.up, reversed(kept), strict=True):
            x = F.interpolate(x, size=skip.shape[2:], mode="bilinear", align_corners=False)
            x = up(torch.cat([x, skip], dim=1))
        return self.out(self.refine(x)).float()
