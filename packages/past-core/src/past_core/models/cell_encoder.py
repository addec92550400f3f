"""The transcriptome side: rank tokens of a cell and its spatial neighbourhood become one vector."""

from collections.abc import Iterable, Sequence
from contextlib import nullcontext

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from past_core.models.cell_config import CellEncoderConfig
from past_core.models.errors import ModelError
from past_core.models.graph import GraphEncoder, StarGraph, complete_graph, star_graph
from past_core.models.lengths import Chunk, equal_chunks, plan_chunks
from past_core.models.packed import HALF, Spans, can_pack, pack
from past_core.models.transformer import TransformerLayer
from past_core.vocabulary import CONTEXT_LENGTH, PAD

__all__ = ["CellEncoder", "CellEncoderConfig", "GraphEncoder", "StarGraph", "complete_graph", "star_graph"]


class CellEncoder(nn.Module):
    """Transformer over a cell's tokens, GAT over its neighbourhood, attention that fuses both.

    Tokens and learned positions make h0. The transformer runs for the centres only, and its output is
    averaged over gene tokens (neither context nor padding): f_trans. Every unique cell's h0 is averaged
    likewise, once, to the node feature of the GAT: f_graph. Fusion is multi-head attention with query
    f_trans, keys and values [f_trans, f_graph].

    Attributes:
        microbatch: how `DualEncoder.microbatch` reaches the transformer.
        activation_checkpointing: keep only the layers' inputs, and compute the rest again in backward.
    """

    def __init__(self, config: CellEncoderConfig) -> None:
        super().__init__()
        self.microbatch: int | None = None
        self.activation_checkpointing = False
        if not config.vocabulary_size:
            msg = "vocabulary_size is 0; set it to the vocabulary's size before building the network"
            raise ModelError(msg)
        if config.vocabulary_size <= PAD:
            msg = f"vocabulary_size is {config.vocabulary_size}; set it to the vocabulary's size first"
            raise ModelError(msg)
        self.config = config
        width = config.width
        rows = config.vocabulary_size + config.spare_tokens
        self.embeddings = nn.Embedding(rows, width, padding_idx=PAD)
        self.positional_embedding = nn.Embedding(config.positions, width)
        for table in (self.embeddings, self.positional_embedding):
            nn.init.normal_(table.weight, std=config.embedding_std)
        if config.pad_embedding == "zero":
            with torch.no_grad():
                self.embeddings.weight[PAD] = 0
        layers = [self._layer() for _ in range(config.depth)]
        self.layers = nn.ModuleList(layers)
        if config.initialization == "published":
            _initialize_as_published(layers)
        self.norm = nn.LayerNorm(width) if config.norm_first else nn.Identity()
        if config.dead_tensors:
            self.encoder_layer = self._layer().requires_grad_(False)
        if config.graph_layers:
            self._add_graph()

    def _layer(self) -> TransformerLayer:
        config = self.config
        return TransformerLayer(
            config.width,
            config.heads,
            config.feedforward,
            dropout=config.dropout,
            activation=config.activation,
            norm_first=config.norm_first,
        )

    def _add_graph(self) -> None:
        config, width = self.config, self.config.width
        self.graph_encoder = GraphEncoder(
            width if config.graph_input == "h0" else config.max_genes,
            config.graph_outputs,
            config.graph_heads,
            dropout=config.dropout,
            hidden_dropout=config.graph_hidden_dropout,
            distances=config.graph_distances,
            last_norm=config.graph_last_norm,
            dead_tensors=config.dead_tensors,
        )
        if config.fusion == "attention":
            self.fusion_layer = nn.MultiheadAttention(
                width, config.fusion_heads, dropout=config.dropout, batch_first=True
            )
            self.fusion_norm = nn.LayerNorm(width) if config.fusion_residual else None
            bias = config.fusion_bias
            self.register_buffer("fusion_bias", None if bias is None else torch.tensor([bias]))
        elif config.fusion == "weighted_add":
            self.fusion_alpha = nn.Parameter(torch.tensor(0.7))

    def forward(
        self,
        tokens: Tensor,
        centres: Tensor,
        neighbors: Tensor,
        distances: Tensor,
        lengths: np.ndarray | None = None,
    ) -> Tensor:
        """Features of the centre cells.

        Args:
            tokens: (U, T) int64 tokens of the batch's unique cells, padded with `PAD`, T <= 3 + max_genes.
                Cut them to the longest sequence of the batch (`tokens.trim_padding`).
            centres: (B,) int64, which unique cells are encoded.
            neighbors: (B, k) int64, unique cells around each, -1 where absent.
            distances: (B, k) distance to each in units of the slide's median neighbour distance.
            lengths: (B,) tokens of each centre, on the host; None where unknown.

        Returns:
            (B, width).

        Raises:
            ModelError: shapes that do not fit together, or sequences longer than the configuration's.
        """
        self._check(tokens, centres, neighbors, distances)
        cell = self.transform(tokens[centres], lengths)
        if not self.config.graph_layers:
            return cell
        join = star_graph if self.config.graph_edges == "star" else complete_graph
        graph = join(centres, neighbors, distances.to(self.embeddings.weight.dtype))
        ids = self.config.graph_input == "token_ids"
        # Half precision would round ids to multiples of 16 (float16) or 128 (bfloat16).
        with torch.autocast(tokens.device.type, enabled=False) if ids else nullcontext():
            features = self.node_features(tokens)[graph.nodes]
            around = self.graph_encoder(features, graph, len(centres))
        return self.fuse(cell, around)

    def transform(self, tokens: Tensor, lengths: np.ndarray | None = None) -> Tensor:
        """f_trans (B, width) of sequences (B, T): the transformer's mean over gene tokens.

        Padding costs next to nothing, and the result does not depend on it. On a GPU in half precision,
        unless the layers are compiled, the sequences run packed, without any (`pack`); elsewhere those of
        like length run together, each group cut to its longest (`plan_chunks`). A cell that occurs twice is
        encoded twice: in an epoch's order the centres of a batch are distinct.

        Args:
            tokens: sequences, padded with `PAD` at their ends.
            lengths: (B,) tokens of each, on the host. Without it they are counted on the CPU; on an
                accelerator, where reading them back would cost more than padding, all run at full width.

        Raises:
            ModelError: `lengths` are not those of the tokens (their values are compared on the CPU only).
        """
        tokens, lengths = self._sequences(tokens, lengths)
        if lengths is None:
            return self._run(tokens, equal_chunks(len(tokens), tokens.shape[1], most=self.microbatch))
        if len(tokens) and self._packs(tokens.device):
            return self._run_packed(tokens, lengths)
        plan = plan_chunks(lengths, most=self.microbatch, accelerator=tokens.device.type != "cpu")
        if plan.order is None:
            return self._run(tokens, plan.chunks)
        places = torch.from_numpy(np.stack([plan.order, np.argsort(plan.order)]))
        if tokens.is_cuda:
            places = places.pin_memory()  # or the copy would wait for all work before it
        order, back = places.to(tokens.device, non_blocking=True)
        return self._run(tokens[order], plan.chunks)[back]

    def _run(self, tokens: Tensor, chunks: Sequence[Chunk]) -> Tensor:
        """Encode chunk after chunk, in order; when training in several microbatches, keep no activations."""
        most = self.microbatch
        recompute = most is not None and len(tokens) > most and torch.is_grad_enabled()
        outputs = []
        for start, stop, width, padded in chunks:
            part = tokens[start:stop, :width]
            if recompute:
                outputs.append(checkpoint(self._encode, part, padded, use_reentrant=False))
            else:
                outputs.append(self._encode(part, padded))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _packs(self, device: torch.device) -> bool:
        """Whether sequences run packed; compiled layers take them padded, as they were compiled for."""
        first = self.layers[0]
        if first._compiled_call_impl is not None:
            return False
        assert isinstance(first, TransformerLayer)
        return can_pack(first.self_attn, device, training=self.training)

    def _run_packed(self, tokens: Tensor, lengths: np.ndarray) -> Tensor:
        """The same without padding, `microbatch` sequences at a time."""
        chunks = equal_chunks(len(tokens), tokens.shape[1], most=self.microbatch)
        recompute = len(chunks) > 1 and torch.is_grad_enabled()
        outputs = []
        for start, stop, _, _ in chunks:
            part = tokens[start:stop], lengths[start:stop]
            if recompute:
                outputs.append(checkpoint(self._encode_packed, *part, use_reentrant=False))
            else:
                outputs.append(self._encode_packed(*part))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)

    def _encode_packed(self, tokens: Tensor, lengths: np.ndarray) -> Tensor:
        """`_encode` of sequences whose lengths are known, packed."""
        packed = pack(tokens, lengths)
        hidden = self.embeddings(packed.tokens) + self.positional_embedding(packed.places)
        hidden = self._layers(hidden, packed.spans)
        hidden = hidden.float() if hidden.dtype in HALF else hidden  # a sum of hundreds
        genes = hidden.masked_fill((packed.places < CONTEXT_LENGTH)[:, None], 0)
        # Checking that the lengths add up would wait for the device.
        total = torch.segment_reduce(genes, "sum", lengths=packed.lengths, unsafe=True)
        return total / (packed.lengths - CONTEXT_LENGTH).clamp_min(1)[:, None]

    def _layers(self, hidden: Tensor, mask: Tensor | Spans | None) -> Tensor:
        for layer in self.layers:
            if self.activation_checkpointing and torch.is_grad_enabled():
                hidden = checkpoint(layer, hidden, mask, use_reentrant=False)
            else:
                hidden = layer(hidden, mask)
        return self.norm(hidden)

    def _encode(self, tokens: Tensor, padded: bool) -> Tensor:
        """The transformer and its mean; attention goes without a mask where no token is padding."""
        present = tokens != PAD
        mask = present[:, None, None] if padded else None
        hidden = self.embeddings(tokens) + self.positional_embedding.weight[: tokens.shape[1]]
        hidden = self._layers(hidden, mask)
        if self.config.pool == "positions":
            return hidden[:, CONTEXT_LENGTH:].mean(1)
        genes = present[:, CONTEXT_LENGTH:]
        total = hidden[:, CONTEXT_LENGTH:].masked_fill(~genes[..., None], 0).sum(1)
        return total / genes.sum(1, keepdim=True).clamp_min(1)

    def _sequences(self, tokens: Tensor, lengths: np.ndarray | None) -> tuple[Tensor, np.ndarray | None]:
        """What the transformer runs over, at most `max_tokens` of each, and how much of it is no padding."""
        most = self.config.positions
        on_host = tokens.device.type == "cpu"
        counted = (tokens != PAD).sum(1).numpy() if on_host else None
        if lengths is None and counted is not None:
            # The mean skips the context, but attention sees it: no sequence is shorter.
            lengths = counted.clip(CONTEXT_LENGTH)
        elif lengths is not None:
            lengths = np.asarray(lengths)
            if lengths.shape != (len(tokens),) or not (counted is None or np.array_equal(lengths, counted)):
                msg = f"lengths of shape {lengths.shape} are not those of the tokens, {tuple(tokens.shape)}"
                raise ModelError(msg)
        tokens = tokens[:, :most]
        if self.config.pool == "positions":
            # Padding counts, so there is none to leave out.
            return F.pad(tokens, (0, most - tokens.shape[1]), value=PAD), None
        return tokens, None if lengths is None else lengths.clip(max=most)

    def node_features(self, tokens: Tensor) -> Tensor:
        """Mean of h0 over gene tokens for every unique cell, (U, width); 0 for a cell without genes.

        With graph_input "token_ids", the ids themselves: (U, max_genes).
        """
        genes = tokens[:, CONTEXT_LENGTH:]
        if self.config.graph_input == "token_ids":
            missing = self.config.max_genes - genes.shape[1]
            return F.pad(genes, (0, missing), value=PAD).to(self.embeddings.weight.dtype)
        genes = genes[:, : self.config.positions - CONTEXT_LENGTH]
        # Bags sum as they gather: h0 of all unique cells, (U, T, width), never comes into being.
        identity = F.embedding_bag(genes, self.embeddings.weight, mode="mean", padding_idx=PAD)
        place = torch.arange(CONTEXT_LENGTH, CONTEXT_LENGTH + genes.shape[1], device=tokens.device)
        place = torch.where(genes != PAD, place, 0)  # position 0 is a context token's, free to mean padding
        return identity + F.embedding_bag(place, self.positional_embedding.weight, mode="mean", padding_idx=0)

    def fuse(self, cell: Tensor, graph: Tensor) -> Tensor:
        """f_trans and f_graph to one, all (B, width); the attention's query is f_trans, its keys are both."""
        if self.config.fusion != "attention":
            share = 0.6 if self.config.fusion == "add" else self.fusion_alpha.sigmoid()
            return share * cell + (1 - share) * graph
        pair = torch.stack([cell, graph], dim=1)
        fused, _ = self.fusion_layer(
            cell[:, None], pair, pair, attn_mask=self.fusion_bias, need_weights=False
        )
        return fused[:, 0] if self.fusion_norm is None else self.fusion_norm(fused[:, 0] + cell)

    def _check(self, tokens: Tensor, centres: Tensor, neighbors: Tensor, distances: Tensor) -> None:
        longest = self.config.longest_input
        if tokens.ndim != 2 or not CONTEXT_LENGTH <= tokens.shape[1] <= longest:
            msg = f"tokens have shape {tuple(tokens.shape)}; expected (U, {CONTEXT_LENGTH} to {longest})"
            raise ModelError(msg)
        if centres.ndim != 1 or neighbors.ndim != 2 or len(neighbors) != len(centres):
            msg = (
                f"centres {tuple(centres.shape)} and neighbors {tuple(neighbors.shape)} do not fit; "
                "expected (B,) and (B, k)"
            )
            raise ModelError(msg)
        if distances.shape != neighbors.shape:
            msg = f"distances {tuple(distances.shape)} and neighbors {tuple(neighbors.shape)} must be alike"
            raise ModelError(msg)


def _initialize_as_published(layers: Iterable[TransformerLayer]) -> None:
    """Xavier-normal weights and zero biases; but the attention's input is one draw, copied to all layers."""
    first, *others = layers
    for layer in (first, *others):
        for linear in (layer.self_attn.out_proj, layer.linear1, layer.linear2):
            nn.init.xavier_normal_(linear.weight)
            nn.init.zeros_(linear.bias)
    for layer in others:
        layer.self_attn.in_proj_weight.data.copy_(first.self_attn.in_proj_weight.data)
