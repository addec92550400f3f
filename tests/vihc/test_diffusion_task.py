"""The network and the task: conditioning, learning one pair, a trainer's steps, checkpoints."""

import ast
import builtins
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import pytest
import torch
from made_diffusion import MadeEvaluator, MadeTiles
from torch import Tensor

from past_core.errors import PastError
from past_vihc.files import GeneratorMismatchError
from past_vihc.models import diffusion
from past_vihc.models.diffusion.average import averaged, warmed_decay
from past_vihc.models.diffusion.crops import random_crops
from past_vihc.models.diffusion.held_out import noise_error, spread_tiles
from past_vihc.models.diffusion.loss import hybrid_loss
from past_vihc.models.diffusion.network import ConditionedUNet, DiffusersMissingError, NetworkError
from past_vihc.models.diffusion.noise import Place
from past_vihc.models.diffusion.sampling import Respacing, RespacingError, sample
from past_vihc.models.diffusion.schedule import NoiseSchedule, cosine_betas
from past_vihc.tasks.base import StainTaskError
from past_vihc.tasks.diffusion import DiffusionTask

SMALL: dict[str, Any] = {"width": 8, "multipliers": (1, 2), "blocks": 1, "attention": (), "head_dim": 8}


def _inputs(n: int = 2, size: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, he = torch.rand(2, n, 3, size, size, generator=generator) * 2 - 1
    return x, torch.arange(n) * 10, he


def _awake(network: ConditionedUNet) -> ConditionedUNet:
    """The network with what starts at zero drawn instead, as after training."""
    torch.manual_seed(0)
    for weight in network.parameters():
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.1)
    return network


# --- network ---


def test_network_starts_at_zero_and_sees_everything() -> None:
    x, t, he = _inputs()
    network = ConditionedUNet(**SMALL | {"attention": (1,)}, embedding_dim=5, stains=2)
    embedding, stain = torch.randn(2, 5), torch.tensor([0, 1])
    assert not network(x, t, he, embedding, stain).any()
    with torch.no_grad():
        _awake(network)
        made = network(x, t, he, embedding, stain)
        assert made.shape == (2, 6, 16, 16)
        changed = [
            network(-x, t, he, embedding, stain),
            network(x, t + 30, he, embedding, stain),
            network(x, t, -he, embedding, stain),
            network(x, t, he, -embedding, stain),
            network(x, t, he, embedding, 1 - stain),
        ]
        assert all((other - made).abs().amax(dim=(1, 2, 3)).min() > 1e-3 for other in changed)
        grid = embedding[:, :, None, None].expand(-1, -1, 3, 3)
        torch.testing.assert_close(network(x, t, he, grid, stain), made)
        # Without its condition a tile is one of any H&E and any embedding.
        keep = torch.tensor([True, False])
        once, again = (
            network(x, t, h, e, stain, keep=keep) for h, e in ((he, embedding), (-he, torch.randn(2, 5)))
        )
        torch.testing.assert_close(once[0], made[0])
        torch.testing.assert_close(once[1], again[1])
        assert (again[0] - made[0]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 10}, "multiple of 4"),
        ({"multipliers": ()}, "multiplier"),
        ({"attention": (2,)}, "some of"),
        ({"attention": (1,), "head_dim": 5}, "does not divide the 16 channels of level 1"),
        ({"blocks": 0}, "blocks 0"),
        ({"stains": 0}, "stains 0"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        ConditionedUNet(**SMALL | settings)


def test_inputs_that_do_not_fit() -> None:
    x, t, he = _inputs(size=17)
    network = ConditionedUNet(**SMALL, embedding_dim=5, stains=2)
    with pytest.raises(NetworkError, match="multiples of 2 px"):
        network(x, t, he)
    x, t, he = _inputs()
    with pytest.raises(NetworkError, match="equal shapes"):
        network(x, t, he[:1])
    with pytest.raises(NetworkError, match=r"none; expected \(2, 5\)"):
        network(x, t, he)
    with pytest.raises(NetworkError, match=r"\(2, 4\); expected"):
        network(x, t, he, torch.zeros(2, 4))
    with pytest.raises(NetworkError, match="no stain"):
        network(x, t, he, torch.zeros(2, 5))
    assert issubclass(NetworkError, PastError)


def test_without_diffusers(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("diffusers"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(DiffusersMissingError, match=r"past-vihc\[train\]"):
        ConditionedUNet(**SMALL)


def test_diffusers_is_imported_where_it_is_used() -> None:
    """The models' modules load in an installation that only stains."""
    files = sorted(Path(diffusion.__file__).parent.glob("*.py"))
    assert len(files) > 7
    for file in files:
        for node in ast.parse(file.read_text()).body:
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [each.name for each in node.names] if isinstance(node, ast.Import) else []
            assert not {name.split(".")[0] for name in names} & {"diffusers", "lightning", "torchmetrics"}


# --- average, crops, held-out tiles ---


def test_average() -> None:
    layer = torch.nn.Linear(1, 1, bias=False)
    average = averaged(layer, decay=0.5)
    expected = None
    for step in range(12):
        layer.weight.data.fill_(float(step))
        decay = min(0.5, (1 + step) / (10 + step))
        expected = float(step) if expected is None else decay * expected + (1 - decay) * step
        average.update_parameters(layer)
    assert average.module.weight.item() == pytest.approx(expected, rel=1e-6)
    assert not any(p.requires_grad for p in average.parameters())
    assert [warmed_decay(n, 0.9999) for n in (0, 90, 10**7)] == [0.1, 0.91, 0.9999]


def test_crops_are_of_one_place() -> None:
    he = torch.arange(2 * 3 * 32 * 32.0).reshape(2, 3, 32, 32)
    torch.manual_seed(0)
    corners = set()
    for _ in range(50):
        parts, others = random_crops(he, -he, size=8)
        assert torch.equal(parts, -others)
        y, x = divmod(int(parts[0, 0, 0, 0]), 32)
        assert torch.equal(parts[0], he[0, :, y : y + 8, x : x + 8])
        corners.add((y, x))
    assert {max(c) for c in zip(*corners, strict=True)} <= {23, 24}
    assert len(corners) > 40
    assert random_crops(he, he, size=None)[0] is he


def test_spread_tiles() -> None:
    y, x = (a.ravel() for a in np.mgrid[:12, :12] * 128)
    one = pd.DataFrame({"y": y, "x": x, "source": "s", "kept": True, "part": "val"})
    tiles = pd.concat([one.assign(case=c, stain=s) for c in "AB" for s in ("er", "pr")], ignore_index=True)
    tiles.loc[::5, "kept"] = False
    tiles.loc[tiles["case"] == "B", "part"] = "test"
    few, more = spread_tiles(tiles, "val", 8), spread_tiles(tiles, "val", 16)
    assert len(few) == 16
    assert set(few) < set(more)
    chosen = tiles.iloc[more]
    assert chosen["kept"].all()
    assert set(chosen["case"]) == {"A"}
    assert (chosen["stain"].value_counts() == 16).all()
    for _, table in chosen.groupby("stain"):  # each quarter of the image has its share
        assert (table.groupby([table["y"] < 768, table["x"] < 768]).size() >= 3).all()
        assert table["x"].nunique() >= 6
        assert table["y"].nunique() >= 6
    alone = tiles.iloc[[1]]
    assert spread_tiles(alone, "val", 8).tolist() == [0]
    many = tiles.assign(source=np.arange(len(tiles)) // 3 % 4)
    assert many.iloc[spread_tiles(many, "val", 8)].groupby("stain")["source"].nunique().eq(4).all()
    everything = spread_tiles(tiles, "test", None)
    assert len(everything) == int((tiles["kept"] & (tiles["part"] == "test")).sum())
    assert np.array_equal(spread_tiles(tiles, "test", 1000), everything)


# --- learning ---


def test_one_pair_is_learned() -> None:
    """120 steps on one pair: the noise's error falls far below 1, and samples lie nearer to the stain."""
    torch.manual_seed(0)
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, 16)] * 2, indexing="ij")
    he = torch.stack([torch.sin(3 * y), torch.cos(4 * x), y * x])[None] * 0.8
    ihc = torch.stack([x, -y, (x**2 + y**2 < 0.5).float() - 0.5])[None] * 0.9
    schedule = NoiseSchedule(cosine_betas(100))
    network = ConditionedUNet(**SMALL | {"width": 16})
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3, weight_decay=0.0, fused=True)
    batch, errors = [part.expand(4, -1, -1, -1) for part in (ihc, he)], []
    before = noise_error(network, schedule, ihc, he, numbers=[3])
    for _ in range(120):
        t, noise = torch.randint(100, (4,)), torch.randn(4, 3, 16, 16)
        x_t = schedule.add_noise(batch[0], t, noise)
        loss = hybrid_loss(schedule, network(x_t, t, batch[1]), x0=batch[0], x_t=x_t, t=t, noise=noise)
        optimizer.zero_grad()
        loss.loss.backward()
        optimizer.step()
        errors.append(loss.mse.mean().item())
    assert errors[0] == pytest.approx(1, abs=0.1)
    assert np.mean(errors[-20:]) < 0.3
    assert noise_error(network, schedule, ihc, he, numbers=[3]) < 0.5 * before
    between = (he - ihc).square().mean()
    # Without new noise at every step, DDIM does not forget the errors of the first ones.
    for text, share in (("20", 0.5), ("ddim10", 0.8)):
        made = sample(network, schedule, he, respacing=Respacing.parse(text, 100), places=[Place(0)])
        assert (made - ihc).square().mean() < share * between, text


# --- task ---


@pytest.fixture(autouse=True)
def _evaluator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DiffusionTask, "new_evaluator", lambda self: MadeEvaluator())


def _task(**options: Any) -> DiffusionTask:
    settings = SMALL | {"steps": 20, "timestep_respacing": "4", "val_steps": 2, "val_tiles": 3}
    return DiffusionTask(**settings | options)


def _trainer(tmp_path: Path, **options: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        default_root_dir=tmp_path,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
        **options,
    )


def test_two_steps_and_a_test(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data, task = MadeTiles(), _task(learning_rate=1e-2, test_tiles=5, gradient_clip=1.0, crop=8)
    trainer = _trainer(tmp_path, max_epochs=1)
    with caplog.at_level("INFO", logger="past_vihc"):
        trainer.fit(task, data)
        assert trainer.global_step == 2
        assert int(task.average.n_averaged) == 2
        assert sorted(task.evaluator.numbers) == spread_tiles(data.tiles, "val", 3).tolist()
        assert {"train/loss", "train/mse", "train/vlb", "val/noise_mse", "val/mae"} <= set(
            trainer.callback_metrics
        )
        trainer.test(task, data)
    assert sorted(task.evaluator.numbers) == spread_tiles(data.tiles, "test", 5).tolist()
    assert "val: samples 3 of 12 tiles (at most 3 of each case and stain), 2 ancestral steps" in caplog.text
    assert "test: samples 5 of 12 tiles (at most 5 of each case and stain), 4 ancestral steps" in caplog.text
    with pytest.raises(StainTaskError, match="no generator file"):
        task.stain_model()


def test_batches_without_a_sampled_tile(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The sanity check samples in any case; a validation of few batches says that it sampled nothing."""
    data, task = MadeTiles(), _task(val_tiles=1)
    chosen = int(spread_tiles(data.tiles, "val", 1)[0])
    assert chosen >= 12  # not in the first batch, rows 8 to 11
    seen: list[Any] = []
    task.new_evaluator = lambda: seen.append(MadeEvaluator()) or seen[-1]
    trainer = _trainer(tmp_path, max_epochs=1, limit_val_batches=1)
    trainer.num_sanity_val_steps = 1
    trainer.fit(task, data)
    assert [evaluator.numbers for evaluator in seen] == [[8], []]
    assert "val: no batch held a tile that is sampled" in caplog.text


def test_a_tile_has_one_sample(tmp_path: Path) -> None:
    data = MadeTiles(dim=4, stains=("er", "pr"), grid=True)
    task = _task(embeddings="true", conditioning_dropout=0.3, guidance=1.5, dropout=0.2, ema=None)
    _trainer(tmp_path, max_steps=1, limit_val_batches=0).fit(task, data)
    _awake(task.generator)
    task.train()
    first = task.translate(data.batch([20, 21]))
    assert task.generator.training
    assert first.shape == (2, 3, 16, 16)
    assert torch.equal(first[1:], task.translate(data.batch([21])))
    assert torch.equal(first, task.translate(data.batch([20, 21])))
    same = data.batch([20, 20])._replace(index=torch.tensor([20, 22]))
    two = task.translate(same)
    assert torch.equal(two[0], first[0])
    assert not torch.equal(two[0], two[1])


def test_checkpoint_restores_everything(tmp_path: Path) -> None:
    """Two epochs at once, and one after the other through a file, give the same weights and averages."""
    data, path = MadeTiles(), tmp_path / "last.ckpt"
    quiet = {"limit_val_batches": 0}
    whole = _task(learning_rate=1e-2)
    pl.seed_everything(1)
    _trainer(tmp_path, max_epochs=2, **quiet).fit(whole, data)
    first = _task(learning_rate=1e-2)
    pl.seed_everything(1)
    trainer = _trainer(tmp_path, max_epochs=1, **quiet)
    trainer.fit(first, data)
    trainer.save_checkpoint(path)
    second = _task(learning_rate=1e-2)
    pl.seed_everything(2)
    _trainer(tmp_path, max_epochs=2, **quiet).fit(second, data, ckpt_path=path)
    expected, got = whole.state_dict(), second.state_dict()
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    assert int(second.average.n_averaged) == 4
    inner = second.generator.unet.conv_in.weight
    assert not torch.equal(second.average.module.unet.conv_in.weight, inner)
    for other, message in ((_task(steps=40), "steps 20, now 40"), (_task(), "stains")):
        stains = ("er",) if "steps" in message else ("pr",)
        with pytest.raises(GeneratorMismatchError, match=message):
            _trainer(tmp_path, max_epochs=3, **quiet).fit(other, MadeTiles(stains=stains), ckpt_path=path)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"embeddings": "some"}, StainTaskError, "true or none"),
        ({"conditioning_dropout": 1.0}, StainTaskError, "conditioning_dropout 1.0"),
        ({"guidance": 2.0}, StainTaskError, "conditioning_dropout"),
        ({"val_tiles": 0}, StainTaskError, "val_tiles 0"),
        ({"timestep_respacing": "ddim7"}, RespacingError, "ddim5"),
        ({"val_steps": 30}, RespacingError, "from 1 to 20"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        _task(**options)


@pytest.mark.parametrize(
    ("options", "tile", "message"),
    [
        ({"embeddings": "true"}, 16, "no embeddings"),
        ({"crop": 24}, 16, "no larger than a tile"),
        ({"crop": 7}, 16, "multiples of 2 px"),
        ({}, 17, "data.tile 17"),
    ],
)
def test_data_that_do_not_fit(tmp_path: Path, options: dict[str, Any], tile: int, message: str) -> None:
    with pytest.raises(StainTaskError, match=message):
        _trainer(tmp_path, max_steps=1).fit(_task(**options), MadeTiles(tile=tile))
