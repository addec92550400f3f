"""A trained generator with what its use depends on: resolution, tile, stains, and the encoder behind it."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from past_core.errors import PastError
from past_vihc.markers import marker
from past_vihc.models.generator import FiLMGenerator
from past_vihc.models.scaling import to_uint8, to_unit

if TYPE_CHECKING:
    from past_core.frozen import FrozenEncoder

PRECISIONS = {"32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""In which type products are taken, by the names that encoders use too; weights stay float32."""


class GeneratorMismatchError(PastError, ValueError):
    """An encoder that is not the one the generator was trained with."""


class UnknownStainError(PastError, ValueError):
    """A stain that the generator does not make."""


@dataclass(frozen=True)
class EncoderInfo:
    """The frozen encoder that a generator was trained with."""

    name: str
    fingerprint: str
    dim: int


@dataclass(frozen=True, kw_only=True)
class GeneratorInfo:
    """What a generator was trained at and with.

    Attributes:
        mpp: µm per pixel of its images.
        tile: side in pixels of the tiles it was trained on.
        pitch_um: µm between the nodes of its grid of embeddings; None where it has none.
        encoder: what conditions it; None where nothing does.
        demo: whether it was trained on synthetic tissue and means nothing on real tissue.
        card: how it was made, plain JSON values.
    """

    mpp: float
    tile: int
    pitch_um: float | None = None
    encoder: EncoderInfo | None = None
    demo: bool = False
    card: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lengths = [self.mpp, self.tile] + ([] if self.pitch_um is None else [self.pitch_um])
        if not all(math.isfinite(value) and value > 0 for value in lengths):
            raise ValueError(
                f"mpp {self.mpp}, tile {self.tile}, pitch_um {self.pitch_um}; expected positive numbers"
            )

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self) | {"card": dict(self.card)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; other keys are left out.

        Raises:
            KeyError, TypeError, ValueError: an entry that is missing or of another kind.
        """
        encoder, pitch = values["encoder"], values["pitch_um"]
        return cls(
            mpp=float(values["mpp"]),
            tile=int(values["tile"]),
            pitch_um=None if pitch is None else float(pitch),
            encoder=None
            if encoder is None
            else EncoderInfo(str(encoder["name"]), str(encoder["fingerprint"]), int(encoder["dim"])),
            demo=bool(values["demo"]),
            card=dict(values["card"]),
        )


class StainModel:
    """A generator that stains pixels; it never trains.

    Args:
        generator: the network; set to evaluation mode.
        info: what it was trained at and with.

    Attributes:
        generator: the network.
        info: see above; its fields are attributes too: `mpp`, `tile`, `pitch_um`, `encoder`, `demo`, `card`.
        stains: names of the stains it makes.
        granularity: `tile` or `cells`.
        precision: "32", "bf16" or "fp16".

    Raises:
        GeneratorMismatchError: an encoder of another width than the network's.
    """

    def __init__(self, generator: FiLMGenerator, info: GeneratorInfo) -> None:
        dim = 0 if info.encoder is None else info.encoder.dim
        if dim != generator.embedding_dim:
            raise GeneratorMismatchError(
                f"a generator for embeddings of length {generator.embedding_dim}, described with an encoder "
                f"of {dim}"
            )
        self.generator = generator.eval().requires_grad_(requires_grad=False)
        self.info, self.precision = info, "32"
        self.stains, self.granularity = generator.stains, generator.granularity
        self.mpp, self.tile, self.pitch_um = info.mpp, info.tile, info.pitch_um
        self.encoder, self.demo, self.card = info.encoder, info.demo, info.card

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return next(self.generator.parameters()).device

    @property
    def receptive_field(self) -> int:
        """See `FiLMGenerator`."""
        return self.generator.receptive_field

    @property
    def multiple(self) -> int:
        """Sides of images are multiples of it."""
        return self.generator.multiple

    def to(self, device: str | torch.device, precision: str | None = None) -> Self:
        """Moves it, and sets the precision where one is given.

        Raises:
            GeneratorMismatchError: an unknown precision, or "fp16" on the CPU.
        """
        if precision is not None:
            if precision not in PRECISIONS:
                raise GeneratorMismatchError(f"precision {precision!r}; expected {', '.join(PRECISIONS)}")
            if precision == "fp16" and torch.device(device).type == "cpu":
                raise GeneratorMismatchError("fp16 is for accelerators; on the CPU use 32 or bf16")
            self.precision = precision
        self.generator.to(device)
        return self

    def check(self, encoder: "FrozenEncoder | None") -> None:
        """Makes sure that embeddings come from the encoder it was trained with.

        Args:
            encoder: what will embed; None for nothing. A generator without conditioning takes any.

        Raises:
            GeneratorMismatchError: another encoder, or none; names both.
        """
        wanted = self.encoder
        if wanted is None:
            return
        if encoder is None:
            raise GeneratorMismatchError(
                f"this generator is conditioned by {wanted.name} (fingerprint {wanted.fingerprint[:12]}); "
                "give that encoder"
            )
        if encoder.fingerprint != wanted.fingerprint:
            raise GeneratorMismatchError(
                f"this generator was trained with {wanted.name} ({wanted.dim} wide, fingerprint "
                f"{wanted.fingerprint[:12]}), the encoder here is {encoder.name} ({encoder.dim} wide, "
                f"fingerprint {encoder.fingerprint[:12]}); give the one it was trained with"
            )

    def stain_index(self, stain: str | None = None) -> int:
        """Number of a stain, by name in any case of letters; None is the only one.

        Raises:
            MarkerError: no such stain at all.
            UnknownStainError: one that this generator does not make, or none said where it makes several.
        """
        known = ", ".join(self.stains)
        if stain is None:
            if len(self.stains) > 1:
                raise UnknownStainError(f"this generator makes {known}; say which")
            return 0
        name = marker(stain).name
        if name not in self.stains:
            raise UnknownStainError(
                f"this generator was not trained on {name}; it makes {known}. Choose one of them, or give "
                "another generator"
            )
        return self.stains.index(name)

    @torch.inference_mode()
    def __call__(self, he: Tensor, embedding: Tensor | None = None, stain: str | None = None) -> Tensor:
        """Stains tiles.

        Args:
            he: `(B, 3, H, W)` uint8 at `mpp`, on any device.
            embedding: `(B, d)`, or `(B, d, g, g)` at the nodes; unused where nothing conditions.
            stain: which stain; None is the only one.

        Returns:
            `(B, 3, H, W)` uint8 on the model's device.

        Raises:
            UnknownStainError, MarkerError: see `stain_index`.
            ScalingError: images that are not uint8, or an output that is not finite.
            GeneratorError, ConditioningError: shapes that do not fit.
        """
        index = self.stain_index(stain)
        device = self.device
        he = torch.as_tensor(he).to(device, non_blocking=True)
        number = torch.full((len(he),), index, dtype=torch.int64, device=device)
        if embedding is not None:
            embedding = torch.as_tensor(embedding).to(device, torch.float32, non_blocking=True)
        low = self.precision != "32"
        with torch.autocast(device.type, PRECISIONS[self.precision] if low else None, enabled=low):
            made = self.generator(to_unit(he), embedding, number)
        return to_uint8(made)

    def __repr__(self) -> str:
        by = "nothing" if self.encoder is None else self.encoder.name
        return (
            f"StainModel({', '.join(self.stains)}; {self.tile} px at {self.mpp} µm/px, conditioned by {by}"
            f"{', demo' if self.demo else ''})"
        )
