"""What determines a virtual stain besides slide and model."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from past_core.errors import PastError
from past_core.remote import Location
from past_vihc.wsi.grid import LEAST_OVERLAP

if TYPE_CHECKING:
    from past_vihc.files import StainModel

ENDS = 2**16
"""Bytes of a slide's file that are looked at, from its start and from its end."""


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


def source_key(path: Location) -> str:
    """Tells one slide from another: by its size, first and last bytes, or by its metadata."""
    digest = hashlib.sha256()
    if isinstance(path, Path) and path.is_file():
        with path.open("rb") as file:
            digest.update(file.read(ENDS))
            file.seek(max(0, path.stat().st_size - ENDS))
            digest.update(file.read())
        return f"{path.stat().st_size} bytes, {digest.hexdigest()[:32]}"
    for metadata in (path / "zarr.json", path / ".zattrs"):
        if metadata.is_file():
            digest.update(metadata.read_bytes())
    return digest.hexdigest()[:32]
