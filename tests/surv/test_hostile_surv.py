"""Bags, cohorts, folds, groups, listings, vectors, predictions and networks that are damaged or hostile."""

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
import zarr

from made_hostile import Touch, fuzz
from past_core.errors import PastError
from past_surv.commands.vectors import read_ids
from past_surv.data.bags import read_bag
from past_surv.data.cohort import read_cohort
from past_surv.data.gdc import read_cases, read_listing
from past_surv.data.groups import read_groups
from past_surv.data.predictions import find_predictions, read_predicted
from past_surv.data.splits import read_folds
from past_surv.data.vector_files import read_vectors
from past_surv.evaluation.sources import cohort_source
from past_surv.models.files import load_survival

COHORT = "case_id,slide_id,survival_months,censorship,A_rnaseq\n" + "".join(
    f"c{k},c{k}.svs,{k + 1}.5,{k % 2},{k}\n" for k in range(8)
)


def folds(path: Path) -> None:
    whole = path.with_name("whole.csv")
    whole.write_text(COHORT)
    place = path.parent / "splits"
    place.mkdir(exist_ok=True)
    (place / "splits_0.csv").unlink(missing_ok=True)
    os.link(path, place / "splits_0.csv")
    read_folds(place, read_cohort(whole))


def h5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["features"], file["coords"] = np.ones((5, 4), "f4"), np.arange(10).reshape(5, 2)


def vectors(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    made = pa.Table.from_pandas(pd.DataFrame({"a": [1.0]}, index=pd.Index(["c"], name="case_id")))
    meta = {
        **(made.schema.metadata or {}),
        b"past": json.dumps({"kind": "patient vectors", "format": 1}).encode(),
    }
    pq.write_table(made.replace_schema_metadata(meta), path)


PARSERS: dict[str, tuple[str, str | Callable[[Path], object], Callable[[Path], object]]] = {
    "a cohort": (".csv", COHORT, read_cohort),
    "folds": (".csv", ",train,val\n0,c0,c1\n1,c2,c3\n2,c4,c5\n", folds),
    "groups of genes": (".csv", "tumor,kinases\nA,B\nC,\n", read_groups),
    "case ids": (".csv", "case_id,x\na,1\nb,2\n", read_cases),
    "a listing, JSON": (".json", json.dumps({"data": {"hits": [{"file_name": "a.svs"}]}}), read_listing),
    "a listing, TSV": (".tsv", "id\tfile_name\tmd5sum\tfile_size\nx\ta.svs\tq\t3\n", read_listing),
    "ids of genes": (".csv", "symbol,id\nA,ENSG1\nB,ENSG2\n", read_ids),
    "a sheet of predictions": (".csv", "slide,prediction\na,a.zarr\nb,b.zarr\n", find_predictions),
    "vectors": (".parquet", vectors, read_vectors),
    "a bag, HDF5": (".h5", h5, lambda path: read_bag(path).features()),
    "a bag, tensor": (
        ".pt",
        lambda path: torch.save(torch.ones(5, 4), path),
        lambda path: read_bag(path).features(),
    ),
    "a bag, npy": (
        ".npy",
        lambda path: np.save(path, np.ones((5, 4), "f4")),
        lambda path: read_bag(path).features(),
    ),
    "a network": (".safetensors", '0123456{"a":', load_survival),
}


def made(parser: str, path: Path) -> bytes:
    make = PARSERS[parser][1]
    if isinstance(make, str):
        return make.encode()
    path.unlink(missing_ok=True)
    make(path)
    return path.read_bytes()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("parser", PARSERS)
def test_damage_ends_in_a_named_error_or_is_read(parser: str, tmp_path: Path) -> None:
    suffix, _, read = PARSERS[parser]
    path = tmp_path / f"damaged{suffix}"
    content = made(parser, path)

    fuzz(path, content, read)


@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize(
    "content", [b"", b"\0" * 99, b"[" * 100_000, b"PK\x03\x04", b"\x1f\x8b\x08", b"\xff\xfea"]
)
def test_other_content_is_refused(parser: str, content: bytes, tmp_path: Path) -> None:
    suffix, _, read = PARSERS[parser]
    path = tmp_path / f"other{suffix}"
    path.write_bytes(content)
    with pytest.raises(PastError):
        read(path)


def test_no_bag_runs_code(tmp_path: Path) -> None:
    evil, marker = Touch(tmp_path / "executed"), tmp_path / "executed"
    torch.save({"features": torch.ones(2, 2), "coords": evil}, tmp_path / "a.pt")
    torch.save(evil, tmp_path / "b.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "c.pt").write_bytes(pickle.dumps(evil))
    np.save(tmp_path / "d.npy", np.array([[evil]], object), allow_pickle=True)
    with (tmp_path / "e.npy").open("wb") as file:
        np.savez(file, features=np.array([[evil]], object))
    (tmp_path / "f.h5").write_bytes(pickle.dumps(evil))
    (tmp_path / "g.safetensors").write_bytes(pickle.dumps(evil))
    for name in ("a.pt", "b.pt", "c.pt", "d.npy", "e.npy", "f.h5"):
        with pytest.raises(PastError, match=name):
            read_bag(tmp_path / name)
    with pytest.raises(PastError, match=r"g\.safetensors"):
        load_survival(tmp_path / "g.safetensors")
    assert not marker.exists()


def test_bags_that_claim_too_much_or_lie_elsewhere(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["features"] = np.ones((2, 2), "f4")
        file.create_dataset("coords", (10**7, 10**6), "i8", chunks=(1, 100))
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file.create_dataset("features", (2, 4), "u1", external=[("/etc/passwd", 0, 8)])
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = np.ones((2, 2), "f4")
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["features"] = h5py.ExternalLink("other.h5", "/x")
    group = zarr.open_group(tmp_path / "d.zarr", mode="w")
    group.create_array("features", shape=(10**5, 10**4), chunks=(10**5, 10**4), dtype="f4")
    for name, words in {
        "a.h5": "claim",
        "b.h5": "another file",
        "c.h5": "another file",
        "d.zarr": "claim",
    }.items():
        with pytest.raises(PastError, match=words):
            read_bag(tmp_path / name)


def test_a_prediction_that_claims_too_much(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "p.zarr", mode="w")
    group.attrs["past"] = {"kind": "prediction", "format": 1, "normalisation": "log1p_cp10k", "mpp": 0.5}
    group.create_group("tables/predicted").create_array(
        "obsm/spatial", shape=(10**9, 2), chunks=(10**9, 2), dtype="f8"
    )
    with pytest.raises(PastError, match=r"p\.zarr"):
        read_predicted(tmp_path / "p.zarr")


def test_a_cohort_in_an_archive_is_read_in_place_and_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(tmp_path / "a.csv.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../outside.csv", COHORT)
    assert len(read_cohort(tmp_path / "a.csv.zip")) == 8
    assert not list(tmp_path.parent.glob("outside*"))
    monkeypatch.setattr("past_surv.data.cohort.MAX_BYTES", 100)
    with pytest.raises(PastError, match=r"a\.csv\.zip"):
        read_cohort(tmp_path / "a.csv.zip")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("a.csv", COHORT)
        archive.writestr("b.csv", COHORT)
    with pytest.raises(PastError, match="a zip of 2 files"):
        read_cohort(tmp_path / "b.zip")


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "a\0b", "a\nb", "<script>", "-o", " "])
def test_a_cohort_is_named_plainly(name: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(COHORT)
    with pytest.raises(PastError, match="expected a name of letters"):
        cohort_source([tmp_path / "t.csv"], name=name)
