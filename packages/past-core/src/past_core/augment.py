"""Augmentation of patches that keeps the cell in the centre: flips, quarter turns, stain jitter."""

from dataclasses import dataclass

import numpy as np
import torch

from past_core.stains import stain_jitter


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What is done to training patches.

    Args:
        dihedral: one of the eight flips and quarter turns, at random.
        gain_sigma: standard deviation of the log gain of all stain (optical density).
        channel_sigma: standard deviation of the log gain of each colour channel's optical density.
    """

    dihedral: bool = True
    gain_sigma: float = 0.12
    channel_sigma: float = 0.12


def augment(images: torch.Tensor, config: Augmentation, generator: torch.Generator) -> torch.Tensor:
    """Augments a batch of patches.

    Args:
        images: `(B, 3, L, L)` uint8.
        config: what to do.
        generator: a CPU generator; equal states give equal results on every device.

    Returns:
        `(B, 3, L, L)` float in 0..255 where stain is jittered, else uint8.
    """
    if config.dihedral:
        images = dihedral(images, torch.randint(8, (len(images),), generator=generator))
    if config.gain_sigma > 0 or config.channel_sigma > 0:
        noise = torch.randn(len(images), 4, generator=generator)
        images = stain_jitter(
            images,
            gain_sigma=config.gain_sigma,
            channel_sigma=config.channel_sigma,
            noise=_beside(images, noise),
        )
    return images


def dihedral(images: torch.Tensor, element: torch.Tensor) -> torch.Tensor:
    """Applies one of the eight symmetries of the square to each image.

    Args:
        images: `(B, C, L, L)`.
        element: `(B,)` in 0..7, on the CPU: quarter turns in its lowest two bits, then a mirror image.
    """
    out = torch.empty_like(images)
    # Which images share a symmetry is decided on the host and sent in one go: nothing waits for the device.
    order = np.argsort(element.numpy(), kind="stable")
    counts = np.bincount(element.numpy(), minlength=8).tolist()
    for symmetry, members in enumerate(_beside(images, torch.from_numpy(order)).split(counts)):
        if len(members):
            part = torch.rot90(images[members], symmetry & 3, dims=(2, 3))
            out[members] = part.flip(3) if symmetry & 4 else part
    return out


def _beside(images: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Host values on the images' device, without waiting for what that device is doing."""
    if images.device.type != "cuda":
        return values.to(images.device)
    return values.pin_memory().to(images.device, non_blocking=True)
