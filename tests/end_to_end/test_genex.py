"""The probe's recipe through the real `lightning` entry, on tiny slides."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from past_core.cli import run_lightning
from past_core.errors import PastError
from past_genex.data.datamodule import ExpressionRecipeError
from past_genex.data.splits import SplitError
from past_genex.probe.files import load_probe

CONF = Path(__file__).parents[1] / "conf" / "genex.yaml"


@pytest.fixture
def lightning(tiny_slides: Sequence[Path], tmp_path: Path) -> Callable[..., object]:
    def run(verb: str, *options: str, slides: Sequence[Path] = tiny_slides) -> object:
        root = str(tmp_path / "run")
        paths = ["--trainer.default_root_dir", root, "--trainer.logger.init_args.save_dir", root]
        paths += ["--data.slides", "[" + ",".join(map(str, slides)) + "]"]
        paths += ["--data.cache", str(tmp_path / "cache")]
        return run_lightning([verb, "-c", str(CONF), *paths, *options]).trainer

    return run


def test_fit_resume_and_test(lightning: Callable[..., object], tmp_path: Path) -> None:
    trainer = lightning("fit")
    folder = tmp_path / "run" / "version_0"
    assert {p.name for p in (folder / "checkpoints").iterdir()} == {"last.ckpt", "probe.safetensors"}
    assert (folder / "maps.png").stat().st_size > 10_000
    assert (folder / "r_by_gene.png").stat().st_size > 5_000
    data, module = trainer.datamodule, trainer.lightning_module
    probe = load_probe(folder / "checkpoints" / "probe.safetensors")
    probe.check(data.encoder)
    assert probe.demo
    assert set(probe.patients) == {"P1", "P2"}
    slide = data.slides[data.val_slides[0]]
    predicted = probe.predict(data.features[data.val_slides[0]])
    truth = slide.expression(data.target, probe.genes)
    gene = int(np.nanargmax(probe.trust_table.r))
    assert np.corrcoef(predicted[:, gene], truth[:, gene])[0, 1] == pytest.approx(
        probe.trust_table.r[gene], abs=1e-4
    )
    resumed = lightning("fit", "--ckpt_path", "last", "--trainer.max_epochs", "3")
    assert resumed.global_step == 3 * resumed.num_training_batches
    tested = lightning("test", "--ckpt_path", "last")
    assert float(tested.callback_metrics["test/r"]) == pytest.approx(
        float(resumed.callback_metrics["val/r"]), abs=1e-6
    )
    assert module.slide_r


def test_fine_tuning_on_pixels_changes_the_encoder(lightning: Callable[..., object]) -> None:
    options = ["--data.supply", "pixels", "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2"]
    frozen = lightning("fit", *options, "--trainer.limit_val_batches", "1")
    before = frozen.datamodule.encoder.fingerprint
    state = {k: v.clone() for k, v in frozen.datamodule.encoder._encoder.state_dict().items()}
    tuned = lightning("fit", *options, "--trainer.limit_val_batches", "1", "--model.finetune", "true")
    assert tuned.datamodule.encoder.fingerprint == before
    after = tuned.lightning_module.backbone.state_dict()
    assert any(not (after[key] == value).all() for key, value in state.items())


@pytest.mark.parametrize(
    ("options", "count", "error", "message"),
    [
        (["--data.genes", "[NOSUCHGENE]"], 3, ExpressionRecipeError, "NOSUCHGENE"),
        (["--data.fold", "P9"], 3, ExpressionRecipeError, "P9"),
        ([], 1, SplitError, "one patient|least|two"),
        (["--model.finetune", "true"], 3, PastError, "pixels"),
        (["--data.batch_size", "5000"], 3, PastError, "usable cells"),
    ],
    ids=["gene", "fold", "patient", "finetune", "batch"],
)
def test_bad_recipes_are_named(
    lightning: Callable[..., object],
    tiny_slides: Sequence[Path],
    options: list[str],
    count: int,
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        lightning("fit", *options, slides=tiny_slides[:count])
