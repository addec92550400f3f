"""Tiles of pairs: squares side by side from each image's corner, and their table."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from past_core.errors import PastError
from past_vihc.data.pairs import OpenPair, Pair

COLUMNS = ("case", "stain", "source", "y", "x", "kept", "reason")
WHOLE = 1e-6
"""Relative tolerance of "a whole multiple"."""


class TileError(PastError, ValueError):
    """Tiles that cannot be: a size that does not fit, or images too small for one."""


@dataclass(frozen=True, kw_only=True)
class TileSpec:
    """Size and resolution of tiles, and the grid of their conditioning.

    Attributes:
        tile: side in pixels.
        mpp: µm per pixel.
        pitch_um: distance of the conditioning's nodes; tiles are a whole number of them wide.

    Raises:
        TileError: not positive, or a pitch that does not divide the tile.
    """

    tile: int = 128
    mpp: float = 0.5
    pitch_um: float = 32.0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.mpp) and self.mpp > 0 and np.isfinite(self.pitch_um) and self.pitch_um > 0):
            raise TileError(f"mpp {self.mpp}, pitch_um {self.pitch_um}; expected positive numbers")
        if self.tile < 8:
            raise TileError(f"tiles of {self.tile} px; expected at least 8")
        steps = self.tile_um / self.pitch_um
        if steps < 1 - WHOLE or abs(steps - round(steps)) > WHOLE * steps:
            raise TileError(
                f"tiles of {self.tile} px at {self.mpp:g} µm ({self.tile_um:g} µm) are no whole multiple of "
                f"pitch_um {self.pitch_um:g}; take a pitch of {self.tile_um / max(1, round(steps)):g} µm, so "
                "that "
                "nodes lie on the tiles' corners and neighbours share them"
            )
        if self.tile % round(steps):
            raise TileError(
                f"pitch_um {self.pitch_um:g} is {self.tile / round(steps):.2f} px at {self.mpp:g} µm; take "
                "one of whole pixels, for slides are stained on a grid of pixels"
            )

    @property
    def tile_um(self) -> float:
        """Side in µm."""
        return self.tile * self.mpp

    @property
    def nodes(self) -> int:
        """Nodes along a tile's side, both ends included."""
        return round(self.tile_um / self.pitch_um) + 1

    def grid(self, opened: OpenPair) -> tuple[int, int]:
        """Rows and columns of the whole tiles in the field of a pair.

        Raises:
            TileError: not one fits.
        """
        he, ihc = opened.he.at(self.mpp), opened.ihc.at(self.mpp)
        rows = min(he.height, ihc.height) // self.tile
        columns = min(he.width, ihc.width) // self.tile
        if not rows or not columns:
            raise TileError(
                f"pair {opened.pair.name}: {he.width} x {he.height} px at {self.mpp:g} µm per pixel are too "
                "small for "
                f"a tile of {self.tile} px; lower data.tile, or check the resolution ({opened.he.mpp:g} µm "
                "per pixel)"
            )
        return rows, columns


def tile_table(pairs: Sequence[Pair], grids: Sequence[tuple[int, int]], spec: TileSpec) -> pd.DataFrame:
    """All tiles of all pairs, all of them kept so far.

    Args:
        pairs: where to cut.
        grids: rows and columns of each pair's tiles.
        spec: what to cut.

    Returns:
        one row a tile, by pair and in reading order: `case`, `stain`, `source` (the H&E image), `y` and `x`
        (its top left corner in pixels at `spec.mpp`), `kept`, `reason` (why not), `pair` (number), `row`,
        `column`.

    Raises:
        TileError: no pairs.
    """
    parts = []
    for number, (pair, (rows, columns)) in enumerate(zip(pairs, grids, strict=True)):
        row, column = (axis.ravel() for axis in np.mgrid[:rows, :columns])
        part = pd.DataFrame({"y": row * spec.tile, "x": column * spec.tile, "kept": True, "reason": ""})
        part = part.assign(pair=number, row=row, column=column)
        parts.append(part.assign(case=pair.case, stain=pair.stain, source=str(pair.he)))
    if not parts:
        raise TileError("no pairs to cut tiles from")
    table = pd.concat(parts, ignore_index=True)
    return table[[*COLUMNS, "pair", "row", "column"]]
