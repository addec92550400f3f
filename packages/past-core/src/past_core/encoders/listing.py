"""Which encoders there are, and which of them are on this machine."""

from dataclasses import dataclass

from past_core.encoders.files import find_weights, how_to_get
from past_core.encoders.loading import DEMO, load_image_encoder
from past_core.encoders.registry import IMAGE_ENCODERS
from past_core.frozen import EncoderNotFoundError


@dataclass(frozen=True)
class EncoderSummary:
    """An encoder known by name.

    Attributes:
        name: what `load_image_encoder` takes.
        dim: length of its vectors.
        patch_size: side of its input in pixels.
        mpp: µm per pixel of its input.
        embedding: which vector it is.
        licence: of the weights.
        paper: what to cite.
        weights: where they are on this machine, None where they are not.
        how_to_get: the steps to them.
    """

    name: str
    dim: int
    patch_size: int
    mpp: float
    embedding: str
    licence: str
    paper: str
    weights: str | None
    how_to_get: str


def list_encoders() -> list[EncoderSummary]:
    """The encoders known by name: the demo, where it is installed, and every public one."""
    out = []
    try:
        demo = load_image_encoder(DEMO)
    except EncoderNotFoundError:
        pass
    else:
        out.append(
            EncoderSummary(
                name=DEMO,
                dim=demo.dim,
                patch_size=demo.patch_size,
                mpp=demo.mpp,
                embedding="class token; trained on synthetic tissue, for trying out only",
                licence="Apache-2.0",
                paper="PAST",
                weights="in the package",
                how_to_get="in the package",
            )
        )
    for name, entry in IMAGE_ENCODERS.items():
        found = find_weights(name, entry)
        out.append(
            EncoderSummary(
                name=name,
                dim=entry.dim,
                patch_size=entry.image_size,
                mpp=entry.mpp,
                embedding=entry.embedding,
                licence=entry.licence,
                paper=entry.paper,
                weights=None if found is None else str(found),
                how_to_get=how_to_get(name, entry),
            )
        )
    return out
