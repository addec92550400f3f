"""MCAT: groups of genes attend to the patches of a slide (Chen et al., ICCV 2021).

The published network for six groups and 1,024-wide patches, with the same parameter names, and the same for
any width, any number of groups, batches of ragged bags, and groups that a patient lacks.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from past_core.errors import PastError
from past_surv.losses import hazards_of, risk_of, survival_of
from past_surv.models.fusion import BilinearFusion, ConcatFusion

Fusion = Literal["concat", "bilinear"]
DROPOUT = 0.25


class McatError(PastError, ValueError):
    """Inputs that do not fit the network."""


class McatOutput(NamedTuple):
    """What MCAT says of B patients.

    Attributes:
        hazards: `(B, K)` probability of dying in each interval, given that it was reached.
        survival: `(B, K)` probability of living beyond it.
        risk: `(B,)` minus the sum of `survival`.
        attention: `(B, G, M)` raw logits of the co-attention of groups to patches; a softmax over M gives the
            weights. Minus infinity at padding.
        path_pooling: `(B, G)` raw logits of the pooling over the slide's tokens.
        omic_pooling: `(B, G)` raw logits of the pooling over the groups.
    """

    hazards: Tensor
    survival: Tensor
    risk: Tensor
    attention: Tensor
    path_pooling: Tensor
    omic_pooling: Tensor


class CoAttention(nn.Module):
    """Single-head attention of groups to patches, which returns its logits.

    Parameters have the names and shapes of `nn.MultiheadAttention`, whose output it gives.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, patches: Tensor, padding: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Attends.

        Args:
            query: `(B, G, d)` groups.
            patches: `(B, M, d)`.
            padding: `(B, M)` bool, True where there is no patch.

        Returns:
            `(B, G, d)`, and the logits `(B, G, M)`.
        """
        wq, wk, wv = self.in_proj_weight.chunk(3)
        bq, bk, bv = self.in_proj_bias.chunk(3)
        q = F.linear(query, wq, bq) * query.shape[-1] ** -0.5
        logits = q @ F.linear(patches, wk, bk).transpose(1, 2)
        if padding is not None:
            logits = logits.masked_fill(padding[:, None], -torch.inf)
        return self.out_proj(logits.softmax(dim=-1) @ F.linear(patches, wv, bv)), logits


class GatedPooling(nn.Module):
    """Gated attention over tokens (Ilse et al. 2018): one logit a token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention_a = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Dropout(DROPOUT))
        self.attention_b = nn.Sequential(nn.Linear(width, width), nn.Sigmoid(), nn.Dropout(DROPOUT))
        self.attention_c = nn.Linear(width, 1)

    def forward(self, tokens: Tensor, missing: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Pools `(B, G, d)` to `(B, d)`; also the logits `(B, G)`, minus infinity where `missing`."""
        logits = self.attention_c(self.attention_a(tokens) * self.attention_b(tokens))[..., 0]
        if missing is not None:
            logits = logits.masked_fill(missing, -torch.inf)
        return (logits.softmax(dim=-1)[:, None] @ tokens)[:, 0], logits


class MCAT(nn.Module):
    """Multimodal co-attention transformer.

    Args:
        omic_sizes: number of genes in each of the G groups.
        patch_dim: width of a patch's embedding.
        intervals: number K of time intervals.
        fusion: how slide and genes are joined: `concat`, or `bilinear`.
        width: width d of all tokens; 256 is the published.
    """

    def __init__(
        self,
        omic_sizes: Sequence[int],
        *,
        patch_dim: int = 1024,
        intervals: int = 4,
        fusion: Fusion = "concat",
        width: int = 256,
    ) -> None:
        super().__init__()
        if not omic_sizes or min(omic_sizes) < 1:
            raise McatError(f"groups of {list(omic_sizes)} genes; expected at least one group, none empty")
        if fusion not in ("concat", "bilinear"):
            raise McatError(f"fusion {fusion!r}; expected concat or bilinear")
        self.omic_sizes = tuple(omic_sizes)
        self.wsi_net = nn.Sequential(nn.Linear(patch_dim, width), nn.ReLU(), nn.Dropout(DROPOUT))
        self.sig_networks = nn.ModuleList(_signature(size, width) for size in omic_sizes)
        self.coattn = CoAttention(width)
        self.path_transformer = _transformer(width)
        self.path_attention_head = GatedPooling(width)
        self.path_rho = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Dropout(DROPOUT))
        self.omic_transformer = _transformer(width)
        self.omic_attention_head = GatedPooling(width)
        self.omic_rho = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Dropout(DROPOUT))
        self.mm = ConcatFusion(width) if fusion == "concat" else BilinearFusion(width, dropout=DROPOUT)
        self.classifier = nn.Linear(width, intervals)

    def forward(
        self,
        patches: Tensor,
        omics: Sequence[Tensor],
        *,
        padding: Tensor | None = None,
        missing: Tensor | None = None,
        no_slide: Tensor | None = None,
    ) -> McatOutput:
        """Hazards of B patients.

        A side that a patient lacks as a whole says nothing: its vector is 0 before the fusion. Without any
        group, the groups' values in `omics`, which should then be those of the average patient (0 after
        scaling), still ask the slide.

        Args:
            patches: `(B, M, patch_dim)` embeddings, padded to the longest bag.
            omics: G tensors `(B, size)`.
            padding: `(B, M)` bool, True where a bag has no patch; None where all are full.
            missing: `(B, G)` bool, True where a patient lacks a group; None where nobody does.
            no_slide: `(B,)` bool, True where a patient has no slide; its one patch, of any value, is ignored.
                None asks of every patient both a slide and a group.

        Raises:
            McatError: shapes that do not fit, an empty bag, a patient without any group where `no_slide` is
                None, or one with neither.
        """
        self._check(patches, omics, padding, missing, no_slide)
        no_genes = None
        if no_slide is not None and missing is not None:
            no_genes = missing.all(dim=1)
            missing = missing & ~no_genes[:, None]
        bag = self.wsi_net(patches)
        groups = torch.stack([net(x) for net, x in zip(self.sig_networks, omics, strict=True)], dim=1)
        attended, logits = self.coattn(groups, bag, padding)
        path, path_logits = self._pool(
            attended, missing, self.path_transformer, self.path_attention_head, self.path_rho
        )
        omic, omic_logits = self._pool(
            groups, missing, self.omic_transformer, self.omic_attention_head, self.omic_rho
        )
        if no_slide is not None:
            path = path.masked_fill(no_slide[:, None], 0.0)
        if no_genes is not None:
            omic = omic.masked_fill(no_genes[:, None], 0.0)
        hazards = hazards_of(self.classifier(self.mm(path, omic)))
        return McatOutput(hazards, survival_of(hazards), risk_of(hazards), logits, path_logits, omic_logits)

    @staticmethod
    def _pool(
        tokens: Tensor, missing: Tensor | None, transformer: nn.Module, head: GatedPooling, rho: nn.Module
    ) -> tuple[Tensor, Tensor]:
        tokens = transformer(tokens, src_key_padding_mask=missing)
        pooled, logits = head(tokens, missing)
        return rho(pooled), logits

    def _check(
        self,
        patches: Tensor,
        omics: Sequence[Tensor],
        padding: Tensor | None,
        missing: Tensor | None,
        no_slide: Tensor | None,
    ) -> None:
        sizes = tuple(x.shape[-1] for x in omics)
        if sizes != self.omic_sizes:
            raise McatError(f"groups of {list(sizes)} genes; the network has {list(self.omic_sizes)}")
        dim = self.wsi_net[0].in_features
        if patches.ndim != 3 or patches.shape[-1] != dim or not patches.shape[1]:
            raise McatError(f"patches {tuple(patches.shape)}; expected (B, M, {dim}) with at least one patch")
        lacks = {"no patch": padding, "no group of genes": missing}
        if no_slide is not None and missing is not None:
            lacks["no group of genes"] = missing & no_slide[:, None]
        for what, mask in lacks.items():
            if mask is not None and mask.all(dim=1).any():
                row = int(mask.all(dim=1).nonzero()[0])
                raise McatError(f"patient number {row} of the batch has {what}; leave it out")


def _signature(size: int, width: int) -> nn.Sequential:
    """Two blocks of a self-normalising network (Klambauer et al. 2017)."""
    return nn.Sequential(
        *(
            nn.Sequential(nn.Linear(inputs, width), nn.ELU(), nn.AlphaDropout(DROPOUT))
            for inputs in (size, width)
        )
    )


def _transformer(width: int) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(
        width, nhead=8, dim_feedforward=512, dropout=DROPOUT, activation="relu", batch_first=True
    )
    return nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)
