"""Displacing images: by a field of displacements in pixels, or by random affine maps."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from past_core.errors import PastError


class FlowError(PastError, ValueError):
    """A field of displacements that does not fit the image."""


def warp(images: Tensor, flow: Tensor) -> Tensor:
    """Takes each pixel from where the flow points: `out[y, x] = images[y + dy, x + dx]`, bilinear.

    What lies outside is the nearest border pixel. Always in float32: half precision cannot tell neighbouring
    pixels of a large tile apart. (Kong et al. 2021, RegGAN.)

    Args:
        images: `(B, C, H, W)` float.
        flow: `(B, 2, H, W)` dy, dx in pixels.

    Returns:
        `(B, C, H, W)` float32.

    Raises:
        FlowError: shapes that do not fit.
    """
    b, _, height, width = images.shape
    if flow.shape != (b, 2, height, width):
        raise FlowError(
            f"a flow of shape {tuple(flow.shape)} for images {tuple(images.shape)}; expected "
            f"{(b, 2, height, width)}: dy and dx of every pixel"
        )
    with torch.autocast(images.device.type, enabled=False):
        images, flow = images.float(), flow.float()
        rows = torch.arange(height, dtype=torch.float32, device=flow.device)
        columns = torch.arange(width, dtype=torch.float32, device=flow.device)
        y = 2 * (rows[:, None] + flow[:, 0]) / max(1, height - 1) - 1
        x = 2 * (columns + flow[:, 1]) / max(1, width - 1) - 1
        grid = torch.stack([x, y], dim=-1)  # grid_sample takes x first
        return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=True)


def affine_flow(rotation: Tensor, scale: Tensor, translation: Tensor, size: tuple[int, int]) -> Tensor:
    """The flow of an affine map about the image's centre.

    Args:
        rotation: `(B,)` radians.
        scale: `(B,)` factor; above 1 the content grows.
        translation: `(B, 2)` dy, dx in pixels.
        size: height and width.

    Returns:
        `(B, 2, H, W)`.
    """
    height, width = size
    y = torch.arange(height, dtype=torch.float32, device=rotation.device)[:, None] - (height - 1) / 2
    x = torch.arange(width, dtype=torch.float32, device=rotation.device) - (width - 1) / 2
    cos, sin = (f(rotation)[:, None, None] / scale[:, None, None] for f in (torch.cos, torch.sin))
    dy, dx = translation[:, 0, None, None], translation[:, 1, None, None]
    return torch.stack([cos * y - sin * x - y + dy, sin * y + cos * x - x + dx], dim=1)


def random_affine(
    images: Tensor,
    generator: torch.Generator,
    *,
    rotation: float = 0.0,
    translation: float = 0.0,
    scale: float = 0.0,
) -> Tensor:
    """Displaces every image in another way: the misalignment that RegGAN calls noise.

    Args:
        images: `(B, C, H, W)` float.
        generator: on the CPU; equal states give equal maps on every device.
        rotation: at most so many degrees either way.
        translation: at most this share of the side, along each axis.
        scale: at most this much larger or smaller.

    Returns:
        `(B, C, H, W)` float32.
    """
    if not (rotation or translation or scale):
        return images
    height, width = images.shape[2:]
    drawn = (2 * torch.rand((len(images), 4), generator=generator) - 1).to(images.device)
    side = drawn.new_tensor([height, width])
    flow = affine_flow(
        drawn[:, 0] * math.radians(rotation),
        1 + drawn[:, 1] * scale,
        drawn[:, 2:] * translation * side,
        (height, width),
    )
    return warp(images, flow)
