"""How fast training runs, and what holds it back: cells per second, MFU, the share of time without data."""

import logging
from time import perf_counter
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch

from past_core.data.batch import CellBatch
from past_core.models.dual_encoder import DualEncoderConfig
from past_core.planning.devices import peak_flops, recognise
from past_core.planning.flops import step_flops, sum_flops
from past_core.training.attached import logging_interval

logger = logging.getLogger(__name__)


class Throughput(pl.Callback):
    """Logs speed every `trainer.log_every_n_steps` steps, averaged over the steps since the last time.

    `train/cells_per_second` of all ranks; `train/mfu`, the FLOP that the mathematics needs (padding and
    recomputation are no progress) over the device's peak at the trainer's precision; `train/tokens_per_cell`;
    `train/gpu_memory_gib`, the most that tensors ever took on this device; and `train/loader_wait_share`, the
    share of time that a step waited for its batch with nothing left to compute. A share near 0 says that the
    device limits, a large one that the supply does: give it more threads, or blocks nearer to the machine.

    Validation and the pauses between epochs do not count. The device is waited for once an interval, never in
    between; other ranks are taken to run at this one's speed, as they must.

    Args:
        peak: the device's peak in FLOP/s at the trainer's precision; None looks up a known GPU's, and logs
            no MFU on a CPU or an unknown device.
    """

    def __init__(self, *, peak: float | None = None) -> None:
        self.peak = peak
        self._peak: float | None = None
        self._config: DualEncoderConfig | None = None
        self._start: float | None = None
        self._idle_since = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Looks up the device. The first step, which compiles and allocates, belongs to no interval."""
        device = pl_module.device
        self._peak = self.peak
        if self._peak is None and device.type == "cuda":
            name = torch.cuda.get_device_name(device)
            known = recognise(name)
            if known is None:
                logger.warning("the peak of %s is not known: no train/mfu; give the callback `peak`", name)
            else:
                tf32 = torch.get_float32_matmul_precision() != "highest"
                self._peak = peak_flops(known, trainer.precision, tf32=tf32)
        config = getattr(pl_module, "config", None)
        self._config = config if isinstance(config, DualEncoderConfig) else None
        self._event = torch.cuda.Event() if device.type == "cuda" else None
        self._start, self._logged_step = None, -1

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """What lies between two epochs is no training."""
        self._pause()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Nor is validation."""
        self._pause()

    def _pause(self) -> None:
        if self._start is not None:
            now = perf_counter()
            self._start += now - self._idle_since
            self._idle_since = now

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: CellBatch, batch_idx: int
    ) -> None:
        """Counts the wait for this batch, unless the device was busy throughout."""
        # Asking an event does not wait: if the last step still runs, the batch came in time.
        if self._start is not None and (self._event is None or self._event.query()):
            self._waited += perf_counter() - self._idle_since

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: CellBatch,
        batch_idx: int,
    ) -> None:
        """Counts the batch; logs at the end of an interval."""
        if self._start is None:
            self._begin(pl_module.device)
            return
        lengths = np.asarray(batch.lengths)
        self._cells += len(lengths)
        self._tokens += int(lengths.sum())
        if self._config is not None and self._peak:
            neighbors = batch.neighbors.shape[1]
            parts = step_flops(self._config, lengths, neighbors=neighbors, ranks=trainer.world_size)
            self._flops += sum_flops(parts).training
        step = trainer.global_step
        interval = logging_interval(trainer)
        if interval and step % interval == 0 and step != self._logged_step:
            self._logged_step = step
            _wait_for(pl_module.device)
            pl_module.log_dict(self._figures(trainer, pl_module.device, self._start), rank_zero_only=True)
            self._begin(pl_module.device, synchronise=False)
            return
        self._mark()

    def _figures(self, trainer: pl.Trainer, device: torch.device, start: float) -> dict[str, float]:
        seconds = max(perf_counter() - start, 1e-9)
        figures = {
            "train/cells_per_second": self._cells * trainer.world_size / seconds,
            "train/loader_wait_share": min(1.0, self._waited / seconds),
            "train/tokens_per_cell": self._tokens / max(1, self._cells),
        }
        if self._flops and self._peak:
            figures["train/mfu"] = self._flops / seconds / self._peak
        if device.type == "cuda":
            figures["train/gpu_memory_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
        return figures

    def _begin(self, device: torch.device, *, synchronise: bool = True) -> None:
        if synchronise:
            _wait_for(device)
        self._cells, self._tokens, self._flops, self._waited = 0, 0, 0.0, 0.0
        self._mark()
        self._start = self._idle_since

    def _mark(self) -> None:
        if self._event is not None:
            self._event.record()
        self._idle_since = perf_counter()


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
