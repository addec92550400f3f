"""Checkpoints of the dual encoder: load, save, export, describe. Nothing in a file is ever executed.

Two containers hold the same content: what training saves (Lightning's `.ckpt`, read with
`weights_only=True`) and what is shared (`.safetensors`). Both hold the weights of a `DualEncoder`, its
configuration, its vocabulary and the gene means that its tokens are made with.
"""

import json
import logging
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from past_core.atomic import replacing
from past_core.errors import PastError
from past_core.tokens import Vocabulary

if TYPE_CHECKING:
    from past_core.models.dual_encoder import DualEncoder

logger = logging.getLogger(__name__)

FORMAT = 1
"""Version of the `past` entry; a reader refuses every other one."""
KEY = "past"
GENE_MEANS = "gene_means"
PREFIX = "model."
MAX_HEADER = 64 * 2**20
"""Largest safetensors header in bytes; 20,310 gene ids take half a megabyte."""


class CheckpointError(PastError, ValueError):
    """A checkpoint that is damaged, foreign, or does not fit."""


class CheckpointNotFoundError(PastError, FileNotFoundError):
    """There is no checkpoint at that path."""


@dataclass(frozen=True)
class PastCheckpoint:
    """A trained dual encoder and what its tokens need.

    Attributes:
        model: the networks, in evaluation mode on the CPU.
        vocabulary: the genes and their tokens.
        gene_means: `(n_genes,)` float64 non-zero means of the training cells, NaN where unseen.
        info: what else the file says: `software`, `training`, `demo`.
    """

    model: "DualEncoder"
    vocabulary: Vocabulary
    gene_means: np.ndarray
    info: dict[str, Any] = field(default_factory=dict)


def load_checkpoint(path: str | Path, *, vocabulary: Vocabulary | None = None) -> PastCheckpoint:
    """Loads a dual encoder completely: not one weight missing, left over or not finite.

    Args:
        path: a `.ckpt` of training or an exported `.safetensors`.
        vocabulary: refuse a checkpoint that was made with another one.

    Raises:
        CheckpointNotFoundError: no such file.
        CheckpointError: truncated, foreign, of another format, or weights that do not fit its own
            configuration.
        VocabularyError: another vocabulary than `vocabulary`; the message names both.
        ModelError: its configuration is not this version's.
    """
    path = Path(path)
    state, past = read_checkpoint(path)
    stored = Vocabulary.from_dict(past.get("vocabulary", {}))
    if vocabulary is not None:
        vocabulary.require(stored.fingerprint, owner=str(path))
    means = past.get(GENE_MEANS)
    if not isinstance(means, Tensor) or tuple(means.shape) != (len(stored),):
        found = tuple(means.shape) if isinstance(means, Tensor) else type(means).__name__
        raise CheckpointError(f"{path}: gene means {found}; expected one for each of {len(stored)} genes")
    model = _build(path, state, past, stored)
    info = {key: past[key] for key in ("software", "training", "demo") if key in past}
    return PastCheckpoint(model, stored, means.double().numpy().copy(), info)


def save_checkpoint(checkpoint: PastCheckpoint, path: str | Path, *, overwrite: bool = False) -> Path:
    """Writes a `.safetensors` file, whole or not at all.

    Raises:
        CheckpointError: another suffix, or something is there already.
    """
    past = {
        "format": FORMAT,
        "software": f"past-core {version('past-core')}",
        **checkpoint.info,
        "model": asdict(checkpoint.model.config),
        "vocabulary": checkpoint.vocabulary.to_dict(),
    }
    tensors = dict(checkpoint.model.state_dict())
    return _write(tensors, torch.from_numpy(checkpoint.gene_means), past, Path(path), overwrite=overwrite)


def export_checkpoint(
    source: str | Path, target: str | Path, *, demo: bool = False, overwrite: bool = False
) -> Path:
    """Turns a training checkpoint into one `.safetensors` file without optimizer and trainer state.

    Args:
        source: a `.ckpt` or `.safetensors`.
        target: where to write.
        demo: mark it as trained on synthetic tissue; what it makes is stamped so.
        overwrite: replace what is there.

    Raises:
        CheckpointError, CheckpointNotFoundError: see `load_checkpoint` and `save_checkpoint`.
    """
    checkpoint = load_checkpoint(source)
    if demo:
        checkpoint.info["demo"] = True
    return save_checkpoint(checkpoint, target, overwrite=overwrite)


def describe_checkpoint(path: str | Path) -> dict[str, Any]:
    """What a checkpoint holds, without building its networks: plain values for `past info`.

    Raises:
        CheckpointError, CheckpointNotFoundError: see `load_checkpoint`.
    """
    state, past = read_checkpoint(path)
    vocabulary = Vocabulary.from_dict(past.get("vocabulary", {}))
    means, model = past.get(GENE_MEANS), past["model"]
    parts = {"image encoder": "image_encoder.", "cell encoder": "cell_encoder."}
    return {
        "kind": "checkpoint",
        "path": str(path),
        "container": Path(path).suffix.lstrip("."),
        "format": past["format"],
        "software": past.get("software", "unknown"),
        "demo": bool(past.get("demo", False)),
        "parameters": sum(t.numel() for t in state.values()),
        **{
            f"{name} parameters": sum(t.numel() for key, t in state.items() if key.startswith(prefix))
            for name, prefix in parts.items()
        },
        "model": model,
        "vocabulary": {
            "genes": len(vocabulary),
            "fingerprint": vocabulary.fingerprint,
            "with mean": int(torch.isfinite(means).sum()) if isinstance(means, Tensor) else 0,
        },
        "training": past.get("training", {}),
    }


def is_checkpoint(path: str | Path) -> bool:
    """Whether a path is a file that ends as checkpoints do."""
    return Path(path).is_file() and Path(path).suffix in {".ckpt", ".safetensors"}


def read_checkpoint(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights by the names of `DualEncoder`, and the `past` entry with the gene means as a tensor.

    Raises:
        CheckpointError, CheckpointNotFoundError: see `load_checkpoint`.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointNotFoundError(
            f"{path}: no such checkpoint; training writes them below runs/, `past export` makes one to share"
        )
    state, past = _read_safetensors(path) if path.suffix == ".safetensors" else _read_lightning(path)
    if not isinstance(past, Mapping) or not isinstance(past.get("model"), Mapping):
        raise CheckpointError(
            f"{path}: not a checkpoint of PAST (no {KEY!r} entry; it holds {_some(state)}); "
            "expected a .ckpt that `lightning fit` wrote or a file of `past export`"
        )
    if past.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: checkpoint format {past.get('format')!r}, this past-core reads {FORMAT}; "
            f"install the version that wrote it ({past.get('software', 'unknown')})"
        )
    return state, dict(past)


def _read_lightning(path: Path) -> tuple[dict[str, Tensor], Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        OSError,
        LookupError,
        ValueError,
        TypeError,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path}: truncated, damaged, or it holds code, which is never executed ({reason[:200]})"
        ) from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}; expected a checkpoint of PAST")
    weights = content.get("state_dict", {})
    if KEY not in content or not isinstance(weights, Mapping):
        return dict.fromkeys(map(str, content)), None
    state = {key.removeprefix(PREFIX): value for key, value in weights.items() if key.startswith(PREFIX)}
    return state, content[KEY]


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or not 2 <= length <= min(MAX_HEADER, size - 8):
                raise CheckpointError(f"{path}: not a safetensors file, or truncated ({size:,} bytes)")
            header = json.loads(file.read(length))
        metadata = header.get("__metadata__", {})
        state = load_file(path)
        past = json.loads(metadata[KEY]) if KEY in metadata else None
    except CheckpointError:
        raise
    except (SafetensorError, OSError, ValueError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{path}: damaged or truncated safetensors file: {error}") from error
    if isinstance(past, dict):
        past[GENE_MEANS] = state.pop(GENE_MEANS, None)
    return state, past


def _build(
    path: Path, state: dict[str, Tensor], past: Mapping[str, Any], vocabulary: Vocabulary
) -> "DualEncoder":
    from past_core.models.dual_encoder import DualEncoder, DualEncoderConfig

    config = DualEncoderConfig.from_dict(past["model"])
    if config.cell.vocabulary_size != vocabulary.size:
        raise CheckpointError(
            f"{path}: its cell encoder has {config.cell.vocabulary_size} tokens, "
            f"its vocabulary {vocabulary.size}"
        )
    # Shapes first, without memory: a file cannot claim networks larger than the weights that it holds.
    with torch.device("meta"):
        shapes = {key: tuple(value.shape) for key, value in DualEncoder(config).state_dict().items()}
    problems = [f"missing {key}" for key in shapes if key not in state]
    problems += [f"unexpected {key}" for key in state if key not in shapes]
    problems += [
        f"{key} is {tuple(state[key].shape)}, expected {shape}"
        for key, shape in shapes.items()
        if key in state and tuple(state[key].shape) != shape
    ]
    if problems:
        raise CheckpointError(
            f"{path}: {len(problems)} of {len(shapes)} weights do not fit its configuration: "
            f"{'; '.join(problems[:3])}; nothing was loaded"
        )
    bad = next((key for key, value in state.items() if not torch.isfinite(value).all()), None)
    if bad is not None:
        raise CheckpointError(f"{path}: {bad} holds NaN or infinity: the training that wrote it had diverged")
    model = DualEncoder(config)
    model.load_state_dict(state)
    return model.eval()


def _write(
    tensors: Mapping[str, Tensor], means: Tensor, past: Mapping[str, Any], path: Path, *, overwrite: bool
) -> Path:
    from safetensors.torch import save_file

    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path}: a checkpoint is shared as .safetensors; give the output that suffix")
    if path.exists() and not overwrite:
        raise CheckpointError(f"{path} exists already; choose another name or pass --overwrite")
    content = {key: value.detach().cpu().contiguous() for key, value in tensors.items()} | {GENE_MEANS: means}
    with replacing(path) as temporary:
        save_file(content, temporary, metadata={"format": "pt", KEY: json.dumps(past)})
    return path


def _some(content: Mapping[str, Any]) -> str:
    keys = list(content)
    return ", ".join(map(str, keys[:4])) + (", ..." if len(keys) > 4 else "") if keys else "nothing"
