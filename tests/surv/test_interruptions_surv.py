"""`past bags` and `past survival`, interrupted in every way: whole files only, and the rerun finishes."""

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from test_surv_bags_command import draw_slide
from test_surv_survival_command import written

from made_faults import Case, Trial, Verbs
from past_surv.data.bags import read_bag

MODULES = (
    "lightning.pytorch",
    "past_core.commands.progress",
    "past_core.encoders",
    "past_core.slides",
    "past_surv.commands.matrix",
    "past_surv.data.bag_runs",
    "past_surv.evaluation.building",
    "past_surv.evaluation.plan",
    "past_surv.evaluation.report",
    "past_surv.evaluation.run",
    "past_surv.figures.curves",
    "past_surv.figures.forest",
    "past_surv.figures.table",
    "past_surv.systems.cox",
)
TABLES = ("predictions.csv", "scores.csv", "summary.csv", "comparisons.csv", "kaplan.csv", "curves.csv")


def bags_content(out: Path) -> dict | None:
    """Of the bags that are there; None while one is missing."""
    found = {}
    for path in sorted((out / "bags").glob("[!.]*.h5")):
        with h5py.File(path) as file:
            assert set(file) == {"features", "coords"}
        bag = read_bag(path)
        found |= {f"{path.stem} features": bag.features(), f"{path.stem} coords": bag.coords()}
    return found if len(found) == 4 else None


@pytest.fixture(scope="module")
def bags(verbs: Verbs, folder: Path) -> Trial:
    inputs = folder / "slides"
    for number in range(2):
        draw_slide(inputs / f"s{number}.tif", seed=number)
    case = Case(
        "bags",
        lambda out, given: [
            "bags",
            given,
            "-o",
            out / "bags",
            "-e",
            "demo",
            "--batch-size",
            "8",
            "--device",
            "cpu",
        ],
        bags_content,
        inputs,
        frozenset({"bags"}),
        again=0,
    )
    return Trial(verbs, case, folder / "bags")


def survival_content(out: Path) -> dict | None:
    """Of the tables and the cells' predictions; None while a file is missing. Every file opens."""
    found: dict = {}
    for path in sorted((out / "m").rglob("[!.]*.npz")):
        with np.load(path, allow_pickle=False) as file:
            found[f"{path.parent.name} {path.stem}"] = file["risk"]
    for name in TABLES:
        if (out / "m" / name).exists():
            found[name] = pd.read_csv(out / "m" / name).to_csv()
    done = (out / "m" / "ranks.png").exists() and len(found) == len(TABLES) + 2 * 3
    return found if done else None


@pytest.fixture(scope="module")
def survival(verbs: Verbs, folder: Path) -> Trial:
    inputs = folder / "cohort"
    inputs.mkdir()
    written(inputs, "coad")
    case = Case(
        "survival",
        lambda out, given: [
            "survival", given / "coad.csv", "-o", out / "m",
            "--systems", "cox-age-sex,coxnet", "--folds", "3", "--resamples", "20",
        ],
        survival_content,
        inputs,
        frozenset({"m"}),
        again=0,
    )  # fmt: skip
    return Trial(verbs, case, folder / "survival")


def test_bags(bags: Trial) -> None:
    bags.kills(2, chain=True)
    for said in bags.refusals(0) | bags.full_disks(1):
        assert "No space left" in said or "no room" in said
    for said in bags.robbed(1, "truncate", "s1.tif"):
        assert "s1.tif" in said
    bags.two()


def test_survival(survival: Trial) -> None:
    survival.kills(2, chain=True)
    for said in survival.refusals(0) | survival.full_disks(1):
        assert "there is no room for it" in said
    assert "m cannot be written (Read-only file system" in survival.no_right()
    survival.two()
