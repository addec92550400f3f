"""A probe as one file: safetensors, with everything but the arrays as JSON in its metadata."""

import json
from importlib.metadata import version
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from past_core.atomic import OutputWriteError, replacing
from past_core.errors import PastError
from past_core.remote import require_local
from past_genex.data.targets import Target
from past_genex.probe.model import USE, Probe, ProbeError, ProbeMismatchError
from past_genex.probe.trust import Trust, TrustError

if TYPE_CHECKING:
    from past_core.checkpoint.tensors import TensorFile

__all__ = [
    "Probe",
    "ProbeError",
    "ProbeMismatchError",
    "ProbeNotFoundError",
    "Trust",
    "load_probe",
    "save_probe",
]

FORMAT = 1
"""Version of the file; a reader refuses every other one."""
KEY = "past-genex-probe"
"""The entry of the file's metadata that all but the arrays is in, as JSON."""
DEMO = "demo"
_ARRAYS = ("weight", "bias", "alpha", "trust.r", "trust.low", "trust.high", "trust.patients")


class ProbeNotFoundError(PastError, FileNotFoundError):
    """There is no probe at that path."""


def save_probe(probe: Probe, path: str | Path) -> Path:
    """Writes a probe as one `.safetensors` file, whole or not at all; what is there is replaced.

    Raises:
        ProbeError: another suffix, or the file cannot be written.
        RemoteError: a URL.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    require_local(path)
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ProbeError(f"{path}: a probe is written as .safetensors; give the output that suffix")
    table = probe.trust_table
    arrays = (probe.weight, probe.bias, probe.alpha, table.r, table.low, table.high, table.patients)
    try:
        text = json.dumps(_entry(probe), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ProbeError(f"the notes of a probe must be plain JSON values ({error})") from error
    try:
        with replacing(path) as temporary:
            temporary.touch()
            mode = temporary.stat().st_mode
            content = dict(zip(_ARRAYS, map(np.ascontiguousarray, arrays), strict=True))
            save_file(content, temporary, metadata={"format": "np", KEY: text})
            temporary.chmod(mode)  # safetensors makes it readable for its owner alone
    except OutputWriteError as error:  # says it all
        raise ProbeError(str(error)) from error
    except (OSError, SafetensorError) as error:
        raise ProbeError(f"{path}: could not be written ({error}); what was there is untouched") from error
    return path


def load_probe(source: str | Path) -> Probe:
    """Reads a probe; nothing in the file is executed, and every size is checked.

    Args:
        source: a `.safetensors` file, or "demo" for the one that comes with this package, fitted on
            synthetic tissue.

    Raises:
        ProbeNotFoundError: no such file.
        ProbeError: another kind of file, another version, damaged, or parts that do not fit together.
    """
    if str(source) == DEMO:
        with as_file(files("past_genex") / "assets" / "demo_probe.safetensors") as path:
            return _load(path)
    return _load(Path(source))


def _load(path: Path) -> Probe:
    from past_core.checkpoint import CheckpointError
    from past_core.checkpoint.tensors import open_safetensors

    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise ProbeNotFoundError(
            f"{path} {what}; expected a probe's .safetensors file (`past probe` and recipes/genex.yaml write "
            'them), or "demo"'
        )
    try:
        file = open_safetensors(path)
        entry = file.metadata_json(KEY)
        _check_entry(path, file, entry)
        arrays = {name: tensor.numpy() for name, tensor in file.read(*_ARRAYS).items()}
    except CheckpointError as error:
        raise ProbeError(str(error)) from error
    try:
        r, low, high, patients = (arrays[name] for name in _ARRAYS[3:])
        table = Trust(r, low, high, patients, setting=str(entry["setting"]))
        return Probe(
            encoder=str(entry["encoder"]["name"]),
            fingerprint=str(entry["encoder"]["fingerprint"]),
            space=str(entry["encoder"]["space"]),
            genes=pd.Index(entry["genes"], dtype=object),
            symbols=np.asarray(entry["symbols"], dtype=object),
            target=Target(entry["normalisation"]),
            weight=arrays["weight"],
            bias=arrays["bias"],
            alpha=arrays["alpha"],
            trust_table=table,
            slides=tuple(entry["training"]["slides"]),
            patients=tuple(entry["training"]["patients"]),
            cells=int(entry["training"]["cells"]),
            demo=bool(entry["demo"]),
            notes=dict(entry.get("notes") or {}),
        )
    except (ProbeError, TrustError) as error:
        raise ProbeError(f"{path}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ProbeError(f"{path}: its description is damaged or incomplete ({error!r})") from error


def _check_entry(path: Path, file: "TensorFile", entry: Any) -> None:
    """Refuses what is no probe, of another version, or of sizes that do not fit, before an array is read."""
    if not isinstance(entry, dict):
        raise ProbeError(f"{path}: a safetensors file, but no probe of past-genex (no {KEY} in its metadata)")
    if entry.get("format") != FORMAT:
        raise ProbeError(
            f"{path}: format {entry.get('format')!r} of a probe, this past-genex reads {FORMAT}; install the "
            f"version that wrote it ({entry.get('software', 'unknown')})"
        )
    genes, encoder = entry.get("genes"), entry.get("encoder")
    dim = encoder.get("dim") if isinstance(encoder, dict) else None
    if not isinstance(genes, list) or not isinstance(dim, int):
        raise ProbeError(f"{path}: its description is damaged or incomplete (genes, or the encoder's width)")
    n = len(genes)
    expected = dict.fromkeys(_ARRAYS, (n,)) | {"weight": (dim, n)}
    wrong = [
        f"{name} {file.shapes.get(name, 'missing')}, expected {shape}"
        for name, shape in expected.items()
        if file.shapes.get(name) != shape
    ]
    if wrong:
        raise ProbeError(
            f"{path}: arrays that do not fit its {n} genes and {dim} features: {'; '.join(wrong)}"
        )


def _entry(probe: Probe) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "software": f"past-genex {version('past-genex')}",
        "use": USE,
        "demo": bool(probe.demo),
        "encoder": {
            "name": probe.encoder,
            "fingerprint": probe.fingerprint,
            "space": probe.space,
            "dim": probe.dim,
        },
        "normalisation": probe.target.normalisation,
        "scale": probe.target.name,
        "genes": list(map(str, probe.genes)),
        "symbols": list(map(str, probe.symbols)),
        "setting": probe.trust_table.setting,
        "training": {
            "slides": list(probe.slides),
            "patients": list(probe.patients),
            "cells": int(probe.cells),
        },
        "notes": dict(probe.notes),
    }
