"""Bags of patches: written and read back, those of other tools, folders of them, and what cannot be used."""

import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pytest
import torch
import zarr
from hypothesis import given
from hypothesis import strategies as st

from past_core.embed import write_embeddings
from past_surv.data.bag_writing import write_bag
from past_surv.data.bags import BagError, BagFolder, BagNotFoundError, read_bag, slide_name

MANIFEST = {"encoder": "demo", "fingerprint": "f" * 64, "mpp": 0.5, "patch_um": 112.0, "kind": "grid"}


def values(patches: int = 37, dim: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(patches, dim)).astype(np.float16)


def corners(patches: int = 37, side: int = 256) -> np.ndarray:
    return np.stack([np.arange(patches) % 7, np.arange(patches) // 7], axis=1) * side + 1000


def written(folder: Path, name: str, features: np.ndarray, **manifest: object) -> Path:
    return write_bag(folder / f"{name}.h5", features, corners(len(features)), MANIFEST | manifest)


def anndata_of(features: np.ndarray) -> ad.AnnData:
    table = ad.AnnData(
        obsm={"past_image": features.astype(np.float32), "spatial": corners(len(features)) + 0.5}
    )
    table.uns["past"] = {"kind": "cells", "encoder": "demo", "fingerprint": "f" * 64, "mpp": 0.5}
    return table


def foreign(folder: Path, kind: str, features: np.ndarray) -> Path:
    """The same bag as another tool would have it."""
    path = folder / f"S1.svs.{kind.rsplit('-', maxsplit=1)[-1]}"
    places = corners(len(features))
    if kind == "clam-h5":
        with h5py.File(path, "w") as file:
            # CLAM appends batch after batch to datasets of one row a chunk.
            size = (len(features), features.shape[1])
            made = file.create_dataset("features", size, "f4", maxshape=(None, size[1]), chunks=(1, size[1]))
            made[:] = features
            file.create_dataset("coords", data=places, maxshape=(None, 2), chunks=(1, 2))
    elif kind == "trident-h5":
        with h5py.File(path, "w") as file:
            file.create_dataset("features", data=features.astype(np.float32))
            file.create_dataset("coords", data=places).attrs["patch_size_level0"] = 512
            file["features"].attrs["encoder"] = "uni_v1"
    elif kind == "leading-h5":
        with h5py.File(path, "w") as file:
            file["features"], file["coords"] = features[None], places[None]
    elif kind == "packed-h5":
        with h5py.File(path, "w") as file:
            file.create_dataset("features", data=features, chunks=(5, 2), compression="gzip")
    elif kind == "arrays-zarr":
        group = zarr.open_group(path, mode="w")
        group.create_array("features", data=features, chunks=(5, features.shape[1]))
        group.create_array("coords", data=places)
    elif kind in ("embed-h5ad", "embed-zarr"):
        write_embeddings(anndata_of(features), path)
    elif kind == "tensor-pt":
        torch.save(torch.from_numpy(features.astype(np.float32)), path)
    elif kind == "legacy-pt":
        torch.save(torch.from_numpy(features), path, _use_new_zipfile_serialization=False)
    elif kind == "bfloat-pt":
        torch.save({"feats": torch.from_numpy(features).bfloat16()}, path)
    elif kind == "array-npy":
        np.save(path, features.astype(np.float64)[None])
    return path


KINDS = (
    "clam-h5", "trident-h5", "leading-h5", "packed-h5", "arrays-zarr", "embed-h5ad", "embed-zarr",
    "tensor-pt", "legacy-pt", "bfloat-pt", "array-npy",
)  # fmt: skip


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    features, places = values(), corners() + 0.25
    path = write_bag(tmp_path / "new" / "S1.h5", iter(np.array_split(features, 4)), places, MANIFEST)
    bag = read_bag(path)
    assert (bag.slide, bag.patches, bag.dim) == ("S1", 37, 6)
    assert (bag.encoder, bag.mpp, bag.patch_um, bag.kind) == ("demo", 0.5, 112.0, "grid")
    assert bag.manifest == MANIFEST
    assert bag.features().dtype == np.float16
    np.testing.assert_array_equal(bag.features(), features)
    np.testing.assert_array_equal(bag.coords(), places)
    # Mapped, not read: a bag larger than memory is drawn from.
    assert isinstance(bag.features(), np.memmap)
    assert list(path.parent.iterdir()) == [path]
    assert pickle.loads(pickle.dumps(bag)).features().shape == (37, 6)  # for workers of a loader


@pytest.mark.parametrize("kind", KINDS)
def test_bags_of_other_tools(tmp_path: Path, kind: str) -> None:
    features = values()
    bag = read_bag(foreign(tmp_path, kind, features))
    assert (bag.slide, bag.patches, bag.dim) == ("S1", 37, 6)
    assert bag.features().dtype in (np.float16, np.float32)
    tolerance = 0.02 if kind == "bfloat-pt" else 0
    np.testing.assert_allclose(bag.features(), features, atol=tolerance)
    rows = np.array([30, 2, 2, 36, 0])
    np.testing.assert_allclose(bag.features(rows), features[rows], atol=tolerance)
    assert bag.features(np.array([], int)).shape == (0, 6)


@pytest.mark.parametrize(
    ("kind", "offset"),
    [("clam-h5", 128), ("trident-h5", 256), ("leading-h5", 128), ("arrays-zarr", 128), ("embed-h5ad", 0.5)],
)
def test_places_are_centres(tmp_path: Path, kind: str, offset: float) -> None:
    np.testing.assert_array_equal(read_bag(foreign(tmp_path, kind, values())).coords(), corners() + offset)


def test_places_that_are_not_known(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read_bag(foreign(tmp_path, "tensor-pt", values())).coords() is None
    with h5py.File(tmp_path / "one.h5", "w") as file:
        file["features"], file["coords"] = values(1), corners(1)
    assert read_bag(tmp_path / "one.h5").coords() is None
    assert "size is not known" in caplog.text


def test_what_other_tools_say_of_their_bags(tmp_path: Path) -> None:
    assert read_bag(foreign(tmp_path, "trident-h5", values())).encoder == "uni_v1"
    bag = read_bag(foreign(tmp_path, "embed-zarr", values()))
    assert (bag.encoder, bag.mpp, bag.kind, bag.patch_um) == ("demo", 0.5, "cells", None)


@given(
    patches=st.integers(1, 60),
    chunk=st.integers(1, 70),
    rows=st.lists(st.integers(0, 59), max_size=40),
    read=st.integers(1, 20),
)
def test_any_rows_of_any_chunks(
    tmp_path_factory: pytest.TempPathFactory, patches: int, chunk: int, rows: list[int], read: int
) -> None:
    features, wanted = values(patches), np.array([row for row in rows if row < patches], int)
    path = tmp_path_factory.mktemp("b") / "x.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("features", data=features, chunks=(min(chunk, patches), 6))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("past_surv.data.bag_files.READ_ROWS", read)
        np.testing.assert_array_equal(read_bag(path).features(wanted), features[wanted])
        np.testing.assert_array_equal(read_bag(path).features(), features)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_features_that_are_not_finite_are_named(tmp_path: Path, kind: str, bad: float) -> None:
    features = values()
    features[[21, 30], 3] = bad
    bag = read_bag(foreign(tmp_path, kind, features))
    with pytest.raises(BagError, match=r"S1\.svs.*features of patch 21 are NaN"):
        bag.features()
    with pytest.raises(BagError, match="features of patch 30 are NaN"):
        bag.features(np.array([3, 30]))
    assert bag.features(np.array([3, 20])).shape == (2, 6)


def test_large_features_are_no_fault(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.full((4, 6), 3e38, np.float32))  # whose sum is beyond float32
    assert np.isfinite(read_bag(tmp_path / "x.npy").features()).all()


def cut(path: Path, share: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


@pytest.mark.parametrize(
    "kind", ["clam-h5", "trident-h5", "tensor-pt", "legacy-pt", "array-npy", "embed-h5ad"]
)
@pytest.mark.parametrize("share", [0.0, 0.02, 0.6])
def test_files_cut_short_are_refused(tmp_path: Path, kind: str, share: float) -> None:
    path = cut(foreign(tmp_path, kind, values(400, 64)), share)
    with pytest.raises(BagError, match=r"S1\.svs"):
        read_bag(path).features()


class Evil:
    def __reduce__(self) -> tuple:
        return Path.touch, (Path("evil"),)


def test_no_pickle_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"features": Evil()}, tmp_path / "x.pt")
    (tmp_path / "y.pt").write_bytes(pickle.dumps(Evil()))
    np.save(tmp_path / "z.npy", np.array([[Evil()]], object), allow_pickle=True)
    for name in ("x.pt", "y.pt", "z.npy"):
        with pytest.raises(BagError, match=name):
            read_bag(tmp_path / name)
    assert not (tmp_path / "evil").exists()


def test_bags_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(BagNotFoundError, match="no such bag"):
        read_bag(tmp_path / "none.h5")
    with pytest.raises(BagError, match=r"expected a file that ends in \.h5"):
        read_bag(tmp_path / "none.pkl")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["vectors"] = values()
    with pytest.raises(BagError, match=r"no dataset 'features'.*it has vectors"):
        read_bag(tmp_path / "a.h5")
    np.save(tmp_path / "b.npy", np.zeros((0, 6)))
    with pytest.raises(BagError, match="at least one patch"):
        read_bag(tmp_path / "b.npy")
    np.save(tmp_path / "c.npy", np.zeros((2, 3, 6)))
    with pytest.raises(BagError, match=r"shape \(2, 3, 6\)"):
        read_bag(tmp_path / "c.npy")
    torch.save({"x": torch.zeros(2, 2)}, tmp_path / "d.pt")
    with pytest.raises(BagError, match="holds a dict of x"):
        read_bag(tmp_path / "d.pt")
    with h5py.File(tmp_path / "e.h5", "w") as file:
        file["features"], file["coords"] = values(), corners(36)
    with pytest.raises(BagError, match=r"coords of shape \(36, 2\) for 37 patches"):
        read_bag(tmp_path / "e.h5").coords()
    with h5py.File(tmp_path / "g.h5", "w") as file:
        file.create_dataset("features", (10**8, 10**6), "f4", chunks=(1, 100))  # of which nothing is written
    with pytest.raises(BagError, match=r"claim 400,000,000,000,000 bytes, of which [0-9,]+ are stored"):
        read_bag(tmp_path / "g.h5")
    with h5py.File(tmp_path / "h.h5", "w") as file:
        file["features"] = np.array([[b"a", b"b"]])
    with pytest.raises(BagError, match="expected numbers"):
        read_bag(tmp_path / "h.h5")
    bag = read_bag(written(tmp_path, "f", values()))
    for row in (-1, 37):
        with pytest.raises(BagError, match=f"row {row} of a bag of 37"):
            bag.features(np.array([0, row]))
    written(tmp_path, "f", values(12))
    with pytest.raises(BagError, match="replaced since"):
        bag.features()


def test_bags_that_cannot_be_written(tmp_path: Path) -> None:
    def write(features: object, places: object = None, name: str = "x.h5", **options: str) -> None:
        places = corners() if places is None else places
        write_bag(tmp_path / name, features, places, MANIFEST, **options)

    spoiled = values()
    spoiled[5, 1] = np.nan
    for arguments, said in [
        (([values(5), values(33)],), "more features than the 37 places"),
        (([values(5), values(3)],), "8 features for 37 places"),
        (([],), "0 features for 37 places"),
        (([values(5), values(32, 7)],), r"shape \(32, 7\)"),
        (([values(3), spoiled[3:]],), "features of patch 5 are NaN"),
        ((np.full((37, 6), 7e4, np.float32),), "a feature of patch 0 is 7e.04, more than float16"),
        ((values(0), corners(0)), r"places of shape \(0, 2\)"),
        ((values(), corners(), "x.pt"), r"bags are written as \.h5"),
    ]:
        with pytest.raises(BagError, match=said):
            write(*arguments)
        assert list(tmp_path.iterdir()) == []
    write(np.full((37, 6), 7e4, np.float32), dtype="float32")
    assert read_bag(tmp_path / "x.h5").features().max() == np.float32(7e4)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("TCGA-05-4244-01Z-00-DX1.d4ff32cd.svs", "TCGA-05-4244-01Z-00-DX1.d4ff32cd"),
        ("TCGA-05-4244-01Z-00-DX1.d4ff32cd", "TCGA-05-4244-01Z-00-DX1.d4ff32cd"),
        ("vss.svs", "vss"),  # what rstrip('.svs') makes ''
        ("a/b/case.v.SVS", "case.v"),
        ("x.ome.tif", "x"),
        (".svs", ".svs"),
    ],
)
def test_names_of_slides(name: str, expected: str) -> None:
    assert slide_name(name) == expected


def test_a_folder_finds_slides_by_their_id(tmp_path: Path) -> None:
    written(tmp_path, "TCGA-A.u1", values())
    written(tmp_path, "TCGA-A.u1v.svs", values(5))
    (tmp_path / ".hidden.h5").touch()
    (tmp_path / "notes.txt").touch()
    folder = BagFolder(tmp_path)
    assert (len(folder), folder.dim) == (2, 6)
    assert folder.find("TCGA-A.u1.svs").patches == folder.find("TCGA-A.u1").patches == 37
    assert folder.find("TCGA-A.u1v").patches == folder.find("TCGA-A.u1v.svs").patches == 5
    assert folder.find("TCGA-A") is None
    assert folder.describe().endswith("2 bags of 6 wide patches, by demo, at 0.5 µm per pixel, on a grid")


def test_folders_of_clam_and_trident(tmp_path: Path) -> None:
    clam, trident = tmp_path / "clam", tmp_path / "trident"
    for folder in (clam / "h5_files", clam / "pt_files", trident / "features_uni_v1"):
        folder.mkdir(parents=True)
    foreign(clam / "pt_files", "tensor-pt", values())
    assert BagFolder(clam).find("S1.svs").path.suffix == ".pt"
    foreign(clam / "h5_files", "clam-h5", values())
    assert BagFolder(clam).find("S1.svs").path.suffix == ".h5"  # which has the places too
    foreign(trident / "features_uni_v1", "trident-h5", values())
    assert BagFolder(trident).dim == BagFolder(trident, encoder="uni_v1").dim == 6
    (trident / "features_conch").mkdir()
    with pytest.raises(BagError, match="several encoders"):
        BagFolder(trident)


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(BagNotFoundError, match="no such folder"):
        BagFolder(tmp_path / "none")
    with pytest.raises(BagNotFoundError, match="no bags in it"):
        BagFolder(tmp_path)
    written(tmp_path, "a", values())
    written(tmp_path, "b", values(dim=7))
    written(tmp_path, "c", values(), fingerprint="g" * 64)
    folder = BagFolder(tmp_path)
    with pytest.raises(BagError, match=r"7 wide patches, 6 wide in a\.h5"):
        folder.find("b")
    with pytest.raises(BagError, match="one folder holds the bags of one encoder"):
        folder.find("c")
    with pytest.raises(BagError, match="made by demo, asked for is uni"):
        BagFolder(tmp_path, encoder="uni").find("a")
    written(tmp_path, "a.svs", values())
    with pytest.raises(BagError, match="slide a has two bags"):
        BagFolder(tmp_path)


def test_an_interrupted_writer_leaves_what_was_there(tmp_path: Path) -> None:
    path = written(tmp_path, "a", values())

    def blocks() -> Iterator[np.ndarray]:
        yield values(20, seed=1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_bag(path, blocks(), corners(), MANIFEST)
    assert list(tmp_path.iterdir()) == [path]
    np.testing.assert_array_equal(read_bag(path).features(), values())


def test_the_manifest_is_plain_json(tmp_path: Path) -> None:
    path = written(tmp_path, "a", values(), patch_um=np.float64(3.5), source=tmp_path, kind="other")
    assert read_bag(path).kind is None
    assert BagFolder(tmp_path).describe().endswith("by demo, at 0.5 µm per pixel")
    with h5py.File(path) as file:
        assert json.loads(file.attrs["past"])["patch_um"] == 3.5
        assert file["features"].chunks is None
