"""The recipes of expression prediction through the real `lightning` entry, on tiny slides."""

import json
import multiprocessing
import os
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from past_core.cli import run_lightning
from past_core.data.plan import BatchSizeError
from past_core.frozen import EncoderNotFoundError
from past_genex.data import datamodule
from past_genex.data.batches import FeatureError
from past_genex.data.datamodule import ExpressionRecipeError
from past_genex.data.splits import SplitError
from past_genex.probe.files import load_probe
from past_genex.probe.model import ProbeMismatchError
from past_genex.probe.task import LinearHead, ProbeTrainingError

ROOT = Path(__file__).parents[2]
CONF = ROOT / "tests" / "conf"
Run = Callable[..., object]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features, made by the first training."""
    return tmp_path_factory.mktemp("features")


@pytest.fixture
def lightning(tiny_slides: Sequence[Path], tmp_path: Path, cache: Path) -> Run:
    def run(
        verb: str, *options: str, recipe: str = "genex.yaml", slides: Sequence[Path] = tiny_slides
    ) -> object:
        root = str(tmp_path / "run")
        paths = ["--trainer.default_root_dir", root, "--trainer.logger.init_args.save_dir", root]
        paths += ["--data.slides", "[" + ",".join(map(str, slides)) + "]", "--data.cache", str(cache)]
        return run_lightning([verb, "-c", str(CONF / recipe), *paths, *options]).trainer

    return run


def test_fit_resume_test_and_predict(lightning: Run, tmp_path: Path) -> None:
    trainer = lightning("fit")
    folder = tmp_path / "run" / "version_0"
    assert {p.name for p in (folder / "checkpoints").iterdir()} == {"last.ckpt", "probe.safetensors"}
    assert (folder / "maps.png").stat().st_size > 10_000
    assert (folder / "r_by_gene.png").stat().st_size > 5_000
    events = EventAccumulator(str(folder))
    events.Reload()
    assert {"train/loss", "val/r", "val/r_slide"} <= set(events.Tags()["scalars"])
    losses = [scalar.value for scalar in events.Scalars("train/loss")]
    assert np.isfinite(losses).all()

    resumed = lightning("fit", "--ckpt_path", "last", "--trainer.max_epochs", "3")
    assert trainer.global_step == 2 * trainer.num_training_batches
    assert resumed.global_step == 3 * trainer.num_training_batches
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["version_0"]

    data = resumed.datamodule
    number = data.val_slides[0]
    slide, cells = data.slides[number], np.flatnonzero(data.val_cells[number])
    probe = load_probe(folder / "checkpoints" / "probe.safetensors")
    probe.check(data.encoder)
    assert probe.demo
    assert set(probe.patients) == {"P1", "P2"}
    assert probe.cells == sum(int(c.sum()) for c in data.train_cells.values())
    predicted = probe.predict(data.features[number][cells])
    truth = slide.expression(data.target, probe.genes, cells)
    gene = int(np.nanargmax(probe.trust_table.r))
    expected = np.corrcoef(predicted[:, gene], truth[:, gene])[0, 1]
    assert probe.trust_table.r[gene] == pytest.approx(expected, abs=1e-4)

    tested = lightning("test", "--ckpt_path", "last")
    for name in ("r", "r_slide"):
        expected = float(resumed.callback_metrics[f"val/{name}"])
        assert float(tested.callback_metrics[f"test/{name}"]) == pytest.approx(expected, abs=1e-6)

    lightning("predict", "--ckpt_path", "last")
    table = ad.read_h5ad(folder / "predictions" / f"{slide.name}.h5ad")
    assert table.obs_names.tolist() == [str(name) for name in slide.cell_ids[cells]]
    assert table.var_names.equals(probe.genes.astype(str))
    np.testing.assert_allclose(table.X, predicted, atol=1e-4)
    np.testing.assert_allclose(table.layers["measured"], truth, rtol=1e-6)
    np.testing.assert_allclose(table.var["r"], probe.trust_table.r, atol=1e-4)
    about = json.loads(table.uns["past"])
    assert (about["fingerprint"], about["use"]) == (probe.fingerprint, "research use only")


def test_st_net_is_fine_tuned_from_scratch(lightning: Run, tmp_path: Path) -> None:
    seen = []
    forward = LinearHead.forward
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LinearHead, "forward", lambda self, x: seen.append(self.training) or forward(self, x))
        # At the published rate, four steps move few weights by as much as float32 can tell.
        trainer = lightning("fit", "--model.learning_rate", "1e-3", recipe="stnet.yaml")
    module, data = trainer.lightning_module, trainer.datamodule
    assert trainer.global_step == 4
    assert seen.count(True) == 4
    assert seen.count(False) == 8 * (1 + 1)  # one held-out batch and one of the pictures, each eight times
    assert len(data.genes) == 20
    assert data.encoder.name == "timm:test_resnet.r160_in1k (from scratch)"
    folder = tmp_path / "run" / "version_0"
    assert [p.name for p in (folder / "checkpoints").iterdir()] == [
        "last.ckpt"
    ]  # no probe of another network
    assert (folder / "maps.png").stat().st_size > 10_000

    fresh = datamodule.load_encoder("timm:test_resnet.r160_in1k", "none", seed=0)
    assert fresh.fingerprint == data.encoder.fingerprint
    before, after = fresh._encoder.state_dict(), module.backbone.state_dict()
    changed = [key for key, value in before.items() if not torch.equal(after[key].cpu(), value)]
    assert any("running_mean" in key for key in changed)  # batch normalisation was in training mode
    assert {key for key, value in module.backbone.named_parameters() if value.ndim > 1} <= set(changed)
    tested = lightning("test", "--ckpt_path", "last", recipe="stnet.yaml")
    expected = float(trainer.callback_metrics["val/r"])
    assert float(tested.callback_metrics["test/r"]) == pytest.approx(expected, abs=1e-6)


def test_the_recipe_and_its_twin_have_the_same_keys() -> None:
    def keys(node: object, path: str = "") -> set[str]:
        if isinstance(node, dict):
            return {k for key, value in node.items() for k in keys(value, f"{path}.{key}")} | {path}
        return {k for value in node for k in keys(value, path)} if isinstance(node, list) else {path}

    extra = {f".trainer.enable_{name}" for name in ("progress_bar", "model_summary")}
    extra |= {f".trainer.limit_{name}_batches" for name in ("train", "val", "test")}
    for name in ("genex.yaml", "stnet.yaml"):
        recipe, twin = (yaml.safe_load((f / name).read_text()) for f in (ROOT / "recipes", CONF))
        assert keys(twin) - extra == keys(recipe)


@pytest.mark.parametrize(
    ("options", "count", "error", "message"),
    [
        (["--data.genes", "[NOSUCHGENE]"], 3, ExpressionRecipeError, "NOSUCHGENE not measured"),
        (["--data.genes", "nowhere.txt"], 3, ExpressionRecipeError, r"nowhere\.txt does not exist"),
        (["--data.top_genes", "0"], 3, ExpressionRecipeError, "top_genes is 0"),
        (["--data.fold", "P9"], 3, ExpressionRecipeError, "P9.*has 3"),
        (["--data.slides", "[]"], 3, ExpressionRecipeError, "empty list"),
        ([], 1, SplitError, r"one slide \(P1\).*at least 2"),
        (["--model.finetune", "true"], 3, ProbeTrainingError, "finetune needs data.supply: pixels"),
        (["--model.average_symmetries", "true"], 3, ProbeTrainingError, "average_symmetries needs"),
        (["--data.batch_size", "5000"], 3, BatchSizeError, "usable cells"),
        (["--data.encoder", "uni"], 3, EncoderNotFoundError, "--data.weights none"),
    ],
    ids=[
        "gene",
        "gene file",
        "top",
        "fold",
        "slides",
        "patient",
        "finetune",
        "symmetries",
        "batch",
        "weights",
    ],
)
def test_bad_recipes_are_named(
    lightning: Run,
    tiny_slides: Sequence[Path],
    options: list[str],
    count: int,
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        lightning("fit", *options, slides=tiny_slides[:count])


def test_slides_without_a_common_gene_are_refused(lightning: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class Renamed(datamodule.ExpressionSlide):
        @property
        def genes(self):
            return super().genes.map(lambda gene: f"{self.patient}-{gene}")

    monkeypatch.setattr(datamodule, "ExpressionSlide", Renamed)
    with pytest.raises(SplitError, match="gene"):
        lightning("fit")


def test_features_that_are_not_finite_are_named(lightning: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    true = datamodule.slide_features

    def broken(*args: object, **kwargs: object) -> np.ndarray:
        values = np.array(true(*args, **kwargs))
        values[3, 2] = np.nan
        return values

    monkeypatch.setattr(datamodule, "slide_features", broken)
    with pytest.raises(FeatureError, match=r"slide P\d.*: the features of 1 of .* NaN or infinite"):
        lightning("fit")


def test_a_checkpoint_of_another_encoder_or_of_other_genes_is_refused(lightning: Run) -> None:
    short = ["--trainer.limit_train_batches", "1", "--trainer.max_epochs", "1"]
    lightning("fit", *short)
    other = ["--data.encoder", "timm:test_vit.r160_in1k", "--data.weights", "none"]
    with pytest.raises(ProbeMismatchError, match=r"checkpoint is of demo .*data\.encoder is timm:test_vit"):
        lightning("test", "--ckpt_path", "last", *other)
    with pytest.raises(ProbeTrainingError, match=r"the checkpoint predicts .* genes, the data have 5"):
        lightning("test", "--ckpt_path", "last", "--data.top_genes", "5")


def become_rank(rank: int, port: int, arguments: list[str], folder: str) -> None:
    """In a new process: one of two ranks that were started from outside, as Lightning's launcher does."""
    file = os.open(f"{folder}/output{rank}", os.O_WRONLY | os.O_CREAT)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    os.environ |= {"NODE_RANK": "0", "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"}
    sys.argv = ["lightning"]
    trainer = run_lightning(["fit", *arguments]).trainer
    trainer.test(trainer.lightning_module, datamodule=trainer.datamodule)
    pairs, batches = trainer.lightning_module.pairs, len(trainer.datamodule.val_dataloader())
    np.savez(f"{folder}/rank{rank}.npz", r=pairs.r, n=pairs.n, batches=batches)
    trainer.predict(trainer.lightning_module, datamodule=trainer.datamodule, return_predictions=False)


@pytest.mark.slow
def test_two_ranks_score_and_predict_as_one(
    lightning: Run, tiny_slides: Sequence[Path], tmp_path: Path, cache: Path
) -> None:
    """By Gloo, in float64: batches differ from those of one rank, and with them the last bits of float32."""
    double = ["--trainer.precision", "64-true", "--trainer.max_epochs", "1"]
    root = str(tmp_path / "two")
    arguments = ["-c", str(CONF / "genex.yaml"), "--trainer.default_root_dir", root, *double]
    arguments += ["--trainer.logger.init_args.save_dir", root, "--data.cache", str(cache)]
    arguments += ["--data.slides", "[" + ",".join(map(str, tiny_slides)) + "]"]
    arguments += ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--data.batch_size", "32"]
    context = multiprocessing.get_context("forkserver")  # one process imports Lightning, ranks are its copies
    context.set_forkserver_preload(["past_genex.probe.callbacks", "past_genex.data.datamodule"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [
        context.Process(target=become_rank, args=(rank, port, arguments, str(tmp_path))) for rank in range(2)
    ]
    try:
        for each in ranks:
            each.start()
        for each in ranks:
            each.join(120)
    finally:
        for each in ranks:
            each.kill()
            each.join()
    said = "\n".join((tmp_path / f"output{rank}").read_text()[-3000:] for rank in range(2))
    assert [each.exitcode for each in ranks] == [0, 0], said
    folder = tmp_path / "two" / "version_0"
    assert (folder / "maps.png").is_file()
    assert (folder / "checkpoints" / "probe.safetensors").is_file()
    one = lightning("test", "--ckpt_path", str(folder / "checkpoints" / "last.ckpt"), *double)
    data, pairs = one.datamodule, one.lightning_module.pairs
    cells = sum(int(own.sum()) for own in data.val_cells.values())
    for rank in range(2):
        with np.load(tmp_path / f"rank{rank}.npz") as two:
            assert two["batches"] >= 1
            np.testing.assert_array_equal(two["n"], pairs.n)  # every cell once
            np.testing.assert_allclose(two["r"], pairs.r, rtol=0, atol=1e-10)
    files = list(folder.rglob("*.h5ad"))
    assert len(files) == len(data.val_slides)
    tables = [ad.read_h5ad(file) for file in files]
    assert sum(table.n_obs for table in tables) == cells
    assert all(table.obs_names.is_unique for table in tables)
    np.testing.assert_allclose(tables[0].var["r"], pairs.r, atol=1e-6)
