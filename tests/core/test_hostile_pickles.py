"""Files that hide code where weights, arrays or tables are expected: refused, and nothing runs."""

import pickle
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from made_hostile import Touch, pickles, refused
from past_core.checkpoint import load_checkpoint
from past_core.embed.output import read_manifest
from past_core.encoders import load_image_encoder
from past_core.ingest.hest import HestError, read_hest
from past_core.models.weights import read_weights
from past_core.nicheformer import read_genes, read_means
from past_core.nuclei.labels import read_labels
from past_core.published.checkpoint import read_published
from past_core.training.checkpoint_io import AtomicCheckpointIO
from past_core.training.resume import latest_checkpoint


def latest(path: Path) -> object:
    """Resuming passes a file over that cannot be read."""
    assert latest_checkpoint(path.parent) is None
    return AtomicCheckpointIO().load_checkpoint(path)


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a checkpoint of training": (".ckpt", load_checkpoint),
    "a checkpoint to resume from": (".ckpt", latest),
    "the published checkpoint": (".pth", read_published),
    "weights of an encoder": (".pth", read_weights),
    "weights, by another ending": (".bin", read_weights),
    "weights, as safetensors": (".safetensors", read_weights),
    "an encoder by its file": (".pt", load_image_encoder),
    "labels of nuclei": (".npy", lambda path: read_labels(path, shape=(20, 20))),
    "means of genes": (".npy", lambda path: read_means("xenium", path)),
    "a list of genes": (".h5ad", read_genes),
    "written embeddings": (".h5ad", read_manifest),
}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", pickles(Path()))
def test_nothing_is_unpickled(reader: str, kind: str, tmp_path: Path) -> None:
    suffix, read = READERS[reader]
    marker, path = tmp_path / "executed", tmp_path / f"evil{suffix}"
    pickles(marker)[kind](path)
    refused(lambda: read(path), path.name)
    assert not marker.exists()


def test_the_trap_works(tmp_path: Path) -> None:
    """The marker is there where such a file is unpickled after all."""
    pickles(tmp_path / "executed")["a pickle"](tmp_path / "evil.pt")
    pickle.loads((tmp_path / "evil.pt").read_bytes())
    assert (tmp_path / "executed").exists()


@pytest.mark.parametrize("where", ["uns", "obs", "obsm"])
def test_pickled_bytes_in_an_h5ad_stay_bytes(where: str, tmp_path: Path) -> None:
    marker, path = tmp_path / "executed", tmp_path / "s.h5ad"
    evil = pickle.dumps(Touch(marker))
    with h5py.File(path, "w") as file:
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        for name in ("uns", "obs", "obsm", "var"):
            group = file.create_group(name)
            group.attrs.update({"encoding-type": "dict", "encoding-version": "0.1.0"})
        file[f"{where}/evil"] = np.frombuffer(evil, f"V{len(evil)}")
        file[f"{where}/evil"].attrs.update({"encoding-type": "pickle", "encoding-version": "0.1.0"})
    Image.new("RGB", (30, 30)).save(tmp_path / "s.png")
    error = refused(lambda: read_hest(path, tmp_path / "s.png", mpp=0.5), "s.h5ad")
    assert isinstance(error, HestError)
    assert not marker.exists()
