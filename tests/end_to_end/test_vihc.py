"""The recipes of virtual staining through the real `lightning` entry, on tiny pairs."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from past_core.cli import run_lightning
from past_vihc.data.split import CaseSplitError
from past_vihc.files import GeneratorMismatchError, load_generator

RECIPES = Path(__file__).parents[2] / "recipes"
Run = Callable[..., object]
SMALL = {
    "data.patients": "[P8, P9, P13]",
    "data.size_um": "160",
    "data.tile": "64",
    "data.curation": "null",
    "data.batch_size": "4",
    "data.val_cases": "[P9]",
    "data.test_cases": "[P13]",
    "trainer.max_epochs": "2",
    "trainer.check_val_every_n_epoch": "1",
    "trainer.accelerator": "cpu",
    "trainer.enable_progress_bar": "false",
    "trainer.enable_model_summary": "false",
    "trainer.log_every_n_steps": "1",
}
TINY = {"model.width": "4", "model.discriminator_width": "4"}
REGISTERED = TINY | {"model.blocks": "1", "model.registration_depth": "2", "model.registration_width": "4"}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs, measures and embeddings, made by the first training."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def lightning(tmp_path: Path, cache: Path) -> Run:
    def run(verb: str, recipe: str, settings: dict[str, str], *options: str) -> object:
        root = str(tmp_path / "run")
        own = {"trainer.default_root_dir": root, "trainer.logger.init_args.save_dir": root}
        given = SMALL | own | {"data.cache": str(cache)} | settings
        flags = [text for key, value in given.items() for text in (f"--{key}", value)]
        return run_lightning([verb, "-c", str(RECIPES / f"{recipe}.yaml"), *flags, *options]).trainer

    return run


def test_film_fits_resumes_tests_and_predicts(lightning: Run, tmp_path: Path) -> None:
    settings = REGISTERED | {"model.hidden": "8", "data.granularity": "cells", "data.save_curation": "true"}
    trainer = lightning("fit", "vihc", settings)
    folder = tmp_path / "run" / "version_0"
    assert {p.name for p in (folder / "checkpoints").iterdir()} == {"last.ckpt", "generator.safetensors"}
    assert (folder / "panels.png").stat().st_size > 10_000
    assert len(pd.read_csv(folder / "curation.csv")) == len(trainer.datamodule.tiles)
    events = EventAccumulator(str(folder))
    events.Reload()
    assert {"val/psnr", "val/ssim", "val/ssim_paper", "val/dab_r"} <= set(events.Tags()["scalars"])

    resumed = lightning("fit", "vihc", settings | {"trainer.max_epochs": "3"}, "--ckpt_path", "last")
    assert resumed.global_step == 3 * trainer.global_step // 2
    model = load_generator(folder / "checkpoints" / "generator.safetensors")
    data = resumed.datamodule
    model.check(data.encoder)
    assert (model.stains, model.mpp, model.tile, model.granularity) == (("er",), 0.5, 64, "cells")
    assert model.demo
    assert model.card["cases"] == {"train": ["P8"], "val": ["P9"]}

    tested = lightning("test", "vihc", settings, "--ckpt_path", "last")
    tiles = pd.read_csv(folder / "tiles_test.csv")
    assert set(tiles["case"]) == {"P13"}
    assert (tiles["height"] == 64).all()
    assert float(tested.callback_metrics["test/psnr"]) == pytest.approx(tiles["psnr"].mean(), rel=1e-5)
    assert pd.read_csv(folder / "cases_test.csv")["nuclei"].item() > 0

    lightning("predict", "vihc", settings, "--ckpt_path", "last")
    pictures = sorted((folder / "predictions" / "P13").glob("er_*.png"))
    assert len(pictures) == len(tiles)
    batch = next(iter(tested.datamodule.test_dataloader()))
    made = model(batch.he, batch.embedding, "er").numpy()
    for index, image in zip(batch.index.tolist(), made, strict=True):
        with Image.open(folder / "predictions" / "P13" / f"er_{index:06}.png") as file:
            written = np.asarray(file)
        assert np.abs(written.astype(int) - np.moveaxis(image, 0, -1)).max() <= 1

    with pytest.raises(GeneratorMismatchError, match="conditioned by demo"):
        lightning("fit", "vihc", settings | {"data.weights": "random"}, "--ckpt_path", "last")


DIFFUSION = {"model.width": "8", "model.multipliers": "[1, 2]", "model.attention": "[]", "model.blocks": "1"}
DIFFUSION |= {"model.steps": "20", "model.timestep_respacing": "ddim4", "model.val_tiles": "1"}
BASELINES = {
    "vihc-reggan": (REGISTERED, {"train/l1", "train/smooth", "train/adversarial"}),
    "vihc-pix2pix": (TINY | {"model.depth": "4"}, {"train/l1", "train/adversarial"}),
    "vihc-diffusion": (DIFFUSION | {"model.head_dim": "8", "model.crop": "null"}, {"train/loss"}),
}


@pytest.mark.parametrize("recipe", BASELINES)
def test_baselines_learn_the_same_tiles(lightning: Run, tmp_path: Path, recipe: str) -> None:
    settings, logged = BASELINES[recipe]
    trainer = lightning("fit", recipe, settings)
    assert np.isfinite(float(trainer.callback_metrics["val/psnr"]))
    assert logged <= {name.removesuffix("_step").removesuffix("_epoch") for name in trainer.logged_metrics}
    names = {p.name for p in (tmp_path / "run" / "version_0" / "checkpoints").iterdir()}
    # Diffusion takes tens of passes a tile and is a baseline only: it has no file for whole slides.
    extra = set() if recipe == "vihc-diffusion" else {"generator.safetensors"}
    assert names == {"last.ckpt"} | extra


def test_shuffled_embeddings_are_of_other_tiles(lightning: Run) -> None:
    settings = REGISTERED | {"model.hidden": "8", "trainer.max_steps": "1"}
    true = lightning("fit", "vihc", settings).datamodule
    shuffled = lightning("fit", "vihc", settings | {"data.shuffle_embeddings": "true"}).datamodule
    a, b = (next(iter(data.test_dataloader())) for data in (true, shuffled))
    assert torch.equal(a.he, b.he)
    assert not (a.embedding == b.embedding).all(dim=1).any()


def test_one_case_cannot_be_split(lightning: Run) -> None:
    settings = REGISTERED | {"data.patients": "[P8]", "data.val_cases": "null", "data.test_cases": "null"}
    with pytest.raises(CaseSplitError, match="case"):
        lightning("fit", "vihc", settings)
