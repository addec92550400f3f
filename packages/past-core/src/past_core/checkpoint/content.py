"""What a checkpoint holds, and how each container of it is opened: sizes first, weights on demand."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from torch import Tensor

from past_core.checkpoint.errors import CheckpointError, CheckpointNotFoundError
from past_core.checkpoint.folder import CONFIG, WEIGHTS, is_export, read_entry
from past_core.checkpoint.format import GENE_MEANS, KEY, check_format
from past_core.checkpoint.tensors import open_safetensors
from past_core.foreign.errors import ForeignError
from past_core.foreign.tensors import load_tensors
from past_core.tokens import Vocabulary

if TYPE_CHECKING:
    from past_core.models.dual_encoder import DualEncoder, DualEncoderConfig

PREFIX = "model."
SUFFIXES = {".ckpt", ".safetensors"}


@dataclass(frozen=True)
class PastCheckpoint:
    """A trained dual encoder and what its tokens need.

    Attributes:
        model: the networks, in evaluation mode on the CPU.
        vocabulary: the genes and their tokens.
        gene_means: `(n_genes,)` float64 non-zero means of the training cells, NaN where unseen.
        info: what else the file says: `software`, `training` (see `training_record`), `demo`; where it came
            from the hub, `hub` with its `repository` and `commit`.
    """

    model: "DualEncoder"
    vocabulary: Vocabulary
    gene_means: np.ndarray
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> "DualEncoderConfig":
        """The networks' configuration."""
        return self.model.config

    @property
    def demo(self) -> bool:
        """Whether it was trained on synthetic tissue and means nothing on real tissue."""
        return bool(self.info.get("demo", False))


@dataclass(frozen=True)
class Content:
    """An opened checkpoint whose weights are not in memory yet.

    Attributes:
        path: for messages.
        container: "ckpt", "safetensors" or "folder".
        past: its `past` entry: `format`, `model`, `vocabulary`, `gene_means` (a tensor or None), and more.
        shapes: of the weights, by the names of `DualEncoder`.
        load: reads the weights.
    """

    path: Path
    container: str
    past: dict[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    load: Callable[[], dict[str, Tensor]]


def is_checkpoint(path: str | Path) -> bool:
    """Whether a path is a file that ends as checkpoints do."""
    return Path(path).is_file() and Path(path).suffix in SUFFIXES


def read_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights by the names of `DualEncoder`, and the `past` entry with the gene means as a tensor.

    Raises:
        CheckpointError, CheckpointNotFoundError: see `load_checkpoint`.
    """
    content = open_checkpoint(path)
    return content.load(), content.past


def open_checkpoint(path: str | Path) -> Content:
    """Opens a `.ckpt`, a `.safetensors` or a folder of `past export`.

    Raises:
        CheckpointNotFoundError: nothing there.
        CheckpointError: truncated, foreign, or of another format.
        VocabularyError: a folder whose vocabulary is not the one that its configuration names.
    """
    path = Path(path)
    if path.is_dir():
        container, shapes, past, load = _open_folder(path)
    elif not path.is_file():
        raise CheckpointNotFoundError(
            f"{path}: no such checkpoint; training writes them below runs/, `past export` makes one to share"
        )
    elif path.name == WEIGHTS and is_export(path.parent):
        container, shapes, past, load = _open_folder(path.parent)
    elif path.suffix == ".safetensors":
        container, (shapes, past, load) = "safetensors", _open_single(path)
    else:
        container, (shapes, past, load) = "ckpt", _open_lightning(path)
    if not isinstance(past, Mapping) or not isinstance(past.get("model"), Mapping):
        raise CheckpointError(
            f"{path}: not a checkpoint of PAST (no {KEY!r} entry; it holds {_some(shapes)}); "
            "expected a .ckpt that `lightning fit` wrote, or a file or folder of `past export`"
        )
    check_format(path, past)
    return Content(path, container, dict(past), shapes, load)


def stored_vocabulary(content: Content) -> Vocabulary:
    """The vocabulary of a checkpoint.

    Raises:
        VocabularyError: damaged, or absent.
    """
    return Vocabulary.from_dict(content.past.get("vocabulary", {}))


_Parts: TypeAlias = tuple[Mapping[str, tuple[int, ...]], Any, Callable[[], dict[str, Tensor]]]


def _open_lightning(path: Path) -> _Parts:
    # torch checks each tensor against the archive, so what is read here is never larger than the file.
    try:
        # Mapped, the optimiser's state, twice the size of the weights, is never read from the disk.
        content = load_tensors(path)
    except ForeignError as error:
        raise CheckpointError(
            f"{path}: truncated, damaged, or it holds code, which is never executed ({error})"
        ) from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}; expected a checkpoint of PAST")
    weights = content.get("state_dict", {})
    if KEY not in content or not isinstance(weights, Mapping):
        return dict.fromkeys(map(str, content), ()), None, dict
    state = {key.removeprefix(PREFIX): value for key, value in weights.items() if key.startswith(PREFIX)}
    if not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: its weights are not all tensors; the file is damaged or foreign")

    def load() -> dict[str, Tensor]:
        return {key: value.clone() for key, value in state.items()}  # out of the mapped file

    return {key: tuple(value.shape) for key, value in state.items()}, content[KEY], load


def _open_single(path: Path) -> _Parts:
    file = open_safetensors(path)
    past = file.metadata_json(KEY)
    if isinstance(past, dict) and GENE_MEANS in file.shapes:
        past |= file.read(GENE_MEANS)
    shapes = {key: shape for key, shape in file.shapes.items() if key != GENE_MEANS}
    return shapes, past, lambda: file.read(*shapes)


def _open_folder(folder: Path) -> tuple[str, *_Parts]:
    past = read_entry(folder)
    file = open_safetensors(folder / WEIGHTS)
    if GENE_MEANS not in file.shapes:
        raise CheckpointError(
            f"{folder / WEIGHTS}: holds no gene means ({GENE_MEANS!r}), so it is not the file that "
            f"{CONFIG} was exported with; get the folder again"
        )
    shapes = {key: shape for key, shape in file.shapes.items() if key != GENE_MEANS}
    return "folder", shapes, past | file.read(GENE_MEANS), lambda: file.read(*shapes)


def _some(content: Mapping[str, Any]) -> str:
    keys = list(content)
    return ", ".join(map(str, keys[:4])) + (", ..." if len(keys) > 4 else "") if keys else "nothing"
