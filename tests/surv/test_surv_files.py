"""Files of trained networks: what is read is what was written, and everything else is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from past_surv.models.files import (
    SurvivalFileError,
    SurvivalFileNotFoundError,
    load_survival,
    save_survival,
)
from past_surv.models.mcat import MCAT
from past_surv.models.mil import AttentionMIL
from past_surv.models.snn import SNN


def manifest(kind: str, **given: Any) -> dict[str, Any]:
    options = {"width": 16} | ({"fusion": "bilinear"} if kind == "mcat" else {})
    usual = {"kind": kind, "options": options, "patch_dim": 6, "edges": [1.5, 9.0], "encoder": None}
    groups = {
        "group_names": ["a", "b"],
        "group_columns": [["x", "y"], ["y", "z", "w"]],
        "group_sizes": [2, 3],
    }
    return usual | groups | given


def network(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    if kind == "mcat":
        return MCAT([2, 3], patch_dim=6, intervals=3, fusion="bilinear", width=16)
    return AttentionMIL(6, intervals=3, width=16) if kind == "mil" else SNN(4, intervals=3, width=16)


@pytest.mark.parametrize("kind", ["mcat", "mil", "snn"])
def test_what_is_read_is_what_was_written(kind: str, tmp_path: Path) -> None:
    model = network(kind)
    path = save_survival(tmp_path / "new" / "m.safetensors", model, manifest(kind))
    found = load_survival(path)
    assert type(found.model) is type(model)
    assert not found.model.training
    assert found.manifest == manifest(kind)
    own = model.state_dict()
    assert list(found.model.state_dict()) == list(own)
    assert all(torch.equal(value, own[name]) for name, value in found.model.state_dict().items())
    assert [p.name for p in path.parent.iterdir()] == ["m.safetensors"]
    assert path.stat().st_mode & 0o044 == 0o044 & ~_umask()


def _umask() -> int:
    import os

    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(SurvivalFileNotFoundError, match=r"does not exist; expected a network's"):
        load_survival(tmp_path / "m.safetensors")
    with pytest.raises(SurvivalFileNotFoundError, match="is a folder"):
        load_survival(tmp_path)
    other = tmp_path / "o.safetensors"
    save_file({"a": torch.zeros(2)}, other)
    with pytest.raises(SurvivalFileError, match="no past-surv-model in its metadata"):
        load_survival(other)
    path = save_survival(tmp_path / "m.safetensors", network("mil"), manifest("mil"))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SurvivalFileError, match=r"m\.safetensors"):
        load_survival(path)
    path.write_bytes(whole.replace(b'format\\": 1', b'format\\": 7'))
    with pytest.raises(SurvivalFileError, match="format 7 of a network, this past-surv reads 1"):
        load_survival(path)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"kind": "cox"}, "kind 'cox'"),
        ({"patch_dim": 7}, r"wsi_net.0.weight is \(16, 6\), expected \(16, 7\)"),
        ({"edges": []}, "weights that are not those of its mcat"),
        ({"group_sizes": [2, 4]}, r"groups of \[2, 4\] genes, columns of \[2, 3\]"),
        ({"options": {"depth": 3}}, "damaged or incomplete"),
        ({"group_columns": None}, "damaged or incomplete"),
        ({"patch_dim": 10**15}, r"expected \(16, 1000000000000000\)|damaged"),
    ],
)
def test_manifests_of_another_network(given: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(SurvivalFileError, match=said):
        save_survival(tmp_path / "m.safetensors", network("mcat"), manifest("mcat") | given)
    assert not list(tmp_path.iterdir())


def test_what_is_not_written_leaves_what_was_there(tmp_path: Path) -> None:
    path = save_survival(tmp_path / "m.safetensors", network("mil"), manifest("mil"))
    before = path.read_bytes()
    torn = network("mil")
    torn.classifier.bias.data[1] = torch.nan
    with pytest.raises(SurvivalFileError, match=r"not finite are not written: classifier\.bias"):
        save_survival(path, torn, manifest("mil"))
    with pytest.raises(SurvivalFileError, match="plain JSON values"):
        save_survival(path, network("mil"), manifest("mil", note=object()))
    with pytest.raises(SurvivalFileError, match="give the output that suffix"):
        save_survival(tmp_path / "m.pt", network("mil"), manifest("mil"))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]
