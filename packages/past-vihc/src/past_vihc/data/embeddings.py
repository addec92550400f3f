"""What the frozen encoder sees around each tile, or at the nodes of its grid; kept in the cache."""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from past_core.atomic import replacing
from past_core.embed.partial import PartialError, sweep
from past_core.embed.vectors import embed_patches
from past_core.foreign.arrays import open_npy
from past_core.foreign.errors import ForeignError
from past_core.slides import Slide
from past_core.synthetic.cache import cache_folder
from past_vihc.data.content import content_key
from past_vihc.data.pairs import Pair, open_pair
from past_vihc.data.tiles import TileSpec

if TYPE_CHECKING:
    from past_core.frozen import FrozenEncoder

logger = logging.getLogger(__name__)

Granularity = Literal["tile", "cells"]
WAIT = 1.0
"""Seconds between two looks at what another process is making."""


@dataclass(frozen=True)
class PairEmbeddings:
    """Vectors of one H&E image.

    Attributes:
        values: `(rows, columns, d)` float32 by tile, or `(rows * k + 1, columns * k + 1, d)` by node, where k
            is the number of steps of the pitch in a tile; memory-mapped.
        steps: k; 0 by tile.
    """

    values: np.ndarray
    steps: int

    def take(self, row: int, column: int) -> np.ndarray:
        """The embedding of one tile: `(d,)`, or `(d, k + 1, k + 1)` at the nodes from corner to corner."""
        k = self.steps
        if not k:
            return np.asarray(self.values[row, column])
        nodes = self.values[row * k : row * k + k + 1, column * k : column * k + k + 1]
        return np.moveaxis(nodes, 2, 0)


def embedding_points(
    slide: Slide, spec: TileSpec, grid: tuple[int, int], granularity: Granularity
) -> np.ndarray:
    """Where the encoder looks: tile centres, or the nodes of the pitch grid from the slide's corner.

    Args:
        slide: an open slide of known resolution.
        spec: the tiles.
        grid: rows and columns of tiles.
        granularity: `tile` or `cells`.

    Returns:
        `(R, C, 2)` x, y in level-0 pixels.
    """
    downsample = slide.at(spec.mpp).downsample
    if granularity == "tile":
        y, x = ((np.arange(n) + 0.5) * spec.tile * downsample for n in grid)
    else:
        steps = spec.nodes - 1
        y, x = (np.arange(n * steps + 1) * (spec.tile / steps * downsample) for n in grid)
    return np.stack(np.broadcast_arrays(x[None, :], y[:, None]), axis=-1)


def embed_pair(
    pair: Pair,
    spec: TileSpec,
    grid: tuple[int, int],
    encoder: "FrozenEncoder",
    *,
    granularity: Granularity = "tile",
    source_mpp: float | None = None,
    cache: str | Path | None = None,
    batch_size: int = 64,
    report: Callable[[int], None] | None = None,
) -> PairEmbeddings:
    """Embeds the H&E of a pair on fields of `encoder.field_um`; what lies outside the image is white.

    Kept in `vihc/embeddings` of the cache by the encoder's fingerprint and precision, the image's content,
    its resolution and the points. All tiles of the grid are embedded, so that other limits of curation, and
    other stains of the same H&E, take the same file. A killed run goes on where it stood; of several
    processes one works and the others wait.

    Args:
        pair: whose H&E.
        spec: the tiles.
        grid: rows and columns of tiles.
        encoder: the encoder, d wide.
        granularity: `tile` or `cells`.
        source_mpp: see `open_pair`.
        cache: folder of the cache; `PAST_CACHE`, else the user's.
        batch_size: patches at a time.
        report: called with the number of new vectors after every batch.

    Raises:
        EmbedError: a vector that is not finite, with the encoder and the place.
        PairError, PairNotFoundError, SlideError: a pair that cannot be opened.
    """
    opened = open_pair(pair, source_mpp=source_mpp)
    try:
        points = embedding_points(opened.he, spec, grid, granularity)
        key = {
            "encoder": encoder.fingerprint,
            "precision": encoder.precision,
            "source": content_key(pair.he),
            "mpp": opened.he.mpp,
            "points": hashlib.sha256(points.astype("<f8").tobytes()).hexdigest(),
        }
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        path = cache_folder(cache) / "vihc" / "embeddings" / f"{digest[:32]}.npy"
        shape = (*points.shape[:2], encoder.dim)
        waiting = False
        while (found := _read(path, shape)) is None:
            try:
                _make(opened.he, points, encoder, path, batch_size, report or (lambda done: None))
            except PartialError:
                if not waiting:
                    logger.info("%s: another process embeds it; waiting", pair.he)
                waiting = True
                time.sleep(WAIT)
    finally:
        opened.close()
    return PairEmbeddings(found, spec.nodes - 1 if granularity == "cells" else 0)


def embed_pairs(
    pairs: Sequence[Pair],
    spec: TileSpec,
    grids: Sequence[tuple[int, int]],
    encoder: "FrozenEncoder",
    *,
    granularity: Granularity = "tile",
    source_mpp: float | None = None,
    cache: str | Path | None = None,
    batch_size: int = 64,
) -> list[PairEmbeddings]:
    """Embeds every pair's H&E, see `embed_pair`; what is new is logged."""
    made = []
    for number, (pair, grid) in enumerate(zip(pairs, grids, strict=True), start=1):
        new: list[int] = []
        made.append(
            embed_pair(
                pair,
                spec,
                grid,
                encoder,
                granularity=granularity,
                source_mpp=source_mpp,
                cache=cache,
                batch_size=batch_size,
                report=new.append,
            )
        )
        if new:
            logger.info("embedded %s: %d vectors (%d of %d)", pair.he, sum(new), number, len(pairs))
    return made


def _make(
    slide: Slide,
    points: np.ndarray,
    encoder: "FrozenEncoder",
    path: Path,
    batch_size: int,
    report: Callable[[int], None],
) -> None:
    flat = points.reshape(-1, 2)
    names = [f"at ({x:.0f}, {y:.0f})" for x, y in flat]
    made = embed_patches(slide, flat, names, encoder, batch_size, report, path)
    with replacing(path) as temporary:
        np.save(temporary, made.reshape(*points.shape[:2], -1))
    sweep(path)


def _read(path: Path, shape: tuple[int, int, int]) -> np.ndarray | None:
    if not path.is_file():
        return None
    try:
        found = open_npy(path)
    except (ForeignError, OSError) as error:
        logger.warning("%s is damaged (%s): made again", path, error)
        return None
    if found.shape != shape or found.dtype != np.float32:
        logger.warning("%s holds %s of %s: made again", path, found.dtype, found.shape)
        return None
    return found
