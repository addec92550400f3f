"""A generator and the encoder that it was trained with, ready to stain."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from past_core.frozen import FrozenEncoder
    from past_vihc.files import StainModel


def load_stainer(
    model: str | Path, *, device: str = "auto", precision: str = "32", encoder: str | None = None
) -> "tuple[StainModel, FrozenEncoder | None]":
    """Loads a generator and, where it is conditioned, its encoder, whose fingerprint is checked.

    Args:
        model: a generator's `.safetensors` file, or "demo".
        device: as `resolve_device` takes it.
        precision: of both: "32", "bf16" or "fp16".
        encoder: another name or path for the encoder than the one that the generator's file records, where
            it lies elsewhere on this machine.

    Raises:
        GeneratorFileError, GeneratorNotFoundError: see `load_generator`.
        GeneratorMismatchError: the encoder is not the one that the generator was trained with.
        EncoderError, EncoderNotFoundError: see `load_image_encoder`.
    """
    from past_core.encoders import load_image_encoder, resolve_device
    from past_vihc.files import load_generator

    where = resolve_device(device)
    loaded = load_generator(model).to(where, precision)
    if loaded.encoder is None:
        return loaded, None
    frozen = load_image_encoder(encoder or loaded.encoder.name).to(where, precision)
    loaded.check(frozen)
    return loaded, frozen


def model_name(model: str | Path) -> str:
    """How a model is called in records: "demo", or its file's name without its folder."""
    return Path(model).name
