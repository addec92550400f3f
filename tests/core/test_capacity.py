"""Plans: arithmetic against hand counts and the data's own plan, recipes merged as Lightning merges."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from past_core.cli import build_app
from past_core.data.plan import BlockCells, EpochPlan
from past_core.errors import PastError
from past_core.models.cell_encoder import CellEncoderConfig
from past_core.models.dual_encoder import DualEncoderConfig
from past_core.models.image_encoder import ImageEncoderConfig
from past_core.planning.capacity import USABLE, CapacityError, Job, plan_training
from past_core.planning.capacity_tables import tables
from past_core.planning.devices import DeviceError, find_accelerator
from past_core.planning.rates import Rate, RatesError, read_rates
from past_core.planning.recipe import RecipeError, RecipeNotFoundError, read_recipe

ROOT = Path(__file__).resolve().parents[2]
RECIPES = [ROOT / "recipes/pretrain.yaml", ROOT / "recipes/scale/paper.yaml"]
A100 = find_accelerator("a100")
PLENTY = Rate(1e9, "a test")
PAPER = DualEncoderConfig(ImageEncoderConfig(), CellEncoderConfig(vocabulary_size=20_340))


def paper_job(**changes) -> Job:
    values = {
        "config": PAPER,
        "cells": 19_339_608,
        "epochs": 16,
        "batch_size": 48,
        "gpus": 8,
        "tokens": 303,
        "precision": "bf16-mixed",
    }
    return Job(**values | changes)


def paper_plan(utilisation: float = 0.4, supply: Rate = PLENTY, **changes):
    return plan_training(paper_job(**changes), A100, utilisation=Rate(utilisation, "a test"), supply=supply)


# --- arithmetic -------------------------------------------------------------------------------------------


def test_steps_are_those_of_the_data():
    """The plan of the data cuts the same cells into as many batches."""
    blocks = [BlockCells(0, n, np.arange(97), np.random.default_rng(n).random((97, 2))) for n in range(5)]
    theirs = EpochPlan(blocks, batch_size=12, world_size=4)
    ours = paper_plan(cells=5 * 97, batch_size=12, gpus=2, nodes=2, epochs=3)
    assert ours.batches_per_epoch == theirs.batches_per_epoch == 10
    assert (ours.batches, ours.steps, ours.cells_per_step) == (30, 30, 48)
    assert paper_plan(cells=5 * 97, batch_size=12, gpus=4, epochs=3, max_steps=7).batches == 7


def test_the_papers_run_reached_a_twentieth_of_its_hardware():
    """12 days on 8 A100 are 37.3 samples/s each; with dense padding that is 5 % of the peak in bf16."""
    days = 12.0
    rate = 19_339_608 * 16 / (days * 86_400) / 8
    assert rate == pytest.approx(37.3, abs=0.05)
    flops = sum(paper_plan().flops.values())
    utilisation = rate * flops / A100.peak["bf16"]
    assert utilisation == pytest.approx(0.05, abs=0.002)
    assert paper_plan(utilisation).days == pytest.approx(days, rel=1e-4)
    assert paper_plan(0.4).days == pytest.approx(1.5, abs=0.05)


def test_supply_or_compute_limits():
    fast = paper_plan()
    assert fast.limit == "compute"
    assert fast.mfu == pytest.approx(0.4)
    slow = paper_plan(supply=Rate(fast.compute / 2, "a test"))
    assert (slow.limit, slow.mfu) == ("supply", pytest.approx(0.2))
    assert slow.days == pytest.approx(2 * fast.days)
    assert slow.gpu_days == pytest.approx(8 * slow.days)
    two = paper_plan(supply=Rate(fast.compute / 2, "a test"), nodes=2)
    assert two.days == pytest.approx(fast.days, rel=1e-3)  # each node brings its own supply and its devices


def test_recomputation_costs_time_and_lowers_mfu():
    plain, twice = paper_plan(batch_size=512), paper_plan(batch_size=512, microbatch=64)
    assert twice.days / plain.days == pytest.approx(4 / 3, rel=0.01)
    assert twice.mfu == pytest.approx(0.3, rel=0.01)
    assert sum(twice.memory.values()) < sum(plain.memory.values()) / 2
    assert not plain.fits
    assert twice.fits
    assert plain.flops == twice.flops


def test_the_largest_batch_is_the_largest_that_fits():
    plan = paper_plan()
    for name, checkpointing in (("all activations", False), ("activation_checkpointing", True)):
        largest = plan.largest_batch[name]
        assert largest >= 48
        assert paper_plan(batch_size=largest, checkpointing=checkpointing).fits
        assert not paper_plan(batch_size=largest + 8, checkpointing=checkpointing).fits
    assert plan.memory_available == USABLE * A100.memory_gib * 2**30
    assert plan.options["activation_checkpointing"] < plan.options["all activations"]


def test_one_device_exchanges_nothing():
    assert paper_plan(gpus=1).exchange_gb_per_second == 0
    assert (
        paper_plan(gpus=8).exchange_gb_per_second > paper_plan(gpus=8, batch_size=96).exchange_gb_per_second
    )


def test_what_cannot_be_planned():
    with pytest.raises(CapacityError, match=r"100 cells are fewer than one step takes \(48 on each of 8"):
        paper_plan(cells=100)
    with pytest.raises(DeviceError, match=r"v100 has no bf16 arithmetic \(it has fp16, fp32\).*16-mixed"):
        plan_training(paper_job(), find_accelerator("v100"), utilisation=Rate(0.3, ""), supply=PLENTY)
    with pytest.raises(CapacityError, match=r"CPU: measure it with `python -m benchmarks step`"):
        plan_training(paper_job(), None, utilisation=Rate(0.0, ""), supply=PLENTY)


def test_a_cpu_is_planned_from_its_measured_speed():
    small = replace(PAPER, image=replace(PAPER.image, options={"depth": 1, "embed_dim": 96, "num_heads": 3}))
    job = paper_job(config=small, gpus=1, precision="32-true", cells=4800, epochs=1)
    speed = Rate(1e11, "a test", measured=True)
    plan = plan_training(job, None, utilisation=Rate(0.0, ""), supply=PLENTY, flops_per_second=speed)
    assert plan.days * 86_400 == pytest.approx(4800 * sum(plan.flops.values()) / 1e11)
    assert (plan.mfu, plan.fits, plan.largest_batch, plan.device) == (None, None, {}, "cpu")
    assert len(list(tables([Path("a.yaml")], job, plan))) == 4


# --- rates ------------------------------------------------------------------------------------------------


def write(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def step_file(path: Path, *steps: tuple[str, str, float]) -> Path:
    keys = ("device", "precision", "flops_per_second")
    return write(
        path,
        {
            "name": "step",
            "details": {"steps": [dict(zip(keys, s, strict=True)) | {"model": "m"} for s in steps]},
        },
    )


def test_measured_steps_are_found_by_device_and_precision(tmp_path: Path):
    file = step_file(
        tmp_path / "step.json",
        ("NVIDIA A100-SXM4-80GB", "bf16-mixed", 1e14),
        ("NVIDIA A100-SXM4-80GB", "bf16-mixed", 1.2e14),
        ("NVIDIA A100-SXM4-80GB", "32-true", 1e13),
        ("CPU (x86_64)", "32-true", 1e11),
    )
    rates = read_rates([file])
    assert rates.supply is None
    found = rates.step(A100, "bf16-mixed")
    assert (found.value, found.measured) == (1.2e14, True)
    assert "step.json" in str(found)
    assert str(found).startswith("measured")
    assert rates.step(None, "32-true").value == 1e11
    assert rates.step(find_accelerator("h100"), "bf16-mixed") is None
    plan = plan_training(paper_job(), A100, utilisation=Rate(0.9, ""), supply=PLENTY, flops_per_second=found)
    assert plan.mfu == pytest.approx(1.2e14 / 312e12)


def test_supply_is_read_per_core(tmp_path: Path):
    content = {
        "name": "supply",
        "machine": {"cores": 2},
        "details": {"patches_per_second_per_core": {"usual": 100.0, "PAST": 7000.0}},
    }
    rates = read_rates([write(tmp_path / "supply.json", content)])
    assert (rates.supply.value, rates.cores, rates.supply.measured) == (7000.0, 2, True)


@pytest.mark.parametrize(
    "content",
    [
        "no JSON",
        json.dumps({"name": "step", "details": {}}),
        json.dumps({"name": "pretrain", "details": {}}),
        "[]",
    ],
)
def test_files_without_rates_are_refused(tmp_path: Path, content: str):
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(RatesError, match=r"x\.json.*expected"):
        read_rates([path])
    with pytest.raises(RatesError, match="expected a file"):
        read_rates([tmp_path / "absent.json"])


# --- recipes and the verb ---------------------------------------------------------------------------------


def test_recipes_are_merged_as_the_trainer_does():
    """The overlay's empty `options` replace the recipe's, values that it leaves out stay."""
    recipe = read_recipe(RECIPES, changes=["data.batch_size=96", "model.microbatch=32"])
    assert recipe.model["image"]["options"] == {}
    assert (recipe.data["batch_size"], recipe.model["microbatch"]) == (96, 32)
    assert recipe.trainer["gradient_clip_val"] == 1.0
    config = recipe.config(vocabulary_size=20_340)
    assert config.image.name == "vit_large_patch16_224"
    assert (config.cell.vocabulary_size, config.cell.max_genes) == (20_340, recipe.data["max_genes"])
    assert config.image.mean == (0.485, 0.456, 0.406)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["data.batchsize=3"], "pretrain.yaml.*'batchsize' is not accepted"),
        (["data.batch_size=many"], "batch_size.*Expected a <class 'int'>"),
        (["trainer.epochs=3"], "epochs"),
        (["data.batch_size"], "expected KEY=VALUE"),
    ],
)
def test_wrong_keys_and_values_are_named(changes: list[str], message: str):
    with pytest.raises(RecipeError, match=message):
        read_recipe(RECIPES[:1], changes=changes)


def test_other_recipes_are_refused(tmp_path: Path):
    other = tmp_path / "other.yaml"
    other.write_text(
        "model: {class_path: lightning.pytorch.demos.boring_classes.BoringModel}\n"
        "data: {class_path: lightning.pytorch.demos.boring_classes.BoringDataModule}\n"
    )
    with pytest.raises(RecipeError, match=r"BoringModel; only recipes of past_core\.pretrain"):
        read_recipe([other])
    with pytest.raises(RecipeNotFoundError, match=r"no recipe at .*absent\.yaml"):
        read_recipe([tmp_path / "absent.yaml"])


def run(*arguments: str, recipes=RECIPES):
    return CliRunner().invoke(build_app(), ["plan", *map(str, recipes), *arguments])


def test_the_verb_prints_the_paper(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)  # no results of benchmarks here
    monkeypatch.setenv("COLUMNS", "140")
    asked = ("--cells", "19339608", "--gpus", "8", "--device", "a100")
    result = run(*asked)
    assert result.exit_code == 0, result.output
    for words in (
        "50,363",
        "805,808",
        "341.",
        "limited by",
        "compute",
        "assumed",
        "not measured here",
        "fits into",
    ):
        assert words in result.output
    plan = json.loads(run(*asked, "--json", "--mfu", "0.0465", "--genes-per-cell", "full").stdout)["plan"]
    assert plan["days"] == pytest.approx(12, rel=0.1)
    assert plan["utilisation"]["source"] == "given with --mfu"


def test_the_verb_counts_and_measures_slides(tiny_slides, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    slides = f"data.slides=[{','.join(map(str, tiny_slides))}]"
    speeds = step_file(tmp_path / "step.json", ("CPU (x86_64)", "32-true", 1e11))
    options = (
        "--device",
        "cpu",
        "--rates",
        str(speeds),
        "--set",
        slides,
        "--set",
        "data.batch_size=8",
        "--json",
    )
    result = run(*options, recipes=RECIPES[:1])
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert content["plan"]["supply"]["measured"]
    assert content["plan"]["supply"]["value"] > 0
    assert 100 < content["job"]["cells"] < 700
    assert content["job"]["config"]["cell"]["vocabulary_size"] != 407
    assert content["job"]["tokens"] > 3
    given = json.loads(run(*options, "--no-measure", "--cells", "1000", recipes=RECIPES[:1]).stdout)
    assert given["job"]["cells"] == 1000
    assert not given["plan"]["supply"]["measured"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "how many cells"),
        (("--cells", "1000000", "--device", "gtx1"), "device 'gtx1' is not known.*a100"),
        (("--cells", "1000000", "--device", "a100", "--genes-per-cell", "some"), "genes-per-cell"),
        (("--cells", "1000000", "--device", "a100", "--mfu", "40"), "--mfu is 40"),
        (("--cells", "1000000", "--device", "a100", "--supply", "0"), "--supply is 0"),
        (
            ("--cells", "1000000", "--device", "a100", "--set", "trainer.devices=auto"),
            "say how many with --gpus",
        ),
        (("--cells", "1000000", "--device", "a100", "--set", "trainer.max_epochs=-1"), "trains without end"),
    ],
)
def test_the_verb_says_what_is_wrong(options: tuple[str, ...], message: str, monkeypatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    result = run(*options, recipes=RECIPES[:1])
    assert isinstance(result.exception, PastError)
    assert not result.stdout
    with pytest.raises(type(result.exception), match=f"(?s).*{message}"):
        raise result.exception
