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


class StainError(PastError, ValueError):
    """A slide that cannot be stained as asked."""


@dataclass(frozen=True, kw_only=True)
class StainSettings:
    """What determines a virtual stain besides slide and model.

    Attributes:
        stain: one that the model makes; None where it makes only one.
        overlap: least share of a window that each neighbour shares.
        batch_size: windows at a time.
        precision: "32", "bf16" or "fp16".
        tissue_only: stain where there is tissue; the rest is background.
        background: grey value of the rest.
    """

    stain: str | None = None
    overlap: float = LEAST_OVERLAP
    batch_size: int = 16
    precision: str = "32"
    tissue_only: bool = True
    background: int = 255


def choose_stain(model: "StainModel", stain: str | None, name: str = "model") -> str:
    """The stain asked for, or the only one of a model.

    Raises:
        StainError: one that the model does not make, or none where it makes several.
    """
    stains = list(model.stains)
    if stain is None:
        if len(stains) != 1:
            raise StainError(f"{name} makes {', '.join(stains)}; name one with --stain")
        return stains[0]
    found = {known.lower(): known for known in stains}.get(stain.strip().lower())
    if found is None:
        raise StainError(f"{name} does not make the stain {stain!r}; it makes {', '.join(stains)}")
    return found


def model_fingerprint(model: "StainModel") -> str:
    """Sha256 of a model's weights and of what it takes and gives."""
    known = getattr(model, "fingerprint", None)
    if isinstance(known, str):
        return known
    from past_core.frozen import fingerprint

    entry = {"stains": list(model.stains), "mpp": model.mpp, "tile": model.tile}
    return fingerprint(entry, {"generator": model.generator})


def content_key(path: Location) -> str:
    """A quick look at what a slide holds: its first and last bytes."""
    if not isinstance(path, Path) or not path.is_file():
        return ""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        digest.update(file.read(2**16))
        file.seek(max(0, path.stat().st_size - 2**16))
        digest.update(file.read())
    return digest.hexdigest()
