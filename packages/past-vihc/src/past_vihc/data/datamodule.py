"""The data of virtual staining as a Lightning DataModule."""

import logging
from collections.abc import Sequence
from typing import Literal

import lightning.pytorch as pl
import numpy as np
import pandas as pd

from past_core.data.loader import SlideLoader, TrainLoader
from past_core.data.plan import BatchSizeError, EpochPlan
from past_core.encoders import resolve_device
from past_core.frozen import FrozenEncoder
from past_vihc.data.curation import Curation, CurationSettings, check_parts, curate
from past_vihc.data.embeddings import Granularity, PairEmbeddings, embed_pairs
from past_vihc.data.encoders import load_conditioner
from past_vihc.data.pairs import Pair
from past_vihc.data.reading import Layout, read_layout
from past_vihc.data.shuffle import shuffled
from past_vihc.data.split import CaseSplit, CaseSplitError, split_cases
from past_vihc.data.supply import TilePlan, TileSupply
from past_vihc.data.tiles import TileError, TileSpec
from past_vihc.markers import marker

logger = logging.getLogger(__name__)


class StainDataModule(pl.LightningDataModule):
    """Tiles of H&E with their real stain, an encoder's embedding and labels of nuclei, split by case.

    Without `root` the embedded default is used: synthetic patients, made once into the user's cache. The
    embeddings, the measures of curation and segmented nuclei are kept there too.

    Args:
        root: folder or sheet of pairs; null is the embedded default.
        layout: how `root` is laid out: `folders` (see `paired_folders`), `ihc4bc`, or `auto` to tell by
            looking.
        stains: stains to learn; pairs of others are left out.
        case_pattern: regular expression that finds the case in file names of the layout `folders`.
        tile: side of a tile in pixels.
        mpp: µm per pixel of tiles.
        source_mpp: µm per pixel of the images, over what files state; a sheet's own column comes first.
        encoder: what conditions the generator: a checkpoint of PAST, or an encoder's name; null is nothing,
            and embeddings have length 0.
        weights: file of a public encoder's weights; null looks in the usual places, `random` draws them anew
            from `seed`, which is an ablation.
        granularity: one embedding for each `tile`, or `cells` on a grid of `pitch_um` that neighbours share.
        pitch_um: distance of the grid's nodes; tiles are a whole number of them wide.
        batch_size: tiles a step and rank.
        val_batch_size: tiles in a held-out batch.
        val_cases: cases that validate, by name; null draws them.
        test_cases: cases that test, by name; null draws them.
        fractions: shares of the cases to validate and to test on, where they are not named.
        augment: turn and mirror training tiles, with their nuclei and their grid of embeddings.
        curation: limits of curation; null keeps every tile.
        save_curation: write `curation.csv`, every tile with its measures and its reason, into the run's
            folder.
        shuffle_embeddings: give every tile the embedding of another tile of its part, always the same one, in
            training, validation and test: an ablation.
        seed: of the split, the order, augmentation and the shuffle.
        open_blocks: blocks of images (of at most 2,048 px a side) that are mixed in training.
        memory_mb: MiB of pixels that are kept beyond those that are being mixed; small sets lie in memory
            whole.
        embed_batch_size: fields embedded at a time.
        device: where embeddings are made.
        cache: folder of the cache; null is `PAST_CACHE`, else the user's.
        patients: patients of the embedded default; null is the simulator's choice.
        size_um: side of its sections.
        misalignment_um: how far its stained sections are displaced; 0 is registered exactly.

    Attributes:
        synthetic: whether this is the embedded default.
        spec: the tiles' size, resolution and grid.
        encoder: the frozen encoder after `setup`; None without one.
        tiles: all tiles after `setup`: `case`, `stain`, `source`, `y`, `x`, `kept`, `reason`, the measures,
            `pair` (number), `row`, `column` and `part`. A batch's `index` counts its rows.
        split: the cases of every part.
        curation: what was dropped, and why.
        pairs: all pairs, by number.

    Raises:
        PairError, PairNotFoundError, SlideError: images that are missing or do not fit.
        MarkerError: a stain that is not known.
        CaseSplitError: too few cases, or one image under two.
        TileError, CurationError: no tiles, or none kept.
        BatchSizeError: fewer training tiles than a step needs.
        EmbedError: an embedding that is not finite.
    """

    def __init__(
        self,
        root: str | None = None,
        *,
        layout: Layout = "auto",
        stains: tuple[str, ...] = ("er",),
        case_pattern: str | None = None,
        tile: int = 128,
        mpp: float = 0.5,
        source_mpp: float | None = None,
        encoder: str | None = "demo",
        weights: str | None = None,
        granularity: Granularity = "tile",
        pitch_um: float = 32.0,
        batch_size: int = 8,
        val_batch_size: int = 16,
        val_cases: list[str] | None = None,
        test_cases: list[str] | None = None,
        fractions: tuple[float, float] = (0.2, 0.2),
        augment: bool = True,
        curation: CurationSettings | None = CurationSettings(),  # noqa: B008  (frozen)
        save_curation: bool = False,
        shuffle_embeddings: bool = False,
        seed: int = 0,
        open_blocks: int = 16,
        memory_mb: int = 1024,
        embed_batch_size: int = 64,
        device: str = "auto",
        cache: str | None = None,
        patients: list[str] | None = None,
        size_um: float = 625.0,
        misalignment_um: float = 0.0,
    ) -> None:
        super().__init__()
        self.stains = tuple(marker(name).name for name in dict.fromkeys(stains))
        self.tile, self.mpp, self.granularity, self.pitch_um = tile, mpp, granularity, pitch_um
        if granularity not in ("tile", "cells"):
            raise TileError(f"data.granularity {granularity!r}; expected tile or cells")
        # One embedding for each tile has no grid that the tile would have to fit.
        self.spec = TileSpec(tile=tile, mpp=mpp, pitch_um=pitch_um if granularity == "cells" else tile * mpp)
        self.synthetic = root is None
        self.batch_size, self.val_batch_size = batch_size, val_batch_size
        self.augment, self.shuffle_embeddings, self.seed = augment, shuffle_embeddings, seed
        self.encoder: FrozenEncoder | None = None
        self._root, self._layout, self._pattern, self._source_mpp = root, layout, case_pattern, source_mpp
        self._encoder_name, self._weights = encoder, weights
        self._named, self._fractions = (val_cases, test_cases), (fractions[0], fractions[1])
        self._limits, self._save_curation = curation, save_curation
        self._open, self._memory, self._embed = open_blocks, memory_mb * 2**20, embed_batch_size
        self._device, self._cache = device, cache
        self._synthetic = {"patients": patients, "size_um": size_um, "misalignment_um": misalignment_um}
        self.pairs: list[Pair] = []
        self._embeddings: list[PairEmbeddings] | None = None
        self._supplies: dict[bool, TileSupply] = {}

    # --- steps ----------------------------------------------------------------------------------------------

    def prepare_data(self) -> None:
        """Fills the cache on one process of a node: the default's pairs, measures, embeddings."""
        self._read()

    def setup(self, stage: str) -> None:
        """Reads the pairs, splits and curates them, and takes embeddings from the cache or makes them."""
        self._read()
        if self._supplies:
            return
        stands_in = shuffled(self.tiles, seed=self.seed) if self.shuffle_embeddings else None
        for segment in (False, True):
            self._supplies[segment] = TileSupply(
                self.tiles,
                self.pairs,
                self.spec,
                stains=self.stains,
                embeddings=self._embeddings,
                stands_in=stands_in,
                segment=segment,
                memory=self._memory // 2,
                source_mpp=self._source_mpp,
                cache=self._cache,
            )
        self._plan()  # fails early where the batch is too large
        if self._save_curation and self.trainer is not None and self.trainer.is_global_zero:
            from past_core.callbacks import run_folder

            self.curation.write(run_folder(self.trainer) / "curation.csv")

    def _read(self) -> None:
        if self.pairs:
            return
        pairs = read_layout(
            self._root,
            self._layout,
            stains=self.stains,
            case_pattern=self._pattern,
            cache=self._cache,
            **self._synthetic,
        )
        val, test = self._named
        self.split: CaseSplit = split_cases(
            pairs, fractions=self._fractions, val_cases=val, test_cases=test, seed=self.seed
        )
        made = curate(pairs, self.spec, self._limits, source_mpp=self._source_mpp, cache=self._cache)
        made = Curation(made.tiles.assign(part=made.tiles["case"].map(self.split.part)), made.settings)
        check_parts(made, self.stains)
        if self._encoder_name is not None:
            self.encoder = load_conditioner(self._encoder_name, self._weights, seed=self.seed)
            self._embeddings = self._embed_all(pairs, made.tiles, self.encoder)
        self.curation, self.tiles, self.pairs = made, made.tiles, pairs
        logger.info("split by case:\n%s", self.split.report(self.tiles))

    def _embed_all(
        self, pairs: Sequence[Pair], tiles: pd.DataFrame, encoder: FrozenEncoder
    ) -> list[PairEmbeddings]:
        grids = tiles.groupby("pair", sort=True)[["row", "column"]].max().to_numpy() + 1
        encoder.to(resolve_device(self._device))
        try:
            return embed_pairs(
                pairs,
                self.spec,
                [(int(rows), int(columns)) for rows, columns in grids],
                encoder,
                granularity=self.granularity,
                source_mpp=self._source_mpp,
                cache=self._cache,
                batch_size=self._embed,
            )
        finally:
            encoder.to("cpu")  # the device is the generator's

    # --- what tasks and callbacks ask
    # -------------------------------------------------------------------------

    @property
    def embedding_dim(self) -> int:
        """Length of an embedding; 0 without an encoder. After `setup`."""
        return 0 if self.encoder is None else self.encoder.dim

    @property
    def train_pairs(self) -> list[Pair]:
        """Whole images that are trained on."""
        return self.split.pairs(self.pairs, "train")

    @property
    def val_pairs(self) -> list[Pair]:
        """Whole images that are validated on."""
        return self.split.pairs(self.pairs, "val")

    @property
    def test_pairs(self) -> list[Pair]:
        """Whole images that are tested on."""
        return self.split.pairs(self.pairs, "test")

    @property
    def batches_per_epoch(self) -> int:
        """Training batches of every rank in every epoch."""
        return self._plan().batches_per_epoch

    # --- loaders --------------------------------------------------------------------------------------------

    def _rows(self, part: str) -> np.ndarray:
        return np.flatnonzero(self.tiles["kept"] & (self.tiles["part"] == part))

    def _ranks(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

    def _plan(self) -> TilePlan:
        rank, world = self._ranks()
        rows = self._rows("train")
        if self.batch_size < 1 or len(rows) < self.batch_size * world:
            raise BatchSizeError(
                f"{len(rows)} training tiles are kept, but one step needs {self.batch_size * world} "
                "(data.batch_size "
                f"{self.batch_size} x {world} ranks); lower it to at most {len(rows) // world}, or add pairs"
            )
        plan = EpochPlan(
            self._supplies[False].blocks(rows),
            batch_size=self.batch_size,
            open_blocks=self._open,
            seed=self.seed,
            rank=rank,
            world_size=world,
        )
        return TilePlan(plan, augment=self.augment)

    def train_dataloader(self) -> TrainLoader:
        """This rank's share of the training tiles; the order is a function of (seed, epoch, rank)."""
        return TrainLoader(self._supplies[False], self._plan())

    def val_dataloader(self) -> SlideLoader | list:
        """All validation tiles, each on one rank; none where no case validates."""
        return self._held_out("val") if len(self._rows("val")) else []

    def test_dataloader(self) -> SlideLoader:
        """All test tiles, each on one rank.

        Raises:
            CaseSplitError: no case tests.
        """
        if not len(self._rows("test")):
            raise CaseSplitError("no tiles to test on; set data.fractions or data.test_cases")
        return self._held_out("test")

    predict_dataloader = test_dataloader

    def _held_out(self, part: Literal["val", "test"]) -> SlideLoader:
        rank, world = self._ranks()
        supply, rows = self._supplies[True], self._rows(part)
        # Every rank gets a batch: one without would not take part in the exchange at the end.
        size = max(1, min(self.val_batch_size, len(rows) // world))
        return SlideLoader(supply, supply.cells(rows), batch_size=size, rank=rank, world_size=world)

    def teardown(self, stage: str) -> None:
        """Keeps the supply: fit, validate and test share it until the process ends."""
