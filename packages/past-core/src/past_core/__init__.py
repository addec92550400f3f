"""PAST: one representation of a single cell from its H&E image and its transcriptome."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from past_core.checkpoint import load_model
    from past_core.encoders import load_cell_encoder, load_image_encoder

__all__ = ["load_cell_encoder", "load_image_encoder", "load_model"]

_ROOMS = {
    "load_cell_encoder": "past_core.encoders",
    "load_image_encoder": "past_core.encoders",
    "load_model": "past_core.checkpoint",
}


def __getattr__(name: str) -> Any:
    # Imported on demand: `past --help` and the slide readers need no torch.
    if name in _ROOMS:
        return getattr(import_module(_ROOMS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
