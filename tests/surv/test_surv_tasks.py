"""Tasks of survival: steps that count patients, risk sets over batches, the scored fold, what is refused."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from made_surv_training import DIM, GROUPS, cohort_table, read_made, write_bags
from torch import nn

from past_core.training.finite import NonFiniteError
from past_surv.data.bag_files import BagError
from past_surv.data.batches import collate
from past_surv.data.fold_data import FoldData
from past_surv.data.patients import PatientSampler
from past_surv.data.splits import Fold
from past_surv.losses import cox_partial_likelihood, nll_survival
from past_surv.tasks.base import SurvivalTask, SurvivalTaskError, some
from past_surv.tasks.mcat import McatTask
from past_surv.tasks.mil import MilTask
from past_surv.tasks.record import SurvivalCheckpointError, require_same
from past_surv.tasks.snn import SnnTask, first_columns
from past_surv.tasks.training import FoldLoaders, fit, predicted

FOLD = Fold(name="0", train=np.arange(45), test=np.arange(45, 60))


def settings(**given: Any) -> SimpleNamespace:
    usual = {"batch_size": 1, "max_patches": None, "sampler": "balanced", "accelerator": "cpu"}
    return SimpleNamespace(**(usual | {"precision": "32-true"} | given))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> FoldData:
    folder, table = tmp_path_factory.mktemp("cohort"), cohort_table()
    bags = write_bags(folder / "bags", table)
    return FoldData.of(read_made(folder, table), FOLD, GROUPS, bags=bags)


def still(task: SurvivalTask) -> SurvivalTask:
    """The task without dropout, so that its steps can be repeated by hand."""
    build = task.build_network

    def built(data: FoldData) -> nn.Module:
        network = build(data)
        for module in network.modules():
            if isinstance(module, nn.Dropout | nn.AlphaDropout):
                module.p = 0.0
            if isinstance(module, nn.MultiheadAttention):
                module.dropout = 0.0
        return network

    task.build_network = built
    return task


def weights(task: SurvivalTask) -> torch.Tensor:
    return torch.cat([p.detach().ravel() for p in task.network.parameters()])


def trained(task: SurvivalTask, data: FoldData, *, epochs: int = 1, **given: Any) -> SurvivalTask:
    fit(still(task), data, settings(**given), epochs=epochs, seed=3)
    return task


@pytest.mark.parametrize("l1", [0.0, 1e-2])
def test_the_published_steps_and_the_tail(data: FoldData, l1: float) -> None:
    task = trained(McatTask(width=16, accumulate=32, alpha=0.3, l1=l1), data, epochs=2)

    torch.manual_seed(3)
    network = still(McatTask(width=16)).build_network(data).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-4, weight_decay=1e-5)
    patients = data.patients(data.train_rows)
    sampler = PatientSampler(data.classes(data.train_rows), "balanced", seed=3)
    for _ in range(2):
        draws = list(sampler)
        for few in (draws[:32], draws[32:]):  # 45 = 32 + 13, and each is one step over 32
            optimizer.zero_grad()
            for draw in few:
                b = collate([patients[draw]])
                hazards = network(b.patches, b.omics, missing=b.missing, no_slide=b.no_slide).hazards
                (nll_survival(hazards, b.interval, b.censored, alpha=0.3) / 32).backward()
            (l1 * sum(p.abs().sum() for p in network.parameters())).backward()
            optimizer.step()
    expected = torch.cat([p.detach().ravel() for p in network.parameters()])
    torch.testing.assert_close(weights(task), expected, atol=1e-6, rtol=0)


def test_steps_count_patients_not_batches(data: FoldData) -> None:
    one = trained(McatTask(width=16, accumulate=15), data)
    five = trained(McatTask(width=16, accumulate=15), data, batch_size=5)
    torch.testing.assert_close(weights(one), weights(five), atol=5e-6, rtol=0)


def test_a_risk_set_reaches_over_batches(data: FoldData) -> None:
    apart = trained(MilTask(width=16, loss="cox", risk_set=45), data, sampler="plain")
    at_once = trained(MilTask(width=16, loss="cox", risk_set=45), data, sampler="plain", batch_size=45)
    torch.testing.assert_close(weights(apart), weights(at_once), atol=2e-6, rtol=0)

    torch.manual_seed(3)
    network = still(MilTask(width=16)).build_network(data).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-4, weight_decay=1e-5)
    b = collate([data.patients(data.train_rows)[k] for k in range(45)])
    cox_partial_likelihood(network(b.patches, padding=b.padding).risk, b.time, b.event).backward()
    optimizer.step()
    expected = torch.cat([p.detach().ravel() for p in network.parameters()])
    torch.testing.assert_close(weights(apart), expected, atol=2e-6, rtol=0)


def test_a_risk_set_without_a_death_is_no_step(data: FoldData) -> None:
    lived = np.flatnonzero(~data.cohort.event[:45])
    died = np.flatnonzero(data.cohort.event[:45])
    fold = Fold(name="0", train=np.concatenate([lived, died])[:45], test=FOLD.test)
    data = FoldData.of(data.cohort, fold, GROUPS)
    task = still(SnnTask(width=8, loss="cox", risk_set=len(lived)))
    # One class a patient in the cohort's order: the first risk set holds the living alone.
    loaders = FoldLoaders(data, settings(batch_size=len(lived), sampler="plain"))
    loader = torch.utils.data.DataLoader(data.patients(fold.train), batch_size=len(lived), collate_fn=collate)
    loaders.train_dataloader = lambda: loader
    trainer = trainer_of()
    trainer.fit(task, datamodule=loaders)
    assert trainer.global_step == len(loader) - 1


def test_a_gradient_is_clipped_and_changes_nothing_where_it_is_short(data: FoldData) -> None:
    free = trained(SnnTask(width=8), data)
    loose = trained(SnnTask(width=8, gradient_clip=1e6), data)
    tight = trained(SnnTask(width=8, gradient_clip=1e-9, weight_decay=0), data)
    assert torch.equal(weights(free), weights(loose))
    assert not torch.equal(weights(free), weights(tight))


def test_dropout_and_order_are_functions_of_the_seed(data: FoldData) -> None:
    runs = []
    for seed in (1, 1, 2):
        task = McatTask(width=16, accumulate=8)
        torch.rand(int(seed) + len(runs))  # what was drawn before has no say
        runs.append(fit(task, data, settings(batch_size=5), epochs=1, seed=seed))
        runs[-1] = (runs[-1], weights(task))
    assert torch.equal(runs[0][1], runs[1][1])
    assert runs[0][0].loss == runs[1][0].loss
    assert not torch.equal(runs[0][1], runs[2][1])


def trainer_of(**options: Any) -> pl.Trainer:
    usual = {"max_epochs": 1, "logger": False, "enable_checkpointing": False, "accelerator": "cpu"}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    return pl.Trainer(**(usual | quiet | {"num_sanity_val_steps": 0} | options))


def test_the_scored_fold_is_watched_without_additional_weight(data: FoldData) -> None:
    task = SnnTask(width=8, alpha=0.9)
    loaders = FoldLoaders(data, settings(batch_size=4), rows=data.test_rows)
    trainer = trainer_of()
    trainer.fit(task, datamodule=loaders)
    batch = collate([data.patients(data.test_rows)[k] for k in range(15)])
    task.eval()
    with torch.no_grad():
        output = task.hazards(batch)
    expected = float(nll_survival(output.hazards, batch.interval, batch.censored))
    assert task.scored["val/loss"] == pytest.approx(expected, abs=1e-6)
    from past_surv.metrics.concordance import harrell_c

    c = harrell_c(batch.event.numpy(), batch.time.numpy(), output.risk.numpy()).value
    assert float(trainer.callback_metrics["val/c_index"]) == pytest.approx(c, abs=1e-6)


def test_an_undefined_c_is_not_a_number(data: FoldData, caplog: pytest.LogCaptureFixture) -> None:
    latest = int(np.argmax(np.where(data.cohort.event, data.cohort.time, 0)))
    alive = np.flatnonzero(~data.cohort.event & (data.cohort.time < data.cohort.time[latest]))[:4]
    test = np.append(alive, latest)
    fold = Fold(name="0", train=np.setdiff1d(np.arange(60), test), test=test)
    task = SnnTask(width=8)
    few = FoldData.of(data.cohort, fold, GROUPS)
    trainer = trainer_of()
    trainer.fit(task, datamodule=FoldLoaders(few, settings(batch_size=8), rows=test))
    assert "val/c_index" not in trainer.callback_metrics
    assert "val/c_index is undefined: no pair" in caplog.text


@pytest.mark.parametrize(
    "callback", [ModelCheckpoint(monitor="val/c_index"), EarlyStopping("val/loss")], ids=["best", "early"]
)
def test_no_epoch_is_chosen_by_the_scored_fold(data: FoldData, tmp_path: Path, callback: pl.Callback) -> None:
    trainer = trainer_of(callbacks=[callback], enable_checkpointing=True, default_root_dir=tmp_path)
    loaders = FoldLoaders(data, settings(), rows=data.test_rows)
    with pytest.raises(SurvivalTaskError, match="a figure of the fold that is scored"):
        trainer.fit(SnnTask(width=8), datamodule=loaders)


def test_what_is_not_finite_is_named(data: FoldData, tmp_path: Path) -> None:
    with pytest.raises(
        NonFiniteError, match=r"the loss is nan at step 1 \(epoch 0\), over the cases C0.* more"
    ):
        fit(MilTask(width=8, accumulate=15, learning_rate=1e37), data, settings(), epochs=1, seed=0)
    with pytest.raises(NonFiniteError, match="not finite, while every loss"):
        fit(MilTask(width=8, accumulate=45, l1=float("inf")), data, settings(), epochs=1, seed=0)
    task = MilTask(width=8)
    fit(task, data, settings(batch_size=45), epochs=1, seed=0)
    task.network.classifier.bias.data[0] = np.nan
    with pytest.raises(NonFiniteError, match="risks of 15 cases are not finite, such as C045, C046"):
        predicted(task, data, data.test_rows, settings())

    table = cohort_table().assign(image=lambda t: t["image"].where(t.index != 7, np.nan))
    bags = write_bags(tmp_path, table)
    torn = FoldData.of(data.cohort, FOLD, None, bags=bags)
    with pytest.raises(BagError, match=r"S007.h5: the features of patch 0 are NaN"):
        fit(MilTask(width=8), torn, settings(sampler="plain"), epochs=1, seed=0)


def test_who_has_nothing_to_read_is_neither_learned_from_nor_predicted(tmp_path: Path) -> None:
    table = cohort_table()
    table.loc[[2, 50], "slide_id"] = None
    table.loc[[3, 51], [f"G{k}_rnaseq" for k in range(4)]] = np.nan
    bags = write_bags(tmp_path / "bags", table.dropna(subset="slide_id"))
    data = FoldData.of(read_made(tmp_path, table), FOLD, GROUPS, bags=bags)
    for task, lacks in ((McatTask(width=16), []), (MilTask(width=8), [50]), (SnnTask(width=8), [51])):
        fit(task, data, settings(batch_size=4), epochs=1, seed=0)
        row, risk, survival = predicted(task, data, data.test_rows, settings(batch_size=1))
        assert np.setdiff1d(FOLD.test, row).tolist() == lacks
        assert np.isfinite(risk).all()
        assert survival.shape == (len(row), 4)
        assert (np.diff(survival, axis=1) <= 0).all()


def test_a_gene_of_two_groups_counts_once(data: FoldData) -> None:
    assert data.group_sizes == (3, 2)
    assert first_columns(data) == [0, 1, 2, 4]
    task = SnnTask(width=8)
    fit(task, data, settings(batch_size=45), epochs=1, seed=0)
    assert task.network.fc_omic[0][0].in_features == 4


def test_data_that_a_network_cannot_read(data: FoldData) -> None:
    genes = FoldData.of(data.cohort, FOLD, GROUPS)
    slides = FoldData.of(data.cohort, FOLD, None, bags=data.bags)
    with pytest.raises(SurvivalTaskError, match=r"MCAT needs bags of patches \(data\.bags\); none"):
        McatTask().build_network(genes)
    with pytest.raises(SurvivalTaskError, match=r"MCAT needs groups of genes \(data\.groups\)"):
        McatTask().build_network(slides)
    with pytest.raises(SurvivalTaskError, match="MIL needs bags"):
        MilTask().build_network(genes)
    with pytest.raises(SurvivalTaskError, match="SNN needs groups"):
        SnnTask().build_network(slides)
    with pytest.raises(SurvivalTaskError, match="SurvivalDataModule"):
        trainer_of().fit(SnnTask(), torch.utils.data.DataLoader([0]))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"loss": "mse"}, "loss 'mse'"),
        ({"alpha": 1.5}, "alpha 1.5"),
        ({"accumulate": 0}, "accumulate 0"),
        ({"risk_set": 1}, "risk_set 1"),
        ({"learning_rate": -1.0}, "learning_rate -1.0"),
        ({"gradient_clip": 0.0}, "gradient_clip 0.0"),
    ],
)
def test_settings_that_cannot_be(given: dict[str, Any], said: str) -> None:
    with pytest.raises(SurvivalTaskError, match=said):
        SnnTask(**given)


def test_a_checkpoint_goes_with_its_patients_and_groups(data: FoldData, tmp_path: Path) -> None:
    task = McatTask(width=16)
    trainer = trainer_of()
    trainer.fit(task, datamodule=FoldLoaders(data, settings(batch_size=15)))
    path = tmp_path / "c.ckpt"
    trainer.save_checkpoint(path)
    expected = predicted(task, data, data.test_rows, settings())

    again = McatTask(width=16)
    loaders = FoldLoaders(data, settings(), rows=data.test_rows)
    batches = trainer_of().predict(again, datamodule=loaders, ckpt_path=path, weights_only=True)
    np.testing.assert_allclose(torch.cat([b.risk for b in batches]), expected[1], atol=1e-6)

    other = Fold(name="1", train=np.arange(15, 60), test=np.arange(15))
    for changed, said in (
        (FoldData.of(data.cohort, other, GROUPS, bags=data.bags), "training patients"),
        (FoldData.of(data.cohort, FOLD, {"first": ["G0"]}, bags=data.bags), "groups of genes"),
        (FoldData.of(data.cohort, FOLD, GROUPS, bags=data.bags, intervals=3), "intervals"),
    ):
        loaders = FoldLoaders(changed, settings(), rows=changed.test_rows)
        with pytest.raises(SurvivalCheckpointError, match=f"differ in the {said}"):
            trainer_of().predict(McatTask(width=16), datamodule=loaders, ckpt_path=path, weights_only=True)
    with pytest.raises(SurvivalCheckpointError, match="options of the network"):
        trainer_of().predict(
            McatTask(width=16, fusion="bilinear"),
            datamodule=FoldLoaders(data, settings(), rows=data.test_rows),
            ckpt_path=path,
            weights_only=True,
        )
    with pytest.raises(SurvivalCheckpointError, match="none of past-surv's"):
        require_same(None, task.manifest)


def test_the_manifest_rebuilds_the_input(data: FoldData) -> None:
    import json

    task = McatTask(width=16)
    fit(task, data, settings(batch_size=45), epochs=1, seed=0)
    said = json.loads(json.dumps(task.manifest))
    assert (said["kind"], said["options"], said["patch_dim"]) == (
        "mcat",
        {"fusion": "concat", "width": 16},
        DIM,
    )
    assert said["group_names"] == list(GROUPS)
    row, number = int(FOLD.test[0]), 1
    raw = data.cohort.omics.iloc[row][said["group_columns"][number]].to_numpy()
    scaling = said["scalings"][number]
    made = (raw - scaling["mean"]) / scaling["deviation"]
    np.testing.assert_allclose(made, data.omics[number][row], atol=1e-6)
    edges = np.array(said["edges"])
    assert np.array_equal(
        np.searchsorted(edges, data.cohort.time, side="right"), data.intervals.of_times(data.cohort.time)
    )


def test_some_of_a_batch(data: FoldData) -> None:
    batch = collate([data.patients(FOLD.test)[k] for k in range(4)])
    keep = torch.tensor([True, False, True, False])
    few = some(batch, keep)
    assert few.row.tolist() == FOLD.test[[0, 2]].tolist()
    assert torch.equal(few.omics[1], batch.omics[1][[0, 2]])
    assert some(batch, torch.ones(4, dtype=torch.bool)) is batch
