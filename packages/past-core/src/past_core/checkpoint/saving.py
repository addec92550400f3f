"""Checkpoints to share: one file, or a folder with configuration, vocabulary and model card beside it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from past_core.atomic import OutputWriteError, replacing
from past_core.checkpoint.card import model_card
from past_core.checkpoint.content import PastCheckpoint
from past_core.checkpoint.errors import CheckpointError
from past_core.checkpoint.folder import (
    CARD,
    CONFIG,
    VOCABULARY,
    WEIGHTS,
    config_text,
    is_export,
    vocabulary_text,
)
from past_core.checkpoint.format import FORMAT, GENE_MEANS, KEY
from past_core.checkpoint.loading import load_located
from past_core.checkpoint.places import Located, locate
from past_core.remote import require_local

FILE_SUFFIXES = {".pt", ".pth", ".bin", ".ckpt", ".zip"}
"""Names that look like one file but are no container to share."""


def save_checkpoint(checkpoint: PastCheckpoint, path: str | Path, *, overwrite: bool = False) -> Path:
    """Writes a `.safetensors` file, whole or not at all.

    Raises:
        CheckpointError: another suffix, or something is there already.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path}: a checkpoint is shared as .safetensors; give the output that suffix")
    check_output(path, overwrite=overwrite)
    with _written(path) as temporary:
        _save_tensors(checkpoint, temporary, {KEY: json.dumps(_entry(checkpoint))})
    return path


def save_folder(
    checkpoint: PastCheckpoint,
    folder: str | Path,
    *,
    license: str | None = None,  # noqa: A002  # the hub's name for it
    overwrite: bool = False,
) -> Path:
    """Writes a folder that the hub can hold, whole or not at all: weights, configuration, vocabulary, card.

    Args:
        checkpoint: what to write.
        folder: where; named after the model.
        license: identifier for the model card, such as "apache-2.0"; unknown where not given.
        overwrite: replace an export that is there.

    Raises:
        CheckpointError: something is there already, or something else than an export.
    """
    folder = Path(folder)
    check_output(folder, overwrite=overwrite)
    past = _entry(checkpoint)
    texts = {
        CONFIG: config_text(past),
        VOCABULARY: vocabulary_text(past),
        CARD: model_card(checkpoint, name=folder.resolve().name, license=license),
    }
    with _written(folder) as temporary:
        temporary.mkdir()
        for name, text in texts.items():
            (temporary / name).write_text(text, encoding="utf-8")
        _save_tensors(checkpoint, temporary / WEIGHTS, {})
    return folder


def export_checkpoint(
    source: str | Path | Located,
    target: str | Path,
    *,
    revision: str | None = None,
    demo: bool = False,
    license: str | None = None,  # noqa: A002
    overwrite: bool = False,
) -> Path:
    """Turns a checkpoint into what is shared, without optimizer and trainer state.

    Args:
        source: whatever `load_model` accepts, or what `locate` made of it.
        target: `X.safetensors` for one file, any other name for a folder with a model card.
        revision: of a hub repository.
        demo: mark it as trained on synthetic tissue; what it makes is stamped so.
        license: identifier for the model card.
        overwrite: replace what is there.

    Raises:
        CheckpointError, CheckpointNotFoundError: see `load_model`, `save_checkpoint` and `save_folder`.
    """
    target = Path(target)
    check_output(target, overwrite=overwrite)  # before the seconds that loading takes
    located = source if isinstance(source, Located) else locate(source, revision=revision)
    checkpoint = load_located(located)
    if demo:
        checkpoint.info["demo"] = True
    if target.suffix == ".safetensors":
        return save_checkpoint(checkpoint, target, overwrite=overwrite)
    return save_folder(checkpoint, target, license=license, overwrite=overwrite)


def check_output(path: Path, *, overwrite: bool) -> None:
    """Refuses a URL, an output that is there, or a folder that is not ours to replace.

    Raises:
        RemoteError: a URL is given.
        CheckpointError: says which.
    """
    require_local(path)
    if path.suffix.lower() in FILE_SUFFIXES:
        raise CheckpointError(
            f"{path}: expected X.safetensors for one file, or the name of a folder, not {path.suffix}"
        )
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if path.is_dir():
        # Replacing a folder removes what is in it, so it must be an export and nothing else.
        foreign = sorted({item.name for item in path.iterdir()} - {WEIGHTS, CONFIG, VOCABULARY, CARD})
        if path.suffix == ".safetensors" or foreign or not is_export(path):
            what = f"it holds {', '.join(foreign[:3])}" if foreign else "it is no export"
            raise CheckpointError(
                f"{path} is a folder that will not be replaced ({what}); choose another name"
            )
    if not overwrite:
        raise CheckpointError(f"{path} exists already; choose another name or pass --overwrite")


@contextmanager
def _written(path: Path) -> Iterator[Path]:
    from safetensors import SafetensorError

    try:
        with replacing(path) as temporary:
            yield temporary
    except OutputWriteError as error:  # says it all
        raise CheckpointError(str(error)) from error
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path}: could not be written ({error}); what was there is untouched"
        ) from error


def _entry(checkpoint: PastCheckpoint) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "software": f"past-core {version('past-core')}",
        **checkpoint.info,
        "model": asdict(checkpoint.model.config),
        "vocabulary": checkpoint.vocabulary.to_dict(),
    }


def _save_tensors(checkpoint: PastCheckpoint, path: Path, metadata: dict[str, str]) -> None:
    from safetensors.torch import save_file

    content: dict[str, Tensor] = {
        key: value.detach().cpu().contiguous() for key, value in checkpoint.model.state_dict().items()
    }
    content[GENE_MEANS] = torch.from_numpy(checkpoint.gene_means)
    path.touch()
    mode = path.stat().st_mode
    save_file(content, path, metadata={"format": "pt", **metadata})
    path.chmod(mode)  # safetensors makes it readable for its owner alone, which is no use for what is shared
