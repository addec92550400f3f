"""What determines a virtual stain besides slide and model."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from past_core.errors import PastError
from past_vihc.wsi.grid import LEAST_OVERLAP

if TYPE_CHECKING:
    from past_vihc.files import StainModel


class StainError(PastError, ValueError):
    """A slide that cannot be stained as asked."""


@dataclass(frozen=True, kw_only=True)
class StainSettings:
    """What determines a virtual stain besides slide and model.

    Attributes:
        stain: one that the model makes; None where it makes only one.
        overlap: least share of a window that each neighbour shares.
        batch_size: windows at a time.
        tissue_only: stain where there is tissue; the rest is background.
        background: grey value of the rest.
    """

    stain: str | None = None
    overlap: float = LEAST_OVERLAP
    batch_size: int = 16
    tissue_only: bool = True
    background: int = 255


def model_fingerprint(model: "StainModel") -> str:
    """Sha256 of a generator's weights, its architecture, and what it was trained at and with."""
    from past_core.frozen import fingerprint

    entry = {"config": model.generator.config, "info": model.info.to_dict() | {"card": None}}
    return fingerprint(entry, {"generator": model.generator})
