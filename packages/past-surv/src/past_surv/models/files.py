"""A trained network as one file: safetensors, with everything but the weights as JSON in its metadata."""

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from past_core.atomic import OutputWriteError, replacing
from past_core.errors import PastError
from past_core.remote import require_local
from past_core.training.finite import not_finite
from past_surv.models.mcat import MCAT, McatError
from past_surv.models.mil import AttentionMIL
from past_surv.models.snn import SNN

FORMAT = 1
"""Version of the file; a reader refuses every other one."""
KEY = "past-surv-model"
"""The entry of the file's metadata that all but the weights is in."""


class SurvivalFileError(PastError, ValueError):
    """A file that is no network of survival, or is damaged."""


class SurvivalFileNotFoundError(PastError, FileNotFoundError):
    """There is no network at that path."""


class LoadedModel(NamedTuple):
    """A network and what it was trained for.

    Attributes:
        model: MCAT, AttentionMIL or SNN, in evaluation mode.
        manifest: `kind` (mcat, mil, snn), `options`, `cohort`, `fold`, `unit`, `group_names`,
            `group_columns`, `group_sizes`, `scalings` (`mean` and `deviation` by group, in the order of its
            columns), `edges` (the K − 1 inner edges of the intervals), `encoder`, `encoder_fingerprint`,
            `patch_dim`.
    """

    model: nn.Module
    manifest: dict[str, Any]


def save_survival(path: str | Path, model: nn.Module, manifest: dict[str, Any]) -> Path:
    """Writes a network as one `.safetensors` file, whole or not at all; what is there is replaced.

    Args:
        path: the file.
        model: the network.
        manifest: see `LoadedModel`; it must be enough to build the network again.

    Raises:
        SurvivalFileError: another suffix, weights that are not finite or not those of the manifest's network,
            or a file that cannot be written.
        RemoteError: a URL.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    require_local(path)
    path = Path(path)
    if path.suffix != ".safetensors":
        raise SurvivalFileError(f"{path}: a network is written as .safetensors; give the output that suffix")
    weights = model.state_dict()
    bad = not_finite(weights.items())
    if bad:
        raise SurvivalFileError(f"weights that are not finite are not written: {', '.join(bad[:5])}")
    _fitting(path, manifest, {name: tuple(value.shape) for name, value in weights.items()})
    entry = {"format": FORMAT, "software": f"past-surv {version('past-surv')}", "manifest": manifest}
    try:
        text = json.dumps(entry, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise SurvivalFileError(f"a manifest must be plain JSON values ({error})") from error
    try:
        with replacing(path) as temporary:
            temporary.touch()
            mode = temporary.stat().st_mode
            content = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
            save_file(content, temporary, metadata={KEY: text})
            temporary.chmod(mode)  # safetensors makes it readable for its owner alone
    except OutputWriteError as error:  # says it all
        raise SurvivalFileError(str(error)) from error
    except (OSError, SafetensorError) as error:
        raise SurvivalFileError(
            f"{path}: could not be written ({error}); what was there is untouched"
        ) from error
    return path


def load_survival(path: str | Path) -> LoadedModel:
    """Reads a network; nothing in the file is executed, and every size is checked before it is read.

    Raises:
        SurvivalFileNotFoundError: no such file.
        SurvivalFileError: another kind of file, another version, damaged, or parts that do not fit together.
    """
    from past_core.checkpoint import CheckpointError
    from past_core.checkpoint.tensors import open_safetensors

    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise SurvivalFileNotFoundError(
            f"{path} {what}; expected a network's .safetensors file, as `lightning fit -c recipes/surv.yaml` "
            "writes it"
        )
    try:
        file = open_safetensors(path)
        manifest = _manifest(path, file.metadata_json(KEY))
        model = _fitting(path, manifest, file.shapes)
        weights: dict[str, Tensor] = file.read(*file.shapes)
    except CheckpointError as error:
        raise SurvivalFileError(f"{error}; expected a network's .safetensors file") from error
    bad = not_finite(weights.items()) or [n for n, w in weights.items() if not w.is_floating_point()]
    if bad:
        raise SurvivalFileError(f"{path}: damaged: weights that are no finite numbers: {', '.join(bad[:5])}")
    model.load_state_dict(weights, assign=True)
    return LoadedModel(model.eval().requires_grad_(requires_grad=False), manifest)


def _manifest(path: Path, entry: Any) -> dict[str, Any]:
    if not isinstance(entry, dict) or not isinstance(entry.get("manifest"), dict):
        raise SurvivalFileError(
            f"{path}: a safetensors file, but no network of past-surv (no {KEY} in its metadata)"
        )
    if entry.get("format") != FORMAT:
        raise SurvivalFileError(
            f"{path}: format {entry.get('format')!r} of a network, this past-surv reads {FORMAT}; install "
            f"the version that wrote it ({entry.get('software', 'unknown')})"
        )
    return entry["manifest"]


def _fitting(path: Path, manifest: dict[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> nn.Module:
    """The manifest's network without memory of its own, if these are the shapes of its weights."""
    try:
        with torch.device("meta"):
            model = _build(manifest)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, McatError) as error:
        raise SurvivalFileError(f"{path}: its manifest is damaged or incomplete ({error!r})") from error
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    wrong = [
        f"{name} is {shapes.get(name, 'missing')}, expected {expected.get(name, 'none')}"
        for name in sorted(expected.keys() | shapes.keys())
        if expected.get(name) != shapes.get(name)
    ]
    if wrong:
        raise SurvivalFileError(
            f"{path}: weights that are not those of its {manifest['kind']}: {'; '.join(wrong[:3])}"
        )
    return model


def _build(manifest: dict[str, Any]) -> nn.Module:
    kind, options = manifest["kind"], dict(manifest["options"])
    columns, sizes = manifest["group_columns"], list(manifest["group_sizes"])
    if [len(names) for names in columns] != sizes or len(manifest["group_names"]) != len(sizes):
        raise ValueError(f"groups of {sizes} genes, columns of {[len(names) for names in columns]}")
    intervals = len(manifest["edges"]) + 1
    if kind == "mcat":
        return MCAT(sizes, patch_dim=manifest["patch_dim"], intervals=intervals, **options)
    if kind == "mil":
        return AttentionMIL(manifest["patch_dim"], intervals=intervals, **options)
    if kind == "snn":
        genes = {name for names in columns for name in names}  # a gene of several groups counts once
        return SNN(len(genes), intervals=intervals, **options)
    raise ValueError(f"kind {kind!r}; expected mcat, mil or snn")
