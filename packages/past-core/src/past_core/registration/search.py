"""The small rigid motion that brings all windows' nuclei onto the haematoxylin at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from past_core.registration.correlate import correlation
from past_core.registration.nuclei_points import NucleiImage
from past_core.registration.rigid import Similarity
from past_core.registration.windows import Frame, read_window
from past_core.slides import Slide

STEP_UM = 2.0
"""How far apart neighbouring angles (and scales) put the farthest window: less than half a nucleus."""


@dataclass(frozen=True)
class Affine:
    """An affine matrix as a frame: (3, 3), H&E µm to morphology µm."""

    matrix: np.ndarray

    def __call__(self, he_um: np.ndarray) -> np.ndarray:
        """(N, 2) H&E to morphology."""
        return he_um @ self.matrix[:2, :2].T + self.matrix[:2, 2]

    def to_he(self, fixed_um: np.ndarray) -> np.ndarray:
        """(N, 2) morphology to H&E."""
        back = np.linalg.inv(self.matrix)
        return fixed_um @ back[:2, :2].T + back[:2, 2]


@dataclass(frozen=True)
class Moved:
    """A frame whose nuclei are moved on the H&E, by a similarity in H&E µm."""

    frame: Frame
    move: Similarity

    def __call__(self, he_um: np.ndarray) -> np.ndarray:
        """(N, 2) H&E to morphology."""
        return self.frame(self.move.inverse(he_um))

    def to_he(self, fixed_um: np.ndarray) -> np.ndarray:
        """(N, 2) morphology to H&E."""
        return self.move(self.frame.to_he(fixed_um))


@dataclass(frozen=True)
class Found:
    """What the search found.

    Attributes:
        move: of the nuclei on the H&E, in µm.
        score: mean correlation over the windows there.
        score_before: without it.
        edge: the best shift lies on the border of the search.
    """

    move: Similarity
    score: float
    score_before: float
    edge: bool


def search(
    slide: Slide,
    nuclei: NucleiImage,
    frame: Frame,
    middles_um: np.ndarray,
    *,
    side_um: float,
    shift_um: float,
    angle_deg: float,
    scale: float = 0.0,
) -> Found:
    """Tries every shift, angle and scale of a grid on the windows' correlations.

    Each window is correlated once, over all shifts that any of the motions gives it. Memory is that of the
    windows' correlations, a few MB each.

    Args:
        slide: the H&E.
        nuclei: of the bundle.
        frame: the start.
        middles_um: (K, 2) of the windows in morphology µm.
        side_um: of the windows.
        shift_um: largest shift along each axis.
        angle_deg: largest angle, about the windows' middle.
        scale: largest change of the scale, such as 0.01.
    """
    at = frame.to_he(middles_um)
    centre = at.mean(axis=0)
    arms = at - centre
    longest = float(np.linalg.norm(arms, axis=1).max(initial=0.0))
    reach = longest * float(np.hypot(np.radians(angle_deg), scale))
    surfaces, mpp = [], 1.0
    for middle in middles_um:
        seen = read_window(slide, nuclei, frame, middle, side_um=side_um, search_um=shift_um + reach + 2)
        surfaces.append(correlation(seen.nuclei, seen.stain).astype(np.float32))
        mpp = seen.mpp
    radius = int(shift_um / mpp)
    best, score, edge = Similarity(np.eye(2), np.zeros(2)), -np.inf, False
    for factor in 1 + _grid(scale, longest):
        for angle in _grid(float(np.radians(angle_deg)), longest):
            turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
            levers = np.round((factor * arms @ turn.T - arms) / mpp).astype(int)
            total = _total(surfaces, levers, radius)
            row, column = np.unravel_index(int(np.argmax(total)), total.shape)
            if total[row, column] > score + 1e-9:
                score = float(total[row, column])
                shift = (np.array([column, row]) - radius) * mpp
                best = Similarity(turn, centre + shift - factor * (turn @ centre), float(factor))
                edge = not (0 < row < 2 * radius and 0 < column < 2 * radius)
    before = _total(surfaces, np.zeros((len(surfaces), 2), dtype=int), 0)[0, 0]
    return Found(best, score / len(surfaces), float(before) / len(surfaces), edge)


def _grid(limit: float, lever_um: float) -> np.ndarray:
    """Values from -limit to limit, 0 among them, that move the end of a lever by at most `STEP_UM` each."""
    if limit <= 0:
        return np.zeros(1)
    steps = max(1, int(np.ceil(limit * lever_um / STEP_UM)))
    values = np.linspace(-limit, limit, 2 * steps + 1)
    # From the middle outwards: of motions that fit alike, the smallest is taken.
    return values[np.argsort(np.abs(values), kind="stable")]


def _total(surfaces: Sequence[np.ndarray], levers: np.ndarray, radius: int) -> np.ndarray:
    """(2 r + 1, 2 r + 1) sum of the surfaces, each shifted by its lever."""
    total = np.zeros((2 * radius + 1, 2 * radius + 1))
    for surface, (x, y) in zip(surfaces, levers, strict=True):
        row, column = (np.array(surface.shape) // 2) + (y - radius, x - radius)
        total += surface[row : row + 2 * radius + 1, column : column + 2 * radius + 1]
    return total
