"""Seeded randomness: one stream per purpose, and smooth random fields."""

from dataclasses import dataclass
from typing import Protocol
from zlib import crc32

import numpy as np
import scipy.ndimage
import scipy.sparse


class Seeded(Protocol):
    """What a stream is keyed by."""

    seed: int
    patient: str


def generator(config: Seeded, purpose: str) -> np.random.Generator:
    """The stream of one purpose of one patient: other purposes never change what it draws."""
    return np.random.default_rng([config.seed, crc32(config.patient.encode()), crc32(purpose.encode())])


@dataclass(frozen=True)
class Field:
    """A scalar field on a square, sampled on a coarse grid.

    Args:
        nodes: (n, n) float64, rows along y; node (i, j) lies at (x, y) = (j, i) · `step_um`.
        step_um: Distance of the nodes in µm.
    """

    nodes: np.ndarray
    step_um: float

    def at(self, points: np.ndarray) -> np.ndarray:
        """Linear interpolation at (N, 2) points (x, y) in µm, held constant outside the grid."""
        grid = points[:, ::-1].T / self.step_um
        return scipy.ndimage.map_coordinates(self.nodes, grid, order=1, mode="nearest")

    def image(self, shape: tuple[int, int], mpp: float) -> np.ndarray:
        """The field at the pixel centres of an image, (H, W) float32."""
        rows, columns = (_interpolation(n, len(self.nodes), mpp / self.step_um) for n in shape)
        half = (columns @ self.nodes.T.astype(np.float32)).T
        return np.ascontiguousarray(rows @ np.ascontiguousarray(half))


def _interpolation(pixels: int, nodes: int, scale: float) -> scipy.sparse.csr_matrix:
    """(pixels, nodes) weights of linear interpolation; sparse, for its sums have one order anywhere."""
    position = np.clip((np.arange(pixels) + 0.5) * scale, 0, nodes - 1)
    low = np.minimum(position.astype(np.int64), nodes - 2)
    high_weight = (position - low).astype(np.float32)
    weights = np.stack([1 - high_weight, high_weight], axis=1).ravel()
    columns = np.stack([low, low + 1], axis=1).ravel()
    return scipy.sparse.csr_matrix((weights, columns, np.arange(0, 2 * pixels + 1, 2)), shape=(pixels, nodes))


def grid_points(size_um: float, step_um: float) -> tuple[np.ndarray, int]:
    """The nodes of a `Field` on a square as (n², 2) points (x, y) in µm, row by row, and n."""
    n = int(np.ceil(size_um / step_um)) + 1
    y, x = np.mgrid[:n, :n] * step_um
    return np.stack([x.ravel(), y.ravel()], axis=1), n


def smooth_field(
    stream: np.random.Generator, size_um: float, *, scale_um: float, step_um: float = 4.0
) -> Field:
    """A smooth Gaussian random field with mean 0 and variance 1 over the square.

    Args:
        stream: Where the noise comes from.
        size_um: Side of the square.
        scale_um: Standard deviation of the smoothing kernel: features are about 3 times as wide.
        step_um: Grid step; make it several times smaller than the scale.
    """
    n = int(np.ceil(size_um / step_um)) + 1
    pad = int(np.ceil(3 * scale_um / step_um))
    noise = stream.standard_normal((n + 2 * pad, n + 2 * pad))
    smooth = scipy.ndimage.gaussian_filter(noise, scale_um / step_um, truncate=3)[
        pad : pad + n, pad : pad + n
    ]
    return Field((smooth - smooth.mean()) / smooth.std(), step_um)
