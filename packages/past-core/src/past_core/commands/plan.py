"""`past plan`: batches, memory and days of a training before it is started."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from past_core.errors import PastError

if TYPE_CHECKING:
    from past_core.planning.capacity import Job, Plan
    from past_core.planning.devices import Accelerator
    from past_core.planning.rates import Rate, Rates
    from past_core.planning.recipe import Recipe

PANELS = {"panel": 60, "5k": 234}
"""Genes that a cell shows on a panel of 377 and on one of 5,000, measured on simulated counts."""
PANEL_VOCABULARY = 407
"""Tokens of a 377-gene panel, assumed where a recipe takes its vocabulary from slides not at hand."""
RESULTS = Path("benchmarks/results")


class PlanError(PastError, ValueError):
    """An option that cannot be planned with."""


HELP_PANELS = {
    "The job": ("cells", "gpus", "nodes", "genes_per_cell", "change"),
    "The machine": ("device", "supply", "cores", "mfu", "rates", "measure"),
}
COMPLETIONS = {
    "device": ("a100", "h100", "h200", "cpu"),
    "genes_per_cell": ("panel", "5k", "full"),
}
EXAMPLES = {
    "past plan recipes/pretrain.yaml": "the embedded default on this machine",
    "past plan recipes/pretrain.yaml recipes/scale/paper.yaml --cells 19339608 --device a100": (
        "the paper's size and cells"
    ),
}


def plan(
    recipes: Annotated[
        list[Path], typer.Argument(help="Recipes, merged from left to right as by `lightning fit -c A -c B`.")
    ],
    *,
    cells: Annotated[
        int | None, typer.Option(help="Training cells. [default: the recipe's slides are counted]")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(help="a100, h100, ... or cpu; an unknown name lists them all. This machine's without."),
    ] = None,
    gpus: Annotated[int | None, typer.Option(help="GPUs of a node. [default: trainer.devices]")] = None,
    nodes: Annotated[int | None, typer.Option(help="Nodes. [default: trainer.num_nodes]")] = None,
    genes_per_cell: Annotated[
        str,
        typer.Option(
            help="Mean genes that a cell shows: a number, panel (60), 5k (234) or full (max_genes)."
        ),
    ] = "panel",
    supply: Annotated[
        float | None, typer.Option(help="Cells/s that a node's processors and disks make ready.")
    ] = None,
    cores: Annotated[
        int | None, typer.Option(help="Cores of a node, to scale a rate measured per core.")
    ] = None,
    mfu: Annotated[
        float | None, typer.Option(help="Share of the device's peak that its arithmetic reaches, 0 to 1.")
    ] = None,
    rates: Annotated[
        list[Path] | None,
        typer.Option(
            help="What `python -m benchmarks supply` and `step` wrote. [default: those in benchmarks/results]"
        ),
    ] = None,
    measure: Annotated[
        bool | None,
        typer.Option(
            "--measure/--no-measure",
            help="Open the recipe's slides, count their cells and measure the supply here, for some seconds. "
            "[default: if it names slides]",
        ),
    ] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE over the recipes, e.g. data.batch_size=256.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Says what a pretraining will take: steps, memory, days.

    And whether supply (cells read from disk) or compute limits it. Nothing is trained.
    """
    from past_core.planning.capacity import Job, plan_training
    from past_core.planning.recipe import read_recipe

    recipe = read_recipe(recipes, changes=change or [])
    measured = _measure(recipe) if (recipe.data["slides"] is not None if measure is None else measure) else {}
    if cells is None:
        cells = measured.get("cells")
    if cells is None:
        raise PlanError(
            "how many cells? Give their number with --cells, or --measure to count the recipe's slides"
        )
    accelerator = _accelerator(device)
    precision = str(recipe.trainer["precision"] or "32-true")
    config = recipe.config(vocabulary_size=measured.get("vocabulary_size") or _vocabulary_size(recipe))
    job = Job(
        config=config,
        cells=cells,
        epochs=_epochs(recipe),
        batch_size=recipe.data["batch_size"],
        gpus=gpus or _count(recipe.trainer["devices"]),
        nodes=nodes or int(recipe.trainer["num_nodes"]),
        tokens=measured.get("tokens") or _tokens(genes_per_cell, recipe.data["max_genes"]),
        precision=precision,
        microbatch=recipe.model.get("microbatch"),
        checkpointing=bool(recipe.model.get("activation_checkpointing")),
        bucket_view=_bucket_view(recipe.trainer["strategy"]),
        max_steps=steps if (steps := recipe.trainer["max_steps"]) and steps > 0 else None,
    )
    known = _rates(rates)
    speed = known.step(accelerator, precision) if mfu is None else None
    result = plan_training(
        job,
        accelerator,
        utilisation=_utilisation(mfu, accelerator),
        supply=_supply(supply, cores, known, measured),
        flops_per_second=speed,
    )
    if json:
        typer.echo(_dump(recipes, job, result))
    else:
        _show(recipes, job, result)


# --- what is asked ----------------------------------------------------------------------------------------


def _accelerator(name: str | None) -> "Accelerator | None":
    from past_core.planning.devices import find_accelerator, recognise

    if name is None:
        import torch

        return recognise(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
    return None if name.lower() == "cpu" else find_accelerator(name)


def _count(devices: Any) -> int:
    if isinstance(devices, list):
        return len(devices)
    try:
        count = int(devices)
    except ValueError:
        count = 0
    if count < 1:
        raise PlanError(
            f"trainer.devices is {devices!r}, which depends on the machine; say how many with --gpus"
        )
    return count


def _bucket_view(strategy: Any) -> bool:
    if not isinstance(strategy, dict):
        return False
    # jsonargparse keeps apart what a class hands on to another.
    options = {**strategy.get("init_args", {}), **strategy.get("dict_kwargs", {})}
    return bool(options.get("gradient_as_bucket_view"))


def _epochs(recipe: "Recipe") -> int:
    epochs, steps = recipe.trainer["max_epochs"], recipe.trainer["max_steps"]
    if epochs is None or epochs < 0:
        if not steps or steps < 0:
            raise PlanError(
                "the recipe trains without end; set trainer.max_epochs, e.g. --set trainer.max_epochs=16"
            )
        return 10**9
    return int(epochs)


def _tokens(genes: str, most: int) -> int:
    from past_core.vocabulary import CONTEXT_LENGTH

    number = {**PANELS, "full": most}.get(genes)
    if number is None:
        if not genes.isdecimal() or not int(genes):
            raise PlanError(f"--genes-per-cell is {genes!r}; expected a number, {', '.join(PANELS)} or full")
        number = int(genes)
    return CONTEXT_LENGTH + min(number, most)


def _vocabulary_size(recipe: "Recipe") -> int:
    from past_core.models.dual_config import PUBLISHED_VOCABULARY

    return PANEL_VOCABULARY if recipe.data["vocabulary"] == "panel" else PUBLISHED_VOCABULARY


def _rates(paths: list[Path] | None) -> "Rates":
    from past_core.planning.rates import read_rates

    if paths is None:
        paths = [
            path for path in (RESULTS / "supply.json", *sorted(RESULTS.glob("step*.json"))) if path.is_file()
        ]
        paths = [path for path in paths if not path.stem.endswith("-ci")]
    return read_rates(paths)


def _utilisation(mfu: float | None, device: "Accelerator | None") -> "Rate":
    from past_core.planning.rates import Rate

    if mfu is not None:
        if not 0 < mfu <= 1:
            raise PlanError(f"--mfu is {mfu}; expected a share of the device's peak between 0 and 1")
        return Rate(mfu, "given with --mfu")
    if device is None:
        return Rate(0.0, "a CPU has no peak here")
    return Rate(
        device.utilisation, f"{device.utilisation:.0%} of its peak, {device.source}; not measured here"
    )


def _supply(given: float | None, cores: int | None, rates: "Rates", measured: dict[str, Any]) -> "Rate":
    from past_core.planning.capacity import SUPPLY_CORES, SUPPLY_PER_CORE
    from past_core.planning.rates import Rate

    if given is not None:
        if not given > 0:
            raise PlanError(f"--supply is {given}; expected the cells/s of one node")
        return Rate(given, "given with --supply")
    if measured:
        per_core, own = measured["supply"] / measured["cores"], measured["cores"]
        source, known = "the recipe's slides on this machine", True
    elif rates.supply is not None:
        per_core, own = rates.supply.value, rates.cores
        source, known = rates.supply.source, True
    else:
        per_core, own, source, known = SUPPLY_PER_CORE, SUPPLY_CORES, "a usual rate, not measured here", False
    count = cores or own
    return Rate(
        per_core * count, f"{source}: {per_core:,.0f} cells/s on each of {count} cores", measured=known
    )


def _measure(recipe: "Recipe", *, seconds: float = 5.0) -> dict[str, Any]:
    """Cells, tokens and vocabulary of the recipe's slides, and the cells/s that this machine supplies."""
    import os
    from time import perf_counter

    from past_core.data import PretrainDataModule

    data = PretrainDataModule(**recipe.data)
    data.prepare_data()
    data.setup("fit")
    batches = iter(data.train_dataloader())
    lengths = list(next(batches).lengths)  # opens the first blocks
    start, cells = perf_counter(), 0
    for batch in batches:
        cells += len(batch.lengths)
        lengths.extend(batch.lengths)
        if perf_counter() - start > seconds:
            break
    elapsed = perf_counter() - start
    assert data.vocabulary is not None  # set up above
    if not cells:
        raise PlanError(
            "the recipe's slides fill a single batch, too little to measure a supply; use --no-measure"
        )
    return {
        "supply": cells / elapsed,
        "cores": os.cpu_count() or 1,
        "cells": data.batches_per_epoch * data.batch_size,
        "tokens": round(sum(map(int, lengths)) / len(lengths)),
        "vocabulary_size": data.vocabulary.size,
    }


# --- what is said -----------------------------------------------------------------------------------------


def _dump(recipes: list[Path], job: "Job", result: "Plan") -> str:
    import json
    from dataclasses import asdict

    return json.dumps(
        {"recipes": list(map(str, recipes)), "job": asdict(job), "plan": result.to_dict()}, indent=2
    )


def _show(recipes: list[Path], job: "Job", result: "Plan") -> None:
    from rich.console import Console

    from past_core.planning.capacity_tables import tables

    console = Console()
    for table in tables(recipes, job, result):
        console.print(table)
