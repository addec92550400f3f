"""The data of contrastive pretraining as a Lightning DataModule."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import lightning.pytorch as pl
import numpy as np

from past_core.data.batch import CellBatch
from past_core.data.loader import SlideLoader, TrainLoader
from past_core.data.plan import BatchSizeError, BlockCells, EpochPlan
from past_core.data.split import SplitError, held_out_patients, held_out_strip
from past_core.data.supply import PatchSpec, RegionSupply, SlideSource, open_stores
from past_core.errors import PastError
from past_core.ingest.store import SlideStore
from past_core.tokens import GeneMeans, Vocabulary

logger = logging.getLogger(__name__)

CENTRING_CELLS = 512
DEFAULT_GROUP_SIZE = 1
"""A shuffled batch: `python -m benchmarks locality` compares."""


class NotSetUpError(PastError, RuntimeError):
    """Batches were asked of a DataModule before `setup`."""


class PretrainDataModule(pl.LightningDataModule):
    """Cells of slide stores as batches of patches, rank tokens and neighbourhoods.

    Without `slides` the embedded default is used: five synthetic patients, made once into the user cache.

    Args:
        slides: slide stores (`past ingest` makes them): paths, or URLs as s3://BUCKET/SLIDE.zarr.
        val_slides: slide stores to validate on; replaces the split by patient.
        val_patients: patients among `slides` to validate on.
        val_fraction: share of the patients to validate on where neither is given; 0 validates on none.
        val_strip: with a single patient, share of each slide that is cut off as a strip instead, which says
            less, and is warned of.
        vocabulary: `panel` (all genes of the training slides), `nicheformer` (the paper's 20,310 genes,
            fetched once), or a path of that vocabulary's file.
        gene_means: `train` (non-zero means of the training cells) or `technology` (the published means of
            the slides' assay; needs the nicheformer vocabulary).
        max_genes: gene tokens per cell, after the three context tokens.
        context_order: order of the three context tokens; the cell encoder's.
        missing_means: `drop` genes without a mean, or divide them by `one`; the cell encoder's.
        mpp: µm per pixel of a patch; the image encoder's.
        patch_size: side of a patch in pixels; the image encoder's.
        batch_size: cells in a batch of one rank.
        val_batch_size: cells in a validation batch.
        group_size: neighbouring cells drawn together, as hard negatives; 1 is a shuffled batch.
        open_blocks: blocks of slides that are mixed, and kept in memory, per shard.
        shards: parts of an epoch that are read apart; null is one for each rank. With a fixed number (a
            multiple of the ranks) training takes the same cells in the same steps on any number of ranks,
            where batch_size times ranks is the same.
        balance: exponent on the slides' sizes; 1 draws every cell once an epoch, 0 all slides alike.
        max_val_cells: largest gallery of a validation slide; a larger slide is thinned evenly.
        seed: seed of the order of cells and of the augmentation.
        morphology: strength of the morphology in the embedded default, 0 to 1.

    Raises:
        StoreNotFoundError, StoreError: a slide is missing or damaged.
        SplitError: nothing is left to train on.
        BatchSizeError: fewer cells than one step over all ranks needs.
        VocabularyError: a slide shares no gene with the vocabulary.
    """

    def __init__(
        self,
        *,
        slides: list[str] | None = None,
        val_slides: list[str] | None = None,
        val_patients: list[str] | None = None,
        val_fraction: float = 0.25,
        val_strip: float = 0.2,
        vocabulary: str = "panel",
        gene_means: Literal["train", "technology"] = "train",
        max_genes: int = 300,
        context_order: tuple[str, str, str] = ("assay", "organism", "modality"),
        missing_means: Literal["drop", "one"] = "drop",
        mpp: float = 0.25,
        patch_size: int = 224,
        batch_size: int = 48,
        val_batch_size: int = 256,
        group_size: int = DEFAULT_GROUP_SIZE,
        open_blocks: int = 16,
        shards: int | None = None,
        balance: float = 1.0,
        max_val_cells: int = 20_000,
        seed: int = 0,
        morphology: float = 1.0,
    ) -> None:
        super().__init__()
        self._slides, self._val_slides, self._val_patients = slides, val_slides, val_patients
        self._val_fraction, self._val_strip, self._vocabulary_name, self._means_name = (
            val_fraction,
            val_strip,
            vocabulary,
            gene_means,
        )
        self.max_genes, self.mpp, self.patch_size = max_genes, mpp, patch_size
        self.context_order, self.missing_means = tuple(context_order), missing_means
        self.batch_size, self.val_batch_size = batch_size, val_batch_size
        self.group_size, self.open_blocks = group_size, open_blocks
        self.shards, self.balance = shards, balance
        self.max_val_cells, self.seed, self._morphology = max_val_cells, seed, morphology
        self.train_stores: list[SlideStore] = []
        self.val_stores: list[SlideStore] = []
        self.vocabulary: Vocabulary | None = None
        self.gene_means: np.ndarray | None = None
        self._supply: RegionSupply | None = None

    # --- steps ----------------------------------------------------------------------------------------------

    def prepare_data(self) -> None:
        """Makes the embedded default and fetches the vocabulary, once, on one process of a node."""
        if self._vocabulary_name == "nicheformer":
            Vocabulary.nicheformer()
        if self._slides is None:
            from past_core.synthetic.default import default_slides

            default_slides(morphology=self._morphology)

    def setup(self, stage: str) -> None:
        """Opens the slides, splits them, and learns vocabulary and gene means from the training cells."""
        if self._supply is not None:
            return
        if self.batch_size < 2:
            raise BatchSizeError(
                f"data.batch_size is {self.batch_size}; a contrastive batch needs at least 2 cells"
            )
        self._split(open_stores(self._paths()))
        vocabulary, gene_means = self._learn_genes()
        self.vocabulary, self.gene_means = vocabulary, gene_means
        spec = PatchSpec(mpp=self.mpp, size=self.patch_size)
        sources = [
            SlideSource(
                store,
                spec=spec,
                vocabulary=vocabulary,
                gene_means=gene_means,
                max_genes=self.max_genes,
                context_order=self.context_order,
                missing_means=self.missing_means,
            )
            for store in [*self.train_stores, *self.val_stores]
        ]
        self._supply = RegionSupply(sources, open_blocks=self.open_blocks)
        n_train = len(self.train_stores)
        self._train_blocks = [
            block
            for number, source in enumerate(sources[:n_train])
            for block in _restrict(source.blocks(number), self._train_rows.get(number))
        ]
        self._val_cells = [
            _as_cells(
                _restrict(source.blocks(n_train + number), self._val_rows.get(number)), self.max_val_cells
            )
            for number, source in enumerate(sources[n_train:])
        ]
        self._plan()  # fails early where the batch is too large
        logger.info(
            "training on %d cells of %d slides, validating on %d cells of %d slides, %d genes",
            sum(len(block.rows) for block in self._train_blocks),
            n_train,
            sum(map(len, self._val_cells)),
            len(self.val_stores),
            len(vocabulary),
        )

    def _paths(self) -> list[str | Path]:
        if self._slides is None:
            from past_core.synthetic.default import default_slides

            return list(default_slides(morphology=self._morphology))
        if not self._slides:
            raise SplitError("data.slides is an empty list; name at least one slide store, or leave it out")
        return list(self._slides)

    def _split(self, stores: list[SlideStore]) -> None:
        self._train_rows: dict[int, np.ndarray] = {}
        self._val_rows: dict[int, np.ndarray] = {}
        if self._val_slides is not None:
            self.train_stores, self.val_stores = stores, open_stores(self._val_slides)
            shared = {s.path.resolve() for s in stores} & {s.path.resolve() for s in self.val_stores}
            if shared:
                raise SplitError(f"{sorted(map(str, shared))[0]} is in data.slides and in data.val_slides")
            return
        held_out = held_out_patients(stores, patients=self._val_patients, fraction=self._val_fraction)
        self.train_stores = [store for store in stores if store.patient not in held_out]
        self.val_stores = [store for store in stores if store.patient in held_out]
        if not held_out and self._val_fraction:
            self._split_regions(stores)

    def _split_regions(self, stores: list[SlideStore]) -> None:
        logger.warning(
            "all slides are of one patient (%s): a strip of %.0f %% of each is held out instead, so "
            "validation says nothing about other patients",
            stores[0].patient,
            100 * self._val_strip,
        )
        self.val_stores = list(stores)
        for number, store in enumerate(stores):
            train, val = held_out_strip(store, fraction=self._val_strip, buffer_um=self.mpp * self.patch_size)
            self._train_rows[number], self._val_rows[number] = train, val

    def _learn_genes(self) -> tuple[Vocabulary, np.ndarray]:
        path = self._vocabulary_name
        if path == "panel":
            vocabulary = Vocabulary.from_panel(g for store in self.train_stores for g in store.genes.index)
        else:
            vocabulary = Vocabulary.nicheformer(None if path == "nicheformer" else path)
        if self._means_name == "technology":
            from past_core.nicheformer import read_means

            assays = {store.assay for store in self.train_stores + self.val_stores}
            if len(assays) > 1:
                raise SplitError(
                    f"gene_means: technology needs slides of one assay, found {', '.join(sorted(assays))}"
                )
            return vocabulary, read_means(assays.pop(), None if path in ("panel", "nicheformer") else path)
        means = GeneMeans(len(vocabulary))
        for number, store in enumerate(self.train_stores):
            rows = self._train_rows.get(number, store.passed)
            index = vocabulary.lookup(list(store.genes.index))
            means.update(store.counts[np.flatnonzero(rows)], index)
        return vocabulary, means.means

    # --- loaders --------------------------------------------------------------------------------------------

    @property
    def supply(self) -> RegionSupply:
        """What makes the batches.

        Raises:
            NotSetUpError: before `setup`.
        """
        if self._supply is None:
            raise NotSetUpError("the DataModule has no slides open yet; call setup('fit') first")
        return self._supply

    def _plan(self) -> EpochPlan:
        return EpochPlan(
            self._train_blocks,
            batch_size=self.batch_size,
            group_size=self.group_size,
            open_blocks=self.open_blocks,
            seed=self.seed,
            rank=self._rank,
            world_size=self._world_size,
            shards=self.shards,
            balance=self.balance,
        )

    def cells_per_slide(self) -> tuple[list[int], list[int]]:
        """Cells used of every training slide and of every validation slide."""
        train = [0] * len(self.train_stores)
        for block in self._train_blocks:
            train[block.slide] += len(block.rows)
        return train, [len(cells) for cells in self._val_cells]

    @property
    def batches_per_epoch(self) -> int:
        """Training batches of every rank in every epoch."""
        return self._plan().batches_per_epoch

    @property
    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer is not None else 0

    @property
    def _world_size(self) -> int:
        return self.trainer.world_size if self.trainer is not None else 1

    def train_dataloader(self) -> TrainLoader:
        """Batches of this rank's share of the training cells."""
        return TrainLoader(self.supply, self._plan())

    def val_dataloader(self) -> SlideLoader | list:
        """All cells of the held-out slides; none where nothing is held out."""
        if not self._val_cells:
            return []
        return SlideLoader(
            self.supply,
            self._val_cells,
            batch_size=self.val_batch_size,
            rank=self._rank,
            world_size=self._world_size,
        )

    def centring_batches(self) -> Iterator[CellBatch]:
        """512 training cells, the same on every rank, for centring the projection heads."""
        cells = self._plan().sample(CENTRING_CELLS)
        for start in range(0, len(cells), self.val_batch_size):
            yield self.supply.batch(cells[start : start + self.val_batch_size])

    def patches(self, store_number: int, rows: np.ndarray) -> np.ndarray:
        """Patches of cells of a validation slide, `(n, 3, L, L)` uint8, for pictures."""
        number = len(self.train_stores) + store_number
        blocks = self.supply.sources[number].store.blocks
        block = np.searchsorted(blocks[:, 3], rows, side="right")
        cells = np.stack([np.full(len(rows), number), block, rows], axis=1).astype(np.int64)
        return self.supply.batch(cells).images.numpy()

    def teardown(self, stage: str) -> None:
        """Keeps the supply: fit, validate and test share it until the process ends."""


def _restrict(blocks: list[BlockCells], keep: np.ndarray | None) -> list[BlockCells]:
    """The blocks' cells among `keep`, an `(N,)` bool over the slide's rows; blocks left empty are dropped."""
    if keep is None:
        return blocks
    kept = (BlockCells(b.slide, b.block, b.rows[m], b.points[m]) for b in blocks if (m := keep[b.rows]).any())
    return list(kept)


def _as_cells(blocks: list[BlockCells], limit: int) -> np.ndarray:
    """Slide, block, row of the blocks' cells, `(n, 3)`, thinned evenly to at most `limit`."""
    parts = [
        np.stack([np.full(len(b.rows), b.slide), np.full(len(b.rows), b.block), b.rows], axis=1)
        for b in blocks
    ]
    cells = np.concatenate(parts).astype(np.int64) if parts else np.zeros((0, 3), np.int64)
    if len(cells) > limit:
        cells = cells[np.linspace(0, len(cells) - 1, limit).round().astype(np.int64)]
    return cells
