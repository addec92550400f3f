"""Probes, predictions, statistics, tables of cells and lists of genes that are damaged or hostile."""

import json
import pickle
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import zarr
from PIL import Image

from made_hostile import Touch, fuzz
from past_core.errors import PastError
from past_core.slides import open_slide
from past_genex.clusters.prediction import read_predicted
from past_genex.metrics.subsets import markers
from past_genex.predict.cells import listed_cells
from past_genex.predict.reading import read_prediction
from past_genex.probe.files import load_probe
from past_genex.probe.predictions import _names
from past_genex.statistics.folder import META, StatisticsError, _load, open_statistics


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("hostile") / "a.png"
    Image.new("RGB", (64, 64), "white").save(path)
    with open_slide(path, mpp=0.5) as opened:
        yield opened


POLYGON = {"type": "Polygon", "coordinates": [[[1, 1], [9, 1], [9, 9], [1, 9], [1, 1]]]}
TABLES = {
    ".csv": b"cell_id,x,y\na,1,2\nb,30,40\n",
    ".tsv": b"cell_id\tx\ty\na\t1\t2\n",
    ".geojson": json.dumps({"features": [{"id": "a", "geometry": POLYGON}]}).encode(),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", TABLES)
def test_damaged_tables_of_cells(suffix: str, slide, tmp_path: Path) -> None:
    path = tmp_path / f"damaged{suffix}"
    content = TABLES[suffix]

    fuzz(path, content, lambda file: listed_cells(slide, file), named=True)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".geojson", ".parquet"])
@pytest.mark.parametrize("content", [b"", b"\0" * 99, b"[" * 100_000, b"PAR1", b"\xff\xfea"])
def test_other_content_is_no_table_of_cells(suffix: str, content: bytes, slide, tmp_path: Path) -> None:
    (tmp_path / f"other{suffix}").write_bytes(content)
    with pytest.raises(PastError, match="other"):
        listed_cells(slide, tmp_path / f"other{suffix}")


def test_no_code_is_run(tmp_path: Path) -> None:
    evil = Touch(tmp_path / "executed")
    for name, read in {"a.safetensors": load_probe, "b.h5ad": read_predicted}.items():
        (tmp_path / name).write_bytes(pickle.dumps(evil))
        with pytest.raises(PastError, match=name):
            read(tmp_path / name)
    np.save(tmp_path / "c.npy", np.array([[evil]], object), allow_pickle=True)
    with (tmp_path / "d.npy").open("wb") as file:
        np.savez(file, a=np.array([[evil]], object))
    (tmp_path / "e.npy").write_bytes(b"")
    (tmp_path / "f.npy").write_bytes(b"\x93NUMPY\x01\x00\xff\xff{")
    for name in ("c.npy", "d.npy", "e.npy", "f.npy"):
        with pytest.raises(StatisticsError, match=name):
            _load(tmp_path / name, (2, 2))
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "[1]", '{"format": 1}', '{"format": 1, "key": []}'])
def test_damaged_descriptions_of_statistics(text: str, tmp_path: Path) -> None:
    (tmp_path / META).write_text(text)
    with pytest.raises(StatisticsError, match=META):
        open_statistics(tmp_path)


def test_predictions_that_claim_too_much_or_lie_elsewhere(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5ad", "w") as file:
        file.create_dataset("X", (10**7, 10**6), "f4", chunks=(1, 100))
    with h5py.File(tmp_path / "b.h5ad", "w") as file:
        file.create_dataset("X", (2, 4), "u1", external=[("/etc/passwd", 0, 8)])
    group = zarr.open_group(tmp_path / "c.zarr", mode="w")
    group.create_array("X", shape=(10**6, 10**6), chunks=(100, 100), dtype="f4")
    for name, words in {"a.h5ad": "claim", "b.h5ad": "another file", "c.zarr": "claim"}.items():
        with pytest.raises(PastError, match=rf"{name}.*{words}"):
            read_predicted(tmp_path / name)


@pytest.mark.parametrize("text", ["", "[" * 100_000, "[]", '{"attributes": {"past": 3}}'])
def test_a_folder_that_is_no_prediction(text: str, tmp_path: Path) -> None:
    (tmp_path / "p.zarr").mkdir()
    (tmp_path / "p.zarr" / "zarr.json").write_text(text)
    with pytest.raises(PastError, match=r"p\.zarr"):
        read_prediction(tmp_path / "p.zarr")


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"", b"../../x\n<script>\n"])
def test_a_list_of_markers_that_is_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.txt").write_bytes(content)
    with pytest.raises(PastError, match=r"m\.txt"):
        markers([], tmp_path / "m.txt")


def test_predictions_of_a_run_stay_in_its_folder() -> None:
    """A store says its own name, which may be any text."""
    names = ["../../x", "/etc/x", "a/b", "a_b", "", "..", "<b>", "plain", "x" * 400]
    made = _names(SimpleNamespace(slides=[SimpleNamespace(name=name) for name in names]))
    assert len(set(made)) == len(names)
    for name in made:
        assert Path("/out", f"{name}.h5ad").parent == Path("/out")
        assert not name.startswith(".")
        assert len(name) < 250
    assert made[names.index("plain")] == "plain"
