"""A slide cut into regions whose cells train or test together, with their rims apart."""

from dataclasses import dataclass
from typing import Literal, Self

import numpy as np

from past_core.errors import PastError

INTERIOR, RIM = 0, 1
"""The two parts of a region: cells at least the rim's width from its border, and the others."""


class RegionError(PastError, ValueError):
    """A partition that cannot be made."""


@dataclass(frozen=True)
class Regions:
    """A partition of a slide's cells.

    Spatial regions are squares. The rim lets a buffer be left out: a cell of one region's interior is at
    least `rim_um` away from every cell of every other region. Random regions are for showing what leakage
    adds.

    Attributes:
        kind: "spatial" or "random".
        region: `(N,)` int64, the region of every cell, 0..R-1; every region has cells.
        rim: `(N,)` bool, whether a cell is in its region's rim.
        place: `(R, 2)` row and column of each square; for random regions its number and 0.
        size_um: side of a square.
        rim_um: width of the rim.
    """

    kind: Literal["spatial", "random"]
    region: np.ndarray
    rim: np.ndarray
    place: np.ndarray
    size_um: float
    rim_um: float

    @classmethod
    def spatial(cls, xy_um: np.ndarray, *, size_um: float, rim_um: float) -> Self:
        """Squares of `size_um` from the cells' own corner.

        The squares are stretched so that a whole number of them covers the cells' extent.

        Args:
            xy_um: `(N, 2)` in µm.
            size_um: side of a square; at least three rims, else nothing would be left inside.
            rim_um: width of the rim, at least the side of the encoder's field.

        Raises:
            RegionError: no cells, or squares too small for the rim.
        """
        if not len(xy_um):
            raise RegionError("no cells to partition")
        if rim_um < 0 or size_um < 3 * rim_um or size_um <= 0:
            raise RegionError(
                f"regions of {size_um:g} µm with a rim of {rim_um:g} µm; "
                "a region must be at least three rims wide"
            )
        corner, extent = xy_um.min(axis=0), np.maximum(np.ptp(xy_um, axis=0), 1e-9)
        number = np.maximum(1, np.floor(extent / size_um + 1e-9)).astype(np.int64)
        side = extent / number
        column, row = np.minimum(((xy_um - corner) / side).astype(np.int64), number - 1).T
        offset = xy_um - corner - np.stack([column, row], axis=1) * side
        # Towards the outside of the tissue there is no neighbour to keep a distance from.
        low = np.where(np.stack([column, row], axis=1) > 0, offset, np.inf)
        high = np.where(np.stack([column, row], axis=1) < number - 1, side - offset, np.inf)
        rim = np.minimum(low, high).min(axis=1) < rim_um
        code, region = np.unique(row * number[0] + column, return_inverse=True)
        place = np.stack(np.divmod(code, number[0]), axis=1)
        return cls("spatial", region, rim, place, float(size_um), float(rim_um))

    @classmethod
    def random(cls, n: int, *, regions: int, seed: int = 0) -> Self:
        """Cells dealt at random: neighbours, whose patches overlap, fall on both sides of a split."""
        if not 2 <= regions <= n:
            raise RegionError(f"{regions} random regions of {n} cells; expected 2 to {n}")
        region = np.random.default_rng(seed).permutation(np.arange(n) % regions)
        place = np.stack([np.arange(regions), np.zeros(regions, np.int64)], axis=1)
        return cls("random", region, np.zeros(n, bool), place, 0.0, 0.0)

    @property
    def n_regions(self) -> int:
        """R."""
        return len(self.place)

    @property
    def part(self) -> np.ndarray:
        """`(N,)` int64 in 0..2R-1: 2 x region + (INTERIOR or RIM)."""
        return 2 * self.region + self.rim

    def sizes(self) -> np.ndarray:
        """`(R, 2)` number of cells inside and in the rim."""
        return np.bincount(self.part, minlength=2 * self.n_regions).reshape(-1, 2)

    def cells(self, parts: np.ndarray) -> np.ndarray:
        """`(N,)` bool, the cells of chosen parts.

        Args:
            parts: `(R, 2)` bool, which regions' interiors and rims.
        """
        return np.asarray(parts, bool).reshape(-1)[self.part]

    def touching(self, chosen: np.ndarray) -> np.ndarray:
        """`(R,)` bool, regions not chosen that share a side or corner with a chosen one (`(R,)` bool)."""
        chosen = np.asarray(chosen, bool)
        gap = np.abs(self.place[:, None] - self.place[None]).max(axis=2)
        return ~chosen & (gap[:, chosen] <= 1).any(axis=1)

    def everything(self) -> np.ndarray:
        """`(R, 2)` bool, all parts."""
        return np.ones((self.n_regions, 2), bool)
