"""The recipe of survival through the real `lightning` entry, on a small synthetic cohort."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from past_core.cli import run_lightning
from past_surv.data.datamodule import SurvivalDataModule
from past_surv.data.vector_files import patient_table, write_vectors
from past_surv.tasks.base import SurvivalTask, SurvivalTaskError
from past_surv.tasks.record import SurvivalCheckpointError

CONF = Path(__file__).parents[1] / "conf" / "surv.yaml"
RECIPE = Path(__file__).parents[2] / "recipes" / "surv.yaml"
Run = Callable[..., object]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cohort and its bags, made by the first training."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def lightning(tmp_path: Path, cache: Path) -> Run:
    def run(verb: str, *options: str) -> object:
        root = str(tmp_path / "run")
        paths = ["--trainer.default_root_dir", root, "--trainer.logger.init_args.save_dir", root]
        return run_lightning([verb, "-c", str(CONF), *paths, "--data.cache", str(cache), *options]).trainer

    return run


def weights(trainer: object) -> torch.Tensor:
    return torch.cat([p.detach().ravel() for p in trainer.lightning_module.network.parameters()])


def test_fit_resume_test_and_predict(lightning: Run, tmp_path: Path) -> None:
    trainer = lightning("fit")
    folder = tmp_path / "run" / "version_0"
    assert {p.name for p in (folder / "checkpoints").iterdir()} == {"last.ckpt", "model.safetensors"}
    data = trainer.datamodule.data
    steps = -(-len(data.train_rows) // 4)
    assert trainer.global_step == 2 * steps
    events = EventAccumulator(str(folder))
    events.Reload()
    assert {"train/loss", "train/loss_epoch", "val/loss", "val/c_index"} <= set(events.Tags()["scalars"])

    resumed = lightning("fit", "--ckpt_path", "last", "--trainer.max_epochs", "3")
    assert resumed.global_step == 3 * steps
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["version_0"]
    tested = lightning("test", "--ckpt_path", "last")
    for name in ("loss", "c_index"):
        expected = float(resumed.callback_metrics[f"val/{name}"])
        assert float(tested.callback_metrics[f"test/{name}"]) == pytest.approx(expected, abs=1e-6)

    lightning("predict", "--ckpt_path", "last")
    table = pd.read_csv(folder / "predictions.csv")
    assert table["case_id"].tolist() == data.cohort.cases[data.fold.test].tolist()
    curves = table.filter(like="survival_").to_numpy()
    assert curves.shape == (len(table), 3)
    np.testing.assert_allclose(table["risk"], -curves.sum(axis=1), atol=1e-5)
    assert list(table.columns[6:8]) == [
        f"survival_{k}_beyond_{edge:g}" for k, edge in enumerate(data.intervals.edges[1:-1], start=1)
    ]
    model = resumed.lightning_module.eval()
    with torch.no_grad():
        risks = torch.cat([model(batch).risk for batch in resumed.datamodule.val_dataloader()])
    np.testing.assert_allclose(table["risk"], risks, atol=1e-5)

    with pytest.raises(SurvivalCheckpointError, match="training patients"):
        lightning("predict", "--ckpt_path", "last", "--data.fold", "1")


def test_a_run_that_was_stopped_ends_as_one_that_was_not(lightning: Run, tmp_path: Path) -> None:
    whole = lightning("fit")
    (tmp_path / "run").rename(tmp_path / "whole")
    step, calls = SurvivalTask.training_step, []

    def broken(self: SurvivalTask, batch: object, batch_idx: int) -> None:
        calls.append(batch_idx)
        if self.current_epoch == 1 and batch_idx == 6:
            raise RuntimeError("the power failed")
        step(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SurvivalTask, "training_step", broken)
        with pytest.raises(RuntimeError, match="the power failed"):
            lightning("fit")
    assert len(calls) == len(whole.datamodule.data.train_rows) + 7
    resumed = lightning("fit", "--ckpt_path", "last")
    assert resumed.global_step == whole.global_step
    assert torch.equal(weights(resumed), weights(whole))


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("mil.MilTask", ["--data.use_genes", "false", "--model.loss", "cox", "--model.risk_set", "8"]),
        ("snn.SnnTask", ["--data.use_slides", "false", "--data.batch_size", "4"]),
    ],
    ids=["mil", "snn"],
)
def test_the_baselines(lightning: Run, tmp_path: Path, task: str, options: list[str]) -> None:
    trainer = lightning("fit", "--model", f"past_surv.tasks.{task}", "--model.width", "8", *options)
    assert np.isfinite(float(trainer.callback_metrics["train/loss_epoch"]))
    assert (tmp_path / "run" / "version_0" / "checkpoints" / "model.safetensors").stat().st_size > 1000


def test_past_multi(lightning: Run, tmp_path: Path, cache: Path) -> None:
    data = SurvivalDataModule(patients=40, size_um=112.0, n_folds=2, intervals=3, cache=str(cache))
    data.prepare_data()
    data.setup("fit")
    stream, cases = np.random.default_rng(0), data.data.cohort.cases[3:]
    table = patient_table(
        {case: stream.normal(size=5).astype(np.float32) for case in cases},
        dict.fromkeys(cases, 1),
        {"source": "bulk", "encoder": "made", "fingerprint": "0"},
    )
    write_vectors(table, tmp_path / "vectors.parquet")
    trainer = lightning("fit", "--data.multi", str(tmp_path / "vectors.parquet"))
    assert trainer.lightning_module.network.omic_sizes == (*data.data.group_sizes, 5)
    assert trainer.datamodule.data.group_names[:-1] == data.data.group_names


def test_the_twin_has_the_recipes_keys(capsys: pytest.CaptureFixture[str]) -> None:
    """Every setting of the recipe is one that there is, and none is left out."""
    import yaml

    with pytest.raises(SystemExit) as stop:
        run_lightning(["fit", "-c", str(RECIPE), "--print_config"])
    assert not stop.value.code
    full, given = yaml.safe_load(capsys.readouterr().out), yaml.safe_load(RECIPE.read_text())
    for part in ("model", "data"):
        assert full[part]["init_args"] == given[part]["init_args"]


def test_no_epoch_is_chosen_by_the_scored_fold(lightning: Run) -> None:
    with pytest.raises(SurvivalTaskError, match="EarlyStopping monitors 'val/c_index'"):
        lightning(
            "fit",
            "--trainer.callbacks+=EarlyStopping",
            "--trainer.callbacks.monitor=val/c_index",
        )
