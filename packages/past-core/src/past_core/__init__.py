"""PAST: one representation of a single cell from its H&E image and its transcriptome."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from past_core.encoders import load_cell_encoder, load_image_encoder

__all__ = ["load_cell_encoder", "load_image_encoder"]


def __getattr__(name: str) -> Any:
    # Imported on demand: `past --help` and the slide readers need no torch.
    if name in __all__:
        from past_core import encoders

        return getattr(encoders, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
