"""Discriminators: RegGAN's, averaged to one value an image, and pix2pix's PatchGAN."""

from torch import Tensor, nn

from past_vihc.models.layers import Norm, Step, draw_weights, influence, make_norm


class Discriminator(nn.Module):
    """4 × 4 convolutions w-2w-4w-8w-1, the first three halving, leaky relu 0.2.

    With 3 channels and `pooled` it is RegGAN's; with 6, the H&E beside the stain, and a map of values it is
    the conditional 70 × 70 PatchGAN of pix2pix (Isola et al. 2017).

    Args:
        channels: of its input.
        width: w, 64 in the papers.
        pooled: one value an image, the mean of the map.
        norm: in all convolutions but the first and the last.

    Attributes:
        receptive_field: side in pixels of the square that one value of the map sees.
    """

    def __init__(
        self, *, channels: int = 3, width: int = 64, pooled: bool = True, norm: Norm = "instance"
    ) -> None:
        super().__init__()
        self.pooled = pooled
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for level, stride in ((1, 2), (2, 2), (3, 1)):
            out = width * 2**level
            layers += [
                nn.Conv2d(out // 2, out, 4, stride=stride, padding=1),
                make_norm(norm, out),
                nn.LeakyReLU(0.2),
            ]
        layers.append(nn.Conv2d(8 * width, 1, 4, padding=1))
        self.layers = nn.Sequential(*layers)
        draw_weights(self)
        first, last = influence([Step(4, 2, 1)] * 3 + [Step(4, 1, 1)] * 2, 0)
        self.receptive_field = last - first + 1

    def forward(self, images: Tensor) -> Tensor:
        """`(B, C, H, W)`, at least 32 px a side, to `(B, 1)` if pooled, else `(B, 1, h, w)`."""
        values = self.layers(images)
        return values.mean(dim=(2, 3)) if self.pooled else values
