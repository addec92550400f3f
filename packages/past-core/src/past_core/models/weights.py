"""Initial weights from files of elsewhere: tensors only, and all of them or none."""

import logging
import math
import sys
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from past_core.foreign.errors import ForeignError
from past_core.foreign.tensors import load_tensors
from past_core.models.errors import ModelError, WeightsNotFoundError

logger = logging.getLogger(__name__)


def read_weights(path: str | Path) -> Mapping[str, Tensor]:
    """A state dict from a file, without executing anything in it.

    Raises:
        WeightsNotFoundError: no such file.
        ModelError: not a file of tensors.
    """
    path = Path(path)
    if not path.is_file():
        msg = f"no weights at {path}"
        raise WeightsNotFoundError(msg)
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            msg = f"{path} is not a complete safetensors file: {error}"
            raise ModelError(msg) from error
    try:
        state = load_tensors(path, mapped=False)
    except ForeignError as error:
        msg = f"{path} cannot be read as tensors only (truncated, or it holds pickled code): {error}"
        raise ModelError(msg) from error
    for wrapper in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        msg = f"{path} holds no state dict (a mapping from names to tensors)"
        raise ModelError(msg)
    return state


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a timm state dict completely; only a classifier (`head.*`, `fc.*`, ...) may be left over.

    The position embedding of a ViT at another image size is resampled to the model's, and layouts that timm
    itself knows how to convert (older versions, original releases) are converted.

    Raises:
        WeightsNotFoundError: no such file.
        ModelError: a weight is missing, left over or of another shape.
    """
    state = dict(read_weights(path))
    classifier = getattr(model, "pretrained_cfg", {}).get("classifier") or "head"
    for prefix in (classifier,) if isinstance(classifier, str) else classifier:
        for key in [key for key in state if key.startswith(f"{prefix}.") and key not in model.state_dict()]:
            del state[key]
    if set(state) != set(model.state_dict()):
        state = _timm_layout(model, state)
    _resample_positions(model, state)
    load_state(model, state, path)


def load_state(model: nn.Module, state: Mapping[str, Tensor], path: str | Path) -> None:
    """Load a state dict of which nothing may be missing or left over.

    Args:
        model: what takes it.
        state: its tensors by name.
        path: where they are from, for messages.

    Raises:
        ModelError: a weight is missing, left over or of another shape.
    """
    own = model.state_dict()
    problems = [f"missing {key}" for key in own if key not in state]
    problems += [f"unexpected {key}" for key in state if key not in own]
    problems += [
        f"{key} is {tuple(state[key].shape)}, expected {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    if problems:
        msg = (
            f"{path} does not fit this model: {len(problems)} problems, first {'; '.join(problems[:3])}; "
            "expected a file of the same architecture"
        )
        raise ModelError(msg)
    model.load_state_dict(state)
    logger.info("loaded %d tensors from %s", len(own), path)


def _timm_layout(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What timm's own filter of the model's family makes of a state dict; unchanged where it fails."""
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return state
    try:
        return dict(convert(dict(state), model))
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        logger.debug("timm cannot convert this layout: %s", error)
        return state


def _resample_positions(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Fit the position embedding of a square grid, (1, prefix + n², D), to the model's own grid."""
    own, given = getattr(model, "pos_embed", None), state.get("pos_embed")
    grid = getattr(getattr(model, "patch_embed", None), "grid_size", None)
    if not isinstance(own, nn.Parameter) or given is None or grid is None or own.ndim != 3 or given.ndim != 3:
        return
    prefix = own.shape[1] - grid[0] * grid[1]
    side = math.isqrt(max(given.shape[1] - prefix, 0))
    same_width = own.shape[2] == given.shape[2]
    if own.shape == given.shape or not same_width or side < 1 or prefix + side * side != given.shape[1]:
        return
    state["pos_embed"] = resample_abs_pos_embed(given, list(grid), num_prefix_tokens=prefix)
    logger.info("position embedding resampled from %d x %d patches to %d x %d", side, side, *grid)
