"""`past stain` and `past hscore`, interrupted in every way: absent or whole, and the rerun finishes."""

import json
from pathlib import Path

import pandas as pd
import pytest
import tifffile
import torch
from made_stainer import draw_slide, write_slide

from made_faults import MOMENTS, Case, Trial, Verbs
from past_vihc.files import GeneratorInfo, save_generator
from past_vihc.hscore.output import FILES
from past_vihc.models.generator import FiLMGenerator
from past_vihc.wsi.describe import read_record

MODULES = (
    "past_core.commands.progress",
    "past_core.slides",
    "past_vihc.hscore.output",
    "past_vihc.hscore.pipeline",
    "past_vihc.hscore.regions",
    "past_vihc.wsi.loading",
    "past_vihc.wsi.output",
    "past_vihc.wsi.stainer",
)


@pytest.fixture(scope="module")
def inputs(folder: Path) -> Path:
    """A slide, and a generator with random weights."""
    made = folder / "inputs"
    made.mkdir()
    write_slide(made / "he.tif", draw_slide(700, 320))
    torch.manual_seed(0)
    network = FiLMGenerator(width=4, blocks=1, hidden=8, stains=("er", "pr"))
    save_generator(made / "small.safetensors", network, GeneratorInfo(mpp=0.5, tile=64))
    return made


def stain_content(out: Path) -> dict | None:
    path = out / "er.ome.tif"
    if not path.exists():
        return None
    with tifffile.TiffFile(path) as file:
        levels = [level.asarray() for level in file.series[0].levels]
    record = read_record(path)
    return {"stain": record["stain"], **{f"level {number}": level for number, level in enumerate(levels)}}


@pytest.fixture(scope="module")
def stain(verbs: Verbs, folder: Path, inputs: Path) -> Trial:
    case = Case(
        "stain",
        lambda out, given: [
            "stain", given / "he.tif", "-o", out / "er.ome.tif", "--model", given / "small.safetensors",
            "--stain", "er", "--device", "cpu", "--batch-size", "4",
        ],
        stain_content,
        inputs,
        frozenset({"er.ome.tif"}),
    )  # fmt: skip
    return Trial(verbs, case, folder / "stain")


def score_content(out: Path) -> dict | None:
    path = out / "score"
    if not path.exists():
        return None
    assert {each.name for each in path.iterdir()} == set(FILES) - {"regions.csv"}
    score = json.loads((path / "score.json").read_text())
    shapes = json.loads((path / "nuclei.geojson").read_text())
    table = pd.read_csv(path / "nuclei.csv").to_csv()
    return {"score": json.dumps(score, sort_keys=True), "shapes": json.dumps(shapes), "nuclei": table}


@pytest.fixture(scope="module")
def hscore(verbs: Verbs, folder: Path, inputs: Path) -> Trial:
    case = Case(
        "hscore",
        lambda out, given: [
            "hscore",
            given / "he.tif",
            "-o",
            out / "score",
            "--marker",
            "er",
            "--preset",
            "qupath",
        ],
        score_content,
        inputs,
        frozenset({"score"}),
    )
    return Trial(verbs, case, folder / "hscore")


@pytest.mark.slow
def test_stain(stain: Trial) -> None:
    stain.kills(3, chain=True)
    for said in stain.refusals(0) | stain.full_disks(1):
        assert "er.ome.tif" in said
        assert "give the same command again" in said or "goes on from them" in said
    assert "Read-only file system" in stain.no_right()
    for said in stain.robbed(1, "truncate", "he.tif"):
        assert "he.tif" in said
    stain.two()


@pytest.mark.skipif(not MOMENTS, reason="half a minute; PAST_FAULTS=2 or more tries it at so many moments")
def test_hscore(hscore: Trial) -> None:
    hscore.kills(2)
    for said in hscore.refusals(0) | hscore.full_disks(1):
        assert "score: there is no room" in said
    assert "score cannot be written (Read-only file system" in hscore.no_right()
    for said in hscore.robbed(1, "remove", "he.tif"):
        assert "he.tif" in said
    hscore.two()
