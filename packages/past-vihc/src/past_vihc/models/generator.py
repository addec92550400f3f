"""The generator: H&E to a virtual stain in one pass, conditioned by FiLM or plain."""

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor, nn

from past_core.errors import PastError
from past_vihc.models.conditioning import GRANULARITIES, Conditioning, Granularity
from past_vihc.models.layers import NORMS, Norm
from past_vihc.models.resnet import ResnetTrunk
from past_vihc.models.unet import UNetTrunk

Trunk = Literal["resnet9", "unet"]
_LIMITS = {
    "width": (1, 1024),
    "blocks": (0, 64),
    "depth": (2, 10),
    "embedding_dim": (0, 65536),
    "hidden": (1, 8192),
}
"""What a file may ask for: it is read before it is trusted."""


class GeneratorError(PastError, ValueError):
    """Settings that no generator can have, or images that do not fit it."""


class FiLMGenerator(nn.Module):
    """A trunk whose stages are modulated by an embedding (paper, Methods, "Virtual IHC staining").

    FiLM stands after the norm and before the activation, in every residual block and up stage. At first
    gamma and beta are 0, so that it starts as the plain trunk to the bit. With `embedding_dim` 0 and one
    stain it is the plain trunk: with `resnet9` the generator of RegGAN, with `unet` that of pix2pix.

    Args:
        trunk: `resnet9` (CycleGAN's) or `unet` (pix2pix's).
        width: channels at the trunk's full size.
        blocks: residual blocks of `resnet9`.
        depth: halvings of `unet`.
        norm: `instance` looks at the whole tile; `batch` (running statistics) and `pixel` make a pixel
            independent of the tile that it is stained in, but for `receptive_field` pixels at the border.
        dropout: of `unet`, in training only.
        embedding_dim: d, length of an embedding; 0 is no conditioning.
        granularity: `tile` or `cells`, see `Conditioning`.
        stains: names of the stains it makes; several are told apart by a learned vector.
        hidden: width of the conditioning MLP.

    Attributes:
        config: the arguments as plain values, from which it is built again.
        stains: see above.
        granularity: see above.
        embedding_dim: see above.
        multiple: sides of images are multiples of it.
        receptive_field: pixels from a pixel to the farthest that influences it, but for what instance norms
            take from the whole tile.

    Raises:
        GeneratorError: settings out of range.
    """

    def __init__(
        self,
        *,
        trunk: Trunk = "resnet9",
        width: int = 64,
        blocks: int = 9,
        depth: int = 7,
        norm: Norm = "instance",
        dropout: float = 0.0,
        embedding_dim: int = 0,
        granularity: Granularity = "tile",
        stains: Sequence[str] = ("er",),
        hidden: int = 512,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "trunk": trunk,
            "width": width,
            "blocks": blocks,
            "depth": depth,
            "norm": norm,
            "dropout": dropout,
            "embedding_dim": embedding_dim,
            "granularity": granularity,
            "stains": list(stains),
            "hidden": hidden,
        }
        _check(self.config)
        self.stains, self.granularity, self.embedding_dim = tuple(stains), granularity, embedding_dim
        if trunk == "resnet9":
            self.trunk: ResnetTrunk | UNetTrunk = ResnetTrunk(width=width, blocks=blocks, norm=norm)
        else:
            self.trunk = UNetTrunk(width=width, depth=depth, norm=norm, dropout=dropout)
        self.conditioning: Conditioning | None = None
        if embedding_dim or len(self.stains) > 1:
            self.conditioning = Conditioning(
                self.trunk.stages,
                embedding_dim=embedding_dim,
                granularity=granularity,
                stains=len(self.stains),
                hidden=hidden,
            )

    @property
    def multiple(self) -> int:
        """Sides of images are multiples of it."""
        return self.trunk.multiple

    @property
    def receptive_field(self) -> int:
        """Margin in pixels beyond which a pixel has no influence, except through an instance norm."""
        return self.trunk.receptive_field

    def forward(self, he: Tensor, embedding: Tensor | None = None, stain: Tensor | None = None) -> Tensor:
        """Stains.

        Args:
            he: `(B, 3, H, W)` float in -1..1.
            embedding: `(B, d)` for `tile`, `(B, d, g, g)` at the nodes for `cells`; unused where d is 0.
            stain: `(B,)` int64 index into `stains`; may be None where there is one.

        Returns:
            `(B, 3, H, W)` float in -1..1.

        Raises:
            GeneratorError: an image that is not RGB, or whose sides do not fit.
            ConditioningError: an embedding or a stain that does not fit.
        """
        if he.ndim != 4 or he.shape[1] != 3:
            raise GeneratorError(f"images of shape {tuple(he.shape)}; expected (B, 3, H, W)")
        if he.shape[2] % self.multiple or he.shape[3] % self.multiple or not he.shape[2] * he.shape[3]:
            raise GeneratorError(
                f"images of {he.shape[2]} × {he.shape[3]} px; this generator takes sides that are multiples "
                f"of {self.multiple}"
            )
        if self.conditioning is None:
            return self.trunk(he)
        by = self.conditioning(embedding, stain, batch=len(he), device=he.device)
        return self.trunk(he, by)


def _check(config: dict[str, Any]) -> None:
    problems = [
        f"{name} {config[name]!r}, expected a whole number from {low} to {high}"
        for name, (low, high) in _LIMITS.items()
        if type(config[name]) is not int or not low <= config[name] <= high
    ]
    choices = {"trunk": ("resnet9", "unet"), "norm": NORMS, "granularity": GRANULARITIES}
    problems += [
        f"{name} {config[name]!r}, expected {' or '.join(allowed)}"
        for name, allowed in choices.items()
        if config[name] not in allowed
    ]
    stains, dropout = config["stains"], config["dropout"]
    if not stains or len(stains) > 64 or len(set(map(str, stains))) < len(stains):
        problems.append(f"stains {stains!r}, expected at least one name, each once")
    if not all(isinstance(name, str) for name in stains):
        problems.append(f"stains {stains!r}, expected names")
    if not isinstance(dropout, (int, float)) or not 0 <= dropout < 1:
        problems.append(f"dropout {dropout!r}, expected 0 or more and less than 1")
    if problems:
        raise GeneratorError(f"no generator has these settings: {'; '.join(problems)}")
