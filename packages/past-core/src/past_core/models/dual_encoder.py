"""Both encoders, their projection heads to one space, and the learned temperature."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from past_core.models.cell_encoder import CellEncoder, CellEncoderConfig
from past_core.models.cosine import mean_cosine
from past_core.models.errors import ModelError
from past_core.models.image_encoder import ImageEncoder, ImageEncoderConfig

Space = Literal["features", "joint"]


@dataclass(frozen=True)
class DualEncoderConfig:
    """Both encoders and what joins them.

    Args:
        image: the image encoder.
        cell: the cell encoder.
        projection_dim: channels of the joint space.
        projection_dropout: dropout in the projection heads.
        temperature: initial temperature.
        temperature_min: smallest temperature; at a bound the gradient stays alive.
        temperature_max: largest temperature.
    """

    image: ImageEncoderConfig
    cell: CellEncoderConfig
    projection_dim: int = 256
    projection_dropout: float = 0.1
    temperature: float = 0.07
    temperature_min: float = 0.01
    temperature_max: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.temperature_min <= self.temperature <= self.temperature_max:
            msg = (
                f"temperature {self.temperature} must be positive and lie in "
                f"[{self.temperature_min}, {self.temperature_max}]"
            )
            raise ModelError(msg)
        if self.projection_dim < 2 or not 0 <= self.projection_dropout < 1:
            msg = (
                f"projection_dim {self.projection_dim} < 2 or dropout {self.projection_dropout} not in [0, 1)"
            )
            raise ModelError(msg)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any], *, keep_weights: bool = False) -> Self:
        """The configuration that `dataclasses.asdict` wrote (JSON's lists become tuples again).

        Args:
            stored: plain values.
            keep_weights: keep the path of the image encoder's initial weights. A checkpoint holds all
                weights itself, and that file need not exist where it is loaded.

        Raises:
            ModelError: a key is missing or unknown.
        """

        def build(kind: type, values: Any, **changes: Any) -> Any:
            known = {field.name for field in fields(kind)}
            if not isinstance(values, Mapping) or set(values) - known:
                unknown = sorted(set(values) - known) if isinstance(values, Mapping) else values
                msg = (
                    f"the stored {kind.__name__} has unknown keys: {unknown}; was it made by a newer version?"
                )
                raise ModelError(msg)
            plain = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
            try:
                return kind(**{**plain, **changes})
            except TypeError as error:
                msg = f"the stored {kind.__name__} is incomplete: {error}"
                raise ModelError(msg) from error

        if not isinstance(stored, Mapping) or not {"image", "cell"} <= set(stored):
            msg = "the stored model configuration lacks `image` or `cell`"
            raise ModelError(msg)
        image = build(ImageEncoderConfig, stored["image"], **({} if keep_weights else {"weights": None}))
        return build(cls, stored, image=image, cell=build(CellEncoderConfig, stored["cell"]))


class ProjectionHead(nn.Module):
    """Linear, then GELU, Linear and dropout beside a residual, then LayerNorm.

    Args:
        width: channels of the features.
        dim: channels of the joint space.
        dropout: on the second Linear's output.
    """

    def __init__(self, width: int, dim: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.projection = nn.Linear(width, dim)
        self.fc = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)
        self.layer_norm = nn.LayerNorm(dim)

    def forward(self, features: Tensor) -> Tensor:
        """(B, width) to (B, dim), not normalised to unit length."""
        projected = self.projection(features)
        return self.layer_norm(projected + self.dropout(self.fc(F.gelu(projected))))


class DualOutput(NamedTuple):
    """What `contrastive_loss` takes."""

    image: Tensor
    """(B, dim) unit vectors."""
    cell: Tensor
    """(B, dim) unit vectors."""
    temperature: Tensor
    """()."""


class DualEncoder(nn.Module):
    """Image encoder and cell encoder with heads into one space of unit vectors."""

    def __init__(self, config: DualEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.image_encoder = ImageEncoder(config.image)
        self.cell_encoder = CellEncoder(config.cell)
        dim, dropout = config.projection_dim, config.projection_dropout
        self.image_projection = ProjectionHead(self.image_encoder.dim, dim, dropout)
        self.cell_projection = ProjectionHead(config.cell.width, dim, dropout)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(config.temperature)))

    @property
    def temperature(self) -> Tensor:
        """The temperature, within its bounds; the gradient passes the bounds as if they were not there."""
        low, high = math.log(self.config.temperature_min), math.log(self.config.temperature_max)
        raw = self.log_temperature
        return (raw.detach().clamp(low, high) + (raw - raw.detach())).exp()

    def encode_image(self, images: Tensor, *, space: Space = "features") -> Tensor:
        """Patches (B, 3, L, L) to features (B, image dim) or joint unit vectors (B, dim)."""
        features = self.image_encoder(images)
        return features if _is_features(space) else _unit(self.image_projection(features))

    def encode_cell(
        self,
        tokens: Tensor,
        centres: Tensor,
        neighbors: Tensor,
        distances: Tensor,
        lengths: np.ndarray | None = None,
        *,
        space: Space = "features",
    ) -> Tensor:
        """Cells (see `CellEncoder.forward`) to features (B, width) or unit vectors (B, dim)."""
        features = self.cell_encoder(tokens, centres, neighbors, distances, lengths)
        return features if _is_features(space) else _unit(self.cell_projection(features))

    def forward(
        self,
        images: Tensor,
        tokens: Tensor,
        centres: Tensor,
        neighbors: Tensor,
        distances: Tensor,
        lengths: np.ndarray | None = None,
    ) -> DualOutput:
        """Both sides of B cells; `contrastive_loss(**output._asdict())` is their loss."""
        return DualOutput(
            self.encode_image(images, space="joint"),
            self.encode_cell(tokens, centres, neighbors, distances, lengths, space="joint"),
            self.temperature,
        )


def _unit(vectors: Tensor) -> Tensor:
    """Rows over their length, at least in float32: bfloat16 would round similarities to three digits."""
    return F.normalize(vectors if vectors.dtype == torch.float64 else vectors.float(), dim=-1)


def _is_features(space: str) -> bool:
    if space not in ("features", "joint"):
        msg = f"space={space!r} is not known; expected 'features' or 'joint'"
        raise ModelError(msg)
    return space == "features"


class Centering(NamedTuple):
    """What centring the projection heads found: mean cosine between two different cells, per side."""

    cells: int
    image_cosine_before: float
    image_cosine_after: float
    cell_cosine_before: float
    cell_cosine_after: float


@torch.no_grad()
def center_projection_heads(model: DualEncoder, batches: Iterable[Sequence[Tensor]]) -> Centering:
    """Spread the initial embeddings: give both heads' outputs mean 0 and unit pooled standard deviation.

    Sets weight and bias of the heads' last LayerNorm. At initialisation the embeddings nearly coincide
    and the similarity targets are near uniform, from where training ends in a few clusters; centred, the
    same training retrieves several times better. Call it once on about 512 training cells, before the
    model is wrapped for several processes (each must see the same cells), and never on loaded weights.

    Args:
        model: a fresh model, on the device of the batches.
        batches: arguments of `DualEncoder.forward`, batch after batch.

    Raises:
        ModelError: fewer than two cells, or all cells have the same embedding.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    image: list[Tensor] = []
    cell: list[Tensor] = []
    try:
        for images, *cells in batches:
            image.append(model.image_projection(model.encode_image(images)).double())
            cell.append(model.cell_projection(model.encode_cell(*cells)).double())
    finally:
        for module, training in modes.items():
            module.training = training
    n = sum(map(len, image))
    if n < 2:
        msg = f"centring the projection heads needs at least two cells (512 are usual), got {n}"
        raise ModelError(msg)
    cosines = []
    for name, head, parts in (
        ("image", model.image_projection, image),
        ("cell", model.cell_projection, cell),
    ):
        outputs = torch.cat(parts)
        centred = outputs - outputs.mean(0)
        std = centred.square().mean().sqrt()
        if not std > 1e-6:
            msg = (
                f"all {n} cells have the same {name} embedding (spread {std:.1e}); are the inputs all equal?"
            )
            raise ModelError(msg)
        norm = head.layer_norm
        norm.bias.copy_((norm.bias - outputs.mean(0)) / std)
        norm.weight.div_(std)
        cosines += [mean_cosine(outputs), mean_cosine(centred)]
    return Centering(n, *(float(cosine) for cosine in cosines))
