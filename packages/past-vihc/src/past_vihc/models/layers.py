"""What the trunks share: norms, the first weights, and how far a pixel's influence reaches."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from torch import Tensor, nn

from past_core.errors import PastError

Norm = Literal["instance", "batch", "pixel"]
NORMS = ("instance", "batch", "pixel")


class LayerError(PastError, ValueError):
    """A network that cannot be built like this."""


class PixelNorm(nn.Module):
    """Normalises over the channels of each pixel: mean 0, variance 1; no weights.

    Unlike an instance norm it knows nothing of the rest of the tile, so that overlapping windows of a slide
    agree to the bit.
    """

    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """`(B, C, H, W)` to the same."""
        centred = x - x.mean(1, keepdim=True)
        return centred * (centred.square().mean(1, keepdim=True) + self.eps).rsqrt()


def make_norm(norm: Norm, channels: int) -> nn.Module:
    """A norm: `instance` (no weights, as in CycleGAN), `batch` (running statistics at inference), `pixel`.

    Raises:
        LayerError: an unknown name.
    """
    if norm == "instance":
        return nn.InstanceNorm2d(channels)
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "pixel":
        return PixelNorm()
    raise LayerError(f"norm {norm!r}; expected {', '.join(NORMS)}")


def draw_weights(module: nn.Module, std: float = 0.02) -> None:
    """First weights of convolutions: N(0, 0.02), biases 0 (Zhu et al. 2017, appendix; Isola et al. 2017)."""
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(layer.weight, 0.0, std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class Step(NamedTuple):
    """A convolution, or a transposed one, along one axis."""

    kernel: int
    stride: int
    padding: int
    transposed: bool = False


def influence(steps: Sequence[Step], pixel: int) -> tuple[int, int]:
    """The first and the last input pixel that an output pixel depends on, along one axis without borders.

    Args:
        steps: the layers from input to output.
        pixel: index of the output pixel.
    """
    low = high = pixel
    for step in reversed(steps):
        if step.transposed:
            # Output y takes input i where y = i · stride - padding + k, 0 <= k < kernel.
            low = -((step.kernel - 1 - step.padding - low) // step.stride)
            high = (high + step.padding) // step.stride
        else:
            low = low * step.stride - step.padding
            high = high * step.stride - step.padding + step.kernel - 1
    return low, high


def margin(steps: Sequence[Step], *, period: int) -> int:
    """The farthest input pixel that any output pixel depends on, in pixels from itself.

    Args:
        steps: the layers of a network whose output is as large as its input.
        period: after how many pixels the pattern repeats: the product of the strides.
    """
    reach = 0
    for pixel in range(period):
        low, high = influence(steps, pixel)
        reach = max(reach, pixel - low, high - pixel)
    return reach
