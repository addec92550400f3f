"""Smooth closed outlines (glands, nests, vessels, lumens) as radii over the angle."""

from dataclasses import dataclass

import numpy as np

HARMONICS = (2, 3, 5)


@dataclass(frozen=True)
class Blobs:
    """n star-shaped outlines r(θ) = radius · (1 + Σ_k amplitude_k · cos(kθ + phase_k)), k in `HARMONICS`.

    Args:
        centre: (n, 2) x, y in µm.
        radius: (n,) mean radius in µm.
        amplitude: (n, 3) relative amplitudes.
        phase: (n, 3) radians.
    """

    centre: np.ndarray
    radius: np.ndarray
    amplitude: np.ndarray
    phase: np.ndarray

    def __len__(self) -> int:
        return len(self.radius)

    def __getitem__(self, index: np.ndarray | slice) -> "Blobs":
        return Blobs(self.centre[index], self.radius[index], self.amplitude[index], self.phase[index])

    def scaled(self, factor: float) -> "Blobs":
        """The same outlines with all radii multiplied."""
        return Blobs(self.centre, self.radius * factor, self.amplitude, self.phase)

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Radial distance from each outline, (P, n) in µm, negative inside."""
        pairs = np.indices((len(points), len(self))).reshape(2, -1)
        return self._distance(points, *pairs).reshape(len(points), len(self))

    def _distance(self, points: np.ndarray, point: np.ndarray, blob: np.ndarray) -> np.ndarray:
        """Radial distance of chosen points from chosen outlines, (pairs,)."""
        offset = points[point] - self.centre[blob]
        angle = np.arctan2(offset[:, 1], offset[:, 0])
        wall = np.ones(len(angle))
        for k, harmonic in enumerate(HARMONICS):
            wall += self.amplitude[blob, k] * np.cos(harmonic * angle + self.phase[blob, k])
        return np.hypot(*offset.T) - self.radius[blob] * wall

    def nearest(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distance from the nearest outline, (P,) in µm, and its index; inf and -1 where there is none."""
        if not len(self):
            return np.full(len(points), np.inf), np.full(len(points), -1)
        gap = np.hypot(*(points[:, None, :] - self.centre[None]).transpose(2, 0, 1)) - self.radius
        slack = self.radius * np.abs(self.amplitude).sum(axis=1)
        # Only outlines that can be nearest given how far they swing about their circles.
        point, blob = np.nonzero(gap - slack <= (gap + slack).min(axis=1, keepdims=True))
        distance = self._distance(points, point, blob)
        order = np.lexsort((distance, point))
        first = order[np.searchsorted(point, np.arange(len(points)))]
        return distance[first], blob[first]

    def mask(self, shape: tuple[int, int], mpp: float) -> np.ndarray:
        """(H, W) bool: pixels whose centre lies inside any outline."""
        inside = np.zeros(shape, bool)
        reach = self.radius * (1 + np.abs(self.amplitude).sum(1))
        for i in range(len(self)):
            low = np.maximum(np.floor((self.centre[i] - reach[i]) / mpp).astype(int), 0)
            high = np.minimum(np.ceil((self.centre[i] + reach[i]) / mpp).astype(int) + 1, shape[::-1])
            if self.radius[i] <= 0 or (high <= low).any():
                continue
            y, x = np.mgrid[low[1] : high[1], low[0] : high[0]]
            points = (np.stack([x.ravel(), y.ravel()], axis=1) + 0.5) * mpp
            inside[low[1] : high[1], low[0] : high[0]] |= (self[i : i + 1].distance(points) < 0).reshape(
                x.shape
            )
        return inside


def place(
    stream: np.random.Generator,
    radius: np.ndarray,
    *,
    size_um: float,
    taken: "Blobs | None" = None,
    gap_um: float = 10.0,
    roughness: float = 0.1,
    tries: int = 200,
) -> Blobs:
    """Places discs of given radii at random without touching, largest first, and roughens their outlines.

    Args:
        stream: Source of randomness.
        radius: (n,) wanted radii in µm; those that find no room are left out.
        size_um: Side of the square; centres lie inside, outlines may cross its edge.
        taken: Outlines already there.
        gap_um: Least distance between outlines.
        roughness: Standard deviation of the relative amplitude of the second harmonic; higher ones get less.
        tries: Draws for each disc before it is left out.
    """
    centres = np.empty((0, 2)) if taken is None else taken.centre
    radii = np.empty(0) if taken is None else taken.radius
    first = len(radii)
    for r in np.sort(radius)[::-1]:
        candidates = stream.uniform(0, size_um, (tries, 2))
        clear = np.hypot(*(candidates[:, None] - centres[None]).transpose(2, 0, 1)) - radii - r - gap_um
        free = np.flatnonzero((clear > 0).all(axis=1))
        if len(free):
            centres = np.concatenate([centres, candidates[free[:1]]])
            radii = np.append(radii, r)
    n = len(radii) - first
    spread = roughness * np.array([1.0, 0.6, 0.35])
    amplitude = np.clip(stream.normal(0, 1, (n, 3)), -1.6, 1.6) * spread
    return Blobs(centres[first:], radii[first:], amplitude, stream.uniform(0, 2 * np.pi, (n, 3)))
