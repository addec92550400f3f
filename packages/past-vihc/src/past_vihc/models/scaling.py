"""Between pixels, uint8 in 0..255, and what the networks see, float in -1..1."""

import torch
from torch import Tensor

from past_core.errors import PastError


class ScalingError(PastError, ValueError):
    """Images that are not uint8, or an output that is not finite."""


def to_unit(images: Tensor) -> Tensor:
    """Pixels to the networks' scale: `value / 127.5 - 1`.

    Args:
        images: `(..., 3, H, W)` uint8.

    Returns:
        The same shape, float32 in -1..1.

    Raises:
        ScalingError: another type: a float image might lie on any scale.
    """
    if images.dtype != torch.uint8:
        raise ScalingError(f"images of {images.dtype}; expected uint8 in 0..255, as slides are read")
    return images.float() / 127.5 - 1


def to_uint8(images: Tensor) -> Tensor:
    """The inverse of `to_unit`: rounded to the nearest value, what lies outside -1..1 clipped.

    Args:
        images: `(..., 3, H, W)` float.

    Returns:
        The same shape, uint8; exactly what `to_unit` was given.

    Raises:
        ScalingError: values that are NaN or infinite, which uint8 would hide.
    """
    values = images.detach().float()
    if not bool(torch.isfinite(values).all()):
        bad = int((~torch.isfinite(values)).sum())
        raise ScalingError(
            f"{bad:,} of {values.numel():,} values are NaN or infinite: the network's weights are damaged, "
            "or its precision is too low; use another checkpoint, or precision 32"
        )
    return ((values + 1) * 127.5).round_().clamp_(0, 255).to(torch.uint8)
