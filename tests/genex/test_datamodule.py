"""Weights that are found or asked for, symmetries, and held-out batches on every rank."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from past_core.frozen import EncoderError, EncoderNotFoundError
from past_core.models.errors import ModelError
from past_genex.data.datamodule import ExpressionDataModule
from past_genex.data.encoder import load_encoder

TINY = "timm:test_resnet.r160_in1k"


@pytest.mark.parametrize("name", ["densenet121", TINY])
def test_missing_weights_name_both_ways(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("PAST_CACHE", "HF_HOME", "HF_HUB_CACHE"):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(EncoderNotFoundError, match=r"download model\.safetensors.*--data\.weights none"):
        load_encoder(name)


def test_random_weights_are_asked_for_and_seeded() -> None:
    state = torch.get_rng_state()
    one, two, other = (load_encoder(TINY, "none", seed=seed) for seed in (1, 1, 2))
    assert one.fingerprint == two.fingerprint != other.fingerprint
    assert one.name.endswith("(from scratch)")
    assert torch.equal(torch.get_rng_state(), state)
    assert one(np.zeros((2, 3, one.patch_size, one.patch_size), np.uint8)).shape == (2, one.dim)
    with pytest.raises(EncoderError, match="'none', but demo names weights"):
        load_encoder("demo", "none")
    with pytest.raises(ModelError, match="no model 'nonesuch'"):
        load_encoder("timm:nonesuch", "none")


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_every_rank_has_held_out_cells_and_none_is_on_two(
    tiny_slides: Sequence[Path], tmp_path: Path, world: int
) -> None:
    seen = []
    for rank in range(world):
        data = ExpressionDataModule(slides=list(map(str, tiny_slides)), cache=str(tmp_path), supply="pixels")
        data.trainer = SimpleNamespace(global_rank=rank, world_size=world)
        data.batch_size = 16
        data.setup("fit")
        data.supply._features = [np.zeros((s.n_cells, 1), np.float32) for s in data.slides]
        loader = data.val_dataloader()
        assert len(loader)
        seen += [(int(s), int(c)) for batch in loader for s, c in zip(batch.slide, batch.cell, strict=True)]
    expected = [(n, int(c)) for n in data.val_slides for c in np.flatnonzero(data.val_cells[n])]
    assert sorted(seen) == expected


def test_the_chosen_genes_are_those_of_highest_mean(tiny_slides: Sequence[Path]) -> None:
    data = ExpressionDataModule(slides=list(map(str, tiny_slides)), supply="pixels", batch_size=16)
    data.setup("fit")
    few = ExpressionDataModule(
        slides=list(map(str, tiny_slides)), supply="pixels", batch_size=16, top_genes=7, fold=data.fold.name
    )
    few.setup("fit")
    assert len(few.genes) == 7
    assert set(few.genes) == set(data.genes[np.argsort(-data.target_mean)[:7]])
    cells = []
    for number in data.train_slides:
        rows = np.flatnonzero(data.train_cells[number])
        cells.append(data.slides[number].expression(data.target, few.genes, rows))
    expected = np.nanmean(np.concatenate(cells), axis=0, dtype=np.float64)  # NaN: not on that slide's panel
    np.testing.assert_allclose(few.target_mean, expected, rtol=1e-5)
