"""A generator as one file: safetensors, with everything but the weights as JSON in its metadata."""

import json
from collections.abc import Mapping
from importlib.metadata import version
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from past_core.atomic import OutputWriteError, replacing
from past_core.errors import PastError
from past_core.foreign.errors import ForeignError
from past_core.foreign.tensors import load_tensors
from past_core.remote import require_local
from past_core.training.finite import not_finite
from past_vihc.markers import MarkerError, marker
from past_vihc.models.generator import FiLMGenerator, GeneratorError
from past_vihc.stain_model import (
    EncoderInfo,
    GeneratorInfo,
    GeneratorMismatchError,
    StainModel,
    UnknownStainError,
)

__all__ = [
    "EncoderInfo",
    "GeneratorFileError",
    "GeneratorInfo",
    "GeneratorMismatchError",
    "GeneratorNotFoundError",
    "StainModel",
    "UnknownStainError",
    "export_generator",
    "generator_entry",
    "load_generator",
    "save_generator",
]

FORMAT = 1
"""Version of the file; a reader refuses every other one."""
KEY = "past-vihc-generator"
"""The entry of the metadata, and of a training checkpoint, that all but the weights is in."""
DEMO = "demo"
ARCHITECTURES = {"FiLMGenerator": FiLMGenerator}
"""Networks that a file may hold, by the name of their class."""
PREFIXES = ("average.module.", "generator.")
"""Where a task keeps its generator; the moving average, where there is one, comes first."""


class GeneratorFileError(PastError, ValueError):
    """A file that is no generator, or is damaged."""


class GeneratorNotFoundError(PastError, FileNotFoundError):
    """There is no generator at that path."""


def save_generator(path: str | Path, generator: FiLMGenerator, info: GeneratorInfo) -> Path:
    """Writes a generator as one `.safetensors` file, whole or not at all; what is there is replaced.

    Args:
        path: the file.
        generator: the network.
        info: what it was trained at and with.

    Raises:
        GeneratorFileError: another suffix, a network of another class, weights that are not finite, a card
            that is not plain JSON, or a file that cannot be written.
        RemoteError: a URL.
    """
    entry = generator_entry(generator, info)
    return _write(path, entry, {name: value.detach() for name, value in generator.state_dict().items()})


def generator_entry(generator: FiLMGenerator, info: GeneratorInfo) -> dict[str, Any]:
    """All but the weights, as plain values: what a file and a training checkpoint keep.

    Raises:
        GeneratorFileError: a network of another class.
    """
    architecture = type(generator).__name__
    if ARCHITECTURES.get(architecture) is not type(generator):
        raise GeneratorFileError(
            f"a generator of class {architecture}; files hold {', '.join(ARCHITECTURES)}"
        )
    return {
        "format": FORMAT,
        "software": f"past-vihc {version('past-vihc')}",
        "architecture": architecture,
        "config": dict(generator.config),
        **info.to_dict(),
    }


def load_generator(source: str | Path, device: str | torch.device = "cpu") -> StainModel:
    """Reads a generator; nothing in the file is executed, and every size is checked before it is read.

    Args:
        source: a `.safetensors` file, or "demo" for the one that comes with this package, trained on
            synthetic tissue.
        device: where it will run.

    Raises:
        GeneratorNotFoundError: no such file.
        GeneratorFileError: another kind of file, another version, damaged, or parts that do not fit together.
    """
    if str(source) == DEMO:
        with as_file(files("past_vihc") / "assets" / "demo_generator.safetensors") as path:
            if not path.is_file():
                raise GeneratorNotFoundError(
                    "this installation of past-vihc holds no demo generator; install it from its wheel, or "
                    "give a generator's .safetensors file"
                )
            return _load(path).to(device)
    return _load(Path(source)).to(device)


def export_generator(checkpoint: str | Path, out: str | Path) -> Path:
    """Takes the generator out of a training checkpoint, the moving average of it where there is one.

    Args:
        checkpoint: a `.ckpt` that `lightning fit` wrote with a task of past-vihc.
        out: the `.safetensors` file to write.

    Raises:
        GeneratorNotFoundError: no such checkpoint.
        GeneratorFileError: a checkpoint of something else, or damaged; or `out` cannot be written.
    """
    path = Path(checkpoint)
    if not path.is_file():
        raise GeneratorNotFoundError(
            f"{path}: no such checkpoint; training writes them to checkpoints/ below its runs/ folder"
        )
    try:
        # Mapped: the optimisers' state, twice the weights, is never read from the disk.
        content = load_tensors(path)
    except ForeignError as error:
        raise GeneratorFileError(
            f"{path}: truncated, damaged, or it holds code, which is never executed ({error})"
        ) from error
    entry = content.get(KEY) if isinstance(content, Mapping) else None
    state = content.get("state_dict") if isinstance(content, Mapping) else None
    if not isinstance(entry, Mapping) or not isinstance(state, Mapping):
        held = ", ".join(map(str, content)) if isinstance(content, Mapping) else type(content).__name__
        raise GeneratorFileError(
            f"{path}: no checkpoint of a generator (no {KEY}; it holds {held[:200]}); expected one that "
            "`lightning fit` wrote with recipes/vihc.yaml or another task of past-vihc"
        )
    prefix = next((p for p in PREFIXES if any(name.startswith(p) for name in state)), PREFIXES[-1])
    weights = {
        name.removeprefix(prefix): value.clone() for name, value in state.items() if name.startswith(prefix)
    }
    entry = dict(entry)
    _build(path, entry, {name: tuple(value.shape) for name, value in weights.items()})
    return _write(out, entry, weights)


def _write(path: str | Path, entry: dict[str, Any], weights: dict[str, Tensor]) -> Path:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    require_local(path)
    path = Path(path)
    if path.suffix != ".safetensors":
        raise GeneratorFileError(
            f"{path}: a generator is written as .safetensors; give the output that suffix"
        )
    bad = not_finite(weights.items())
    if bad:
        raise GeneratorFileError(f"weights that are not finite are not written: {', '.join(bad[:5])}")
    try:
        text = json.dumps(entry, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise GeneratorFileError(f"the card of a generator must be plain JSON values ({error})") from error
    try:
        with replacing(path) as temporary:
            temporary.touch()
            mode = temporary.stat().st_mode
            content = {name: value.cpu().contiguous() for name, value in weights.items()}
            # One entry: of several the library's order changes from call to call, and so would the bytes.
            save_file(content, temporary, metadata={KEY: text})
            temporary.chmod(mode)  # safetensors makes it readable for its owner alone
    except OutputWriteError as error:  # says it all
        raise GeneratorFileError(str(error)) from error
    except (OSError, SafetensorError) as error:
        raise GeneratorFileError(
            f"{path}: could not be written ({error}); what was there is untouched"
        ) from error
    return path


def _load(path: Path) -> StainModel:
    from past_core.checkpoint import CheckpointError
    from past_core.checkpoint.tensors import open_safetensors

    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise GeneratorNotFoundError(
            f"{path} {what}; expected a generator's .safetensors file (recipes/vihc.yaml writes one), or "
            '"demo"'
        )
    try:
        file = open_safetensors(path)
        entry = file.metadata_json(KEY)
        if not isinstance(entry, dict):
            held = ", ".join([*file.metadata, *list(file.shapes)[:4]]) or "nothing"
            raise GeneratorFileError(
                f"{path}: a safetensors file, but no generator of past-vihc (no {KEY} in its metadata; it "
                f"holds {held[:200]})"
            )
        generator = _build(path, entry, file.shapes)
        weights = file.read(*file.shapes)
    except CheckpointError as error:
        raise GeneratorFileError(f"{error}; expected a generator's .safetensors file") from error
    types = {name: value.dtype for name, value in generator.state_dict().items()}
    wrong = [f"{name} {value.dtype}" for name, value in weights.items() if value.dtype != types[name]]
    bad = not_finite(weights.items())
    if wrong or bad:
        raise GeneratorFileError(
            f"{path}: damaged: weights of another type ({', '.join(wrong[:3]) or 'none'}), or not finite "
            f"({', '.join(bad[:3]) or 'none'})"
        )
    generator.load_state_dict(weights, assign=True)
    return StainModel(generator, _info(path, entry))


def _build(path: Path, entry: dict[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> FiLMGenerator:
    """The network without memory, after its description and all sizes were found to fit."""
    if entry.get("format") != FORMAT:
        raise GeneratorFileError(
            f"{path}: format {entry.get('format')!r} of a generator, this past-vihc reads {FORMAT}; install "
            f"the version that wrote it ({entry.get('software', 'unknown')})"
        )
    network = ARCHITECTURES.get(str(entry.get("architecture")))
    if network is None:
        raise GeneratorFileError(
            f"{path}: a generator of class {entry.get('architecture')!r}; this past-vihc knows "
            f"{', '.join(ARCHITECTURES)}"
        )
    try:
        with torch.device("meta"):
            generator = network(**entry["config"])
        for name in generator.stains:
            marker(name)
    except (GeneratorError, MarkerError, KeyError, TypeError) as error:
        raise GeneratorFileError(f"{path}: its description is damaged: {error}") from error
    expected = {name: tuple(value.shape) for name, value in generator.state_dict().items()}
    wrong = [
        f"{name} {shapes.get(name, 'missing')}, expected {expected.get(name, 'none')}"
        for name in sorted(expected.keys() | shapes.keys())
        if shapes.get(name) != expected.get(name)
    ]
    if wrong:
        raise GeneratorFileError(
            f"{path}: weights that do not fit its description: {'; '.join(wrong[:4])}"
            + (f" and {len(wrong) - 4} more" if len(wrong) > 4 else "")
        )
    _info(path, entry)
    return generator.eval()


def _info(path: Path, entry: Mapping[str, Any]) -> GeneratorInfo:
    try:
        return GeneratorInfo.from_dict(entry)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise GeneratorFileError(f"{path}: its description is damaged or incomplete ({error!r})") from error
