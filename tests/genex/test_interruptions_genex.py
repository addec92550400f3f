"""`past probe`, `past predict` and `past genex`, interrupted in every way: absent or whole, then finished."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from made_faults import MOMENTS, Case, Trial, Verbs
from past_genex.data.slides import ExpressionSlide
from past_genex.predict import read_prediction

MODULES = (
    "past_core.commands.progress",
    "past_core.encoders",
    "past_core.slides",
    "spatialdata",
    "past_genex.commands.inputs",
    "past_genex.evaluation.fitting",
    "past_genex.evaluation.hest_study",
    "past_genex.evaluation.study",
    "past_genex.predict.run",
    "past_genex.probe.files",
    "past_genex.systems.registry",
)


@pytest.fixture(scope="module")
def inputs(tiny_slides: Sequence[Path], folder: Path) -> Path:
    """Three slides, and twenty of their genes."""
    made = folder / "inputs"
    for number, path in enumerate(tiny_slides):
        shutil.copytree(path, made / f"s{number}.zarr")
    (made / "genes.txt").write_text("\n".join(ExpressionSlide(tiny_slides[0]).genes[:20]))
    return made


def probe_content(out: Path) -> dict | None:
    path = out / "p.safetensors"
    return dict(load_file(path)) if path.exists() else None


@pytest.fixture(scope="module")
def probe(verbs: Verbs, folder: Path, inputs: Path) -> Trial:
    case = Case(
        "probe",
        lambda out, given: [
            "probe", given / "s0.zarr", given / "s1.zarr", "-o", out / "p.safetensors",
            "--genes", given / "genes.txt", "--device", "cpu",
        ],
        probe_content,
        inputs,
        frozenset({"p.safetensors"}),
    )  # fmt: skip
    return Trial(verbs, case, folder / "probe")


def predict_content(out: Path) -> dict | None:
    if not (out / "p.zarr").exists():
        return None
    made = read_prediction(out / "p.zarr")
    values = np.concatenate([part for _, part in made.batches()])
    return {"values": values, "genes": made.genes.to_csv(), "xy": made.centroids, "ids": list(made.cell_ids)}


@pytest.fixture(scope="module")
def predict(verbs: Verbs, folder: Path, inputs: Path, probe: Trial) -> Trial:
    given = folder / "predicted"
    given.mkdir()
    shutil.copytree(inputs / "s2.zarr", given / "s.zarr")
    shutil.copy(probe.whole / "p.safetensors", given)
    case = Case(
        "predict",
        lambda out, given: [
            "predict", given / "s.zarr", "-p", given / "p.safetensors", "-o", out / "p.zarr",
            "--batch-size", "16", "--device", "cpu",
        ],
        predict_content,
        given,
        frozenset({"p.zarr"}),
    )  # fmt: skip
    return Trial(verbs, case, folder / "predict")


def genex_content(out: Path) -> dict | None:
    if not (out / "g").exists():
        return None
    content = json.loads((out / "g" / "results.json").read_text())
    tables = {path.name: path.read_text() for path in sorted((out / "g").glob("*.csv"))}
    return {"settings": json.dumps(content["settings"], sort_keys=True), **tables}


@pytest.fixture(scope="module")
def genex(verbs: Verbs, folder: Path, inputs: Path) -> Trial:
    case = Case(
        "genex",
        lambda out, given: [
            "genex", *(given / f"s{n}.zarr" for n in range(3)), "-o", out / "g",
            "--systems", "mean,neighbours", "--settings", "patients", "--maps", "2",
            "--genes", given / "genes.txt", "--ceiling", "0", "--resamples", "10", "--device", "cpu",
        ],
        genex_content,
        inputs,
        frozenset({"g"}),
    )  # fmt: skip
    return Trial(verbs, case, folder / "genex")


# The longer ones where many moments are asked for: they write as the others do.
@pytest.mark.parametrize("name", ["predict", *(["probe", "genex"] if MOMENTS else [])])
def test_interrupted(name: str, request: pytest.FixtureRequest) -> None:
    trial = request.getfixturevalue(name)
    trial.kills(2, chain=True)
    for said in trial.refusals(0) | trial.full_disks(1):
        assert "there is no room for it" in said or "No space left" in said
    for said in trial.robbed(1, "remove", "s.zarr" if name == "predict" else "s1.zarr"):
        assert "s.zarr" in said or "s1.zarr" in said
    trial.two()


def test_a_closed_folder_is_said_before_any_work(predict: Trial) -> None:
    assert "p.zarr cannot be written (Read-only file system" in predict.no_right()
