"""What a checkpoint records of its training, and the model card that says it, absent figures included."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st
from made_models import made_checkpoint, save_lightning

from past_core.augment import Augmentation
from past_core.checkpoint import PastCheckpoint, export_checkpoint, load_model, settings_of, training_record
from past_core.checkpoint.card import model_card
from past_core.checkpoint.record import manifest_hash, plain, read_record

MANIFEST = {
    "format": 1,
    "software": "past-core 0.1.0",
    "assay": "xenium",
    "mpp": 0.25,
    "blocks": [[0, 0, 0, 9]],
}


def store(name, **more):
    manifest = MANIFEST | {"sources": {"he": "ab" * 32}} | more
    return SimpleNamespace(name=name, patient=f"patient of {name}", manifest=manifest)


@dataclass
class Data:
    train_stores: list = field(default_factory=lambda: [store("A"), store("B", cancer_type="lung")])
    val_stores: list = field(default_factory=lambda: [store("C")])

    def cells_per_slide(self):
        return [1200, 34], [500]


METRICS = {
    "train/loss": torch.tensor(3.5),
    "val/enrichment@10": torch.tensor(26.0),
    "val/recall@10/image_to_cell": 0.13,
    "val/recall@10/cell_to_image": 0.26,
    "val/chance@10": 0.005,
    "val/gallery": 2000.0,
    "val/median_rank/image_to_cell": 144.0,
    "val_C/recall@10/image_to_cell": np.float64(0.13),
    "train/excess_loss": torch.tensor(float("nan")),
}


def record(**changes):
    options = {
        "step": 584,
        "epoch": 7,
        "validated_at": 584,
        "settings": {"data.seed": 0, "model.betas": (0.9, 0.95)},
    }
    return training_record(Data(), METRICS, **options | changes)


MADE = made_checkpoint()


def card(training, **info):
    info = {"training": training, **info}
    return model_card(PastCheckpoint(MADE.model, MADE.vocabulary, MADE.gene_means, info), name="mine")


def section(text, title):
    return text.split(f"## {title}\n")[1].split("\n## ")[0]


def rows(text):
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


# --- the record --------------------------------------------------------------------------------------------


def test_the_record_is_of_plain_values_and_survives_both_containers(tmp_path):
    made = record()
    assert json.loads(json.dumps(made, allow_nan=False)) == made
    path = save_lightning(made_checkpoint(), tmp_path / "a.ckpt", training=made)
    assert load_model(path).info["training"] == made
    for target in (tmp_path / "a.safetensors", tmp_path / "a"):
        assert load_model(export_checkpoint(path, target)).info["training"] == made


def test_the_record_says_which_cells_of_which_data():
    made = record()
    assert [(slide["name"], slide["patient"], slide["cells"]) for slide in made["train"]] == [
        ("A", "patient of A", 1200),
        ("B", "patient of B", 34),
    ]
    assert [slide["cells"] for slide in made["validation"]] == [500]
    assert made["train"][0]["sources"] == {"he": "ab" * 32}
    assert made["train"][1]["cancer_type"] == "lung"
    assert made["train"][0]["manifest"] == manifest_hash(MANIFEST | {"sources": {"he": "ab" * 32}})


def test_a_manifest_hash_is_of_content_only():
    reversed_order = dict(reversed(MANIFEST.items()))
    assert manifest_hash(reversed_order) == manifest_hash(MANIFEST)
    assert manifest_hash(json.loads(json.dumps(MANIFEST, indent=4))) == manifest_hash(MANIFEST)
    for key in MANIFEST:
        assert manifest_hash(MANIFEST | {key: "changed"}) != manifest_hash(MANIFEST)


def test_figures_are_kept_as_measured_or_not_at_all():
    made = record()
    assert made["metrics"]["val/enrichment@10"] == 26.0
    assert "train/excess_loss" not in made["metrics"]  # NaN
    # Before the first validation (and after its rehearsal on one batch) there is no such figure.
    early = record(validated_at=None)
    assert list(early["metrics"]) == ["train/loss"]


def test_settings_are_those_an_object_was_made_with():
    class Task:
        def __init__(self, rate, *, betas=(0.9, 0.95), augmentation=None, start=None, network=None, hidden=1):
            self.rate, self.betas, self.start, self.network = rate, betas, start, network
            self.augmentation, self._hidden, self.other = augmentation, hidden, 5

    task = Task(
        1e-3, augmentation=Augmentation(), start="/home/me/secret/uni.bin", network=torch.nn.Linear(2, 2)
    )
    found = settings_of(model=task)
    assert set(found) == {f"model.{name}" for name in ("rate", "betas", "augmentation", "start")}
    kept = record(settings=found)["settings"]
    assert kept["model.start"] == "uni.bin"  # no path of the machine
    assert kept["model.augmentation"]["gain_sigma"] == 0.12
    assert plain(Path("a/b/c.csv")) == "c.csv"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*record(), "plan", "targets"]), JSON))
def test_whatever_a_file_says_of_its_training_gives_a_card(training):
    """A checkpoint of elsewhere may hold anything there."""
    read = read_record({"training": training})
    assert read.keys() >= record().keys()
    assert "## Metrics" in card(training)


# --- the card ----------------------------------------------------------------------------------------------


def test_the_hub_understands_the_front_matter():
    parsed = ModelCard(card(record())).data.to_dict()
    assert parsed["license"] == "unknown"
    assert parsed["library_name"] == "past-core"
    assert {"histopathology", "spatial-transcriptomics"} <= set(parsed["tags"])
    made = made_checkpoint()
    odd = model_card(made, name="mine", license='a: "b"\n- c')
    assert yaml.safe_load(odd.split("---")[1])["license"] == 'a: "b"\n- c'


def test_figures_with_their_chance():
    text = section(card(record()), "Metrics")
    assert "of 2,000 on average" in text
    assert "× 26.0" in text
    table = rows(text)
    assert ["image to transcriptome", "recall@10", "0.1300", "0.0050", "× 26.0"] in table
    assert ["transcriptome to image", "recall@10", "0.2600", "0.0050", "× 52.0"] in table
    assert ["image to transcriptome", "median rank", "144", "1000", ""] in table
    assert not any("recall@5" in row for row in table)  # which was not recorded
    assert "Measured at step" not in text
    later = section(card(record(step=600)), "Metrics")
    assert "Measured at step 584; the weights are of step 600." in later


def test_what_is_not_recorded_is_said_to_be_absent():
    for training in ({}, {"slides": ["A", "B"]}, record(validated_at=None)):
        assert "records no validation figures" in section(card(training), "Metrics")
    assert "does not record which slides" in section(card({}), "Training data")
    assert "names its training slides (A, B)" in section(card({"slides": ["A", "B"]}), "Training data")
    assert "are not recorded" in section(card({}), "Training")
    without = record()
    del without["metrics"]["val/chance@10"]
    values = [row for row in rows(section(card(without), "Metrics")) if row[1] == "recall@10"]
    assert {row[3] for row in values} == {"not recorded"}


def test_data_table():
    text = section(card(record()), "Training data")
    assert "1,234 cells of 2 slides and 2 patients. Held out: 1 slide" in text
    table = rows(text)
    assert [row[:3] + row[6:7] for row in table[2:]] == [
        ["training", "A", "patient of A", "1,200"],
        ["training", "B", "patient of B", "34"],
        ["held out", "C", "patient of C", "500"],
    ]
    assert table[2][7] == f"`{record()['train'][0]['manifest'][:16]}`"
    odd = record()
    odd["train"][0]["name"] = "a|b\n# heading <script>"
    assert [row[1] for row in rows(section(card(odd), "Training data"))][2] == r"a\|b # heading &lt;script>"


def test_input_and_architecture():
    text = card(record())
    table = rows(section(text, "Input"))
    assert "32 × 32 px at 0.5 µm/px (16 µm)" in table[2][1]
    assert "(0.485, 0.456, 0.406)" in section(text, "Input")
    model = made_checkpoint().model
    parts = {row[0]: row[1] for row in rows(section(text, "Architecture"))}
    total = sum(parameter.numel() for parameter in model.parameters())
    assert parts["All"] == f"{total:,}"
    named = ("Image encoder", "Cell encoder", "Projection heads")
    assert sum(int(parts[name].replace(",", "")) for name in named) == total - 1  # and the temperature


def test_the_demo_says_so_and_has_a_licence():
    text = card({}, demo=True)
    assert "Trained on synthetic tissue" in text
    assert ModelCard(text).data.license == "apache-2.0"
    assert "No licence was stated" not in text
    assert "No licence was stated" in card({})


def test_how_to_load_works_as_printed(tmp_path, monkeypatch):
    save_lightning(made_checkpoint(), tmp_path / "a.ckpt")
    export_checkpoint(tmp_path / "a.ckpt", tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    code = re.search(r"```python\n(.*?)```", (tmp_path / "mine" / "README.md").read_text(), re.DOTALL)[1]
    assert len(code.strip().splitlines()) <= 5
    scope = {"patches": torch.zeros(2, 3, 32, 32, dtype=torch.uint8)}
    exec(code, scope)
    assert scope["features"].shape == (2, 16)
    assert "(B, 3, 32, 32) uint8 at 0.5 µm/px -> (B, 16)" in code


@pytest.mark.parametrize("training", [{"imported": "PASTModelGraph", "epoch": 15}])
def test_an_imported_release_is_named(training):
    assert "released PASTModelGraph" in section(card(training), "Training data")
