"""The main job through the real `lightning` entry: runs, writes, resumes to equal bits, explains itself."""

import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from past_core import pretrain
from past_core.checkpoint import load_checkpoint
from past_core.cli import lightning_main, run_lightning
from past_core.data.plan import BatchSizeError
from past_core.data.split import SplitError
from past_core.errors import PastError
from past_core.ingest.store import StoreNotFoundError
from past_core.pretrain import InitialWeightsError, PatchMismatchError
from past_core.vocabulary import VocabularyError

CONF = Path(__file__).parents[1] / "conf" / "pretrain.yaml"
Fit = Callable[..., object]


@pytest.fixture
def fit(tiny_slides: Sequence[Path], tmp_path: Path) -> Fit:
    def run(*options: str, slides: Sequence[Path] = tiny_slides, folder: str = "run") -> object:
        root = str(tmp_path / folder)
        return run_lightning(
            [
                *("fit", "-c", str(CONF)),
                *("--trainer.default_root_dir", root, "--trainer.logger.init_args.save_dir", root),
                *("--data.slides", "[" + ",".join(map(str, slides)) + "]"),
                *options,
            ]
        ).trainer

    return run


def weights(trainer: object) -> dict[str, torch.Tensor]:
    return trainer.lightning_module.model.state_dict()


def test_fit_writes_checkpoints_scalars_and_pictures(fit: Fit, tmp_path: Path) -> None:
    trainer = fit()
    run = tmp_path / "run" / "version_0"
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert (run / "retrieval.png").stat().st_size > 10_000
    assert (run / "config.yaml").is_file()
    events = EventAccumulator(str(run))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    for direction in ("image_to_cell", "cell_to_image"):
        for k in (1, 5, 10):
            assert f"val/recall@{k}/{direction}" in tags
            assert f"val/neighbourhood_recall@{k}/{direction}" in tags
        assert f"val/median_rank/{direction}" in tags
    assert {"val/chance@10", "val_P3/gallery", "train/excess_loss", "train/target_diagonal"} <= tags
    assert {"train/image_cosine", "train/cell_cosine", "train/temperature"} <= tags
    rates = [scalar.value for scalar in events.Scalars("train/learning_rate")]
    steps = trainer.num_training_batches
    assert rates[0] == pytest.approx(1e-6)
    assert max(rates) == pytest.approx(1e-3, rel=1e-3)
    assert rates.index(max(rates)) == steps  # the peak follows the first epoch
    loaded = load_checkpoint(run / "checkpoints" / "last.ckpt")
    for key, value in weights(trainer).items():
        assert torch.equal(loaded.model.state_dict()[key], value)
    gallery = {scalar.value for scalar in events.Scalars("val_P3/gallery")}
    assert gallery == {float(trainer.datamodule.val_stores[0].passed.sum())}


def test_resuming_in_mid_epoch_gives_equal_bits(fit: Fit, tmp_path: Path) -> None:
    whole = fit("--trainer.callbacks", "lightning.pytorch.callbacks.LearningRateMonitor", folder="whole")
    steps = whole.num_training_batches + 2  # in the middle of the second epoch
    saver = "--trainer.callbacks.init_args"
    options = ["--trainer.callbacks", "lightning.pytorch.callbacks.ModelCheckpoint"]
    options += [f"{saver}.every_n_train_steps", str(steps), f"{saver}.filename", "mid"]
    options += [f"{saver}.dirpath", str(tmp_path / "ck")]
    fit(*options, "--trainer.limit_val_batches", "0", folder="first")
    assert (tmp_path / "ck" / "mid.ckpt").is_file()
    resumed = fit(
        "--ckpt_path",
        str(tmp_path / "ck" / "mid.ckpt"),
        "--trainer.callbacks",
        "lightning.pytorch.callbacks.LearningRateMonitor",
        folder="resumed",
    )
    assert resumed.global_step == whole.global_step
    for key, value in weights(whole).items():
        assert torch.equal(weights(resumed)[key], value), key


def test_heads_are_centred_before_the_first_step_only(fit: Fit, tmp_path: Path) -> None:
    options = [
        "--trainer.max_epochs",
        "1",
        "--trainer.limit_train_batches",
        "1",
        "--model.learning_rate",
        "1e-9",
    ]
    options += ["--model.start_learning_rate", "1e-9"]
    centred = fit(*options, folder="centred").callback_metrics
    plain = fit(*options, "--model.center_heads", "false", folder="plain").callback_metrics
    assert abs(float(centred["train/cell_cosine"])) < 0.2 < float(plain["train/cell_cosine"])
    checkpoint = tmp_path / "plain" / "version_0" / "checkpoints" / "last.ckpt"
    loaded = fit(*options, "--model.init_from", str(checkpoint), folder="loaded").callback_metrics
    assert float(loaded["train/cell_cosine"]) == pytest.approx(float(plain["train/cell_cosine"]), abs=0.02)
    with pytest.raises(InitialWeightsError, match=r"init_from .*last\.ckpt: \d+ of \d+ weights"):
        fit(*options, "--model.init_from", str(checkpoint), "--model.cell.width", "16", folder="other")


def test_a_collapse_stops_training(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    """No run that is short enough for a test collapses: the bound is lowered instead, the way is the same."""
    monkeypatch.setattr(pretrain, "COLLAPSE_INTERVAL", 1)
    fit("--trainer.limit_val_batches", "0", folder="healthy")
    monkeypatch.setattr(pretrain, "COLLAPSE_COSINE", -1.0)
    with pytest.raises(pretrain.CollapseError, match=r"collapsed at step .*annealed"):
        fit("--trainer.limit_val_batches", "0", folder="collapsed")


def test_a_single_patient_is_split_by_region(
    fit: Fit, tiny_slides: Sequence[Path], caplog: pytest.LogCaptureFixture
) -> None:
    trainer = fit("--trainer.max_epochs", "1", slides=tiny_slides[:1])
    assert "all slides are of one patient" in caplog.text
    data = trainer.datamodule
    train = {(b.slide, int(row)) for b in data._train_blocks for row in b.rows}
    val = {int(row) for part in data._val_cells for row in part[:, 2]}
    assert val
    assert not {row for _, row in train} & val
    points = data.train_stores[0].centroids * data.train_stores[0].mpp
    rows = [row for _, row in train]
    distance = max(
        abs(points[sorted(val)][:, None, axis] - points[rows][None, :, axis]).min() for axis in (0, 1)
    )
    assert distance >= 24  # the width of a patch, so that no validation pixel was trained on


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (["--data.batch_size", "5000"], BatchSizeError, "usable cells, but one step needs 5000"),
        (["--data.batch_size", "1"], BatchSizeError, "at least 2"),
        (["--data.slides", "[nowhere.zarr]"], StoreNotFoundError, "nowhere.zarr"),
        (["--data.slides", "[]"], SplitError, "empty list"),
        (["--data.val_patients", "[P9]"], SplitError, "P9"),
        (["--data.val_patients", "[P1,P2,P3]"], SplitError, "at least one to train on"),
        (["--data.val_fraction", "1.5"], SplitError, "val_fraction"),
        (["--data.patch_size", "64"], PatchMismatchError, "48 px"),
        (["--data.vocabulary", "nowhere.csv"], PastError, "nowhere.csv"),
        (["--model.image.name", "vit_tinny_patch16_224"], PastError, "did you mean"),
        (["--model.init_from", "nowhere.ckpt"], PastError, "nowhere.ckpt"),
        (["--model.targets", "nonsense"], PastError, "targets='nonsense' is not known"),
    ],
    ids=lambda value: value[0] + "=" + value[1] if isinstance(value, list) else "",
)
def test_bad_recipe_values_are_named(
    fit: Fit, options: list[str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        fit(*options)


def test_a_checkpoint_of_another_vocabulary_is_refused(
    fit: Fit, tiny_slides: Sequence[Path], tmp_path: Path
) -> None:
    fit("--trainer.max_epochs", "1", slides=tiny_slides[:1], folder="one")
    checkpoint = tmp_path / "one" / "version_0" / "checkpoints" / "last.ckpt"
    with pytest.raises(VocabularyError, match="vocabulary"):
        fit("--ckpt_path", str(checkpoint), slides=tiny_slides, folder="two")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (["--data.slides", "[nowhere.zarr]"], "Error: no slide store at nowhere.zarr"),
        (["--model.image.mpp", "-1"], "mpp -1.0 must be positive"),
    ],
    ids=["while running", "while the recipe is built"],
)
def test_the_command_prints_an_error_without_a_traceback(
    option: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lightning", "fit", "-c", str(CONF), *option])
    # The command sets up the log of its process, which here is other tests' too.
    logger, hints = logging.getLogger("past_core"), logging.getLogger("lightning.pytorch.utilities.rank_zero")
    level = logger.level
    for changed, name in ((logger, "handlers"), (hints, "filters")):
        monkeypatch.setattr(changed, name, list(getattr(changed, name)))
    monkeypatch.setattr(logger, "propagate", logger.propagate)
    try:
        with pytest.raises(SystemExit) as stop:
            lightning_main()
    finally:
        logger.setLevel(level)
    assert stop.value.code == 1
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


def test_the_recipe_trains_on_the_real_pair(shared_data: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from past_core.cli import build_app

    pair = shared_data / "xenium_lung_ncbi858"
    store = tmp_path / "real.zarr"
    arguments = ["ingest", "--hest", str(pair / "NCBI858.h5ad"), "--he", str(pair / "NCBI858.jpg")]
    result = CliRunner().invoke(build_app(), [*arguments, "--mpp", "2.125", "-o", str(store)])
    assert result.exit_code == 0, result.output
    recipe = Path(__file__).parents[2] / "recipes" / "pretrain.yaml"
    threads = torch.get_num_threads()
    trainer = run_lightning(
        [
            *("fit", "-c", str(recipe), "--data.slides", f"[{store}]"),
            *("--trainer.max_epochs", "2", "--trainer.check_val_every_n_epoch", "2"),
            *(
                "--trainer.default_root_dir",
                str(tmp_path),
                "--trainer.logger.init_args.save_dir",
                str(tmp_path),
            ),
        ]
    ).trainer
    assert trainer.global_step == 2 * trainer.num_training_batches > 0
    assert len(trainer.datamodule.vocabulary) == 338
    assert torch.get_num_threads() == threads  # UMAP would change it, and the last bits of all sums
    assert all(torch.isfinite(value).all() for value in weights(trainer).values())
