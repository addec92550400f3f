"""From any checkpoint to its networks: nothing is built before it is known to fit the weights."""

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from past_core.checkpoint.content import Content, PastCheckpoint, open_checkpoint, stored_vocabulary
from past_core.checkpoint.errors import CheckpointError
from past_core.checkpoint.format import GENE_MEANS, OWN
from past_core.checkpoint.places import Located, locate
from past_core.tokens import Vocabulary

if TYPE_CHECKING:
    from past_core.models.dual_encoder import DualEncoder, DualEncoderConfig

logger = logging.getLogger(__name__)

FOREIGN_OPTIONS = {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"}
"""Options of timm that would read further files; a checkpoint holds all weights itself."""
RANDOM = {"normal_", "uniform_", "trunc_normal_", "erfinv_"} | {
    f"{name}_{kind}_" for name in ("xavier", "kaiming") for kind in ("normal", "uniform")
}
"""Operations that draw initial weights."""
MAX_BUFFERS = 2**24
"""Values in buffers that are no weights (rotary tables and the like) which any configuration may ask for."""


def load_model(
    name_or_path: str | Path, *, revision: str | None = None, vocabulary: Vocabulary | None = None
) -> PastCheckpoint:
    """Loads a dual encoder from wherever it is.

    Args:
        name_or_path: a folder or file of `past export`, a `.ckpt` or run folder of training, "demo", or a
            repository of the Hugging Face hub as `OWNER/NAME`, `OWNER/NAME@REVISION` or
            `hf-hub:OWNER/NAME`. What exists as a path is read as a path.
        revision: of a hub repository: a branch, a tag, or a commit (40 hex digits), which pins the weights
            and needs no network once it is cached.
        vocabulary: refuse a checkpoint that was made with another one.

    Returns:
        `.model`, `.vocabulary`, `.gene_means`, `.config` and `.info`.

    Raises:
        CheckpointNotFoundError, CheckpointError, VocabularyError, ModelError: see `load_checkpoint`.
        HubNotFoundError: no such repository or revision, or no PAST model in it.
        HubAccessError: the repository is gated, or private.
        HubUnavailableError: not cached, and the hub cannot be reached.
    """
    located = locate(name_or_path, revision=revision)
    if located.note:
        logger.info("%s", located.note)
    return load_located(located, vocabulary=vocabulary)


def load_located(located: Located, *, vocabulary: Vocabulary | None = None) -> PastCheckpoint:
    """Loads what `locate` found, with where it came from in its `info`.

    Raises:
        CheckpointError, VocabularyError, ModelError: see `load_checkpoint`.
    """
    loaded = load_checkpoint(located.path, vocabulary=vocabulary)
    if located.hub:
        loaded.info["hub"] = dict(located.hub)
    if located.demo:
        loaded.info["demo"] = True
    return loaded


def load_checkpoint(path: str | Path, *, vocabulary: Vocabulary | None = None) -> PastCheckpoint:
    """Loads a dual encoder completely: not one weight missing, left over or not finite.

    Args:
        path: a `.ckpt` of training, or a `.safetensors` or folder of `past export`.
        vocabulary: refuse a checkpoint that was made with another one.

    Raises:
        CheckpointNotFoundError: no such file.
        CheckpointError: truncated, foreign, of another format, or weights that do not fit its own
            configuration.
        VocabularyError: another vocabulary than `vocabulary`; the message names both.
        ModelError: its configuration is not this version's.
    """
    content = open_checkpoint(path)
    stored = stored_vocabulary(content)
    if vocabulary is not None:
        vocabulary.require(stored.fingerprint, owner=str(path))
    means = content.past.get(GENE_MEANS)
    if not isinstance(means, Tensor) or tuple(means.shape) != (len(stored),):
        found = tuple(means.shape) if isinstance(means, Tensor) else type(means).__name__
        raise CheckpointError(f"{path}: gene means {found}; expected one for each of {len(stored)} genes")
    model = _build(content, stored)
    info = {key: value for key, value in content.past.items() if key not in OWN}
    return PastCheckpoint(model, stored, means.double().numpy().copy(), info)


def _build(content: Content, vocabulary: Vocabulary) -> "DualEncoder":
    from past_core.models.dual_encoder import DualEncoder, DualEncoderConfig

    path = content.path
    try:
        config = DualEncoderConfig.from_dict(content.past["model"])
        _check_config(path, config, len(content.shapes))
        if config.cell.vocabulary_size != vocabulary.size:
            raise CheckpointError(
                f"{path}: its cell encoder has {config.cell.vocabulary_size} tokens, "
                f"its vocabulary {vocabulary.size}"
            )
        # Shapes first, without memory: a file cannot claim networks larger than the weights that it holds.
        with torch.device("meta"):
            blank = DualEncoder(config)
    except (TypeError, AttributeError, LookupError, ArithmeticError, AssertionError, RuntimeError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise CheckpointError(f"{path}: its configuration cannot be built: {reason}") from error
    _check_shapes(path, content.shapes, blank)
    state = content.load()
    bad = next((key for key, value in state.items() if not _finite(value)), None)
    if bad is not None:
        raise CheckpointError(f"{path}: {bad} holds NaN or infinity: the training that wrote it had diverged")
    with _Unfilled():
        model = DualEncoder(config)
    kinds = {key: value.dtype for key, value in blank.state_dict().items()}
    model.load_state_dict({key: value.to(kinds[key]) for key, value in state.items()}, assign=True)
    return model.eval()


class _Unfilled(TorchFunctionMode):
    """Leaves out drawing random weights, which takes most of the time, where all are to be replaced.

    Memory that is not drawn into is not used either, and the caller's random numbers stay as they were.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in RANDOM:
            return args[0] if args else kwargs["tensor"]  # as torch.nn.init calls it
        return func(*args, **kwargs)


def _check_config(path: Path, config: "DualEncoderConfig", weights: int) -> None:
    options = config.image.options
    if not isinstance(options, Mapping) or FOREIGN_OPTIONS & set(options):
        raise CheckpointError(
            f"{path}: its image encoder has the options {options}; a checkpoint holds all weights itself, "
            f"so it may not have any of {', '.join(sorted(FOREIGN_OPTIONS))}"
        )
    # Every layer owns weights: a number beyond theirs would be built, even if without memory, for ever.
    layers = [config.cell.depth, config.cell.graph_layers]
    for key in ("depth", "depths", "layers"):
        value = options.get(key, 0)
        layers += list(value) if isinstance(value, Iterable) else [value]
    if any(count > weights for count in layers):
        raise CheckpointError(
            f"{path}: its configuration claims {max(layers):,} layers, the file holds {weights} weights; "
            "nothing was loaded"
        )


def _check_shapes(path: Path, found: Mapping[str, tuple[int, ...]], blank: "DualEncoder") -> None:
    wanted = {key: tuple(value.shape) for key, value in blank.state_dict().items()}
    problems = [f"missing {key}" for key in wanted if key not in found]
    problems += [f"unexpected {key}" for key in found if key not in wanted]
    problems += [
        f"{key} is {found[key]}, expected {shape}"
        for key, shape in wanted.items()
        if key in found and found[key] != shape
    ]
    if problems:
        raise CheckpointError(
            f"{path}: {len(problems)} of {len(wanted)} weights do not fit its configuration: "
            f"{'; '.join(problems[:3])}; nothing was loaded"
        )
    buffers = sum(value.numel() for key, value in blank.named_buffers() if key not in wanted)
    if buffers > MAX_BUFFERS:
        raise CheckpointError(
            f"{path}: its configuration asks for tables of {buffers:,} values; nothing was loaded"
        )


def _finite(value: Any) -> bool:
    return not value.is_floating_point() or bool(torch.isfinite(value).all())
