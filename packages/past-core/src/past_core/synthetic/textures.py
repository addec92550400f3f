"""Seamless tiles of texture, and collagen fibres that follow a potential."""

import numpy as np
import scipy.fft

from past_core.synthetic.cohort import TissueConfig
from past_core.synthetic.seeding import Field

TILE = 1024
"""Side of a tile in pixels; tiles repeat without a seam."""


def _tile(stream: np.random.Generator, sigma: float | tuple[float, float]) -> np.ndarray:
    """A periodic Gaussian texture with mean 0 and variance 1, (TILE, TILE) float32."""
    spectrum = scipy.fft.rfft2(stream.standard_normal((TILE, TILE), dtype=np.float32))
    down, right = (sigma, sigma) if np.isscalar(sigma) else sigma
    gain = np.exp(-2 * (np.pi * down * np.fft.fftfreq(TILE)) ** 2)[:, None]
    gain = gain * np.exp(-2 * (np.pi * right * np.fft.rfftfreq(TILE)) ** 2)
    smooth = scipy.fft.irfft2(spectrum * gain.astype(np.float32), s=(TILE, TILE))
    return (smooth - smooth.mean()) / smooth.std()


def _spread(tile: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A tile repeated over the image."""
    repeats = [-(-n // TILE) for n in shape]
    return np.tile(tile, repeats)[: shape[0], : shape[1]]


def fine_grain(stream: np.random.Generator, config: TissueConfig) -> np.ndarray:
    """The unevenness of cytoplasm and matrix, (H, W) float32."""
    tile = 0.7 * _tile(stream, 0.5 / config.mpp) + 0.7 * _tile(stream, 1.6 / config.mpp)
    return _spread(tile, config.shape)


def patches(stream: np.random.Generator, config: TissueConfig, *, scale_um: float) -> np.ndarray:
    """Blotches of one size, mean 0 and variance 1, (H, W) float32."""
    return _spread(_tile(stream, scale_um / config.mpp), config.shape)


def chromatin(stream: np.random.Generator, config: TissueConfig) -> tuple[np.ndarray, np.ndarray]:
    """Clumps of chromatin, variance about 1, and sparse spots in [0, 1] (nucleoli), (H, W) float32."""
    clumps = 0.75 * _tile(stream, 0.55 / config.mpp) + 0.6 * _tile(stream, 0.27 / config.mpp)
    spots = np.clip((_tile(stream, 0.75 / config.mpp) - 1.5) / 0.6, 0, 1)
    return _spread(np.clip(clumps, -1.8, 1.8), config.shape), _spread(spots, config.shape)


def fibres(stream: np.random.Generator, config: TissueConfig, potential: Field) -> np.ndarray:
    """Bundles of fibres along the level lines of a potential, (H, W) float32, about mean 0 and variance 1.

    A tile that is fine across and long along the fibres is looked up at (potential, the way along), both in
    µm.
    """
    across = potential.image(config.shape, config.mpp)
    slope = np.gradient(potential.nodes, potential.step_um)
    mean = np.array([slope[0].mean(), slope[1].mean()])
    mean /= np.hypot(*mean)
    height, width = config.shape
    y = ((np.arange(height, dtype=np.float32) + 0.5) * config.mpp)[:, None]
    x = (np.arange(width, dtype=np.float32) + 0.5) * config.mpp
    along = np.float32(mean[1]) * y - np.float32(mean[0]) * x
    tile = 0.75 * _tile(stream, (3.0, 60.0)) + 0.65 * _tile(stream, (9.0, 120.0))
    rows = (across * 4).astype(np.int32) % TILE
    columns = (along * 4).astype(np.int32) % TILE
    return tile[rows, columns]
