"""The published configuration in training: the recipe says what the class says, and tokens follow it."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from past_core.checkpoint import load_checkpoint
from past_core.cli import run_lightning
from past_core.models.cell_encoder import CellEncoderConfig
from past_core.models.dual_encoder import DualEncoderConfig
from past_core.models.image_encoder import ImageEncoderConfig
from past_core.pretrain import TokenMismatchError
from past_core.vocabulary import ASSAYS, MODALITIES, ORGANISMS

ROOT = Path(__file__).parents[2]


def test_the_recipe_is_the_published_configuration() -> None:
    merged: dict[str, dict] = {"image": {}, "cell": {}, "model": {}}
    for name in ("paper", "published"):
        model = yaml.safe_load((ROOT / f"recipes/scale/{name}.yaml").read_text())["model"]["init_args"]
        for side in ("image", "cell"):
            merged[side] |= model.pop(side)
        merged["model"] |= model
    plain = {
        side: {key: tuple(value) if isinstance(value, list) else value for key, value in merged[side].items()}
        for side in ("image", "cell")
    }
    published = DualEncoderConfig.published()
    assert ImageEncoderConfig(**plain["image"]) == published.image
    assert CellEncoderConfig(**plain["cell"], vocabulary_size=20_340) == published.cell
    assert merged["model"]["temperature_form"] == published.temperature_form
    assert merged["model"]["targets"] == "published"


@pytest.fixture
def overlay(tmp_path: Path) -> Path:
    """The recipe's fields, in the size of the short twin and with its own vocabulary."""
    recipe = yaml.safe_load((ROOT / "recipes/scale/published.yaml").read_text())
    recipe["model"]["init_args"]["cell"] |= {"graph_layers": 2, "graph_widths": [16, 32], "max_tokens": 30}
    for key in ("vocabulary", "gene_means", "max_genes"):
        del recipe["data"]["init_args"][key]
    path = tmp_path / "published.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def arguments(overlay: Path, slides: Sequence[Path], *options: str) -> list[str]:
    root = str(overlay.parent)
    return [
        *("fit", "-c", str(ROOT / "tests/conf/pretrain.yaml"), "-c", str(overlay)),
        *("--trainer.default_root_dir", root, "--trainer.logger.init_args.save_dir", root),
        *("--trainer.max_epochs", "1", "--data.slides", "[" + ",".join(map(str, slides)) + "]"),
        *options,
    ]


def test_it_trains_on_its_own_tokens(overlay: Path, tiny_slides: Sequence[Path]) -> None:
    trainer = run_lightning(arguments(overlay, tiny_slides)).trainer
    batch = next(iter(trainer.datamodule.train_dataloader()))
    context = [MODALITIES["spatial"], ASSAYS["xenium"], ORGANISMS["human"]]
    assert batch.tokens[batch.centres, :3].tolist() == [context] * 64
    checkpoint = load_checkpoint(overlay.parent / "version_0" / "checkpoints" / "last.ckpt")
    assert checkpoint.model.config.cell.pool == "positions"
    assert checkpoint.model.config.cell.graph_widths == (16, 32)
    assert checkpoint.model.config.temperature_form == "clamped"


def test_other_tokens_are_refused(overlay: Path, tiny_slides: Sequence[Path]) -> None:
    options = ["--data.context_order", "[assay, organism, modality]", "--trainer.fast_dev_run", "true"]
    with pytest.raises(TokenMismatchError, match=r"set data\.context_order and data\.missing_means"):
        run_lightning(arguments(overlay, tiny_slides, *options))
