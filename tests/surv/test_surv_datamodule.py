"""The DataModule of a fold: real loaders, the same order after a restart, and settings that are refused."""

from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import pytest
import torch
from made_surv_training import DIM, GROUPS, cohort_table, read_made, write_bags

from past_surv.data.bags import BagNotFoundError
from past_surv.data.batches import SurvivalBatch
from past_surv.data.cohort import CohortNotFoundError
from past_surv.data.datamodule import SurvivalDataModule, SurvivalRecipeError
from past_surv.data.fold_data import FoldDataError
from past_surv.data.vector_files import VectorError, VectorNotFoundError, patient_table, write_vectors


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table, bags, groups, splits and vectors of 60 patients."""
    folder = tmp_path_factory.mktemp("made")
    table = cohort_table()
    cohort = read_made(folder, table)
    write_bags(folder / "bags", table)
    pd.DataFrame({name: pd.Series(genes) for name, genes in GROUPS.items()}).to_csv(
        folder / "groups.csv", index=False
    )
    (folder / "splits").mkdir()
    halves = {"train": pd.Series(cohort.cases[:40]), "val": pd.Series(cohort.cases[40:])}
    pd.DataFrame(halves).to_csv(folder / "splits" / "splits_0.csv")
    values = np.random.default_rng(0).normal(size=(60, 5))
    vectors = dict(zip(cohort.cases, values, strict=True))
    made = patient_table(vectors, dict.fromkeys(vectors, 1), {"source": "bulk"})
    write_vectors(made, folder / "vectors.parquet")
    return folder


def module(made: Path, **options: object) -> SurvivalDataModule:
    given = {
        "groups": str(made / "groups.csv"),
        "bags": str(made / "bags"),
        "folds": str(made / "splits"),
    } | options
    data = SurvivalDataModule(str(made / "tcga_made_all_clean.csv"), **given)
    data.prepare_data()
    data.setup("fit")
    return data


def rows(loader: object) -> list[list[int]]:
    return [batch.row.tolist() for batch in loader]


def test_a_fold_of_files(made: Path) -> None:
    data = module(made, multi=str(made / "vectors.parquet"), batch_size=4, sampler="plain")
    assert (data.data.group_sizes, data.data.patch_dim) == ((3, 2, 5), DIM)
    assert data.data.vectors.attrs["past"]["source"] == "bulk"
    train, scored = list(data.train_dataloader()), list(data.val_dataloader())
    assert len(train) == 10
    assert sorted(row for batch in train for row in batch.row.tolist()) == list(range(40))
    assert [row for batch in scored for row in batch.row.tolist()] == list(range(40, 60))
    assert all(isinstance(batch, SurvivalBatch) and not batch.no_slide.any() for batch in train)
    assert rows(data.test_dataloader()) == rows(data.predict_dataloader()) == rows(scored)


def test_folds_are_made_by_site_where_none_are_given(made: Path) -> None:
    folds = [module(made, folds=None, n_folds=3, fold=number).data for number in range(3)]
    assert sorted(np.concatenate([data.fold.test for data in folds])) == list(range(60))
    sites = [data.cohort.clinical["site"].to_numpy() for data in folds]
    for data, site in zip(folds, sites, strict=True):
        assert not set(site[data.fold.train]) & set(site[data.fold.test])


def test_inputs_are_left_out_on_demand(made: Path) -> None:
    assert module(made, use_slides=False).data.patch_dim is None
    assert module(made, use_genes=False).data.group_sizes == ()
    assert module(made, kinds=("_rnaseq",), bags=None).data.group_sizes == (3, 2)


class Rows(pl.LightningModule):
    """Notes which patients and patches an epoch brings."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[tuple[int, float]]] = []
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def on_train_epoch_start(self) -> None:
        self.seen.append([])

    def training_step(self, batch: SurvivalBatch, number: int) -> torch.Tensor:
        sums = batch.patches.sum(dim=(1, 2)).tolist()
        self.seen[-1] += list(zip(batch.row.tolist(), sums, strict=True))
        return self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def epochs(data: SurvivalDataModule, folder: Path, count: int, checkpoint: Path | None = None) -> Rows:
    task = Rows()
    trainer = pl.Trainer(
        max_epochs=count,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(task, datamodule=data, ckpt_path=checkpoint)
    if checkpoint is None:
        trainer.save_checkpoint(folder / "last.ckpt")
    return task


@pytest.mark.parametrize("num_workers", [0, 2])
def test_epochs_differ_and_are_the_same_after_a_restart(made: Path, tmp_path: Path, num_workers: int) -> None:
    options = {"batch_size": 4, "max_patches": 3, "seed": 7}
    whole = epochs(module(made, **options), tmp_path, 3).seen
    assert [len(epoch) for epoch in whole] == [40] * 3
    assert whole[0] != whole[1]
    assert len({row for row, _ in whole[0]}) < 40  # with replacement
    first = epochs(module(made, **options, num_workers=num_workers), tmp_path / "part", 2)
    assert first.seen == whole[:2]
    second = epochs(module(made, **options), tmp_path / "part", 3, tmp_path / "part" / "last.ckpt")
    assert second.seen == whole[2:]
    # A patient who is drawn twice has other patches.
    drawn = [pair for epoch in whole for pair in epoch]
    assert len(set(drawn)) > len({row for row, _ in drawn})


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"fold": 3}, SurvivalRecipeError, r"data\.fold is 3; made has 1 folds: 0"),
        ({"groups": None, "bags": None}, SurvivalRecipeError, r"give data\.groups"),
        ({"batch_size": 0}, SurvivalRecipeError, r"data\.batch_size is 0"),
        ({"max_patches": 0}, SurvivalRecipeError, r"data\.max_patches is 0"),
        ({"kinds": ("_protein",)}, SurvivalRecipeError, r"data\.kinds \['_protein'\]"),
        ({"multi": "none.parquet"}, VectorNotFoundError, "no such table of vectors"),
        ({"encoder": "uni", "bags": "wrong"}, BagNotFoundError, "no such folder"),
    ],
)
def test_settings_that_are_refused(
    made: Path, options: dict[str, object], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        module(made, **options)


def test_more_settings_that_are_refused(made: Path, tmp_path: Path) -> None:
    with pytest.raises(CohortNotFoundError):
        SurvivalDataModule(str(tmp_path / "none.csv"), bags="x").setup("fit")
    for name in ("groups", "bags", "name"):
        with pytest.raises(SurvivalRecipeError, match=f"data.{name} is for a table"):
            SurvivalDataModule(**{name: "x"})
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(VectorError, match="cannot be read as vectors"):
        module(made, multi=str(tmp_path / "x.parquet"))
    table = cohort_table()
    few = write_bags(tmp_path / "few", table.iloc[:50])
    with pytest.raises(FoldDataError, match=r"10 slides are missing and data\.require_slides is set: C050"):
        module(made, bags=str(few.folder), require_slides=True)
