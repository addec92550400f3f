"""Frozen encoders by name: the one handle through which everything downstream sees cells."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from past_core.checkpoint import PastCheckpoint, load_checkpoint
from past_core.frozen import EncoderError, EncoderNotFoundError, FrozenEncoder, Space, check_space
from past_core.frozen_cell import FrozenCellEncoder
from past_core.models.image_encoder import IMAGENET_MEAN, IMAGENET_STD, ImageEncoder, ImageEncoderConfig

__all__ = [
    "DEMO",
    "IMAGE_ENCODERS",
    "EncoderError",
    "EncoderNotFoundError",
    "FrozenCellEncoder",
    "FrozenEncoder",
    "TimmEncoder",
    "load_cell_encoder",
    "load_encoders",
    "load_image_encoder",
    "load_past",
    "resolve_device",
    "weights_folder",
]

DEMO = "demo"
TIMM = "timm:"
SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")


@dataclass(frozen=True, kw_only=True)
class TimmEncoder:
    """A public encoder whose architecture timm has; its weights come from a file.

    Attributes:
        architecture: timm's name.
        source: where the weights are to be had.
        options: further arguments of the timm model.
        mpp: µm per pixel of the tissue it was trained on.
    """

    architecture: str
    source: str
    options: Mapping[str, Any] = field(default_factory=dict)
    mpp: float = 0.5


IMAGE_ENCODERS = {
    "uni": TimmEncoder(
        architecture="vit_large_patch16_224",
        options={"init_values": 1e-5, "dynamic_img_size": True},
        source="huggingface.co/MahmoodLab/UNI (gated: request access), file pytorch_model.bin",
    ),
    "resnet50": TimmEncoder(
        architecture="resnet50",
        source="huggingface.co/timm/resnet50.tv_in1k (ImageNet), file model.safetensors",
    ),
    "densenet121": TimmEncoder(
        architecture="densenet121",
        source="huggingface.co/timm/densenet121.tv_in1k (ImageNet), file model.safetensors",
    ),
}
"""Encoders beside PAST's own, by name. Another one is one more entry."""

UNAVAILABLE = {
    "conch": "huggingface.co/MahmoodLab/CONCH (gated); a CoCa model that timm does not have",
    "ctranspath": "github.com/Xiyue-Wang/TransPath; needs its own fork of timm",
    "plip": "huggingface.co/vinid/plip; a CLIP model that needs the transformers package",
    "chief": "github.com/hms-dbmi/CHIEF; built on CTransPath's backbone",
}
"""Encoders known by name that cannot be built here, and where they come from."""


def load_image_encoder(
    name_or_path: str | Path, space: Space = "features", *, weights: str | Path | None = None
) -> FrozenEncoder:
    """Loads a frozen image encoder.

    Args:
        name_or_path: a checkpoint of PAST, "demo", a name of `IMAGE_ENCODERS`, or "timm:NAME".
        space: "features", or "joint" for the space shared with cells (PAST only).
        weights: file of a public encoder's weights; by default NAME with any of `SUFFIXES` in
            `weights_folder()`.

    Raises:
        EncoderError: unknown, not available, or without a joint space.
        EncoderNotFoundError: no such checkpoint, or the weights are not there (the message says whence).
        CheckpointError, ModelError: the file does not fit.
    """
    check_space(space)
    name = str(name_or_path)
    public = _public(name)
    if public is None:
        return _image_side(name_or_path, load_past(name_or_path), space)
    if space == "joint":
        raise EncoderError(
            f"{name} has no joint space with cells; use space 'features' or a checkpoint of PAST"
        )
    return FrozenEncoder(name, ImageEncoder(_public_config(name, public, weights)))


def load_encoders(
    name_or_path: str | Path, space: Space = "features"
) -> tuple[FrozenEncoder, FrozenCellEncoder | None]:
    """Both encoders of a checkpoint, read once; None for the cells where the encoder sees images only."""
    check_space(space)
    if _public(str(name_or_path)) is not None:
        return load_image_encoder(name_or_path, space), None
    checkpoint = load_past(name_or_path)
    return _image_side(name_or_path, checkpoint, space), _cell_side(name_or_path, checkpoint, space)


def load_cell_encoder(name_or_path: str | Path, space: Space = "features") -> FrozenCellEncoder:
    """Loads the frozen cell encoder of a PAST checkpoint.

    Args:
        name_or_path: a checkpoint's path, or "demo".
        space: "features" (512 wide in the paper's size), or "joint" for the space shared with images.

    Raises:
        EncoderError: unknown, or an encoder of images only.
        EncoderNotFoundError, CheckpointError: see `load_image_encoder`.
    """
    name = str(name_or_path)
    if name in IMAGE_ENCODERS or name in UNAVAILABLE or name.startswith(TIMM):
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
    """Loads a checkpoint of PAST by path, or "demo".

    Raises:
        EncoderError, EncoderNotFoundError, CheckpointError: see `load_image_encoder`.
    """
    if str(name_or_path) == DEMO:
        path = Path(str(files("past_core") / "assets" / "demo.safetensors"))
        if not path.is_file():
            raise EncoderNotFoundError(
                f"{path}: this installation holds no demo encoder; train one with "
                "`lightning fit -c recipes/pretrain.yaml` and give its checkpoint"
            )
        return load_checkpoint(path)
    path = Path(name_or_path)
    if not path.is_file():
        names = ", ".join([DEMO, *IMAGE_ENCODERS, f"{TIMM}NAME"])
        if path.suffix in {".ckpt", *SUFFIXES} or len(path.parts) > 1:
            raise EncoderNotFoundError(f"{path}: no such checkpoint; give its path or one of {names}")
        raise EncoderError(f"no encoder {str(name_or_path)!r}; give one of {names}, or a checkpoint's path")
    return load_checkpoint(path)


def weights_folder() -> Path:
    """Where weights of public encoders are looked for: in the cache (`PAST_CACHE`, or the user's)."""
    from platformdirs import user_cache_dir

    return Path(os.environ.get("PAST_CACHE") or user_cache_dir("past")) / "weights"


def _public(name: str) -> TimmEncoder | None:
    if name in UNAVAILABLE:
        raise EncoderError(
            f"{name} cannot be loaded: {UNAVAILABLE[name]}; "
            f"available are {', '.join([DEMO, *IMAGE_ENCODERS])}"
        )
    if name.startswith(TIMM):
        architecture = name.removeprefix(TIMM)
        return TimmEncoder(
            architecture=architecture, source=f"huggingface.co/timm/{architecture}, file model.safetensors"
        )
    return IMAGE_ENCODERS.get(name)


def _public_config(name: str, encoder: TimmEncoder, weights: str | Path | None) -> ImageEncoderConfig:
    import timm

    # timm's names may carry a tag of the weights after a dot, which is no part of the architecture.
    default = timm.get_pretrained_cfg(encoder.architecture) if timm.is_model(encoder.architecture) else None
    mean, std, size = IMAGENET_MEAN, IMAGENET_STD, 224
    if name.startswith(TIMM) and default is not None:
        mean, std, size = default.mean, default.std, default.input_size[-1]
    config = ImageEncoderConfig(
        name=encoder.architecture,
        image_size=size,
        mpp=encoder.mpp,
        mean=tuple(mean),
        std=tuple(std),
        options=dict(encoder.options),
        weights=None,
    )
    if default is None:
        return config  # which ImageEncoder refuses, naming similar architectures
    return replace(config, weights=str(_find_weights(name, encoder, weights)))


def _find_weights(name: str, encoder: TimmEncoder, weights: str | Path | None) -> Path:
    stem = name.removeprefix(TIMM)
    folder = weights_folder()
    candidates = (
        [Path(weights)] if weights is not None else [folder / f"{stem}{suffix}" for suffix in SUFFIXES]
    )
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        raise EncoderNotFoundError(
            f"no weights for {name} at {candidates[0]}; get them from {encoder.source} and save them there"
        )
    return found


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
