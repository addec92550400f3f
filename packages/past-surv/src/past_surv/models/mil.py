"""Attention-based multiple instance learning on a slide's patches alone (Ilse, Tomczak & Welling 2018)."""

from typing import NamedTuple

from torch import Tensor, nn

from past_surv.losses import hazards_of, risk_of, survival_of
from past_surv.models.mcat import DROPOUT, GatedPooling, McatError


class MilOutput(NamedTuple):
    """What attention MIL says of B patients; the fields mean what MCAT's do.

    Attributes:
        hazards: `(B, K)` probability of dying in each interval, given that it was reached.
        survival: `(B, K)` probability of living beyond it.
        risk: `(B,)` minus the sum of `survival`.
        attention: `(B, 1, M)` raw logits of the pooling over patches; a softmax over M gives the weights.
            Minus infinity at padding.
    """

    hazards: Tensor
    survival: Tensor
    risk: Tensor
    attention: Tensor


class AttentionMIL(nn.Module):
    """Gated attention over the patches of a bag, then hazards: MCAT's baseline without genes.

    Args:
        patch_dim: width of a patch's embedding.
        intervals: number K of time intervals.
        width: of all hidden layers.
    """

    def __init__(self, patch_dim: int, *, intervals: int = 4, width: int = 256) -> None:
        super().__init__()
        self.wsi_net = nn.Sequential(nn.Linear(patch_dim, width), nn.ReLU(), nn.Dropout(DROPOUT))
        self.attention_head = GatedPooling(width)
        self.rho = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Dropout(DROPOUT))
        self.classifier = nn.Linear(width, intervals)

    def forward(self, patches: Tensor, *, padding: Tensor | None = None) -> MilOutput:
        """Hazards of B patients.

        Args:
            patches: `(B, M, patch_dim)` embeddings, padded to the longest bag.
            padding: `(B, M)` bool, True where a bag has no patch; None where all are full.

        Raises:
            McatError: shapes that do not fit, or an empty bag.
        """
        dim = self.wsi_net[0].in_features
        if patches.ndim != 3 or patches.shape[-1] != dim or not patches.shape[1]:
            raise McatError(f"patches {tuple(patches.shape)}; expected (B, M, {dim}) with at least one patch")
        if padding is not None and padding.all(dim=1).any():
            row = int(padding.all(dim=1).nonzero()[0])
            raise McatError(f"patient number {row} of the batch has no patch; leave it out")
        pooled, logits = self.attention_head(self.wsi_net(patches), padding)
        hazards = hazards_of(self.classifier(self.rho(pooled)))
        return MilOutput(hazards, survival_of(hazards), risk_of(hazards), logits[:, None])
