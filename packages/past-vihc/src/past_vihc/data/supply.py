"""From rows of the tile table to batches: blocks of pairs are read once, tiles cut from memory."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from past_core.augment import dihedral
from past_core.data.plan import BlockCells, EpochPlan
from past_vihc.data.batch import StainBatch
from past_vihc.data.blocks import BlockCache, Key
from past_vihc.data.embeddings import PairEmbeddings
from past_vihc.data.nuclei import GivenLabels, SegmentedLabels, relabel
from past_vihc.data.pairs import Pair, open_pair
from past_vihc.data.tiles import TileSpec

BLOCK = 2048
"""Side of the squares of a pair that are read together, in pixels of the tiles' resolution."""


@dataclass(frozen=True)
class PairBlock:
    """Pixels of a part of a pair.

    Attributes:
        top: its first row in the pair's view.
        left: its first column.
        he: `(3, h, w)` uint8.
        ihc: `(3, h, w)` uint8.
        labels: `(h, w)` whole numbers; None where nuclei were not asked for.
    """

    top: int
    left: int
    he: np.ndarray
    ihc: np.ndarray
    labels: np.ndarray | None

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return self.he.nbytes + self.ihc.nbytes + (0 if self.labels is None else self.labels.nbytes)


class TileSupply:
    """Batches of tiles, made as they are asked for; safe to use from several threads.

    Args:
        tiles: see `tile_table`.
        pairs: the table's pairs, by number.
        spec: the tiles.
        stains: names of stains, by number.
        embeddings: of every pair; None gives vectors of length 0.
        stands_in: `(tiles,)` which tile's embedding each tile gets; its own by default.
        segment: whether nuclei are segmented where a pair has no label image; they are 0 there otherwise.
        memory: bytes of pixels that are kept beyond those that batches under way need.
        source_mpp: see `open_pair`.
        cache: folder of the cache of segmented nuclei; `PAST_CACHE`, else the user's.
    """

    def __init__(
        self,
        tiles: pd.DataFrame,
        pairs: Sequence[Pair],
        spec: TileSpec,
        *,
        stains: Sequence[str],
        embeddings: Sequence[PairEmbeddings] | None = None,
        stands_in: np.ndarray | None = None,
        segment: bool = False,
        memory: int = 2**30,
        source_mpp: float | None = None,
        cache: str | Path | None = None,
    ) -> None:
        self.pairs, self.spec, self._embeddings = list(pairs), spec, embeddings
        self._pair, self._row, self._column = (tiles[name].to_numpy() for name in ("pair", "row", "column"))
        self._y, self._x = tiles["y"].to_numpy(), tiles["x"].to_numpy()
        self._stain = tiles["stain"].map({name: n for n, name in enumerate(stains)}).to_numpy(np.int64)
        self._stands_in = np.arange(len(tiles)) if stands_in is None else stands_in
        self._segment, self._source_mpp, self._cache = segment, source_mpp, cache
        self._step = max(1, BLOCK // spec.tile)
        self._across = tiles.groupby("pair")["column"].max() // self._step + 1
        self._down = tiles.groupby("pair")["row"].max() + 1
        self._wide = tiles.groupby("pair")["column"].max() + 1
        self._blocks = BlockCache(self._read, memory=memory)

    def blocks(self, tiles: np.ndarray) -> list[BlockCells]:
        """Blocks and their tiles, of the tiles with these numbers, in order."""
        pair, block = self._pair[tiles], self._block(tiles)
        order = np.lexsort((tiles, block, pair))
        edges = np.flatnonzero((np.diff(pair[order]) != 0) | (np.diff(block[order]) != 0)) + 1
        return [
            BlockCells(int(self._pair[part[0]]), int(self._block(part)[0]), part, self._points(part))
            for part in np.split(tiles[order], edges)
            if len(part)
        ]

    def cells(self, tiles: np.ndarray) -> list[np.ndarray]:
        """Pair, block, tile of the tiles with these numbers, `(n, 3)` for each pair, block by block."""
        found: dict[int, list[np.ndarray]] = {}
        for block in self.blocks(tiles):
            own = np.stack(np.broadcast_arrays(block.slide, block.block, block.rows), axis=1)
            found.setdefault(block.slide, []).append(own)
        return [np.concatenate(parts) for parts in found.values()]

    def hold(self, keys: Iterable[Key]) -> None:
        """See `BlockCache`."""
        self._blocks.hold(keys)

    def release(self, keys: Iterable[Key]) -> None:
        """See `BlockCache`."""
        self._blocks.release(keys)

    @property
    def nbytes(self) -> int:
        """Bytes of pixels in memory."""
        return self._blocks.nbytes

    def batch(self, cells: np.ndarray) -> StainBatch:
        """Tiles as one batch, in their order.

        Args:
            cells: `(B, 3)` pair, block, tile; or `(B, 4)` with one of the eight symmetries of the square, see
                `past_core.augment.dihedral`, which is applied to both images, to the nuclei and to a grid of
                embeddings.

        Raises:
            SlideError, LabelImageError: an image that is damaged or gone.
        """
        size, side = len(cells), self.spec.tile
        he, ihc = np.empty((size, 3, side, side), np.uint8), np.empty((size, 3, side, side), np.uint8)
        nuclei = np.zeros((size, side, side), np.int32)
        for pair, number in dict.fromkeys(map(tuple, cells[:, :2].tolist())):
            block = self._blocks.get((pair, number))
            for at in np.flatnonzero((cells[:, 0] == pair) & (cells[:, 1] == number)):
                y, x = self._y[cells[at, 2]] - block.top, self._x[cells[at, 2]] - block.left
                window = slice(y, y + side), slice(x, x + side)
                he[at], ihc[at] = block.he[:, *window], block.ihc[:, *window]
                if block.labels is not None:
                    nuclei[at] = relabel(block.labels[window])
        tiles = cells[:, 2]
        batch = StainBatch(
            torch.from_numpy(he),
            torch.from_numpy(ihc),
            self._embedding(tiles),
            torch.from_numpy(self._stain[tiles]),
            torch.from_numpy(nuclei),
            [self.pairs[number].case for number in cells[:, 0]],
            torch.from_numpy(np.array(tiles, np.int64)),
        )
        return batch if cells.shape[1] == 3 else turned(batch, torch.from_numpy(np.array(cells[:, 3])))

    def _embedding(self, tiles: np.ndarray) -> torch.Tensor:
        if self._embeddings is None:
            return torch.zeros((len(tiles), 0))
        source = self._stands_in[tiles]
        taken = [self._embeddings[self._pair[n]].take(self._row[n], self._column[n]) for n in source]
        return torch.from_numpy(np.stack(taken))

    def _block(self, tiles: np.ndarray) -> np.ndarray:
        across = self._across.reindex(self._pair[tiles]).to_numpy()
        return self._row[tiles] // self._step * across + self._column[tiles] // self._step

    def _points(self, tiles: np.ndarray) -> np.ndarray:
        return np.stack([self._x[tiles], self._y[tiles]], axis=1).astype(np.float64)

    def _read(self, key: Key) -> PairBlock:
        number, block = key
        row, column = (int(v) * self._step for v in divmod(block, int(self._across[number])))
        side = self.spec.tile
        height = min(self._step, int(self._down[number]) - row) * side
        width = min(self._step, int(self._wide[number]) - column) * side
        window = (row * side, column * side, height, width)
        opened = open_pair(self.pairs[number], source_mpp=self._source_mpp)
        try:
            labels = None
            if opened.pair.nuclei is not None:
                labels = GivenLabels(opened.pair.nuclei, opened.he, self.spec.mpp).read(*window)
            elif self._segment:
                labels = SegmentedLabels(opened.he, self.spec.mpp, self._cache).read(*window)
            he, ihc = (slide.at(self.spec.mpp).read(*window) for slide in (opened.he, opened.ihc))
            return PairBlock(window[0], window[1], he, ihc, labels)
        finally:
            opened.close()


def turned(batch: StainBatch, element: torch.Tensor) -> StainBatch:
    """Turns and mirrors each tile with all that lies on it; an embedding of the whole tile stays.

    Args:
        batch: B tiles.
        element: `(B,)` in 0..7, see `past_core.augment.dihedral`.
    """
    embedding = batch.embedding
    return batch._replace(
        he=dihedral(batch.he, element),
        ihc=dihedral(batch.ihc, element),
        nuclei=dihedral(batch.nuclei[:, None], element)[:, 0],
        embedding=dihedral(embedding, element) if embedding.ndim == 4 else embedding,
    )


class TilePlan:
    """The order of training tiles and how each is turned: functions of (seed, epoch, rank).

    Args:
        plan: the order.
        augment: whether tiles are turned and mirrored.
    """

    def __init__(self, plan: EpochPlan, *, augment: bool) -> None:
        self._plan, self._augment = plan, augment
        self.batch_size, self.batches_per_epoch = plan.batch_size, plan.batches_per_epoch

    def epoch(self, epoch: int) -> np.ndarray:
        """This rank's tiles of one epoch: `(batches, batch_size, 4)` int64 of pair, block, tile, symmetry."""
        cells = self._plan.epoch(epoch)
        rng = np.random.default_rng([self._plan.seed, epoch, 11, self._plan.rank])
        turns = rng.integers(0, 8, size=(*cells.shape[:2], 1)) if self._augment else 0
        return np.concatenate([cells, np.broadcast_to(turns, (*cells.shape[:2], 1))], axis=2)
