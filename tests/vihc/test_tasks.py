"""The adversarial tasks through a real trainer: what they change, log, count, keep and refuse."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from made_training import Counting, RandomTiles

from past_core.training.finite import NonFiniteError
from past_vihc.files import GeneratorMismatchError, export_generator, load_generator
from past_vihc.models.scaling import to_unit
from past_vihc.tasks.adversarial import Part, frozen, total
from past_vihc.tasks.base import StainTaskError, decay_factor
from past_vihc.tasks.film import FiLMTask
from past_vihc.tasks.pix2pix import Pix2PixTask
from past_vihc.tasks.reggan import RegGANTask
from past_vihc.tasks.replay import ReplayBuffer

NETWORK: dict[str, Any] = {"width": 4, "discriminator_width": 4, "learning_rate": 1e-3}
REGGAN = NETWORK | {"blocks": 1, "registration_depth": 2, "registration_width": 4}
FILM = REGGAN | {"hidden": 8}
PIX2PIX = NETWORK | {"depth": 3}


def made(kind: type, **settings: Any) -> Any:
    torch.manual_seed(0)
    task = kind(**settings)
    task.new_evaluator = Counting
    return task


def trainer(folder: Path, **settings: Any) -> pl.Trainer:
    options: dict[str, Any] = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "default_root_dir": folder,
        "max_steps": 2,
    }
    return pl.Trainer(**options | settings)


@pytest.fixture(autouse=True)
def _quiet() -> Any:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Snapshot(pl.Callback):
    """The weights before the first step."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.weights = {name: value.detach().clone() for name, value in pl_module.named_parameters()}


COMMON = {"adversarial", "l1", "real", "fake", "generator", "discriminator"}
CASES = [
    (FiLMTask, FILM, {}, {"smooth"}),
    (
        FiLMTask,
        FILM | {"pyramid_weight": 1.0, "pyramid_levels": 3, "dab_weight": 1.0, "noise_rotation": 3.0},
        {"granularity": "cells", "stains": ("er", "pr")},
        {"smooth", "pyramid", "dab"},
    ),
    (FiLMTask, FILM | {"embeddings": "none", "norm": "batch"}, {}, {"smooth"}),
    (RegGANTask, REGGAN, {"dim": 0}, {"smooth"}),
    (
        RegGANTask,
        REGGAN | {"mode": "c+r", "registration": False, "gradient_clip": 1.0},
        {},
        {"adversarial_back", "cycle", "real_back", "fake_back"},
    ),
    (Pix2PixTask, PIX2PIX, {}, set()),
]


@pytest.mark.parametrize(("kind", "settings", "data", "parts"), CASES)
def test_two_steps_change_every_network_and_log_every_part(
    kind: type, settings: dict[str, Any], data: dict[str, Any], parts: set[str], tmp_path: Path
) -> None:
    task, before = made(kind, **settings), Snapshot()
    run = trainer(tmp_path, callbacks=[before], limit_val_batches=1, val_check_interval=2)
    run.fit(task, datamodule=RandomTiles(**data))
    assert run.global_step == 2
    same = [name for name, value in task.named_parameters() if torch.equal(value, before.weights[name])]
    # Biases before an instance norm have no effect; all that matters moved, the zero-initialised layers too.
    assert not [name for name in same if not name.endswith("bias")]
    logged = {name.removeprefix("train/") for name in run.callback_metrics if name.startswith("train/")}
    assert logged == COMMON | parts
    assert all(torch.isfinite(value) for value in run.callback_metrics.values())
    ((fake, batch),) = task.evaluator.seen
    assert fake.dtype == torch.uint8
    assert fake.shape == batch.ihc.shape
    assert run.callback_metrics["val/psnr"] == 21
    assert "val/dab_r" not in run.callback_metrics  # undefined


def test_one_step_is_adam_on_either_side_alone(tmp_path: Path) -> None:
    data = RandomTiles(dim=0)
    task, before = made(RegGANTask, **REGGAN), Snapshot()
    trainer(tmp_path, callbacks=[before], max_steps=1, limit_val_batches=0).fit(task, datamodule=data)
    after = {name: value.detach().clone() for name, value in task.named_parameters()}
    task.load_state_dict(before.weights, strict=False)
    batch = data.batch(0)
    he, ihc = to_unit(batch.he), to_unit(batch.ihc)
    makers = [p for network in task.makers() for p in network.parameters()]
    judges = [p for network in task.judges() for p in network.parameters()]
    first, second = (torch.optim.Adam(each, 1e-3, betas=(0.5, 0.999)) for each in (makers, judges))
    # The step of the makers, backward through D; then that of D on what was made before it.
    parts, images = task.maker_losses(he, ihc, batch)
    total(parts).backward()
    first.step()
    for weight in judges:
        weight.grad = None
    total(task.judge_losses(images, he, ihc)).backward()
    second.step()
    for name, value in task.named_parameters():
        if name.endswith("bias"):
            continue  # before an instance norm a bias has no gradient but rounding, whose sign Adam takes
        torch.testing.assert_close(value, after[name], rtol=1e-4, atol=1e-6, msg=name)


def test_losses_are_weighted_as_published(tmp_path: Path) -> None:
    task = made(RegGANTask, **REGGAN)
    run = trainer(tmp_path, max_steps=1, limit_val_batches=0)
    run.fit(task, datamodule=RandomTiles())
    value = {name.removeprefix("train/"): float(v) for name, v in run.callback_metrics.items()}
    wanted = value["adversarial"] + 20 * value["l1"] + 10 * value["smooth"]
    assert value["generator"] == pytest.approx(wanted, rel=1e-5)
    assert value["discriminator"] == pytest.approx(value["real"] + value["fake"], rel=1e-5)


def test_frozen_networks_pass_gradients_on_and_take_none() -> None:
    judge, image = torch.nn.Linear(2, 1), torch.ones(1, 2, requires_grad=True)
    with frozen([judge]):
        loss = judge(image).sum()
    loss.backward()
    assert image.grad is not None
    assert judge.weight.grad is None
    assert judge.weight.requires_grad
    assert float(total({"a": Part(2.0, torch.tensor(3.0)), "b": Part(1.0, torch.tensor(1.0))})) == 7


def test_registration_lays_the_fake_on_the_displaced_real(tmp_path: Path) -> None:
    class Copy(torch.nn.Module):
        def forward(self, he: torch.Tensor, *_: Any) -> torch.Tensor:
            return he

    class Known(torch.nn.Module):
        def forward(self, fake: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
            return torch.tensor([2.0, -3.0]).view(1, 2, 1, 1).expand(len(fake), 2, *fake.shape[2:])

    task, batch = made(RegGANTask, **REGGAN), RandomTiles().batch(0)
    task.build(RandomTiles())
    task.generator, task.registration = Copy(), Known()
    he = to_unit(batch.he)
    ihc = torch.roll(he, (-2, 3), (2, 3))
    parts, fake = task.maker_losses(he, ihc, batch)
    assert fake[0] is he  # what is judged and exported stays on its H&E
    still = made(RegGANTask, **REGGAN)
    still.build(RandomTiles())
    still.generator, still.registration = Copy(), None
    unregistered, _ = still.maker_losses(he, ihc, batch)
    assert float(parts["l1"].value) < 0.3 * float(unregistered["l1"].value)  # the border alone is left
    assert float(parts["smooth"].value) == 0
    assert "smooth" not in unregistered


def test_resuming_in_mid_epoch_gives_equal_bits(tmp_path: Path) -> None:
    settings = FILM | {"ema": 0.9, "schedule": "linear", "decay_from": 0.2, "noise_translation": 0.1}
    options = {"limit_val_batches": 0, "max_steps": 6, "max_epochs": -1}
    whole = made(FiLMTask, **settings)
    straight = trainer(tmp_path, **options)
    straight.fit(whole, datamodule=RandomTiles())

    class Stop(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
            if trainer.global_step == 3:  # of 4 in the epoch
                trainer.save_checkpoint(tmp_path / "three.ckpt")
                trainer.should_stop = True

    first = trainer(tmp_path, callbacks=[Stop()], **options)
    first.fit(made(FiLMTask, **settings), datamodule=RandomTiles())
    assert first.global_step == 3
    resumed = made(FiLMTask, **settings)
    second = trainer(tmp_path, **options)
    second.fit(resumed, datamodule=RandomTiles(), ckpt_path=tmp_path / "three.ckpt")
    assert second.global_step == straight.global_step == 6
    assert int(resumed.average.n_averaged) == 6
    state = resumed.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in whole.state_dict().items())
    assert resumed.optimizers()[1].param_groups[0]["lr"] == whole.optimizers()[1].param_groups[0]["lr"] == 0


def test_decay_is_linear_after_its_start() -> None:
    factors = [decay_factor(step, total=10, start=0.5) for step in range(12)]
    assert factors == pytest.approx([1, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2, 0, 0])


@pytest.mark.parametrize("ema", [None, 0.5])
def test_a_checkpoint_becomes_the_generator_that_was_evaluated(ema: float | None, tmp_path: Path) -> None:
    data = RandomTiles(granularity="cells")
    task = made(FiLMTask, **FILM, ema=ema)
    run = trainer(tmp_path, limit_val_batches=1, val_check_interval=2)
    run.fit(task, datamodule=data)
    run.save_checkpoint(tmp_path / "last.ckpt")
    model = load_generator(export_generator(tmp_path / "last.ckpt", tmp_path / "generator.safetensors"))
    assert (model.mpp, model.tile, model.pitch_um, model.granularity) == (0.5, 32, 8.0, "cells")
    assert (model.encoder.name, model.encoder.dim, model.demo) == ("enc", 5, True)
    assert model.card["embeddings"] == "true"
    assert model.card["step"] == 2
    assert model.card["settings"]["blocks"] == 1
    assert model.card["metrics"]["val/psnr"] == 21
    ((fake, batch),) = task.evaluator.seen
    assert torch.equal(model(batch.he, batch.embedding, "er"), fake)
    assert torch.equal(task.stain_model()(batch.he, batch.embedding), fake)
    if ema is not None:
        task.average = None
        assert not torch.equal(task.translate(batch), fake)
    again = made(FiLMTask, **FILM, ema=ema)
    test = trainer(tmp_path)
    test.test(again, datamodule=data, ckpt_path=tmp_path / "last.ckpt", verbose=False)
    assert torch.equal(again.evaluator.seen[0][0], fake)


def test_another_encoder_or_other_stains_are_refused(tmp_path: Path) -> None:
    run = trainer(tmp_path, max_steps=1, limit_val_batches=0)
    run.fit(made(FiLMTask, **FILM), datamodule=RandomTiles())
    run.save_checkpoint(tmp_path / "one.ckpt")
    for data, message in (
        (RandomTiles(fingerprint="cd" * 32), r"conditioned by enc \(fingerprint abab.*this run by enc"),
        (RandomTiles(stains=("pr",)), "makes er, data.stains is pr"),
    ):
        with pytest.raises(GeneratorMismatchError, match=message):
            trainer(tmp_path).test(made(FiLMTask, **FILM), datamodule=data, ckpt_path=tmp_path / "one.ckpt")


@pytest.mark.parametrize("by_data", [False, True])
def test_shuffled_embeddings_are_other_tiles_in_validation_too(by_data: bool, tmp_path: Path) -> None:
    data = RandomTiles(shuffle_embeddings=by_data)
    task = made(FiLMTask, **FILM, embeddings="shuffled")
    run = trainer(tmp_path, max_steps=1, limit_val_batches=0)
    run.fit(task, datamodule=data)
    batch = data.batch(0, size=5)
    given = task.embedding(batch)
    if by_data:  # exchanged already
        assert torch.equal(given, batch.embedding)
    else:
        assert not (given == batch.embedding).all(dim=1).any()
        assert sorted(given[:, 0].tolist()) == sorted(batch.embedding[:, 0].tolist())
        last = data.batch(1, size=1)  # takes one of the batch before
        assert torch.equal(task.embedding(last), batch.embedding[:1])
        fresh = made(FiLMTask, **FILM, embeddings="shuffled")
        fresh.generator, fresh.trainer = task.generator, run
        with pytest.raises(StainTaskError, match="at least two tiles"):
            fresh.embedding(last)
    assert task.info().card["embeddings"] == "shuffled"


class Poisoned(RandomTiles):
    """Embeddings of the second batch that are not finite."""

    def batch(self, number: int, size: int = 2) -> Any:
        drawn = super().batch(number, size)
        return drawn._replace(embedding=drawn.embedding * float("nan")) if number == 1 else drawn


def test_a_loss_that_is_not_finite_stops_before_the_weights_change(tmp_path: Path) -> None:
    task = made(FiLMTask, **FILM)
    run = trainer(tmp_path, limit_val_batches=0)
    with pytest.raises(NonFiniteError, match=r"step 1 \(epoch 0\): adversarial nan"):
        run.fit(task, datamodule=Poisoned())
    assert all(torch.isfinite(value).all() for value in task.parameters())
    with torch.no_grad():
        task.generator.trunk.out.bias.fill_(float("inf"))
    with pytest.raises(NonFiniteError, match=r"generator\.trunk\.out\.bias"):
        run.save_checkpoint(tmp_path / "bad.ckpt")
    assert not (tmp_path / "bad.ckpt").exists()


@pytest.mark.parametrize(
    ("kind", "settings", "data", "message"),
    [
        (FiLMTask, FILM, {"dim": 0}, "set data.encoder, or model.embeddings: none"),
        (FiLMTask, FILM | {"embedding_dim": 7}, {}, "model.embedding_dim is 7, but data.encoder gives 5"),
        (Pix2PixTask, PIX2PIX | {"depth": 6}, {}, "data.tile 32; this generator takes multiples of 64"),
        (RegGANTask, REGGAN | {"pyramid_weight": 1.0}, {}, "data.tile 32 has no 6 levels"),
    ],
)
def test_data_that_do_not_fit_are_refused(
    kind: type, settings: dict[str, Any], data: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(StainTaskError, match=message):
        trainer(tmp_path).fit(made(kind, **settings), datamodule=RandomTiles(**data))


def test_settings_that_cannot_be_are_refused(tmp_path: Path) -> None:
    for settings, message in (
        ({"schedule": "cosine"}, "expected constant or linear"),
        ({"ema": 1.0}, "expected between 0 and 1"),
        ({"mode": "nc"}, r"expected nc\+r or c\+r"),
        ({"pyramid_levels": 7}, "expected 1 to 6"),
    ):
        with pytest.raises(StainTaskError, match=message):
            RegGANTask(**settings)
    with pytest.raises(StainTaskError, match="expected true, shuffled or none"):
        FiLMTask(embeddings="random")


def test_bf16_trains_with_finite_float32_losses(tmp_path: Path) -> None:
    run = trainer(tmp_path, precision="bf16-mixed", limit_val_batches=1, val_check_interval=2)
    run.fit(made(FiLMTask, **FILM, dab_weight=1.0), datamodule=RandomTiles())
    assert all(
        value.dtype == torch.float32 for name, value in run.callback_metrics.items() if "train" in name
    )


def test_the_replay_buffer_gives_old_images_back() -> None:
    torch.manual_seed(0)
    buffer = ReplayBuffer(4)
    first = torch.arange(4.0).view(4, 1, 1, 1)
    assert torch.equal(buffer(first), first)
    later = [buffer(torch.full((4, 1, 1, 1), 10.0 + step)) for step in range(5)]
    values = torch.cat(later).ravel()
    assert 0.2 < float((values < 10).float().sum() / 4) <= 1.0  # each of the first is given back at most once
    assert torch.equal(ReplayBuffer(0)(first), first)
