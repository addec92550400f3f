"""The speed callback against a clock that the test turns, and in a real fit."""

from types import SimpleNamespace

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from past_core import throughput
from past_core.data.batch import CellBatch
from past_core.models.cell_encoder import CellEncoderConfig
from past_core.models.dual_encoder import DualEncoderConfig
from past_core.models.image_encoder import ImageEncoderConfig
from past_core.planning.flops import step_flops, sum_flops
from past_core.throughput import Throughput

CONFIG = DualEncoderConfig(
    ImageEncoderConfig("vit_tiny_patch16_224", image_size=32, options={"depth": 1}),
    CellEncoderConfig(vocabulary_size=40, width=16, depth=1, heads=2, feedforward=16, max_genes=20),
    projection_dim=8,
)


def batch(lengths: list[int], neighbors: int = 3) -> CellBatch:
    n = len(lengths)
    near = torch.zeros(n, neighbors, dtype=torch.long)
    index = torch.arange(n)
    return CellBatch(
        torch.zeros(n, 3, 32, 32, dtype=torch.uint8),
        torch.full((n, max(lengths)), 35),
        index,
        near,
        near.float(),
        index,
        index,
        np.array(lengths),
    )


class Clock:
    """Stands still unless turned."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Run:
    """What Lightning does with a callback: waits for a batch, runs a step, validates."""

    def __init__(
        self, clock: Clock, *, world_size: int = 1, every: int = 2, config=CONFIG, **options
    ) -> None:
        self.clock, self.logged = clock, []
        self.trainer = SimpleNamespace(
            world_size=world_size, log_every_n_steps=every, global_step=0, precision="32-true"
        )
        self.module = SimpleNamespace(device=torch.device("cpu"), config=config, log_dict=self._log)
        self.callback = Throughput(**options)
        self.callback.on_train_start(self.trainer, self.module)
        self.callback.on_train_epoch_start(self.trainer, self.module)

    def _log(self, figures: dict[str, float], *, rank_zero_only: bool) -> None:
        assert rank_zero_only
        self.logged.append(figures)

    def step(self, content: CellBatch, *, wait: float, compute: float, optimise: bool = True) -> None:
        self.clock.now += wait
        self.callback.on_train_batch_start(self.trainer, self.module, content, 0)
        self.clock.now += compute
        self.trainer.global_step += optimise
        self.callback.on_train_batch_end(self.trainer, self.module, None, content, 0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    turned = Clock()
    monkeypatch.setattr(throughput, "perf_counter", turned)
    return turned


def test_figures_of_an_interval(clock: Clock):
    run = Run(clock, world_size=4, peak=1e9)
    content = batch([5, 9, 10])
    run.step(content, wait=50.0, compute=70.0)  # the first step is not counted
    run.step(content, wait=0.5, compute=1.5)
    (figures,) = run.logged
    assert figures["train/cells_per_second"] == pytest.approx(3 * 4 / 2.0)
    assert figures["train/loader_wait_share"] == pytest.approx(0.25)
    assert figures["train/tokens_per_cell"] == 8
    expected = sum_flops(step_flops(CONFIG, [5, 9, 10], neighbors=3, ranks=4)).training
    assert figures["train/mfu"] == pytest.approx(expected / 2.0 / 1e9)
    assert "train/gpu_memory_gib" not in figures


def test_intervals_are_separate(clock: Clock):
    run = Run(clock)
    for wait in (1.0, 0.0, 0.0, 0.0, 3.0, 3.0):
        run.step(batch([6, 6]), wait=wait, compute=1.0)
    assert [f["train/loader_wait_share"] for f in run.logged] == pytest.approx([0.0, 0.0, 0.75])
    assert [f["train/cells_per_second"] for f in run.logged] == pytest.approx([2.0, 2.0, 0.5])


def test_validation_and_pauses_between_epochs_do_not_count(clock: Clock):
    run = Run(clock)
    run.step(batch([6, 6]), wait=0, compute=1)
    clock.now += 1000
    run.callback.on_validation_end(run.trainer, run.module)
    clock.now += 500
    run.callback.on_train_epoch_start(run.trainer, run.module)
    run.step(batch([6, 6]), wait=1.0, compute=1.0)
    (figures,) = run.logged
    assert figures["train/cells_per_second"] == pytest.approx(1.0)
    assert figures["train/loader_wait_share"] == pytest.approx(0.5)


def test_accumulated_batches_are_one_step_and_logged_once(clock: Clock):
    run = Run(clock, every=1)
    for number in range(6):
        run.step(batch([6, 6]), wait=0, compute=1.0, optimise=number % 2 == 1)
    assert len(run.logged) == 3
    assert run.logged[-1]["train/cells_per_second"] == pytest.approx(2.0)


def test_no_mfu_without_a_peak_or_a_known_model(clock: Clock):
    for options in ({}, {"peak": 1e9, "config": None}):
        run = Run(clock, **options)
        for _ in range(2):
            run.step(batch([6, 6]), wait=0, compute=1.0)
        assert run.logged
        assert "train/mfu" not in run.logged[0]


def test_a_wait_while_the_device_still_computes_costs_nothing(clock: Clock):
    run = Run(clock)
    busy = SimpleNamespace(record=lambda: None, query=lambda: False)
    run.callback._event = busy
    for _ in range(2):
        run.step(batch([6, 6]), wait=5.0, compute=1.0)
    assert run.logged[0]["train/loader_wait_share"] == 0.0
    busy.query = lambda: True
    for _ in range(2):
        run.step(batch([6, 6]), wait=5.0, compute=1.0)
    assert run.logged[1]["train/loader_wait_share"] == pytest.approx(10 / 12)


class Tiny(pl.LightningModule):
    """Something that steps on cell batches."""

    def __init__(self) -> None:
        super().__init__()
        self.config, self.layer = CONFIG, torch.nn.Linear(1, 1)

    def training_step(self, batch: CellBatch, batch_idx: int) -> torch.Tensor:
        return self.layer(batch.distances[:, :1]).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_fit_logs_through_the_trainer(tmp_path):
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        log_every_n_steps=2,
        default_root_dir=tmp_path,
        callbacks=[Throughput(peak=1e12)],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        logger=False,
    )
    loader = DataLoader([batch([4, 8])] * 4, batch_size=None)
    trainer.fit(Tiny(), loader)
    figures = trainer.callback_metrics
    assert figures["train/tokens_per_cell"] == 6
    assert 0 < figures["train/mfu"] < 1
    assert figures["train/cells_per_second"] > 0
    assert 0 <= figures["train/loader_wait_share"] <= 1
