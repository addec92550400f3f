"""How alike two images are, pixel by pixel: PSNR and SSIM on the 0..255 scale."""

import numpy as np

from past_core.errors import PastError

DATA_RANGE = 255.0
PSNR_LIMIT = 100.0
"""PSNR of equal images in dB, which the formula leaves infinite; a mean over tiles stays a number."""
SSIM_SIGMA, SSIM_WINDOW = 1.5, 11
"""Standard deviation of SSIM's Gaussian window, and its side in pixels."""


class ImageError(PastError, ValueError):
    """Images that cannot be compared."""


def psnr(fake: np.ndarray, real: np.ndarray) -> float:
    """Peak signal-to-noise ratio, 10 · log10(255² / MSE), over all pixels and channels, in dB.

    Args:
        fake: `(3, H, W)` uint8.
        real: `(3, H, W)` uint8.

    Raises:
        ImageError: other shapes or types.
    """
    _check(fake, real)
    error = np.mean((fake.astype(np.float64) - real) ** 2)
    return PSNR_LIMIT if error == 0 else min(PSNR_LIMIT, float(10 * np.log10(DATA_RANGE**2 / error)))


def ssim(fake: np.ndarray, real: np.ndarray) -> float:
    """Structural similarity (Wang et al. 2004), the mean over channels.

    Gaussian window of 11 pixels and σ 1.5, population covariance, constants for a range of 255; half a window
    along the border is left out. This is scikit-image's.

    Args:
        fake: `(3, H, W)` uint8, at least 11 pixels a side.
        real: `(3, H, W)` uint8.

    Raises:
        ImageError: other shapes or types, or smaller images.
    """
    from skimage.metrics import structural_similarity

    _check(fake, real)
    if min(fake.shape[1:]) < SSIM_WINDOW:
        raise ImageError(f"images of {fake.shape[1:]} pixels; SSIM's window needs {SSIM_WINDOW} a side")
    return float(
        structural_similarity(
            fake,
            real,
            channel_axis=0,
            data_range=DATA_RANGE,
            gaussian_weights=True,
            sigma=SSIM_SIGMA,
            use_sample_covariance=False,
        )
    )


def ssim_paper(fake: np.ndarray, real: np.ndarray) -> float:
    """SSIM as the PAST paper prints it: one mean, variance and covariance over the whole tile, by channel.

    Args:
        fake: `(3, H, W)` uint8.
        real: `(3, H, W)` uint8.

    Raises:
        ImageError: other shapes or types.
    """
    _check(fake, real)
    x, y = (image.reshape(3, -1).astype(np.float64) for image in (fake, real))
    c1, c2 = (0.01 * DATA_RANGE) ** 2, (0.03 * DATA_RANGE) ** 2
    mx, my = x.mean(axis=1), y.mean(axis=1)
    covariance = (x * y).mean(axis=1) - mx * my
    values = (2 * mx * my + c1) * (2 * covariance + c2)
    return float(np.mean(values / ((mx**2 + my**2 + c1) * (x.var(axis=1) + y.var(axis=1) + c2))))


def _check(fake: np.ndarray, real: np.ndarray) -> None:
    for image in (fake, real):
        if image.ndim != 3 or image.shape[0] != 3 or image.dtype != np.uint8 or not image.size:
            raise ImageError(f"an image of shape {image.shape}, {image.dtype}; expected (3, H, W) uint8")
    if fake.shape != real.shape:
        raise ImageError(f"images of {fake.shape[1:]} and {real.shape[1:]} pixels; expected the same size")
