"""Held-out tiles: which are sampled where all take too long, and a figure that needs no sampling."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from past_vihc.data.batch import StainBatch
from past_vihc.models.diffusion.noise import Place, place_noise
from past_vihc.models.diffusion.schedule import NoiseSchedule

_GOLDEN = (5**0.5 - 1) / 2
_GROWTH = {1: 1.618033988749895, 2: 1.324717957244746, 3: 1.2207440846057595}
"""The real root of g^(d + 1) = g + 1: its negative powers step evenly through a cube of d dimensions."""


def spread_tiles(tiles: pd.DataFrame, part: str, per_case: int | None) -> np.ndarray:
    """A fixed choice of kept tiles, spread evenly over the images of every case and stain.

    Points of a low-discrepancy sequence (y, x, image) take the nearest tile that is left: every n-th tile
    might lie in one column of a regular grid. A larger choice holds the smaller one.

    Args:
        tiles: the data module's: `case`, `stain`, `source`, `y`, `x`, `kept` and `part`.
        part: `val` or `test`.
        per_case: tiles of a case and stain; None takes all.

    Returns:
        Their rows, ascending, int64.
    """
    rows = np.flatnonzero(tiles["kept"] & (tiles["part"] == part))
    if per_case is None:
        return rows
    own = tiles.iloc[rows]
    chosen = []
    for group in own.groupby(["case", "stain"], sort=False).indices.values():
        table = own.iloc[group]
        image = pd.factorize(table["source"], sort=True)[0]
        places = np.stack([table["y"], table["x"], image], axis=1).astype(float)
        varies = np.ptp(places, axis=0) > 0
        places = places[:, varies if varies.any() else [0]]
        places = (places - places.min(axis=0)) / np.maximum(np.ptp(places, axis=0), 1e-9)
        stride = 1 / _GROWTH[places.shape[1]] ** np.arange(1, 1 + places.shape[1])
        for number in range(min(per_case, len(group))):
            point = (0.5 + (number + 1) * stride) % 1
            nearest = int(np.argmin(((places - point) ** 2).sum(axis=1)))
            places[nearest] = np.inf
            chosen.append(rows[group[nearest]])
    return np.sort(np.array(chosen, np.int64))


def rows_of(batch: StainBatch, rows: np.ndarray) -> StainBatch:
    """Some tiles of a batch."""
    at = torch.from_numpy(rows).to(batch.he.device)
    return StainBatch._make(
        field[at] if isinstance(field, Tensor) else [field[row] for row in rows] for field in batch
    )


@torch.no_grad()
def noise_error(
    network: Callable[..., Tensor],
    schedule: NoiseSchedule,
    ihc: Tensor,
    he: Tensor,
    *,
    numbers: Sequence[int],
    embedding: Tensor | None = None,
    stain: Tensor | None = None,
    seed: int = 0,
) -> Tensor:
    """Mean squared error of the predicted noise, at steps and with noise that are each tile's own.

    Two evaluations of one network give the same figure, whatever the batches; it costs one pass.

    Args:
        network: as `ConditionedUNet`.
        schedule: of the diffusion.
        ihc: `(B, 3, H, W)` real stain in [-1, 1].
        he: `(B, 3, H, W)` H&E in [-1, 1].
        numbers: the B tiles' numbers; over many of them steps are evenly spread.
        embedding: as the network takes it.
        stain: as the network takes it.
        seed: of the noise.

    Returns:
        Scalar.
    """
    share = torch.tensor([(number * _GOLDEN) % 1 for number in numbers], dtype=torch.float64)
    t = (share * len(schedule)).long().to(ihc.device)
    places, size = [Place(number) for number in numbers], tuple(ihc.shape[-2:])
    noise = place_noise(places, *size, seed=seed, draw=0).to(ihc.device)
    output = network(schedule.add_noise(ihc, t, noise), t, he, embedding, stain)
    return (output.float()[:, : noise.shape[1]] - noise).square().mean()
