"""The contrastive loss with similarity-adjusted targets (paper, section "Contrastive pretraining")."""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from past_core.distributed import gather_with_gradient
from past_core.errors import PastError
from past_core.models.cosine import mean_cosine

__all__ = ["ContrastiveLoss", "LossError", "contrastive_loss", "gather_with_gradient", "similarity_targets"]

Targets = Literal["similarity", "identity", "annealed", "published"]


class LossError(PastError, ValueError):
    """Embeddings or options for which the loss is not defined."""


class ContrastiveLoss(NamedTuple):
    """The loss and what shows whether it means anything; only `loss` carries a gradient."""

    loss: Tensor
    """(); ln B when all embeddings coincide."""
    target_entropy: Tensor
    """(); mean entropy of the targets' rows. The loss cannot be smaller (but for "published")."""
    target_diagonal: Tensor
    """(); mean weight that the targets give the cell itself: 1/B when they say nothing."""
    image_cosine: Tensor
    """(); mean cosine between two different images' embeddings: 1 when they have collapsed."""
    cell_cosine: Tensor
    """(); the same of cells."""

    @property
    def excess(self) -> Tensor:
        """Loss beyond the targets' entropy. It is 0 for collapsed embeddings too, so no sign of learning."""
        return self.loss.detach() - self.target_entropy


def similarity_targets(image: Tensor, cell: Tensor, temperature: Tensor | float) -> Tensor:
    """Targets softmax((H_g H_gᵀ + H_v H_vᵀ) / (2 τ)), softmax over rows, (B, B).

    Args:
        image: H_v, (B, dim) unit vectors.
        cell: H_g, (B, dim) unit vectors.
        temperature: τ.
    """
    return ((cell @ cell.T + image @ image.T) / (2 * temperature)).softmax(dim=-1)


def contrastive_loss(
    image: Tensor,
    cell: Tensor,
    temperature: Tensor | float,
    *,
    targets: Targets = "similarity",
    identity_weight: float = 0.0,
) -> ContrastiveLoss:
    """Mean of the cross-entropies of cells over images and of images over cells.

    Logits are H_g H_vᵀ / τ. The gradient flows through the targets: with constant targets any constant
    map would be a minimum. Computed in float32 (or float64 if given), also under autocast.

    Args:
        image: H_v, (B, dim) unit vectors.
        cell: H_g, (B, dim) unit vectors; row i belongs to row i of `image`.
        temperature: τ.
        targets: "similarity", the rows of `similarity_targets` in both directions; "identity", one-hot
            (InfoNCE); "annealed", `identity_weight` of the latter and the rest of the former;
            "published", the printed formula: the image direction takes the targets transposed, whose rows
            do not sum to one.
        identity_weight: α of "annealed", in [0, 1]; let it fall from 1 to 0.

    Raises:
        LossError: shapes differ, fewer than two cells, or an option that is not known.
    """
    if image.ndim != 2 or image.shape != cell.shape or len(image) < 2:
        msg = (
            f"image embeddings {tuple(image.shape)} and cell embeddings {tuple(cell.shape)}: "
            "expected the same (B, dim) with at least two cells"
        )
        raise LossError(msg)
    if not 0 <= identity_weight <= 1 or (identity_weight and targets != "annealed"):
        msg = f"identity_weight {identity_weight} must lie in [0, 1], and belongs to targets='annealed'"
        raise LossError(msg)
    with torch.autocast(image.device.type, enabled=False):
        image, cell = _at_least_float32(image), _at_least_float32(cell)
        logits = cell @ image.T / temperature
        wanted = _targets(image, cell, temperature, targets, identity_weight)
        back = wanted.T if targets == "published" else wanted
        cells = -(wanted * F.log_softmax(logits, dim=1)).sum(1)
        images = -(back * F.log_softmax(logits.T, dim=1)).sum(1)
        fixed = wanted.detach()
        return ContrastiveLoss(
            loss=(cells + images).mean() / 2,
            target_entropy=torch.special.entr(fixed).sum(1).mean(),
            target_diagonal=fixed.diagonal().mean(),
            image_cosine=mean_cosine(image),
            cell_cosine=mean_cosine(cell),
        )


def _targets(
    image: Tensor, cell: Tensor, temperature: Tensor | float, kind: str, identity_weight: float
) -> Tensor:
    if kind in ("similarity", "published"):
        return similarity_targets(image, cell, temperature)
    identity = torch.eye(len(image), dtype=image.dtype, device=image.device)
    if kind == "identity":
        return identity
    if kind == "annealed":
        return torch.lerp(similarity_targets(image, cell, temperature), identity, identity_weight)
    msg = f"targets={kind!r} is not known; expected 'similarity', 'identity', 'annealed' or 'published'"
    raise LossError(msg)


def _at_least_float32(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()
