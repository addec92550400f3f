"""A training, exported: the card and record say what was trained and measured, and the model is the same."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from typer.testing import CliRunner

from past_core import load_image_encoder, load_model
from past_core.checkpoint.record import manifest_hash
from past_core.cli import build_app, run_lightning

CONF = Path(__file__).parents[1] / "conf" / "pretrain.yaml"


@pytest.mark.slow
def test_a_run_is_exported_with_what_it_measured(tiny_slides: Sequence[Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ["--trainer.default_root_dir", str(run), "--trainer.logger.init_args.save_dir", str(run)]
    options += ["--trainer.max_epochs", "2", "--trainer.check_val_every_n_epoch", "1"]
    options += ["--data.slides", "[" + ",".join(map(str, tiny_slides)) + "]", "--model.learning_rate", "1e-3"]
    trainer = run_lightning(["fit", "-c", str(CONF), *options]).trainer
    data, metrics = trainer.datamodule, trainer.callback_metrics
    result = CliRunner().invoke(build_app(), ["export", str(run), "-o", str(tmp_path / "mine")])
    assert result.exit_code == 0, result.output
    assert "version_0/checkpoints/best.ckpt" in result.output

    best, last = (run / "version_0" / "checkpoints" / f"{name}.ckpt" for name in ("best", "last"))
    made, final = load_model(tmp_path / "mine"), load_model(last).info["training"]
    record = made.info["training"]
    assert record == load_model(best).info["training"]
    # The last checkpoint is of the trainer's last figures, the best of those that were the best.
    for name in ("val/enrichment@10", "val/recall@10/image_to_cell", "val/chance@10", "val/gallery"):
        assert final["metrics"][name] == pytest.approx(float(metrics[name]))
    callback = next(each for each in trainer.callbacks if isinstance(each, ModelCheckpoint))
    assert record["metrics"]["val/enrichment@10"] == pytest.approx(float(callback.best_model_score))
    assert final["step"] == final["validated_at"] == trainer.global_step
    assert record["step"] == record["validated_at"]
    stores = data.train_stores
    assert [slide["manifest"] for slide in record["train"]] == [manifest_hash(s.manifest) for s in stores]
    assert [slide["cells"] for slide in record["train"]] == [int(s.passed.sum()) for s in stores]
    assert [slide["name"] for slide in record["validation"]] == ["P3"]
    assert record["settings"]["model.learning_rate"] == 1e-3
    assert record["settings"]["data.batch_size"] == 64
    assert record["settings"]["seed_everything"] == "0"
    text = (tmp_path / "mine" / "config.json").read_text()
    assert str(tmp_path) not in text
    assert str(tiny_slides[0].parent) not in text
    card = (tmp_path / "mine" / "README.md").read_text()
    assert f"{json.loads(text)['training']['metrics']['val/recall@10/image_to_cell']:.4f}" in card

    images = torch.randint(0, 256, (4, 3, 48, 48), dtype=torch.uint8)
    encoders = [load_image_encoder(place, space="joint") for place in (best, tmp_path / "mine", run)]
    assert len({encoder.fingerprint for encoder in encoders}) == 1
    assert torch.equal(encoders[0](images), encoders[1](images))
