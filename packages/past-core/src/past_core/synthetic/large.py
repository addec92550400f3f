"""Synthetic H&E slides of any size: one rendered tissue, mirrored without seams, on glass."""

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile

from past_core.atomic import replacing
from past_core.synthetic.cohort import SyntheticError, TissueConfig
from past_core.synthetic.render import NOISE, render_he
from past_core.synthetic.seeding import generator
from past_core.synthetic.tissue import simulate_tissue

logger = logging.getLogger(__name__)

TILE = 256
PATTERN = 10 * TILE
"""Side in pixels of the tissue that is mirrored; a whole number of tiles, so that most tiles recur."""

QUALITY = 92
"""JPEG quality of the tiles."""

LEAST_LEVEL = 1024
"""The pyramid ends with the first level whose side is at most this many pixels."""

_LOBES = ((2, 0.05), (3, 0.04), (5, 0.02))
"""Order and relative height of the waves of the tissue's outline."""

_RADIUS = 0.44
"""Mean radius of the tissue, relative to the slide's side."""


def large_slide(path: Path | str, side_px: int, *, seed: int = 0, mpp: float = 0.25) -> Path:
    """Writes a square H&E slide: a pyramidal, tiled, JPEG-compressed BigTIFF with its resolution in its tags.

    A round piece of tissue with a wavy outline lies in the middle of clean glass. It repeats one rendered
    tissue of 640 µm by reflection, so that it is seamless. Memory stays at a few times that tissue's pixels,
    whatever the size; 40,000 pixels a side take less than a minute.

    Args:
        path: The file.
        side_px: Its height and width, at least 512.
        seed: Seed of tissue and glass.
        mpp: Micrometres per pixel.

    Returns:
        The path.

    Raises:
        SyntheticError: The size is too small, or the resolution out of the simulator's range.
    """
    if side_px < 2 * TILE:
        raise SyntheticError(f"side_px is {side_px}; a large slide has at least {2 * TILE}")
    path = Path(path)
    pattern = min(PATTERN, -(-side_px // (2 * TILE)) * TILE)
    pattern = max(pattern, math.ceil(100 / mpp / TILE) * TILE)
    config = TissueConfig(patient="large", cancer_type="breast", seed=seed, size_um=pattern * mpp, mpp=mpp)
    tissue = simulate_tissue(config)
    stream = generator(config, "glass")
    glass = tissue.patient.white + NOISE * stream.standard_normal((pattern, pattern, 3), dtype=np.float32)
    phases = stream.uniform(0, 2 * np.pi, len(_LOBES))
    level = _Level(render_he(tissue), np.clip(np.rint(glass), 0, 255).astype(np.uint8), side_px, phases)
    n_levels = max(0, math.ceil(math.log2(side_px / LEAST_LEVEL)))
    with replacing(path) as temporary, tifffile.TiffWriter(temporary, bigtiff=True) as writer:
        for number in range(n_levels + 1):
            if number:
                level = _Level(_halve(level.tissue), _halve(level.glass), -(-level.side // 2), phases)
            density = 1e4 / (mpp * 2**number)
            writer.write(
                level.tiles(),
                shape=(level.side, level.side, 3),
                dtype=np.uint8,
                tile=(TILE, TILE),
                photometric="ycbcr",
                subsampling=(2, 2),
                compression="jpeg",
                resolution=(density, density),
                resolutionunit="CENTIMETER",
                subifds=0 if number else n_levels,
                subfiletype=1 if number else 0,
                metadata=None,
                software="past",
            )
    return path


@dataclass(frozen=True)
class _Level:
    """One level of the pyramid.

    Args:
        tissue: (P, P, 3) the tissue that is mirrored.
        glass: (P, P, 3) bare glass.
        side: Side of the level in pixels.
        phases: Of the outline's waves, in radians.
    """

    tissue: np.ndarray
    glass: np.ndarray
    side: int
    phases: np.ndarray

    def tiles(self) -> Iterator[bytes]:
        """The encoded tiles, row by row; those of nothing but tissue or glass are encoded once."""
        period = math.lcm(2 * len(self.tissue), TILE) // TILE
        known: dict[tuple[bool, int, int], bytes] = {}
        count = -(-self.side // TILE)
        for row in range(count):
            for column in range(count):
                inside = self._inside(row * TILE, column * TILE)
                if inside.any() != inside.all():
                    yield _encode(self._pixels(row, column, inside))
                    continue
                name = bool(inside.all()), row % period, column % period
                if name not in known:
                    known[name] = _encode(self._pixels(row, column, inside))
                yield known[name]

    def _pixels(self, row: int, column: int, inside: np.ndarray) -> np.ndarray:
        if inside.all() or not inside.any():
            return _window(self.tissue if inside.all() else self.glass, row, column)
        parts = (_window(pattern, row, column) for pattern in (self.tissue, self.glass))
        return np.where(inside[..., None], *parts)

    def _inside(self, top: int, left: int) -> np.ndarray:
        """(TILE, TILE) bool: the tissue's pixels."""
        middle = self._depth(np.array([top + TILE / 2]), np.array([left + TILE / 2]))[0, 0]
        # The depth changes by at most 1.4 a pixel: only tiles on the outline are looked at pixel by pixel.
        if abs(middle) > 1.4 * TILE / np.sqrt(2):
            return np.full((TILE, TILE), middle > 0)
        return self._depth(np.arange(TILE) + top + 0.5, np.arange(TILE) + left + 0.5) > 0

    def _depth(self, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        """How far points lie within the outline, towards its middle, in pixels: (len(y), len(x))."""
        down, right = (y - self.side / 2)[:, None], x - self.side / 2
        angle = np.arctan2(down, right)
        wall = 1 + sum(
            height * np.cos(order * angle + phase)
            for (order, height), phase in zip(_LOBES, self.phases, strict=True)
        )
        return _RADIUS * self.side * wall - np.hypot(down, right)


def _window(pattern: np.ndarray, row: int, column: int) -> np.ndarray:
    """One tile of a pattern that is reflected for ever, (TILE, TILE, 3)."""
    (top, rows), (left, columns) = (_mirror(number * TILE, len(pattern)) for number in (row, column))
    near = pattern[top : top + rows.max() + 1, left : left + columns.max() + 1]
    return near[rows][:, columns]


def _mirror(start: int, size: int) -> tuple[int, np.ndarray]:
    """Where a tile looks into a reflected pattern: the lowest index, and all of them counted from there."""
    folded = (np.arange(TILE) + start) % (2 * size)
    index = np.minimum(folded, 2 * size - 1 - folded)
    return int(index.min()), index - index.min()


def _halve(pattern: np.ndarray) -> np.ndarray:
    """Means of 2 x 2 pixels; a pattern's side is a multiple of 256, and so even at every level."""
    half = len(pattern) // 2
    return np.rint(pattern.reshape(half, 2, half, 2, 3).mean(axis=(1, 3))).astype(np.uint8)


def _encode(tile: np.ndarray) -> bytes:
    return imagecodecs.jpeg8_encode(
        np.ascontiguousarray(tile), level=QUALITY, colorspace="RGB", outcolorspace="YCBCR", subsampling="420"
    )
