"""PSNR and SSIM of a virtual stain against the real one, for numpy arrays and torch tensors alike.

The headline SSIM is that of Wang et al. 2004 as scikit-image computes it with `gaussian_weights=True,
sigma=1.5, use_sample_covariance=False, data_range=255`: a Gaussian window of 11 × 11, population covariance,
windows that lie inside the image alone, the mean over pixels of each channel, then over channels. Beside it
stands the formula that the paper of PAST prints, whose means and variances are those of the whole tile; the
two differ widely, and a number without its rule and its image size says little. No pixel is left out
(RegGAN's own code leaves background out of its PSNR) and nothing is resized.
"""

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from past_core.errors import PastError

if TYPE_CHECKING:
    import torch

MAX = 255.0
"""Data range: images are 8-bit."""
C1, C2 = (0.01 * MAX) ** 2, (0.03 * MAX) ** 2
WINDOW, SIGMA = 11, 1.5
"""The Gaussian window of the headline SSIM: side and standard deviation in pixels."""
PSNR_CAP = 100.0
"""PSNR in dB of identical images, which is infinite, and the most that any tile is given: an infinite tile
would make every mean infinite. A tile of 128 px that differs by one grey level in one value has 95 dB."""

Image = TypeVar("Image", np.ndarray, "torch.Tensor")


class SimilarityError(PastError, ValueError):
    """Images that cannot be compared."""


def psnr(fake: Image, real: Image) -> Image:
    """Peak signal-to-noise ratio in dB: 10 · log10(255² / MSE) over all pixels and channels.

    Args:
        fake: `(..., 3, H, W)` uint8.
        real: the same.

    Returns:
        `(...)` float64, at most `PSNR_CAP`, which identical images have.

    Raises:
        SimilarityError: shapes or types that differ, or are not 8-bit RGB.
    """
    a, b = _pair(fake, real)
    error = a - b
    mse: Any = (error * error).mean((-3, -2, -1))
    floor = MAX**2 / 10 ** (PSNR_CAP / 10)
    decibels: Any = (
        10 * np.log10(MAX**2 / np.maximum(mse, floor))
        if isinstance(mse, np.ndarray | np.floating)
        else 10 * (MAX**2 / mse.clamp(min=floor)).log10()
    )
    return decibels


def ssim(fake: Image, real: Image) -> Image:
    """Structural similarity with a Gaussian window of 11 px, σ 1.5; see the module.

    Args:
        fake: `(..., 3, H, W)` uint8, at least 11 px a side.
        real: the same.

    Returns:
        `(...)` float64.

    Raises:
        SimilarityError: as `psnr`, or smaller than the window.
    """
    if fake.ndim >= 3 and min(fake.shape[-2:]) < WINDOW:
        raise SimilarityError(
            f"images of {tuple(fake.shape[-2:])} px; SSIM's window of {WINDOW} px does not fit inside"
        )
    _check(fake, real)
    # One channel at a time: a whole image of 3,000 px takes a third of the memory.
    parts = [
        _local(*_pair(fake[..., c : c + 1, :, :], real[..., c : c + 1, :, :], check=False)) for c in range(3)
    ]
    return (parts[0] + parts[1] + parts[2]) / 3


def ssim_paper(fake: Image, real: Image) -> Image:
    """The paper's printed SSIM, with the means, variances and covariance of the whole tile.

    Of each channel, then the mean over channels. C1 = (0.01 · 255)², C2 = (0.03 · 255)².

    Args:
        fake: `(..., 3, H, W)` uint8.
        real: the same.

    Returns:
        `(...)` float64.

    Raises:
        SimilarityError: as `psnr`.
    """
    a, b = _pair(fake, real)
    flat = (-2, -1)
    mean_a, mean_b = a.mean(flat), b.mean(flat)
    da, db = a - mean_a[..., None, None], b - mean_b[..., None, None]
    spread = (da * da).mean(flat) + (db * db).mean(flat)
    return _formula(mean_a, mean_b, spread, (da * db).mean(flat)).mean(-1)


def _local(a: Any, b: Any) -> Any:
    mean_a, mean_b = _blur(a), _blur(b)
    # Only the sum of the two variances enters the formula: one blur less.
    spread = _blur(a * a + b * b) - mean_a * mean_a - mean_b * mean_b
    both = _blur(a * b) - mean_a * mean_b
    return _formula(mean_a, mean_b, spread, both).mean((-3, -2, -1))


def _formula(mean_a: Any, mean_b: Any, spread: Any, both: Any) -> Any:
    top = (2 * mean_a * mean_b + C1) * (2 * both + C2)
    return top / ((mean_a * mean_a + mean_b * mean_b + C1) * (spread + C2))


def _blur(values: Any) -> Any:
    """The Gaussian mean over every window that lies inside the image."""
    at = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-0.5 * (at / SIGMA) ** 2)
    weights = (weights / weights.sum()).tolist()
    height, width = values.shape[-2] - WINDOW + 1, values.shape[-1] - WINDOW + 1
    half = WINDOW // 2
    # Slices work for arrays and tensors; the window's symmetry halves the products.
    rows = weights[half] * values[..., half : half + height, :]
    for i in range(half):
        rows = rows + weights[i] * (
            values[..., i : i + height, :] + values[..., WINDOW - 1 - i : WINDOW - 1 - i + height, :]
        )
    out = weights[half] * rows[..., half : half + width]
    for i in range(half):
        out = out + weights[i] * (
            rows[..., i : i + width] + rows[..., WINDOW - 1 - i : WINDOW - 1 - i + width]
        )
    return out


def _pair(fake: Any, real: Any, *, check: bool = True) -> tuple[Any, Any]:
    if check:
        _check(fake, real)
    if isinstance(fake, np.ndarray):
        return fake.astype(np.float64), real.astype(np.float64)
    if fake.device.type == "mps":  # has no float64, and float32 loses the variance of a bright image
        fake, real = fake.cpu(), real.cpu()
    return fake.double(), real.double()


def _check(fake: Any, real: Any) -> None:
    shapes = tuple(fake.shape), tuple(real.shape)
    kinds = str(fake.dtype).removeprefix("torch."), str(real.dtype).removeprefix("torch.")
    if isinstance(fake, np.ndarray) != isinstance(real, np.ndarray):
        raise SimilarityError("one image is an array, the other a tensor; give two of a kind")
    if shapes[0] != shapes[1] or len(shapes[0]) < 3 or shapes[0][-3] != 3 or not min(shapes[0][-2:]):
        raise SimilarityError(f"images of shapes {shapes[0]} and {shapes[1]}; expected both (..., 3, H, W)")
    if kinds != ("uint8", "uint8"):
        raise SimilarityError(
            f"images of {kinds[0]} and {kinds[1]}; expected uint8, as the images are written"
        )
