"""Callbacks of virtual staining in a real training."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from made_training import RandomTiles, Resumable
from PIL import Image

from past_vihc.callbacks import (
    ExportGenerator,
    StainCallbackError,
    StainPanel,
    StainPredictions,
    TileTable,
)
from past_vihc.files import load_generator
from past_vihc.tasks.film import FiLMTask


class Cases(RandomTiles):
    """Validation tiles of two cases, numbered."""

    def val_dataloader(self) -> Resumable:
        batches = [self.batch(number) for number in (100, 101)]
        return Resumable([b._replace(index=torch.arange(2) + 2 * i) for i, b in enumerate(batches)])

    test_dataloader = predict_dataloader = val_dataloader


def trained(
    folder: Path, callbacks: list[pl.Callback], **settings: Any
) -> tuple[pl.Trainer, FiLMTask, Cases]:
    torch.manual_seed(0)
    task = FiLMTask(
        width=4, discriminator_width=4, blocks=1, registration_depth=2, registration_width=4, hidden=8
    )  # fmt: skip
    options: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    options |= {"enable_model_summary": False, "default_root_dir": folder, "max_epochs": 1}
    trainer = pl.Trainer(**options | settings, callbacks=callbacks)
    data = Cases(batches=1)
    trainer.fit(task, datamodule=data)
    return trainer, task, data


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pl.Trainer, FiLMTask, Cases]:
    folder = tmp_path_factory.mktemp("run")
    best = ModelCheckpoint(dirpath=folder / "checkpoints", monitor="val/ssim", mode="max")
    panel = StainPanel(tiles=3)
    trainer, task, data = trained(folder, [panel, ExportGenerator(), TileTable(), StainPredictions(), best])
    return folder, trainer, task, data


def test_panel_is_drawn_of_fixed_tiles(run: tuple) -> None:
    folder, trainer, _, data = run
    with Image.open(folder / "panels.png") as image:
        assert image.width > 200
    panel = next(c for c in trainer.callbacks if isinstance(c, StainPanel))
    fixed, batches = panel._fixed, list(data.val_dataloader())
    assert fixed.case == ["case 100", "case 100", "case 101"]
    assert torch.equal(fixed.he[2], batches[1].he[0])
    assert fixed.index.tolist() == [0, 1, 2]


def test_the_best_generator_is_exported(run: tuple) -> None:
    folder, _, task, data = run
    model = load_generator(folder / "checkpoints" / "generator.safetensors")
    assert model.stains == ("er",)
    batch = data.batch(100)
    made = model(batch.he, batch.embedding, "er")
    assert torch.equal(made, task.translate(batch))
    assert not list((folder / "checkpoints").glob(".*"))


def test_table_after_the_test(run: tuple) -> None:
    folder, trainer, task, data = run
    trainer.test(task, datamodule=data, verbose=False)
    tiles, cases = (pd.read_csv(folder / f"{name}_test.csv") for name in ("tiles", "cases"))
    pd.testing.assert_frame_equal(tiles, task.evaluator.table(), check_dtype=False)
    assert tiles["index"].tolist() == [0, 1, 2, 3]
    assert cases["case"].tolist() == ["case 100", "case 101"]
    logged = trainer.callback_metrics
    assert logged["test/ssim"].item() == pytest.approx(cases["ssim"].mean(), abs=1e-6)


def test_predictions_are_images_by_case(run: tuple) -> None:
    folder, trainer, task, data = run
    task.predict_step = lambda batch, batch_idx: task.translate(batch)
    trainer.predict(task, datamodule=data)
    found = sorted(
        p.relative_to(folder / "predictions").as_posix() for p in folder.rglob("predictions/*/*.png")
    )
    assert found == [f"case_{100 + i // 2}/er_{i:06d}.png" for i in range(4)]
    with Image.open(folder / "predictions" / found[0]) as image:
        made = np.asarray(image)
    expected = task.translate(data.batch(100))[0]
    np.testing.assert_array_equal(made.transpose(2, 0, 1), expected)


def test_without_checkpoints_the_last_weights_are_exported(tmp_path: Path) -> None:
    trained(tmp_path, [ExportGenerator(filename="er.safetensors")], enable_checkpointing=False)
    assert load_generator(tmp_path / "checkpoints" / "er.safetensors").mpp == 0.5


def test_settings_that_cannot_be() -> None:
    with pytest.raises(StainCallbackError, match=r"ending in \.safetensors"):
        ExportGenerator(filename="../x.safetensors")
    with pytest.raises(StainCallbackError, match="tiles 0"):
        StainPanel(tiles=0)
