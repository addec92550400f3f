"""The data of one fold as a Lightning DataModule."""

import logging
from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader

from past_core.errors import PastError
from past_surv.data.bags import BagFolder
from past_surv.data.batches import SurvivalBatch, collate
from past_surv.data.cohort import OMICS, Cohort, read_cohort
from past_surv.data.default import default_bags, default_survival_data
from past_surv.data.fold_data import FoldData
from past_surv.data.groups import read_groups
from past_surv.data.patients import PatientSampler, Sampling
from past_surv.data.splits import Fold, read_folds, site_folds
from past_surv.data.vector_files import read_vectors

logger = logging.getLogger(__name__)

DEMO = "demo"


class SurvivalRecipeError(PastError, ValueError):
    """Settings of the data that contradict each other or do not fit the cohort."""


class SurvivalDataModule(pl.LightningDataModule):
    """Patients of one fold: bags of patches, groups of genes, times and events.

    Without `cohort` the embedded default is used: synthetic patients whose hazard is known, made once into
    the user's cache, their slides embedded there too.

    Everything that is learned from data (intervals of time, scalings, which columns can be used) is learned
    on the training rows. The validation loader holds the scored fold: it is for watching, never for choosing.

    Args:
        cohort: table with one row a slide, as `read_cohort` takes it; null is the embedded default.
        name: of the cohort; null takes it from the file.
        groups: CSV with a column of gene symbols a group; null is the default's own, or none with a cohort.
        kinds: endings of the columns of genes that are used.
        bags: folder of bags, see `BagFolder`; null is the default's own, or no slides with a cohort.
        encoder: of the default, which encoder embeds the slides (a name, or a checkpoint), `demo` if null,
            and `random` for noise; of a folder of bags, whose bags are meant.
        use_slides: false leaves the slides out.
        use_genes: false leaves the genes out.
        multi: parquet file of `past vectors`: one vector a patient, which makes one group more; null is none.
        folds: folder of splits_0.csv, ...; null makes folds whose sites do not straddle.
        n_folds: how many are made.
        fold: which is scored, by its number or name.
        batch_size: patients a step; bags are padded to the longest.
        val_batch_size: patients in a scored batch; null is `batch_size`.
        max_patches: most patches of a training patient, drawn anew each time; null takes all. Scored patients
            have all theirs.
        sampler: `balanced` draws classes (interval by death or censoring) equally often, as published;
            `plain` takes every patient once an epoch.
        intervals: intervals of time, each with a like number of the training rows' deaths.
        require_slides: stop where a slide has no bag, rather than list it.
        require_omics: stop where a patient lacks a group, rather than mask it.
        num_workers: processes that read; 0 reads in the main one.
        seed: of the folds that are made, and of the draws.
        patients: of the embedded default.
        size_um: side of its sections.
        cache: folder of the cache; null is `PAST_CACHE`, else the user's.

    Attributes:
        data: the fold's data, after `setup`.

    Raises:
        SurvivalRecipeError: settings that contradict each other, or no such fold.
        CohortError, SurvivalSplitError, BagError, VectorError, FoldDataError, LearnedError: see what
            they read.
    """

    data: FoldData

    def __init__(
        self,
        cohort: str | None = None,
        *,
        name: str | None = None,
        groups: str | None = None,
        kinds: tuple[str, ...] = OMICS,
        bags: str | None = None,
        encoder: str | None = None,
        use_slides: bool = True,
        use_genes: bool = True,
        multi: str | None = None,
        folds: str | None = None,
        n_folds: int = 5,
        fold: int | str = 0,
        batch_size: int = 1,
        val_batch_size: int | None = None,
        max_patches: int | None = None,
        sampler: Sampling = "balanced",
        intervals: int = 4,
        require_slides: bool = False,
        require_omics: bool = False,
        num_workers: int = 0,
        seed: int = 0,
        patients: int = 160,
        size_um: float = 256.0,
        cache: str | None = None,
    ) -> None:
        super().__init__()
        for what, number in {
            "batch_size": batch_size,
            "val_batch_size": val_batch_size,
            "max_patches": max_patches,
        }.items():
            if number is not None and number < 1:
                raise SurvivalRecipeError(f"data.{what} is {number}; expected 1 or more")
        unknown = sorted(set(kinds) - set(OMICS))
        if unknown or not kinds:
            raise SurvivalRecipeError(f"data.kinds {list(kinds)}; expected one or more of {', '.join(OMICS)}")
        self.synthetic = cohort is None
        if self.synthetic:
            given = {"groups": groups, "bags": bags, "name": name}
            named = [key for key, value in given.items() if value is not None]
            if named:
                raise SurvivalRecipeError(
                    f"data.{named[0]} is for a table in data.cohort; the embedded default has its own"
                )
        self.batch_size, self.val_batch_size = batch_size, val_batch_size or batch_size
        self.max_patches, self.sampler, self.seed = max_patches, sampler, seed
        self.num_workers = num_workers
        self._table, self._name, self._groups, self._kinds = cohort, name, groups, tuple(kinds)
        self._bags, self._encoder, self._multi = bags, encoder, multi
        self._use_slides, self._use_genes = use_slides, use_genes
        self._folds, self._n_folds, self._fold = folds, n_folds, fold
        self._intervals = intervals
        self._require = {"require_slides": require_slides, "require_omics": require_omics}
        self._default: dict[str, Any] = {"patients": patients, "size_um": size_um, "cache": cache}

    def prepare_data(self) -> None:
        """Makes the embedded default once, on one process of a node."""
        if self.synthetic:
            default_survival_data(**self._default)
            if self._use_slides:
                default_bags(self._encoder or DEMO, **self._default)

    def setup(self, stage: str) -> None:
        """Reads the cohort, chooses the fold, and learns what is learned from its training rows."""
        if hasattr(self, "data"):
            return
        cohort, groups, bags = self._read()
        self.data = FoldData.of(
            cohort,
            self._choose_fold(cohort),
            groups if self._use_genes else None,
            bags=bags,
            vectors=None if self._multi is None else read_vectors(self._multi),
            intervals=self._intervals,
            kinds=self._kinds,
            **self._require,
        )
        self._sampler()  # says at once what cannot be drawn
        logger.info("%s\n%s", cohort.describe(), self.data.describe())

    def _read(self) -> tuple[Cohort, dict[str, list[str]] | None, BagFolder | None]:
        if self._table is None:
            made = default_survival_data(**self._default)
            bags = default_bags(self._encoder or DEMO, **self._default) if self._use_slides else None
            return made.cohort, made.groups, bags
        cohort = read_cohort(self._table, name=self._name)
        groups = None if self._groups is None else read_groups(self._groups)
        bags = None
        if self._bags is not None and self._use_slides:
            bags = BagFolder(self._bags, self._encoder)
        if groups is None and bags is None and self._multi is None:
            raise SurvivalRecipeError(
                f"{self._table}: give data.groups (a CSV of gene groups), data.bags (a folder), or both"
            )
        return cohort, groups, bags

    def _choose_fold(self, cohort: Cohort) -> Fold:
        if self._folds is None:
            folds = site_folds(cohort, folds=self._n_folds, seed=self.seed)
        else:
            folds = read_folds(self._folds, cohort)
        names = [fold.name for fold in folds]
        if str(self._fold) not in names:
            raise SurvivalRecipeError(
                f"data.fold is {self._fold!r}; {cohort.name} has {len(folds)} folds: {', '.join(names)}"
            )
        return folds[names.index(str(self._fold))]

    def _sampler(self) -> PatientSampler:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        classes = self.data.classes(self.data.train_rows)
        return PatientSampler(classes, self.sampler, seed=self.seed, rank=rank, world_size=world)

    def train_dataloader(self) -> DataLoader[SurvivalBatch]:
        """This rank's share of the training patients; the order is a function of (seed, epoch)."""
        patients = self.data.patients(self.data.train_rows, max_patches=self.max_patches)
        return self._loader(patients, self.batch_size, sampler=self._sampler())

    def val_dataloader(self) -> DataLoader[SurvivalBatch]:
        """The scored patients with all their patches, in order, on every rank: C needs all pairs."""
        return self._loader(self.data.patients(self.data.test_rows), self.val_batch_size)

    test_dataloader = val_dataloader
    predict_dataloader = val_dataloader

    def _loader(
        self, patients: torch.utils.data.Dataset, batch_size: int, sampler: PatientSampler | None = None
    ) -> DataLoader[SurvivalBatch]:
        return DataLoader(
            patients,
            batch_size=batch_size,
            sampler=sampler,
            collate_fn=collate,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )
