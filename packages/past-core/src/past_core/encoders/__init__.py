"""Frozen encoders by name: PAST's own, public ones, and any model of timm."""

from past_core.encoders.entry import PublicEncoder
from past_core.encoders.files import weights_folder
from past_core.encoders.listing import EncoderSummary, list_encoders
from past_core.encoders.loading import (
    DEMO,
    load_cell_encoder,
    load_encoders,
    load_image_encoder,
    load_past,
    resolve_device,
)
from past_core.encoders.registry import IMAGE_ENCODERS
from past_core.frozen import EncoderError, EncoderNotFoundError, FrozenEncoder
from past_core.frozen_cell import FrozenCellEncoder

__all__ = [
    "DEMO",
    "IMAGE_ENCODERS",
    "EncoderError",
    "EncoderNotFoundError",
    "EncoderSummary",
    "FrozenCellEncoder",
    "FrozenEncoder",
    "PublicEncoder",
    "list_encoders",
    "load_cell_encoder",
    "load_encoders",
    "load_image_encoder",
    "load_past",
    "resolve_device",
    "weights_folder",
]
