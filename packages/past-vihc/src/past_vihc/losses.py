"""Losses of virtual staining, each a pure function of float images in -1..1. All are taken in float32."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from past_core.errors import PastError
from past_core.stains import deconvolve, stain_set
from past_vihc.models.warp import warp

PYRAMID_WEIGHTS = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)
"""Of the levels from full size down: the coarser, the less a displacement counts (Li et al. 2023, ASP)."""
_BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)


class LossError(PastError, ValueError):
    """Images that a loss cannot be taken of."""


def lsgan(values: Tensor, *, real: bool) -> Tensor:
    """Least-squares adversarial loss: mean (value - t)², t = 1 for real and 0 for fake (Mao et al. 2017)."""
    return (values.float() - float(real)).square().mean()


def l1(fake: Tensor, real: Tensor) -> Tensor:
    """Mean absolute difference."""
    _same(fake, real)
    return (fake.float() - real.float()).abs().mean()


def registered_l1(fake: Tensor, real: Tensor, flow: Tensor) -> Tensor:
    """Mean absolute difference after the flow has laid the fake on the real (Kong et al. 2021, RegGAN).

    Args:
        fake: `(B, C, H, W)`.
        real: `(B, C, H, W)`.
        flow: `(B, 2, H, W)` dy, dx in pixels.
    """
    return l1(warp(fake, flow), real)


def smoothness(flow: Tensor) -> Tensor:
    """Mean squared forward difference along y plus that along x.

    Args:
        flow: `(B, 2, H, W)` in pixels.
    """
    flow = flow.float()
    return (flow[:, :, 1:] - flow[:, :, :-1]).square().mean() + (
        flow[:, :, :, 1:] - flow[:, :, :, :-1]
    ).square().mean()


def gaussian_pyramid(images: Tensor, levels: int) -> list[Tensor]:
    """The image, then smoothed (binomial, 5 × 5, reflected) and halved again and again (Burt & Adelson 1983).

    Args:
        images: `(B, C, H, W)`.
        levels: how many images, the first included.

    Raises:
        LossError: an image too small to be smoothed at the last level but one.
    """
    images = images.float()
    channels = images.shape[1]
    kernel = torch.tensor(_BINOMIAL, device=images.device)
    rows = kernel.view(1, 1, 5, 1).expand(channels, 1, 5, 1)
    pyramid = [images]
    for _ in range(levels - 1):
        x = pyramid[-1]
        if min(x.shape[2:]) < 3:
            raise LossError(
                f"images of {images.shape[2]} × {images.shape[3]} px have no {levels} levels; give fewer "
                "weights of the pyramid, or larger tiles"
            )
        x = F.pad(x, (2, 2, 2, 2), mode="reflect")
        x = F.conv2d(x, rows, stride=(2, 1), groups=channels)
        x = F.conv2d(x, rows.transpose(2, 3), stride=(1, 2), groups=channels)
        pyramid.append(x)
    return pyramid


def pyramid_l1(fake: Tensor, real: Tensor, *, weights: Sequence[float] = PYRAMID_WEIGHTS) -> Tensor:
    """Weighted sum of L1 over a Gaussian pyramid's levels (Li et al. 2023, "Adaptive supervised PatchNCE").

    Args:
        fake: `(B, C, H, W)`.
        real: `(B, C, H, W)`.
        weights: of the levels from full size down.
    """
    _same(fake, real)
    pairs = zip(gaussian_pyramid(fake, len(weights)), gaussian_pyramid(real, len(weights)), strict=True)
    levels = (weight * l1(a, b) for weight, (a, b) in zip(weights, pairs, strict=True))
    return sum(levels, start=fake.new_zeros(()))


def dab_density(images: Tensor, *, stains: str = "qupath-hdab") -> Tensor:
    """Optical density of DAB, `(B, H, W)`, by colour deconvolution (Ruifrok & Johnston 2001), with gradient.

    Args:
        images: `(B, 3, H, W)` float in -1..1.
        stains: a named set of `past_core.stains` that has `dab`.

    Raises:
        LossError: a set without DAB.
    """
    chosen = stain_set(stains)
    if "dab" not in chosen.stains:
        raise LossError(f"the stain set {chosen.name} has {', '.join(chosen.stains)}, but no dab")
    with torch.autocast(images.device.type, enabled=False):
        return deconvolve((images.float() + 1) * 127.5, chosen)[:, chosen.stains.index("dab")]


def dab_l1(fake: Tensor, real: Tensor, *, stains: str = "qupath-hdab") -> Tensor:
    """Mean absolute difference of DAB's optical density, which is what an H-score is made of.

    Args:
        fake: `(B, 3, H, W)` float in -1..1.
        real: `(B, 3, H, W)`.
        stains: see `dab_density`.
    """
    _same(fake, real)
    return l1(dab_density(fake, stains=stains), dab_density(real, stains=stains))


def _same(fake: Tensor, real: Tensor) -> None:
    if fake.shape != real.shape:
        raise LossError(f"images of shapes {tuple(fake.shape)} and {tuple(real.shape)}; expected equal ones")
