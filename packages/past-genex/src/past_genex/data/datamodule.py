"""The data of probe training as a Lightning DataModule."""

import logging
from pathlib import Path
from typing import Literal

import lightning.pytorch as pl
import numpy as np
import pandas as pd

from past_core.data.loader import SlideLoader, TrainLoader
from past_core.data.plan import EpochPlan
from past_core.data.source import PatchSpec
from past_core.data.supply import open_stores
from past_core.encoders import resolve_device
from past_core.errors import PastError
from past_core.frozen import FrozenEncoder
from past_core.training.attached import built
from past_genex.data.batches import ExpressionSupply
from past_genex.data.default import default_cohort
from past_genex.data.encoder import load_encoder
from past_genex.data.features import slide_features
from past_genex.data.fold import Fold, Split
from past_genex.data.settings import cross_cancer, inter_patient, intra_patient, leave_patients_out
from past_genex.data.slides import ExpressionSlide, union_genes
from past_genex.data.targets import Normalisation, Target

logger = logging.getLogger(__name__)


class ExpressionRecipeError(PastError, ValueError):
    """Genes, folds or settings of a recipe that do not exist."""


class ExpressionDataModule(pl.LightningDataModule):
    """Cells of slides with an encoder's features, or pixels, and their expression.

    Args:
        slides: slide stores; null is the embedded synthetic cohort.
        setting: what is held out: `patients`, `inter`, `cross` or `intra`.
        fold: number or name of the fold that is held out; -1 is the last.
        normalisation: of the counts, see `Target`.
        genes: ids or symbols, or a file with one a line; null is every gene of the training slides.
        top_genes: keep only so many genes of highest mean in training (He et al. 2020 take 250).
        encoder: a checkpoint of PAST, or an encoder's name.
        weights: file of a public encoder's weights; null looks in the usual places, `none` starts from random
            ones (seeded by `seed`).
        supply: `features` (made once, kept in the cache) or `pixels` (to fine-tune the encoder).
        batch_size: cells a step and rank.
        val_batch_size: cells in a held-out batch.
        open_blocks: blocks mixed, and with pixels kept in memory, per rank.
        embed_batch_size: patches embedded at a time.
        device: where features are made.
        seed: of the order of cells.
        cache: folder of the features; null is `PAST_CACHE`, else the user's cache folder.

    Raises:
        SplitError: one patient, no shared genes, or nothing left to train on.
        ExpressionRecipeError: unknown genes, fold or setting.
        BatchSizeError: fewer training cells than a step needs.
    """

    def __init__(
        self,
        *,
        slides: list[str] | None = None,
        setting: Literal["patients", "inter", "cross", "intra"] = "patients",
        fold: int | str = -1,
        normalisation: Normalisation = "median",
        genes: list[str] | str | None = None,
        top_genes: int | None = None,
        encoder: str = "demo",
        weights: str | None = None,
        supply: Literal["features", "pixels"] = "features",
        batch_size: int = 256,
        val_batch_size: int = 1024,
        open_blocks: int = 16,
        embed_batch_size: int = 64,
        device: str = "auto",
        seed: int = 0,
        cache: str | None = None,
    ) -> None:
        super().__init__()
        self._slides, self.setting, self._fold, self._genes, self._top = (
            slides,
            setting,
            fold,
            genes,
            top_genes,
        )
        self.target, self._encoder_name, self._weights = Target(normalisation), encoder, weights
        self.pixels, self.batch_size, self.val_batch_size = supply == "pixels", batch_size, val_batch_size
        self._open, self._embed, self._device = open_blocks, embed_batch_size, device
        self.seed, self._cache = seed, cache
        self.supply: ExpressionSupply | None = None

    def prepare_data(self) -> None:
        """Makes the embedded cohort once, on one process of a node."""
        if self._slides is None:
            default_cohort()

    def setup(self, stage: str) -> None:
        """Splits the slides, chooses the genes, and embeds the cells."""
        if self.supply is not None:
            return
        paths: list[str | Path] = [*(default_cohort() if self._slides is None else self._slides)]
        if not paths:
            raise ExpressionRecipeError("data.slides is an empty list; name a slide store, or leave it out")
        self.encoder: FrozenEncoder = load_encoder(self._encoder_name, self._weights, seed=self.seed)
        slides = [ExpressionSlide(store) for store in open_stores(paths)]
        self.split = self._make_split(slides)
        self.slides = self.split.slides
        self.fold = self._choose_fold()
        self.train_slides, self.val_slides = sorted(self.fold.train), sorted(self.fold.test)
        cells = lambda side: {n: self.split.regions[n].cells(parts) for n, parts in side.items()}  # noqa: E731
        self.train_cells, self.val_cells = cells(self.fold.train), cells(self.fold.test)
        self.genes = self._choose_genes()
        self.target_mean = self._mean(self.genes)
        symbols = pd.concat([self.slides[n].symbols for n in self.train_slides])
        self.symbols = symbols[~symbols.index.duplicated()].reindex(self.genes).to_numpy(object)
        self.features = None if self.pixels else self._embed_all()
        spec = PatchSpec(mpp=self.encoder.mpp, size=self.encoder.patch_size)
        self.supply = ExpressionSupply(
            self.slides,
            self.genes,
            self.target,
            features=self.features,
            spec=spec,
            open_blocks=self._open,
        )
        self._blocks = [b for n in self.train_slides for b in self.supply.blocks(n, self.train_cells[n])]
        self._plan()  # fails early where the batch is too large
        logger.info(
            "%s, fold %s: %d training cells of %d slides, %d held-out cells of %d slides, %d genes",
            *(self.split.name, self.fold.name, self.n_train, len(self.train_slides)),
            *(sum(int(c.sum()) for c in self.val_cells.values()), len(self.val_slides), len(self.genes)),
        )

    @property
    def n_train(self) -> int:
        """Training cells."""
        return sum(int(cells.sum()) for cells in self.train_cells.values())

    def _make_split(self, slides: list[ExpressionSlide]) -> Split:
        if self.setting == "intra":
            return intra_patient(slides, rim_um=self.encoder.field_um)
        makers = {"patients": leave_patients_out, "inter": inter_patient, "cross": cross_cancer}
        if self.setting not in makers:
            raise ExpressionRecipeError(f"data.setting {self.setting!r}; expected intra, {', '.join(makers)}")
        return makers[self.setting](slides)

    def _choose_fold(self) -> Fold:
        folds = self.split.folds
        names = [fold.name for fold in folds]
        if str(self._fold) in names:
            return folds[names.index(str(self._fold))]
        try:
            return folds[int(self._fold)]
        except (ValueError, IndexError) as error:
            raise ExpressionRecipeError(
                f"data.fold is {self._fold!r}; {self.split.name} has {len(folds)}: {', '.join(names)}"
            ) from error

    def _choose_genes(self) -> pd.Index:
        trained = union_genes([self.slides[n] for n in self.train_slides])
        chosen = trained
        if self._genes is not None:
            wanted = self._genes
            if isinstance(wanted, str):
                if not Path(wanted).is_file():
                    raise ExpressionRecipeError(
                        f"data.genes {wanted} does not exist; one gene a line is expected"
                    )
                wanted = Path(wanted).read_text(encoding="utf-8").split()
            by_symbol = {s: g for n in self.train_slides for g, s in self.slides[n].symbols.items()}
            unknown = [g for g in wanted if g not in trained and g not in by_symbol]
            if unknown or not wanted:
                raise ExpressionRecipeError(
                    f"data.genes: {', '.join(unknown[:5]) or 'no gene'} not measured on the training slides, "
                    f"which have {len(trained)} genes such as {', '.join(trained[:3])}"
                )
            chosen = pd.Index(dict.fromkeys(g if g in trained else by_symbol[g] for g in wanted))
        if self._top is not None:
            if self._top < 1:
                raise ExpressionRecipeError(f"data.top_genes is {self._top}; expected at least 1")
            best = np.sort(np.argsort(-self._mean(chosen), kind="stable")[: self._top])
            chosen = chosen[best]
        return chosen

    def _mean(self, genes: pd.Index) -> np.ndarray:
        """`(G,)` mean over the training cells that measure each gene."""
        total, count = np.zeros(len(genes)), np.zeros(len(genes))
        for number in self.train_slides:
            slide, rows = self.slides[number], np.flatnonzero(self.train_cells[number])
            measured = genes.isin(slide.genes)
            for start in range(0, len(rows), 4096):
                part = slide.expression(self.target, genes, rows[start : start + 4096])
                total += np.where(measured, part.sum(axis=0), 0.0)
                count += measured * len(part)
        return total / np.maximum(count, 1)

    def _embed_all(self) -> list[np.ndarray]:
        self.encoder.to(resolve_device(self._device))
        made = []
        for number, slide in enumerate(self.slides):
            if number in self.train_cells or number in self.val_cells:
                made.append(slide_features(slide, self.encoder, cache=self._cache, batch_size=self._embed))
            else:
                made.append(np.broadcast_to(np.float32(0), (slide.n_cells, self.encoder.dim)))
        return made

    def _plan(self) -> EpochPlan:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return EpochPlan(
            self._blocks,
            batch_size=self.batch_size,
            open_blocks=self._open,
            seed=self.seed,
            rank=rank,
            world_size=world,
        )

    @property
    def batches_per_epoch(self) -> int:
        """Training batches of every rank in every epoch."""
        return self._plan().batches_per_epoch

    def train_dataloader(self) -> TrainLoader:
        """This rank's share of the training cells; the order is a function of (seed, epoch, rank)."""
        return TrainLoader(built(self.supply), self._plan())

    def val_dataloader(self) -> SlideLoader:
        """All held-out cells, each on one rank."""
        rows = [self._rows(number) for number in self.val_slides]
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        # Every rank gets a batch: one without would not take part in the exchange at the end.
        size = max(1, min(self.val_batch_size, sum(map(len, rows)) // world))
        return SlideLoader(built(self.supply), rows, batch_size=size, rank=rank, world_size=world)

    def slide_loader(self, number: int) -> SlideLoader:
        """All held-out cells of one slide, whatever the rank."""
        return SlideLoader(built(self.supply), [self._rows(number)], batch_size=self.val_batch_size)

    def _rows(self, number: int) -> np.ndarray:
        """`(n, 3)` slide, block, row of a slide's held-out cells."""
        parts = built(self.supply).blocks(number, self.val_cells[number])
        block = np.repeat([part.block for part in parts], [len(part.rows) for part in parts])
        rows = np.concatenate([part.rows for part in parts])
        return np.stack([np.full_like(rows, number), block, rows], axis=1)

    test_dataloader = val_dataloader
    predict_dataloader = val_dataloader

    def teardown(self, stage: str) -> None:
        """Keeps the supply: fit, validate and test share it until the process ends."""
