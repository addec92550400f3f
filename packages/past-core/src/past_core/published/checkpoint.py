"""The authors' released checkpoint: its container, its names of weights, and its import.

The networks are ours with the configuration `DualEncoderConfig.published`; only names differ. Two variants
are known: `PASTModelGraph` and, without graph branch and fusion, `PASTModel`. Nothing in a file is executed:
beside tensors and plain values it may hold one `argparse.Namespace`.
"""

import argparse
import logging
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from past_core.checkpoint import CheckpointError, CheckpointNotFoundError, PastCheckpoint, save_checkpoint
from past_core.models.dual_encoder import DualEncoder, DualEncoderConfig
from past_core.nicheformer import read_means
from past_core.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

_PREFIXES = {
    "temperature": "raw_temperature",
    "attn_bias": "cell_encoder.fusion_bias",
    "cell_encoder.encoder.layers.": "cell_encoder.layers.",
    "graph_encoder.": "cell_encoder.graph_encoder.",
    "fusion_layer.": "cell_encoder.fusion_layer.",
    "fusion_norm.": "cell_encoder.fusion_norm.",
}
"""Where the published names, on the left, differ from ours."""
_DEAD = ("cell_encoder.encoder_layer.", "graph_encoder.distance_transform.")
"""Published weights that act on nothing: a layer that the others were copied from, an unused transform."""
_GRAPH = ("attn_bias", "graph_encoder.", "fusion_layer.", "fusion_norm.")
_OTHER_FUSIONS = {
    "alpha": "weighted_add",
    "gate_net.": "gated",
    "film_generator.": "film",
    "film_norm.": "film",
    "fusion_layer.0.": "concat",
}


def own_name(published: str) -> str:
    """Our name of a published weight; `published_name` is the inverse."""
    return _renamed(published, _PREFIXES)


def published_name(own: str) -> str:
    """The published name of one of our weights."""
    return _renamed(own, {ours: theirs for theirs, ours in _PREFIXES.items()})


def _renamed(name: str, prefixes: Mapping[str, str]) -> str:
    for old, new in prefixes.items():
        if name.startswith(old) if old.endswith(".") else name == old:
            return new + name[len(old) :]
    return name


def is_dead(published: str) -> bool:
    """Whether a published weight acts on nothing, and got no gradient in training."""
    return published.startswith(_DEAD)


def published_state(model: DualEncoder) -> dict[str, Tensor]:
    """The weights of a model under their published names: what stands as `model` in their container."""
    return {published_name(name): value for name, value in model.state_dict().items()}


@dataclass(frozen=True)
class PublishedFile:
    """What a published checkpoint holds.

    Attributes:
        state: weights under their published names, not yet checked.
        epoch: epochs trained, counted from 0; None where the file does not say.
        args: the training's arguments.
    """

    state: dict[str, Tensor]
    epoch: int | None
    args: dict[str, Any]

    @property
    def graph(self) -> bool:
        """Whether it is `PASTModelGraph`, or `PASTModel` without the graph branch."""
        return any(key.startswith(_GRAPH) for key in self.state)


def read_published(path: str | Path) -> PublishedFile:
    """Read the container: a dictionary of `model`, `optimizer`, `epoch`, `scaler` and `args`.

    Raises:
        CheckpointNotFoundError: no such file.
        CheckpointError: truncated, foreign, or holding code, which is never executed.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointNotFoundError(f"{path}: no such file; expected the released checkpoint, a .pth")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other pickle protocols, which are not read anyway
            # Mapped, the optimiser's state (twice the weights) is never read from disk.
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, LookupError, ValueError, TypeError,
            AttributeError) as error:  # fmt: skip
        raise CheckpointError(f"{path}: {_reason(str(error))}") from error
    state = content.get("model") if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        held = (
            ", ".join(map(str, list(content)[:4])) if isinstance(content, Mapping) else type(content).__name__
        )
        raise CheckpointError(
            f"{path}: not the released checkpoint (it holds {held or 'nothing'}); expected a dictionary "
            "with the weights as `model`"
        )
    epoch, args = content.get("epoch"), content.get("args")
    return PublishedFile(
        dict(state),
        epoch if isinstance(epoch, int) else None,
        dict(vars(args)) if isinstance(args, argparse.Namespace) else {},
    )


def _reason(error: str) -> str:
    code = re.search(r"GLOBAL ([\w.]+)", error)
    if code:
        return (
            f"holds {code.group(1)}, which is code and is never executed; expected tensors, plain values and "
            "one argparse.Namespace"
        )
    first = re.split(r"\. |\n", error or "unreadable")[0][:200]
    return f"truncated or damaged, or no checkpoint of torch ({first})"


def published_model(
    file: PublishedFile, *, config: DualEncoderConfig | None = None, source: str = "the checkpoint"
) -> DualEncoder:
    """The networks of a published checkpoint, completely: not one weight missing, left over or not finite.

    Args:
        file: from `read_published`.
        config: another size than the release's, for tests; by default `DualEncoderConfig.published`.
        source: the file, for messages.

    Raises:
        CheckpointError: weights that do not fit; the message names the first.
    """
    config = config or DualEncoderConfig.published(graph=file.graph)
    state = _with_todays_names(file.state, source)
    if not any(map(is_dead, state)):
        config = replace(config, cell=replace(config.cell, dead_tensors=False))
    with torch.device("meta"):
        expected = {key: tuple(value.shape) for key, value in published_state(DualEncoder(config)).items()}
    _check(state, expected, source)
    if "attn_bias" in state:
        bias = tuple(state["attn_bias"][0].tolist())
        config = replace(config, cell=replace(config.cell, fusion_bias=bias))
    model = DualEncoder(config)
    model.load_state_dict({own_name(key): value.to(torch.float32) for key, value in state.items()})
    return model.eval()


def _with_todays_names(state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """GAT weights were `lin_src` (and, the same ones again, `lin_dst`) in older torch_geometric."""
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        name = re.sub(r"^(graph_encoder\.convs\.\d+\.)lin_(?:src|dst)\.weight$", r"\1lin.weight", key)
        if name in renamed and not torch.equal(renamed[name], value):
            raise CheckpointError(f"{source}: {key} differs from the other weights of the same layer")
        renamed[name] = value
    return renamed


def _check(state: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], source: str) -> None:
    missing = [key for key in expected if key not in state]
    unexpected = [key for key in state if key not in expected]
    for key in unexpected:
        for start, kind in _OTHER_FUSIONS.items():
            if key.startswith(start) if start.endswith(".") else key == start:
                raise CheckpointError(
                    f"{source}: {key} belongs to fusion_type {kind!r}; the release's 'attention' is what "
                    "this reads"
                )
    problems = [f"missing {key}" for key in missing] + [f"unexpected {key}" for key in unexpected]
    problems += [
        f"{key} is {tuple(state[key].shape)}, expected {shape}"
        for key, shape in expected.items()
        if key in state and tuple(state[key].shape) != shape
    ]
    problems += [
        f"{key} is {value.dtype}, expected numbers with a fraction"
        for key, value in state.items()
        if not value.is_floating_point()
    ]
    if problems:
        raise CheckpointError(
            f"{source}: {len(problems)} problems with {len(expected)} weights: {'; '.join(problems[:3])}; "
            "expected PASTModelGraph or PASTModel whole; nothing was loaded"
        )
    bad = next((key for key, value in state.items() if not torch.isfinite(value).all()), None)
    if bad is not None:
        raise CheckpointError(f"{source}: {bad} holds NaN or infinity")


def import_published(
    source: str | Path,
    target: str | Path,
    *,
    vocabulary: Vocabulary | str | Path | None = None,
    gene_means: np.ndarray | None = None,
    mpp: float = 0.25,
    config: DualEncoderConfig | None = None,
    overwrite: bool = False,
) -> PastCheckpoint:
    """Turn a published checkpoint into ours.

    Args:
        source: the released `.pth`, of either variant.
        target: the `.safetensors` to write, whole or not at all.
        vocabulary: nicheformer's genes, or the file that holds them and their means; None fetches both once.
        gene_means: (n_genes,) of the technology, NaN where none; by default nicheformer's of Xenium.
        mpp: µm per pixel that patches for its image encoder are cut at.
        config: another size than the release's, for tests.
        overwrite: replace what is there.

    Raises:
        CheckpointError, CheckpointNotFoundError: see `read_published` and `published_model`, or there is
            something at `target`.
        VocabularyError, VocabularyNotFoundError: see `Vocabulary.nicheformer`.
    """
    target = Path(target)
    if target.suffix != ".safetensors" or (target.exists() and not overwrite):
        wrong = "ends otherwise" if target.suffix != ".safetensors" else "exists already (--overwrite)"
        raise CheckpointError(f"{target}: {wrong}; expected a new file that ends in .safetensors")
    file = read_published(source)
    config = config or DualEncoderConfig.published(graph=file.graph, mpp=mpp)
    path = None if isinstance(vocabulary, Vocabulary) else vocabulary
    if not isinstance(vocabulary, Vocabulary):
        vocabulary = Vocabulary.nicheformer(path)
    if gene_means is None:
        gene_means = read_means("xenium", _means_file(path))
    if vocabulary.size != config.cell.vocabulary_size or len(gene_means) != len(vocabulary):
        raise CheckpointError(
            f"a vocabulary of {vocabulary.size} tokens and {len(gene_means)} gene means; expected "
            f"{config.cell.vocabulary_size} tokens, those of nicheformer's genes, and a mean for each gene"
        )
    model = published_model(file, config=config, source=str(source))
    variant = "PASTModelGraph" if file.graph else "PASTModel"
    info = {"training": {"imported": variant, "file": Path(source).name, "epoch": file.epoch}}
    checkpoint = PastCheckpoint(model, vocabulary, np.asarray(gene_means, np.float64), info)
    save_checkpoint(checkpoint, target, overwrite=overwrite)
    logger.info("imported %s with %d tensors from %s", variant, len(file.state), source)
    return checkpoint


def _means_file(vocabulary: str | Path | None) -> Path | None:
    """Where the means are: in the vocabulary's table, or in a file beside nicheformer's `model.h5ad`."""
    if vocabulary is None or Path(vocabulary).suffix.lower() != ".h5ad":
        return None if vocabulary is None else Path(vocabulary)
    beside = Path(vocabulary).with_name("xenium_mean_script.npy")
    return beside if beside.is_file() else None
