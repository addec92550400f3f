"""Frozen encoders by name: the one handle through which everything downstream sees cells."""

from collections.abc import Callable
from pathlib import Path

import torch

from past_core.checkpoint import CheckpointNotFoundError, PastCheckpoint, load_model
from past_core.encoders.files import SUFFIXES, load_release, require_weights
from past_core.encoders.registry import IMAGE_ENCODERS
from past_core.encoders.timm_names import HUB, TIMM, is_timm_name, load_timm
from past_core.frozen import EncoderError, EncoderNotFoundError, FrozenEncoder, Space, check_space
from past_core.frozen_cell import FrozenCellEncoder
from past_core.hub import HubNotFoundError, is_past_id
from past_core.models.image_encoder import ImageEncoder

DEMO = "demo"


def load_image_encoder(
    name_or_path: str | Path,
    space: Space = "features",
    *,
    weights: str | Path | None = None,
    download: bool = False,
) -> FrozenEncoder:
    """Loads a frozen image encoder.

    Args:
        name_or_path: a model of PAST as `load_model` takes it ("demo", a path, OWNER/NAME of the hub), a
            name of `IMAGE_ENCODERS`, "timm:NAME", or "hf-hub:OWNER/NAME[@REVISION]" for a timm model.
        space: "features", or "joint" for the space shared with cells (PAST only).
        weights: file of a public encoder's weights; by default NAME with any of `SUFFIXES` in
            `weights_folder()`, the pip package that holds them, or the hub's local cache.
        download: lets what is not there be downloaded from the hub; nothing is otherwise.

    Raises:
        EncoderError: unknown, or without a joint space.
        EncoderNotFoundError: no such checkpoint, or the weights are not there (the message has the steps).
        CheckpointError, ModelError: the file does not fit.
    """
    check_space(space)
    name = str(name_or_path)
    if not _is_public(name):
        if weights is not None:
            raise EncoderError(f"{name} is no public encoder: a checkpoint of PAST has its weights in it")
        return _image_side(name_or_path, load_past(name_or_path), space)
    if space == "joint":
        raise EncoderError(
            f"{name} has no joint space with cells; use space 'features' or a checkpoint of PAST"
        )
    return FrozenEncoder(name, _load_public(name, weights, download=download))


def load_encoders(
    name_or_path: str | Path,
    space: Space = "features",
    *,
    weights: str | Path | None = None,
    download: bool = False,
) -> tuple[FrozenEncoder, FrozenCellEncoder | None]:
    """Both encoders of a checkpoint, read once; None for the cells where the encoder sees images only.

    Args and Raises: see `load_image_encoder`.
    """
    check_space(space)
    if weights is not None or _is_public(str(name_or_path)):
        return load_image_encoder(name_or_path, space, weights=weights, download=download), None
    checkpoint = load_past(name_or_path)
    return _image_side(name_or_path, checkpoint, space), _cell_side(name_or_path, checkpoint, space)


def load_cell_encoder(name_or_path: str | Path, space: Space = "features") -> FrozenCellEncoder:
    """Loads the frozen cell encoder of a PAST checkpoint.

    Args:
        name_or_path: a checkpoint of PAST as `load_model` takes it, such as a path or "demo".
        space: "features" (512 wide in the paper's size), or "joint" for the space shared with images.

    Raises:
        EncoderError: unknown, or an encoder of images only.
        EncoderNotFoundError, CheckpointError: see `load_image_encoder`.
    """
    name = str(name_or_path)
    if _is_public(name):
        raise EncoderError(f"{name} encodes images only; cells need a checkpoint of PAST")
    return _cell_side(name_or_path, load_past(name_or_path), space)


def _image_side(name: str | Path, checkpoint: PastCheckpoint, space: Space) -> FrozenEncoder:
    model = checkpoint.model
    head = model.image_projection if space == "joint" else None
    return FrozenEncoder(Path(name).name, model.image_encoder, head, demo=_is_demo(name, checkpoint))


def _cell_side(name: str | Path, checkpoint: PastCheckpoint, space: Space) -> FrozenCellEncoder:
    return FrozenCellEncoder(Path(name).name, checkpoint, space, demo=_is_demo(name, checkpoint))


def _is_demo(name: str | Path, checkpoint: PastCheckpoint) -> bool:
    return str(name) == DEMO or bool(checkpoint.info.get("demo", False))


def load_past(name_or_path: str | Path) -> PastCheckpoint:
    """Loads a checkpoint of PAST from wherever `past_core.load_model` finds one.

    Raises:
        EncoderError, EncoderNotFoundError, CheckpointError: see `load_image_encoder`.
        HubNotFoundError, HubAccessError, HubUnavailableError: see `load_model`.
    """
    name, path = str(name_or_path), Path(name_or_path)
    names = ", ".join([DEMO, *IMAGE_ENCODERS, f"{TIMM}NAME", f"{HUB}OWNER/NAME"])
    if (
        name != DEMO
        and not path.exists()
        and len(path.parts) == 1
        and path.suffix not in {".ckpt", *SUFFIXES}
    ):
        raise EncoderError(f"no encoder {name!r}; give one of {names}, or a checkpoint's path")
    try:
        return load_model(name_or_path)
    except HubNotFoundError:
        raise
    except CheckpointNotFoundError as error:
        raise EncoderNotFoundError(f"{error}; or an image encoder's name: {names}") from error


def _is_public(name: str) -> bool:
    return name in IMAGE_ENCODERS or (is_timm_name(name) and not is_past_id(name))


def _load_public(name: str, weights: str | Path | None, *, download: bool) -> ImageEncoder:
    if is_timm_name(name):
        return load_timm(name, weights, download=download)
    entry = IMAGE_ENCODERS[name]
    path = require_weights(name, entry, weights, download=download)
    network = entry.build()
    load_release(network, entry, path)
    return ImageEncoder(entry.config(), network)


def resolve_device(device: str) -> torch.device:
    """A torch device by name; "auto" takes CUDA, then Apple's MPS, then the CPU.

    Raises:
        EncoderError: not a device, or not one of this machine.
    """
    checks: dict[str, Callable[[], bool]] = {
        "cuda": torch.cuda.is_available,
        "mps": torch.backends.mps.is_available,
    }
    if device == "auto":
        return torch.device(next((name for name, available in checks.items() if available()), "cpu"))
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise EncoderError(f"no device {device!r}; expected auto, cpu, cuda, cuda:N or mps") from error
    if resolved.type in checks and not checks[resolved.type]():
        raise EncoderError(f"device {device!r} is not available on this machine; use --device cpu or auto")
    return resolved
