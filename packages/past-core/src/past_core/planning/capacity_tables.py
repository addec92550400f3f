"""A plan as tables for the terminal."""

from collections.abc import Iterator
from pathlib import Path

from rich.table import Table

from past_core.planning.capacity import USABLE, Job, Plan

GIB = 2**30


def tables(recipes: list[Path], job: Job, plan: Plan) -> Iterator[Table]:
    """The tables of a plan: the training, its time, one device's memory, the FLOP of a cell."""
    yield _training(recipes, job, plan)
    yield _time(job, plan)
    yield _memory(job, plan)
    yield _flops(plan)


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _training(recipes: list[Path], job: Job, plan: Plan) -> Table:
    table = _table(" + ".join(map(str, recipes)))
    ranks = f"{job.nodes} x {job.gpus} {plan.device}"
    table.add_row("cells", f"{job.cells:,}", f"{job.tokens} tokens each")
    table.add_row("epochs", f"{job.epochs}" if job.epochs < 10**9 else "-", f"{job.precision} on {ranks}")
    table.add_row("batches an epoch", f"{plan.batches_per_epoch:,}", f"{job.batch_size} cells on each device")
    table.add_row("optimiser steps", f"{plan.steps:,}", f"{plan.batches:,} batches in all")
    table.add_row(
        "cells a step", f"{plan.cells_per_step:,}", f"{plan.cells_per_step - 1:,} negatives for each"
    )
    parameters = plan.parameters
    table.add_row(
        "parameters",
        f"{parameters.total / 1e6:.1f} M",
        f"{parameters.image / 1e6:.1f} M in the image encoder",
    )
    return table


def _time(job: Job, plan: Plan) -> Table:
    table = _table("time")
    table.add_row(
        "compute", f"{plan.compute:,.0f} cells/s", f"{plan.compute_per_gpu:,.1f} a device; {plan.utilisation}"
    )
    table.add_row("supply", f"{plan.supplied:,.0f} cells/s", str(plan.supply))
    table.add_row("limited by", plan.limit, f"the other could do {_ratio(plan):.1f} times as much")
    if plan.mfu is not None:
        table.add_row("MFU", f"{plan.mfu:.1%}", "the mathematics' FLOP over the device's peak")
    table.add_row("days", _days(plan.days), f"{_days(plan.gpu_days)} of one device; validation not included")
    if job.ranks > 1:
        table.add_row(
            "network",
            f"{plan.exchange_gb_per_second:.1f} GB/s",
            "of each device hide the exchange of gradients",
        )
    return table


def _memory(job: Job, plan: Plan) -> Table:
    need = sum(plan.memory.values())
    if plan.memory_available is None:
        title = "memory of the process"
    else:
        verdict = "fits" if plan.fits else "DOES NOT FIT"
        room = f"{plan.memory_available / GIB:.1f} GiB ({USABLE:.0%} of {plan.device})"
        title = f"memory of a device: {verdict} into {room}"
    table = _table(title)
    ways = [f"microbatch {job.microbatch}"] if job.microbatch else []
    ways += ["activation_checkpointing"] if job.checkpointing else []
    for name, size in plan.memory.items():
        table.add_row(name, _gib(size), ", ".join(ways) if name == "activations" else "")
    table.add_row("in all", _gib(need), "")
    table.add_section()
    for name, size in plan.options.items():
        largest = plan.largest_batch.get(name)
        table.add_row(
            f"with {name}", _gib(size), "" if largest is None else f"largest batch {largest:,} a device"
        )
    return table


def _flops(plan: Plan) -> Table:
    table = _table("FLOP of a cell, forward and backward, 2 for each multiply-add")
    total = sum(plan.flops.values())
    for name, value in plan.flops.items():
        table.add_row(name, _giga(value), f"{value / total:.1%}")
    table.add_row("in all", _giga(total), "")
    for name, value in plan.extra.items():
        table.add_row(name, _giga(value), "no progress" if value else "")
    return table


def _ratio(plan: Plan) -> float:
    return max(plan.compute, plan.supplied) / min(plan.compute, plan.supplied)


def _days(days: float) -> str:
    if days >= 1:
        return f"{days:,.1f} days"
    return f"{days * 24:.1f} hours" if days >= 1 / 24 else f"{days * 1440:.1f} minutes"


def _gib(size: float) -> str:
    return f"{size / GIB:.2f} GiB"


def _giga(value: float) -> str:
    return f"{value / 1e9:,.2f} G"
