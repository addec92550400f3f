"""Both encoders, their projection heads to one space, and the learned temperature."""

import math
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from past_core.models.cell_encoder import CellEncoder
from past_core.models.centering import Centering, center_projection_heads
from past_core.models.dual_config import DualEncoderConfig
from past_core.models.errors import ModelError
from past_core.models.image_encoder import ImageEncoder
from past_core.models.lengths import equal_chunks

__all__ = [
    "Centering",
    "DualEncoder",
    "DualEncoderConfig",
    "DualOutput",
    "ProjectionHead",
    "Space",
    "center_projection_heads",
]

Space = Literal["features", "joint"]


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
    """Image encoder and cell encoder with heads into one space of unit vectors.

    How it runs is not part of its configuration, and in no checkpoint: `microbatch` and
    `set_activation_checkpointing` trade time for memory and leave loss and gradients as they are.
    """

    def __init__(self, config: DualEncoderConfig) -> None:
        super().__init__()
        self._microbatch: int | None = None
        self.config = config
        self.image_encoder = ImageEncoder(config.image)
        self.cell_encoder = CellEncoder(config.cell)
        dim, dropout = config.projection_dim, config.projection_dropout
        self.image_projection = ProjectionHead(self.image_encoder.dim, dim, dropout)
        self.cell_projection = ProjectionHead(config.cell.width, dim, dropout)
        if config.temperature_form == "log":
            self.log_temperature = nn.Parameter(torch.tensor(math.log(config.temperature)))
        else:
            self.raw_temperature = nn.Parameter(torch.tensor(config.temperature))

    @property
    def temperature(self) -> Tensor:
        """The temperature, within its bounds.

        Learned as a logarithm, its gradient passes the bounds as if they were not there; "clamped", there is
        none beyond them.
        """
        if self.config.temperature_form == "clamped":
            return self.raw_temperature.clamp(self.config.temperature_min, self.config.temperature_max)
        low, high = math.log(self.config.temperature_min), math.log(self.config.temperature_max)
        raw = self.log_temperature
        return (raw.detach().clamp(low, high) + (raw - raw.detach())).exp()

    @property
    def microbatch(self) -> int | None:
        """Cells whose activations are held at a time; None: those of the whole batch.

        Both transformers then run over at most so many cells after one another, forget their activations,
        and compute them again, microbatch by microbatch, in the backward pass (about a third more work).
        Everything that lets cells see one another (the graph, the fusion, the heads, the loss) stays over the
        whole batch: loss and gradients are those of one large batch, with all its negatives. Dropout inside
        the transformers draws other masks than one large batch would, the same in both passes.

        Raises:
            ModelError: when set to less than 1, or with batch normalisation, whose statistics are a batch's.
        """
        return self._microbatch

    @microbatch.setter
    def microbatch(self, cells: int | None) -> None:
        if cells is not None:
            if cells < 1:
                msg = f"microbatch is {cells}; expected at least 1 cell, or None for the whole batch"
                raise ModelError(msg)
            self._refuse_batch_norm("microbatch")
        self._microbatch = self.cell_encoder.microbatch = cells

    @property
    def activation_checkpointing(self) -> bool:
        """Whether layers keep only their inputs for the backward pass."""
        return self.cell_encoder.activation_checkpointing

    def set_activation_checkpointing(self, enabled: bool) -> None:
        """Keep only the inputs of both transformers' layers, and compute the rest again in backward.

        Raises:
            ModelError: this image encoder cannot, or has batch normalisation, whose statistics a second
                forward pass would update again.
        """
        if enabled:
            self._refuse_batch_norm("activation checkpointing")
        try:
            network: Any = self.image_encoder.model  # timm's; others may not have the method
            network.set_grad_checkpointing(enabled)
        except (AttributeError, AssertionError) as error:
            if enabled:
                msg = f"{self.config.image.name} knows no activation checkpointing; use microbatch instead"
                raise ModelError(msg) from error
        self.cell_encoder.activation_checkpointing = enabled

    def _refuse_batch_norm(self, option: str) -> None:
        if any(isinstance(module, _BatchNorm) for module in self.image_encoder.modules()):
            msg = f"{option} would change the batch normalisation of {self.config.image.name}; leave it off"
            raise ModelError(msg)

    def encode_image(self, images: Tensor, *, space: Space = "features") -> Tensor:
        """Patches (B, 3, L, L) to features (B, image dim) or joint unit vectors (B, dim)."""
        features = self._image_features(images)
        return features if _is_features(space) else _unit(self.image_projection(features))

    def _image_features(self, images: Tensor) -> Tensor:
        if self.microbatch is None or len(images) <= self.microbatch:
            return self.image_encoder(images)
        parts = []
        for start, stop, _, _ in equal_chunks(len(images), 0, most=self.microbatch):
            part = images[start:stop]
            if torch.is_grad_enabled():
                parts.append(checkpoint(self.image_encoder, part, use_reentrant=False))
            else:
                parts.append(self.image_encoder(part))
        return torch.cat(parts)

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
