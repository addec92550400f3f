"""A transformer layer that holds no T × T matrix, in training and inference alike."""

import torch.nn.functional as F
from torch import Tensor, nn

from past_core.models.packed import Spans, attend_spans


class TransformerLayer(nn.TransformerEncoderLayer):
    """torch's layer (parameters, names, initial values), attending through `scaled_dot_product_attention`.

    torch's own forward takes another path in inference, which writes attention out as (B, heads, T, T); this
    one has a single path, without transposes, and takes the mask as it is.

    Args:
        width: channels.
        heads: attention heads.
        feedforward: hidden channels.
        dropout: of attention, feed-forward and both residuals.
        activation: "relu" or "gelu".
        norm_first: normalise before, instead of after, attention and feed-forward.
    """

    def __init__(
        self, width: int, heads: int, feedforward: int, *, dropout: float, activation: str, norm_first: bool
    ) -> None:
        super().__init__(
            width,
            heads,
            feedforward,
            dropout=dropout,
            activation=activation,
            batch_first=True,
            norm_first=norm_first,
        )

    # Of torch's layer only the parameters and their names are kept: masks are given in another way.
    def forward(self, hidden: Tensor, mask: Tensor | Spans | None = None) -> Tensor:  # type: ignore[override]
        """(B, T, width) to the same, or packed sequences, (N, width).

        Args:
            hidden: sequences.
            mask: (B, 1, 1, T) bool, True where a token may be attended to; None where all may. Of packed
                sequences, their spans.
        """
        if self.norm_first:
            hidden = hidden + self.dropout1(self.attend(self.norm1(hidden), mask))
            return hidden + self._ff_block(self.norm2(hidden))
        hidden = self.norm1(hidden + self.dropout1(self.attend(hidden, mask)))
        return self.norm2(hidden + self._ff_block(hidden))

    def attend(self, hidden: Tensor, mask: Tensor | Spans | None) -> Tensor:
        """Multi-head self-attention, (B, T, width), or within packed sequences, (N, width)."""
        own = self.self_attn
        qkv = F.linear(hidden, own.in_proj_weight, own.in_proj_bias)
        heads = qkv.unflatten(-1, (3, own.num_heads, own.head_dim))
        if isinstance(mask, Spans):
            query, key, value = heads.unbind(1)
            return own.out_proj(attend_spans(query, key, value, mask).flatten(1))
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=own.dropout if self.training else 0.0
        )
        return own.out_proj(attended.transpose(1, 2).flatten(2))
