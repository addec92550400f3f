"""How close does a training step come to what its device can do, and what does padding cost?

1. The cell transformer over cells of a 377-gene panel (63 of 303 tokens on average), forward and backward:
   padded to the longest possible, as is usual; cut to the batch's longest; ours, sequences of like length
   run together. One process, the same weights and cells, ways in turn, median of three; on a CPU in
   processor time of one thread, so that what else the machine does does not decide.
2. Whole steps: augmentation, both encoders, loss, backward, AdamW. On a CPU of `recipes/pretrain.yaml`; on a
   GPU of the paper's size in float32 and bf16, compiled, in several batch sizes and microbatches, each
   with its MFU and its memory beside what `past plan` expects. Batches are made up and lie on the device.
3. The FLOP formula against torch's counter.

On a GPU the results are written under its name. `past plan` reads them.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.report import Report, device_slug, machine
from benchmarks.task import Metric, Plot, Task, at_least, near
from past_core.augment import Augmentation, augment
from past_core.losses import contrastive_loss
from past_core.models.cell_encoder import CellEncoder, CellEncoderConfig
from past_core.models.dual_encoder import DualEncoder, DualEncoderConfig
from past_core.models.lengths import plan_chunks
from past_core.planning.devices import peak_flops, recognise
from past_core.planning.flops import NEIGHBORS, extra_flops, step_flops, sum_flops
from past_core.planning.memory import LIBRARIES_GIB, step_memory
from past_core.planning.recipe import read_recipe
from past_core.training.execution import set_execution
from past_core.training.optimisation import adamw
from past_core.vocabulary import CONTEXT_LENGTH, FIRST_GENE, PAD

TASK = Task(
    title="Speed of a training step",
    group="speed",
    data="made-up batches: cells of a 377-gene panel, 63 of 303 tokens on average",
    split="the cell transformer padded to the longest possible; whole steps against the first variant",
    system="way",
    systems=("cell transformer, like lengths together",),
    metrics=(
        Metric("ms", "lower"),
        Metric("cells/s"),
        Metric("ratio", unit="times the first way's speed"),
        Metric("TFLOP/s"),
        Metric("MFU"),
        Metric("GiB", "lower"),
        Metric("planned GiB", "", unit="what `past plan` expects"),
    ),
    plot=Plot("cells/s", log=True),
    tracked=(
        at_least("rows", "cell transformer, like lengths together", "ratio", share=0.4),
        near("details", "flop_error", within=0.001),
        near("details", "padding", "difference", within=0.0001),
    ),
)

RECIPES = Path(__file__).parents[2] / "recipes"
GOAL = 3.0
FLOP_ERROR = 1e-3
GENES = 60
"""Mean genes that a cell shows on a 377-gene panel."""
REPEATS = 3
PADDING = {
    "cpu-ci": (1, 256, 32),
    "cpu-full": (2, 512, 64),
    "cuda-ci": (2, 512, 128),
    "cuda-full": (12, 512, 512),
}
"""Layers, width and cells of the first part."""


@dataclass(frozen=True)
class Variant:
    """One way to run a whole step."""

    name: str
    batch: int
    precision: str = "bf16-mixed"
    microbatch: int | None = None
    checkpointing: bool = False
    compiled: bool = False


VARIANTS = {
    "cpu-ci": [Variant("batch 64", 64, "32-true")],
    "cpu-full": [
        Variant("batch 128", 128, "32-true"),
        Variant("microbatch 32", 128, "32-true", microbatch=32),
    ],
    "cuda-ci": [Variant("float32", 16, "32-true"), Variant("bf16", 16)],
    "cuda-full": [
        Variant("float32, batch 48", 48, "32-true"),
        Variant("bf16, batch 48", 48),
        Variant("bf16, batch 48, compiled", 48, compiled=True),
        Variant("bf16, batch 192", 192),
        Variant("bf16, batch 192, compiled", 192, compiled=True),
        Variant("bf16, batch 192, activation checkpointing", 192, checkpointing=True),
        Variant("bf16, batch 1024, microbatch 32", 1024, microbatch=32),
        Variant("bf16, batch 1024, microbatch 128", 1024, microbatch=128),
        Variant("bf16, batch 1024, microbatch 128, compiled", 1024, microbatch=128, compiled=True),
    ],
}


def run(profile: str, data: Path | None = None) -> Report:
    """Measures.

    Args:
        profile: `full`, or `ci`, which is small and fails below half the goal only.
        data: not used: batches are made up.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size = f"{device.type}-{profile}"
    torch.manual_seed(0)
    padding = measure_padding(*PADDING[size], device)
    config, source = step_config(device)
    steps = [measure_step(variant, config, source, device) for variant in VARIANTS[size]]
    error = flop_error()
    ratio = padding["padded"] / padding["ours"]
    goal = GOAL if profile == "full" else GOAL / 2
    half = padding["half_precision_error"]
    equal = padding["difference"] < 1e-4 and half["ours"] <= 1.5 * half["padded"] + 1e-4
    best = max(steps, key=lambda step: step["cells_per_second"])
    figure = f"{ratio:.1f} x padding to {padding['width']} tokens; {best['cells_per_second']:,.1f} cells/s"
    figure += (
        f", MFU {best['mfu']:.1%}" if best["mfu"] else f", {best['flops_per_second'] / 1e9:,.0f} GFLOP/s"
    )
    return Report(
        name=f"step{device_slug()}",
        profile=profile,
        columns=["way", "ms", "cells/s", "ratio", "TFLOP/s", "MFU", "GiB", "planned GiB"],
        rows=[*_padding_rows(padding), *_step_rows(steps)],
        goal=(
            f"cell transformer {GOAL:g} x faster than padded to the longest possible, with equal outputs; "
            f"FLOP within {FLOP_ERROR:.1%} of torch's counter"
            + ("" if profile == "full" else " (below half fails)")
        ),
        figure=f"{figure}; FLOP off by {error:.0e}",
        passed=bool(ratio >= goal and equal and error <= FLOP_ERROR),
        details={"padding": padding, "steps": steps, "flop_error": error, "device": machine()["device"]},
    )


# --- 1: padding -------------------------------------------------------------------------------------------


def panel_lengths(cells: int, *, most: int = 300, genes: float = GENES, seed: int = 0) -> np.ndarray:
    """Tokens of cells whose numbers of genes vary as on a panel: gamma, standard deviation half the mean."""
    drawn = np.random.default_rng(seed).gamma(4.0, genes / 4.0, cells)
    return CONTEXT_LENGTH + drawn.round().clip(1, most).astype(np.int64)


def made_tokens(lengths: np.ndarray, width: int, vocabulary: int) -> torch.Tensor:
    """(B, width) random gene tokens, padded from each cell's length on."""
    tokens = torch.randint(FIRST_GENE, vocabulary, (len(lengths), width))
    return tokens.masked_fill(torch.arange(width) >= torch.from_numpy(lengths)[:, None], PAD)


def padded_transform(encoder: CellEncoder, tokens: torch.Tensor) -> torch.Tensor:
    """The usual way: all sequences as long as the tensor that holds them."""
    present = tokens != PAD
    hidden = encoder.embeddings(tokens) + encoder.positional_embedding.weight[: tokens.shape[1]]
    for layer in encoder.layers:
        hidden = layer(hidden, present[:, None, None])
    genes = present[:, CONTEXT_LENGTH:, None]
    return (encoder.norm(hidden)[:, CONTEXT_LENGTH:] * genes).sum(1) / genes.sum(1)


def measure_padding(depth: int, channels: int, cells: int, device: torch.device) -> dict[str, Any]:
    """Seconds of the cell transformer's forward and backward pass in three ways, and how far they differ."""
    config = CellEncoderConfig(
        vocabulary_size=407, depth=depth, width=channels, feedforward=2 * channels, graph_layers=0
    )
    encoder = CellEncoder(config).to(device).train()
    width = config.positions
    lengths = panel_lengths(cells)
    tokens = made_tokens(lengths, width, config.vocabulary_size).to(device)
    cut = tokens[:, : int(lengths.max())].contiguous()
    ways = {
        "padded": partial(padded_transform, encoder, tokens),
        "cut": partial(padded_transform, encoder, cut),
        "ours": partial(encoder.transform, cut, lengths),
    }
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
    with torch.no_grad():
        exact = ways["padded"]()
        difference = float((ways["ours"]() - exact).abs().max())
        with autocast:  # on a GPU another path: sequences packed
            half = {name: float((ways[name]().float() - exact).abs().max()) for name in ("ours", "padded")}

    def step(way: Callable[[], torch.Tensor]) -> None:
        encoder.zero_grad()
        with autocast:
            output = way()
        output.square().mean().backward()

    seconds = in_turn({name: partial(step, way) for name, way in ways.items()}, device)
    chunks = plan_chunks(lengths)
    return {
        **seconds,
        "difference": difference,
        "half_precision_error": half,
        "cells": cells,
        "layers": depth,
        "width": width,
        "mean_tokens": float(lengths.mean()),
        "tokens_run": {"padded": cells * width, "cut": cells * cut.shape[1], "ours": chunks.tokens},
    }


def in_turn(
    ways: dict[str, Callable[[], None]], device: torch.device, *, repeats: int = REPEATS
) -> dict[str, float]:
    """Median seconds of each way, all taken in turn so that what else the machine does hits them alike."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for turn in range(repeats + 1):
        for name, way in ways.items():
            seconds = timed(way, device, clock=clock)
            if turn:  # the first turn warms up
                taken[name].append(seconds)
    torch.set_num_threads(threads)
    return {name: statistics.median(values) for name, values in taken.items()}


def timed(
    way: Callable[[], None],
    device: torch.device,
    *,
    times: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Seconds of a call, the device waited for."""
    _wait(device)
    start = clock()
    for _ in range(times):
        way()
    _wait(device)
    return (clock() - start) / times


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# --- 2: whole steps ---------------------------------------------------------------------------------------


def step_config(device: torch.device) -> tuple[DualEncoderConfig, str]:
    """The model that this device is for, and what to call it."""
    if device.type == "cpu":
        recipe = read_recipe([RECIPES / "pretrain.yaml"])
        return recipe.config(vocabulary_size=407), "recipes/pretrain.yaml"
    recipe = read_recipe([RECIPES / "pretrain.yaml", RECIPES / "scale/paper.yaml"])
    return recipe.config(vocabulary_size=20_340), "recipes/scale/paper.yaml"


def made_batch(config: DualEncoderConfig, cells: int, device: torch.device) -> tuple[Any, ...]:
    """Arguments of `DualEncoder.forward`: made-up cells whose neighbours are others of the batch."""
    most = config.cell.max_genes
    lengths = panel_lengths(cells, most=most, genes=min(GENES, 0.6 * most))
    tokens = made_tokens(lengths, int(lengths.max()), config.cell.vocabulary_size)
    images = torch.randint(
        0, 256, (cells, 3, config.image.image_size, config.image.image_size), dtype=torch.uint8
    )
    neighbors = torch.randint(0, cells, (cells, NEIGHBORS))
    tensors = (images, tokens, torch.arange(cells), neighbors, torch.rand(cells, NEIGHBORS))
    return (*(tensor.to(device) for tensor in tensors), lengths)


def measure_step(
    variant: Variant, config: DualEncoderConfig, source: str, device: torch.device
) -> dict[str, Any]:
    """Time, FLOP/s and memory of a whole training step."""
    if device.type == "cuda":
        torch._dynamo.reset()
        torch.cuda.empty_cache()
    model = DualEncoder(config).to(device).train()
    set_execution(
        model,
        microbatch=variant.microbatch,
        activation_checkpointing=variant.checkpointing,
        compiled=variant.compiled,
        device=device,
    )
    optimizer = adamw(
        model, learning_rate=1e-4, weight_decay=0.02, betas=(0.9, 0.95), fused=device.type == "cuda"
    )
    images, *cells = made_batch(config, variant.batch, device)
    lengths = cells[-1]
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=variant.precision == "bf16-mixed")
    generator = torch.Generator().manual_seed(0)

    def step() -> None:
        with autocast:
            output = model(augment(images, Augmentation(), generator), *cells)
            loss = contrastive_loss(**output._asdict()).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    for _ in range(3 if device.type == "cuda" else 1):
        step()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    times = max(1, min(10, int(2.0 / max(timed(step, device), 1e-3))))
    seconds = statistics.median(timed(step, device, times=times) for _ in range(REPEATS))
    memory = torch.cuda.max_memory_allocated() if device.type == "cuda" else None
    planned = step_memory(
        config, lengths, variant.precision, microbatch=variant.microbatch, checkpointing=variant.checkpointing
    )
    extra = extra_flops(config, lengths, microbatch=variant.microbatch, checkpointing=variant.checkpointing)
    work = sum_flops(step_flops(config, lengths)).training
    known = recognise(machine()["device"])
    peak = peak_flops(known, variant.precision) if known is not None else None
    return {
        "way": variant.name,
        "model": source,
        "device": machine()["device"],
        "precision": variant.precision,
        "batch": variant.batch,
        "seconds": seconds,
        "cells_per_second": variant.batch / seconds,
        "model_flops": work,
        "extra_flops": extra,
        "flops_per_second": (work + extra["recomputation"]) / seconds,
        "mfu": None if peak is None else work / seconds / peak,
        "memory_bytes": memory,
        "planned_bytes": sum(planned.values()) - LIBRARIES_GIB * 2**30,
    }


# --- 3: the formula ---------------------------------------------------------------------------------------


def flop_error() -> float:
    """Relative difference between formula and counter over a step of the small recipe, on the CPU."""
    config, _ = step_config(torch.device("cpu"))
    images, *cells = made_batch(config, 8, torch.device("cpu"))
    lengths = np.full(8, int(cells[-1].max()))
    cells[0] = made_tokens(lengths, lengths[0], config.cell.vocabulary_size)
    cells[-1] = lengths
    model = DualEncoder(config).train()
    # The flash kernels compute scores again backwards, and the counter counts that.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        contrastive_loss(**model(images, *cells)._asdict()).loss.backward()
    return abs(sum_flops(step_flops(config, lengths)).training / counter.get_total_flops() - 1)


# --- what is said -----------------------------------------------------------------------------------------


def _padding_rows(padding: dict[str, Any]) -> list[list[str]]:
    names = {
        "padded": f"cell transformer, padded to {padding['width']}",
        "cut": "cell transformer, cut to the batch's longest",
        "ours": "cell transformer, like lengths together",
    }
    return [
        [
            name,
            f"{1000 * padding[way]:,.0f}",
            f"{padding['cells'] / padding[way]:,.1f}",
            f"x {padding['padded'] / padding[way]:.1f}",
            *["-"] * 4,
        ]
        for way, name in names.items()
    ]


def _step_rows(steps: list[dict[str, Any]]) -> list[list[str]]:
    first = steps[0]["cells_per_second"]
    return [
        [
            f"step, {step['way']}",
            f"{1000 * step['seconds']:,.0f}",
            f"{step['cells_per_second']:,.1f}",
            f"x {step['cells_per_second'] / first:.2f}",
            f"{step['flops_per_second'] / 1e12:.3f}",
            "-" if step["mfu"] is None else f"{step['mfu']:.1%}",
            "-" if step["memory_bytes"] is None else f"{step['memory_bytes'] / 2**30:.1f}",
            f"{step['planned_bytes'] / 2**30:.1f}",
        ]
        for step in steps
    ]
