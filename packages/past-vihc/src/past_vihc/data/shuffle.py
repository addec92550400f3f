"""Embeddings of other tiles: the negative control, which must do worse."""

import numpy as np
import pandas as pd

from past_vihc.data.tiles import TileError


def derangement(places: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """Gives every item another place's item, none its own: one cycle through all places (Sattolo 1986).

    Args:
        places: `(n,)` int; items of one place, such as the stains of one tile, stay together.
        seed: of the cycle.

    Returns:
        `(n,)` int64: an item of the place that stands in for each item's. Where there is one place alone it
        can only stand for itself.
    """
    unique, first, inverse = np.unique(places, return_index=True, return_inverse=True)
    order = np.random.default_rng([seed, 5]).permutation(len(unique))
    partner = np.empty(len(unique), np.int64)
    partner[order] = np.roll(order, -1)
    return first[partner][inverse]


def shuffled(tiles: pd.DataFrame, *, seed: int = 0) -> np.ndarray:
    """Which tile's embedding each tile gets: that of another place of the same part, always the same one.

    Args:
        tiles: the tile table with `kept` and `part`; tiles that are not kept keep their own.
        seed: of the choice.

    Returns:
        `(tiles,)` int64 rows of the table.

    Raises:
        TileError: a part with one place alone.
    """
    stands_in = np.arange(len(tiles))
    for part in tiles["part"].unique():
        rows = np.flatnonzero(tiles["kept"] & (tiles["part"] == part))
        places = tiles.iloc[rows].groupby(["source", "y", "x"], sort=False).ngroup().to_numpy()
        if len(rows) and places.max() == 0:
            raise TileError(
                f"data.shuffle_embeddings: the part {part} has one tile, and none to exchange with"
            )
        stands_in[rows] = rows[derangement(places, seed=seed)]
    return stands_in
