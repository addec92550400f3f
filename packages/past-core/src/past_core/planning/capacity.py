"""What a training takes: steps, memory, days, and whether supply or devices limit it. Arithmetic only."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from past_core.errors import PastError
from past_core.models.dual_encoder import DualEncoderConfig
from past_core.planning.devices import Accelerator, DeviceError, arithmetic, peak_flops
from past_core.planning.flops import NEIGHBORS, Flops, extra_flops, step_flops, sum_flops
from past_core.planning.memory import Parameters, count_parameters, step_memory
from past_core.planning.rates import Rate

USABLE = 0.95
"""Share of a device's memory that a plan may fill; the rest is lost between blocks of the allocator."""
SUPPLY_PER_CORE, SUPPLY_CORES = 6_000.0, 2
"""Cells/s and cores of a node where nothing was measured: what blocked reads of 224 px patches gave."""
DAY = 86_400.0


class CapacityError(PastError, ValueError):
    """A plan that cannot be made: too few cells, or nothing known of the device."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be trained, and on what.

    Args:
        config: the model.
        cells: training cells.
        epochs: passes over them.
        batch_size: cells of a rank's step.
        gpus: devices of a node, one rank each.
        nodes: nodes.
        tokens: mean tokens of a cell, the three context tokens included.
        precision: as `trainer.precision`.
        microbatch: as `model.microbatch`.
        checkpointing: as `model.activation_checkpointing`.
        bucket_view: as DDP's `gradient_as_bucket_view`.
        max_steps: most optimiser steps; None for no limit.
        neighbors: neighbours of each cell.
    """

    config: DualEncoderConfig
    cells: int
    epochs: int
    batch_size: int
    gpus: int
    nodes: int = 1
    tokens: int
    precision: str
    microbatch: int | None = None
    checkpointing: bool = False
    bucket_view: bool = False
    max_steps: int | None = None
    neighbors: int = NEIGHBORS

    @property
    def ranks(self) -> int:
        """Processes in all."""
        return self.gpus * self.nodes

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of a batch's cells, as if all were alike."""
        return np.full(self.batch_size, self.tokens)

    def memory(self, *, parameters: Parameters, **changes: Any) -> dict[str, float]:
        """Bytes of one device, with `batch_size`, `microbatch` or `checkpointing` changed."""
        size = changes.pop("batch_size", self.batch_size)
        options = {"microbatch": self.microbatch, "checkpointing": self.checkpointing} | changes
        return step_memory(
            self.config,
            np.full(size, self.tokens),
            self.precision,
            neighbors=self.neighbors,
            ranks=self.ranks,
            bucket_view=self.bucket_view,
            parameters=parameters,
            **options,
        )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A job in figures. FLOP are per cell, memory in bytes of one device, rates in cells/s."""

    batches_per_epoch: int
    batches: int
    steps: int
    cells_per_step: int
    parameters: Parameters
    flops: dict[str, float]
    """Forward and backward by component."""
    extra: dict[str, float]
    """`padding` and `recomputation`: work that is no progress."""
    memory: dict[str, float]
    memory_available: float | None
    fits: bool | None
    options: dict[str, float]
    """Need of the whole batch with other ways to run it."""
    largest_batch: dict[str, int]
    """Largest batch of one device that fits, in multiples of 8."""
    device: str
    utilisation: Rate
    supply: Rate
    compute_per_gpu: float
    compute: float
    """Of all devices."""
    supplied: float
    """Of all nodes."""
    cells_per_second: float
    limit: str
    days: float
    gpu_days: float
    mfu: float | None
    """Of the plan: below `utilisation` where work is done twice or the supply limits."""
    exchange_gb_per_second: float
    """Traffic of each device that hides the exchange of gradients behind the backward pass."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def plan_training(
    job: Job,
    device: Accelerator | None,
    *,
    utilisation: Rate,
    supply: Rate,
    flops_per_second: Rate | None = None,
) -> Plan:
    """Plans a training.

    Args:
        job: what is to be trained.
        device: the accelerator; None for a CPU, which has no peak here.
        utilisation: share of the device's peak that its arithmetic reaches, recomputation counted as work.
        supply: cells/s that the processors and disks of one node can make ready.
        flops_per_second: what one device was measured to do, instead of `utilisation` of its peak.

    Raises:
        CapacityError: fewer cells than one step takes, or no speed is known for the device.
        DeviceError: the device has no peak at this precision.
    """
    per_epoch = job.cells // (job.batch_size * job.ranks)
    if not per_epoch:
        raise CapacityError(
            f"{job.cells:,} cells are fewer than one step takes ({job.batch_size} on each of {job.ranks} "
            "devices); lower data.batch_size or the number of devices"
        )
    batches = per_epoch * job.epochs
    if job.max_steps is not None:
        batches = min(batches, job.max_steps)
    parameters = count_parameters(job.config)
    parts = step_flops(job.config, job.lengths, neighbors=job.neighbors, ranks=job.ranks)
    extra = extra_flops(job.config, job.lengths, microbatch=job.microbatch, checkpointing=job.checkpointing)
    model = sum_flops(parts).training / job.batch_size
    work = model + extra["recomputation"] / job.batch_size
    peak = _peak(device, job.precision)
    if flops_per_second is not None:
        utilisation = flops_per_second
        speed = flops_per_second.value
    elif peak is None:
        raise CapacityError(
            "no speed is known for a CPU: measure it with `python -m benchmarks step`, "
            "and name its file with --rates"
        )
    else:
        speed = utilisation.value * peak
    compute, supplied = speed / work * job.ranks, supply.value * job.nodes
    rate = min(compute, supplied)
    seconds = batches * job.batch_size * job.ranks / rate
    memory = job.memory(parameters=parameters)
    available = USABLE * device.memory_gib * 2**30 if device is not None else None
    return Plan(
        batches_per_epoch=per_epoch,
        batches=batches,
        steps=batches,
        cells_per_step=job.batch_size * job.ranks,
        parameters=parameters,
        flops={name: part.training / job.batch_size for name, part in parts.items()},
        extra={name: value / job.batch_size for name, value in extra.items()},
        memory=memory,
        memory_available=available,
        fits=None if available is None else sum(memory.values()) <= available,
        options=_options(job, parameters),
        largest_batch={} if available is None else _largest_batches(job, parameters, available),
        device=device.name if device is not None else "cpu",
        utilisation=utilisation,
        supply=supply,
        compute_per_gpu=compute / job.ranks,
        compute=compute,
        supplied=supplied,
        cells_per_second=rate,
        limit="supply" if supplied < compute else "compute",
        days=seconds / DAY,
        gpu_days=seconds / DAY * job.ranks,
        mfu=None if peak is None else rate / job.ranks * model / peak,
        exchange_gb_per_second=_exchange(job, parameters, rate, sum_flops(parts)),
    )


def _peak(device: Accelerator | None, precision: str) -> float | None:
    if device is None:
        return None
    peak = peak_flops(device, precision)
    if peak is None:
        has = ", ".join(sorted(device.peak))
        raise DeviceError(
            f"{device.name} has no {arithmetic(precision) or precision} arithmetic (it has {has}); choose "
            "another trainer.precision, e.g. --set trainer.precision=16-mixed"
        )
    return peak


def _exchange(job: Job, parameters: Parameters, rate: float, step: Flops) -> float:
    if job.ranks == 1:
        return 0.0
    seconds = job.batch_size * job.ranks / rate * step.backward / step.training
    # A ring sends and receives nearly twice the gradients.
    return 2 * (job.ranks - 1) / job.ranks * 4 * parameters.total / seconds / 1e9


def _options(job: Job, parameters: Parameters) -> dict[str, float]:
    ways: dict[str, dict[str, Any]] = {
        "all activations": {"microbatch": None, "checkpointing": False},
        "activation_checkpointing": {"microbatch": None, "checkpointing": True},
    }
    for size in (64, 16):
        if size < job.batch_size:
            ways[f"microbatch {size}"] = {"microbatch": size, "checkpointing": False}
    return {name: sum(job.memory(parameters=parameters, **way).values()) for name, way in ways.items()}


def _largest_batches(job: Job, parameters: Parameters, available: float) -> dict[str, int]:
    ways = {"all activations": False, "activation_checkpointing": True}
    found = {}
    for name, checkpointing in ways.items():

        def fits(size: int, checkpointing: bool = checkpointing) -> bool:
            need = job.memory(
                parameters=parameters, batch_size=size, microbatch=None, checkpointing=checkpointing
            )
            return sum(need.values()) <= available

        low, high = 0, 1
        while high < 2**17 and fits(8 * high):
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(8 * middle) else (low, middle)
        found[name] = 8 * low
    return found
