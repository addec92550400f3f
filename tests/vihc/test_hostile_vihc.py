"""Generators, labels, regions, thresholds, vectors, scores and examples that are damaged or hostile."""

import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from made_hostile import Touch, fuzz
from past_core.errors import PastError
from past_vihc.agreement.read import read_pairs as read_scores
from past_vihc.callbacks import ExportGenerator
from past_vihc.data.folders import read_pairs
from past_vihc.data.nuclei import LabelImageError, _load
from past_vihc.files import export_generator, load_generator
from past_vihc.hscore.presets import read_thresholds
from past_vihc.hscore.regions import read_regions
from past_vihc.hscore.scored_examples import read_examples
from past_vihc.hscore.stain_choice import read_stains
from past_vihc.wsi.describe import read_record

SQUARE = {"type": "Polygon", "coordinates": [[[0, 0], [5, 0], [5, 5], [0, 5], [0, 0]]]}


def described(path: Path) -> None:
    tifffile.imwrite(path, np.zeros((8, 8, 3), np.uint8), photometric="rgb", description="<?xml past-vihc?>")


def exported(path: Path) -> None:
    export_generator(path, path.with_name("out.safetensors"))


PARSERS: dict[str, tuple[str, str | Callable[[Path], object], Callable[[Path], object]]] = {
    "regions": (
        ".geojson",
        json.dumps({"features": [{"type": "Feature", "geometry": SQUARE, "properties": {"name": "a"}}]}),
        read_regions,
    ),
    "thresholds": (
        ".json",
        json.dumps({"format": "past-vihc-thresholds-1", "weak": 0.1, "moderate": 0.2, "strong": 0.3}),
        read_thresholds,
    ),
    "stain vectors": (".json", '{"haematoxylin": [0.6, 0.7, 0.3], "dab": [0.3, 0.6, 0.8]}', read_stains),
    "scores": (".csv", "id,expert,predicted\na,1,2\nb,10,20\nc,30,25\n", read_scores),
    "pairs": (".csv", "he,ihc,patient\na.png,b.png,p\n", read_pairs),
    "examples": (
        ".csv",
        "image,h_score\na.png,30\n",
        lambda path: read_examples(path, lambda *_: np.ones(3)),
    ),
    "a generator": (".safetensors", '0123456{"a":', load_generator),
    "a checkpoint": (".ckpt", lambda path: torch.save({"state_dict": {"a": torch.ones(2)}}, path), exported),
    "a written stain": (".tif", described, read_record),
    "labels, npy": (".npy", lambda path: np.save(path, np.ones((9, 9), np.int32)), _load),
    "labels, TIFF": (
        ".tif",
        lambda path: tifffile.imwrite(path, np.ones((9, 9), np.int32), compression="zlib"),
        _load,
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("parser", PARSERS)
def test_damage_ends_in_a_named_error_or_is_read(parser: str, tmp_path: Path) -> None:
    suffix, make, read = PARSERS[parser]
    path = tmp_path / f"damaged{suffix}"
    if isinstance(make, str):
        path.write_text(make)
    else:
        make(path)
    content = path.read_bytes()

    fuzz(path, content, read)


@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize("content", [b"", b"\0" * 99, b"[" * 100_000, b"PK\x03\x04", b"\xff\xfea"])
def test_other_content_is_refused(parser: str, content: bytes, tmp_path: Path) -> None:
    suffix, _, read = PARSERS[parser]
    path = tmp_path / f"other{suffix}"
    path.write_bytes(content)
    with pytest.raises(PastError):
        read(path)


def test_no_code_is_run(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    evil = Touch(marker)
    torch.save({"state_dict": {}, "past-vihc-generator": evil}, tmp_path / "a.ckpt")
    (tmp_path / "b.ckpt").write_bytes(pickle.dumps(evil))
    (tmp_path / "c.safetensors").write_bytes(pickle.dumps(evil))
    np.save(tmp_path / "d.npy", np.array([[evil]], object), allow_pickle=True)
    with (tmp_path / "e.npy").open("wb") as file:
        np.savez(file, a=np.array([[evil]], object))
    reads = {
        "a.ckpt": exported,
        "b.ckpt": exported,
        "c.safetensors": load_generator,
        "d.npy": _load,
        "e.npy": _load,
    }
    for name, read in reads.items():
        with pytest.raises(PastError, match=name):
            read(tmp_path / name)
    assert not marker.exists()


def test_labels_that_claim_too_much_are_refused_unread(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((40, 40), np.int32), compression="zlib", rowsperstrip=40)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as file:
        for name in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            file.pages.first.tags[name].overwrite(60_000, dtype="I")
    with pytest.raises(LabelImageError, match=r"14,400,000,000 bytes of pixels are claimed"):
        _load(tmp_path / "a.tif")


@pytest.mark.parametrize("name", ["../x.safetensors", "/tmp/x.safetensors", "a/b.safetensors", "x", ""])
def test_a_generator_is_exported_into_its_run(name: str) -> None:
    with pytest.raises(PastError, match="expected a name ending"):
        ExportGenerator(filename=name)


def test_an_archive_of_examples_is_read_in_place(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("../../x.csv", "image,h_score\nmissing.png,30\n")
    with pytest.raises(PastError, match=r"missing\.png"):
        read_examples(tmp_path / "a.zip", lambda *_: np.ones(3))
    assert [each.name for each in tmp_path.iterdir()] == ["a.zip"]
