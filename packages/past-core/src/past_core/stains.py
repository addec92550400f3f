"""Optical density, named stain sets, colour deconvolution, and stain jitter.

Light through a stained section follows the Beer-Lambert law: each channel's optical density,
log10(white / value), is the sum over stains of concentration times the stain's absorbance vector
(Ruifrok & Johnston 2001). Images are channel first, `(..., 3, H, W)`, in 0..255; numpy arrays and torch
tensors are both taken and give their own kind back.
"""

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from past_core.errors import PastError

if TYPE_CHECKING:
    import torch

MIN_VALUE = 1.0
"""Values are clipped here, so that black has density 2.407 and not infinity."""

Image = TypeVar("Image", np.ndarray, "torch.Tensor")


class StainError(PastError, ValueError):
    """Unknown stains, or an image that is not RGB."""


@dataclass(frozen=True)
class StainSet:
    """Three stains by their absorbance in red, green and blue.

    Attributes:
        name: how it is asked for.
        stains: names of the three stains.
        vectors: their absorbance vectors, as published; `matrix` holds them at unit length.
    """

    name: str
    stains: tuple[str, str, str]
    vectors: tuple[tuple[float, float, float], ...]

    @property
    def matrix(self) -> np.ndarray:
        """`(3, 3)` float64: unit vectors as rows; a third, if not given, is perpendicular to both."""
        rows = np.array(self.vectors, np.float64)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        if len(rows) == 2:
            residual = np.cross(rows[0], rows[1])
            rows = np.vstack([rows, residual / np.linalg.norm(residual)])
        return rows


_H, _DAB = (0.65, 0.70, 0.29), (0.27, 0.57, 0.78)
STAINS = {
    stains.name: stains
    for stains in (
        StainSet("qupath-he", ("haematoxylin", "eosin", "residual"), (_H, (0.2159, 0.8012, 0.5581))),
        StainSet("qupath-hdab", ("haematoxylin", "dab", "residual"), (_H, _DAB)),
        StainSet("ruifrok-he", ("haematoxylin", "eosin", "residual"), (_H, (0.07, 0.99, 0.11))),
        StainSet(
            "ruifrok-hdab",
            ("haematoxylin", "dab", "residual"),
            ((0.650, 0.704, 0.286), (0.268, 0.570, 0.776)),
        ),
        StainSet("ruifrok-hed", ("haematoxylin", "eosin", "dab"), (_H, (0.07, 0.99, 0.11), _DAB)),
    )
}
"""Stain sets by name: QuPath's presets, and Ruifrok & Johnston's vectors as scikit-image has them."""


def stain_set(stains: str | StainSet) -> StainSet:
    """Looks a stain set up by name; passes one through.

    Raises:
        StainError: no such name.
    """
    if isinstance(stains, StainSet):
        return stains
    if stains not in STAINS:
        raise StainError(f"no stain set {stains!r}; choose one of {', '.join(STAINS)}")
    return STAINS[stains]


def optical_density(image: Image, *, white: float | tuple[float, float, float] = 255.0) -> Image:
    """Optical density, log10(white / value), at least 0: `(..., 3, H, W)`, float.

    Args:
        image: `(..., 3, H, W)` uint8 or float in 0..255; floats keep their type, uint8 becomes float32.
        white: value of unstained glass, one or one a channel.
    """
    if image.ndim < 3 or image.shape[-3] != 3:
        raise StainError(f"an image of shape {tuple(image.shape)}; expected (..., 3, H, W)")
    return _density(image, white)


def _density(image: Any, white: float | tuple[float, float, float]) -> Any:
    if _is_tensor(image):
        import torch

        pixels = image if image.is_floating_point() else image.float()
        level = torch.as_tensor(white, dtype=pixels.dtype, device=pixels.device).reshape(-1, 1, 1)
        return (torch.log10(level) - torch.log10(pixels.clamp(min=MIN_VALUE))).clamp(min=0)
    values = image if np.issubdtype(image.dtype, np.floating) else image.astype(np.float32)
    glass = np.asarray(white, values.dtype).reshape(-1, 1, 1)
    return np.maximum(np.log10(glass) - np.log10(np.maximum(values, MIN_VALUE)), 0)


def deconvolve(
    image: Image, stains: str | StainSet, *, white: float | tuple[float, float, float] = 255.0
) -> Image:
    """Concentrations of the three stains, in optical density: `(..., 3, H, W)` in the set's order.

    Concentrations are not clipped: a negative one says that the pixel's colour is not a mixture of the set.

    Args:
        image: `(..., 3, H, W)` uint8 or float in 0..255.
        stains: a stain set or its name.
        white: value of unstained glass.
    """
    return _mix(optical_density(image, white=white), np.linalg.inv(stain_set(stains).matrix))


def reconstruct(
    concentrations: Image, stains: str | StainSet, *, white: float | tuple[float, float, float] = 255.0
) -> Image:
    """The inverse of `deconvolve`: float values `(..., 3, H, W)` in 0..white for possible concentrations."""
    density: Any = _mix(concentrations, stain_set(stains).matrix)
    if _is_tensor(density):
        import torch

        level = torch.as_tensor(white, dtype=density.dtype, device=density.device).reshape(-1, 1, 1)
        values: Any = level * torch.pow(10.0, -density)
        return values
    return np.asarray(white, density.dtype).reshape(-1, 1, 1) * np.power(
        np.asarray(10, density.dtype), -density
    )


def stain_jitter(
    images: "torch.Tensor", *, gain_sigma: float = 0.12, channel_sigma: float = 0.12, noise: "torch.Tensor"
) -> "torch.Tensor":
    """Varies the strength and hue of the staining: scales each channel's optical density.

    Density times g is value to the power of g: value' = 255 · (value / 255)^g, with
    g = exp(gain_sigma · n₀ + channel_sigma · n_channel), so that white stays white and zero noise changes
    nothing.

    Args:
        images: `(B, 3, H, W)` uint8 or float in 0..255.
        gain_sigma: spread of the whole image's gain, the standard deviation of its logarithm.
        channel_sigma: spread of each channel's gain on top.
        noise: `(B, 4)` standard normal: the image's, then red, green, blue.

    Returns:
        `(B, 3, H, W)` float32 in 0..255.

    Raises:
        StainError: shapes that do not fit.
    """
    import torch

    if images.ndim != 4 or images.shape[1] != 3 or noise.shape != (len(images), 4):
        raise StainError(
            f"images {tuple(images.shape)} with noise {tuple(noise.shape)}; expected (B, 3, H, W) with (B, 4)"
        )
    noise = noise.to(images.device, torch.float32)
    gain = torch.exp(gain_sigma * noise[:, :1] + channel_sigma * noise[:, 1:])
    if images.dtype != torch.uint8 or images.device.type != "cpu":
        return torch.pow(images.float() / 255, gain[:, :, None, None]) * 255
    # On the CPU a table of 256 values a channel is eight times faster than as many powers.
    table = torch.pow(torch.arange(256, dtype=torch.float32) / 255, gain.reshape(-1, 1)) * 255
    flat = images.reshape(len(table), -1)
    out = torch.empty(flat.shape, dtype=torch.float32)
    for row in range(len(table)):
        torch.index_select(table[row], 0, flat[row].int(), out=out[row])
    return out.view(images.shape)


def _mix(image: Any, matrix: np.ndarray) -> Any:
    """Applies `out[k] = sum_c image[c] · matrix[c, k]` along the channel axis."""
    if image.ndim < 3 or image.shape[-3] != 3:
        raise StainError(f"an image of shape {tuple(image.shape)}; expected (..., 3, H, W)")
    if _is_tensor(image):
        import torch

        weight = torch.as_tensor(matrix, dtype=image.dtype, device=image.device)
        return torch.einsum("...chw,ck->...khw", image, weight)
    return np.einsum("...chw,ck->...khw", image, matrix.astype(image.dtype), optimize=True)


def _is_tensor(image: Any) -> bool:
    # Asks only a torch that is loaded already: numpy users never pay for its import.
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(image, torch.Tensor)
