"""How many floating-point operations training takes, from the configuration alone.

Counted are matrix products, convolutions and attention's two products, at 2 FLOP per multiply-add, as
`torch.utils.flop_counter` counts them; norms, activations, softmax and gathers are left out (under 1 %).
A product's backward pass is two products (gradients of its input and of its weight), or one where the input
needs no gradient, as the pixels'. The FLOP of the mathematics ("model FLOP") are what MFU divides by the
peak; what is run twice to save memory, and padding, are work for the hardware but no progress, and are
reported apart.
"""

import functools
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn

from past_core.models.cell_encoder import CellEncoderConfig
from past_core.models.dual_encoder import DualEncoderConfig
from past_core.models.image_encoder import ImageEncoder, ImageEncoderConfig
from past_core.models.lengths import plan_chunks

NEIGHBORS = 8
"""Neighbours that ingestion stores for each cell."""


@dataclass(frozen=True)
class Flops:
    """FLOP of a forward pass and of its backward pass, recomputation not included."""

    forward: float = 0.0
    backward: float = 0.0

    @property
    def training(self) -> float:
        """Forward and backward."""
        return self.forward + self.backward

    def __add__(self, other: "Flops") -> "Flops":
        return Flops(self.forward + other.forward, self.backward + other.backward)

    def __mul__(self, times: float) -> "Flops":
        return Flops(self.forward * times, self.backward * times)

    __rmul__ = __mul__


def product(rows: float, inner: float, columns: float, *, input_gradient: bool = True) -> Flops:
    """A matrix product (rows, inner) x (inner, columns)."""
    forward = 2.0 * rows * inner * columns
    return Flops(forward, (2.0 if input_gradient else 1.0) * forward)


def attention(queries: float, keys: float, width: float) -> Flops:
    """Scores and weighted sum of all heads together; the flash kernels' own recomputation is left out."""
    return product(queries, width, keys) + product(queries, keys, width)


# --- image ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class VitShape:
    """What decides the cost of a plain vision transformer."""

    tokens: int
    """Patches, class token and registers."""
    patches: int
    patch_size: int
    width: int
    depth: int
    heads: int
    hidden: int
    """Channels of the feed-forward."""
    layer_scale: bool = False
    """Whether each branch is scaled by a learned vector; it costs memory, no FLOP that is counted."""


def vit_flops(shape: VitShape) -> Flops:
    """One image through a plain vision transformer without classifier (ViT-L/16 at 224 px: 123.1 GFLOP)."""
    embed = product(shape.patches, 3 * shape.patch_size**2, shape.width, input_gradient=False)
    return embed + shape.depth * vit_block_flops(shape)


def vit_block_flops(shape: VitShape) -> Flops:
    """One block of it."""
    T, D = shape.tokens, shape.width
    linear = (
        product(T, D, 3 * D) + product(T, D, D) + product(T, D, shape.hidden) + product(T, shape.hidden, D)
    )
    return linear + attention(T, T, D)


def vit_shape(config: ImageEncoderConfig) -> VitShape | None:
    """The shape behind a timm name and its options; None where the formula does not describe the model."""
    from timm.models.vision_transformer import Block, VisionTransformer

    model = meta_image_encoder(config).model
    if type(model) is not VisionTransformer or model.attn_pool is not None:
        return None
    blocks = list(model.blocks)
    embed = model.patch_embed
    plain = all(type(block) is Block for block in blocks) and type(embed.proj) is nn.Conv2d
    if not plain or not isinstance(blocks[0].mlp.fc1, nn.Linear):
        return None
    patches = int(np.prod(embed.grid_size))
    return VitShape(
        tokens=patches + model.num_prefix_tokens,
        patches=patches,
        patch_size=embed.patch_size[0],
        width=model.embed_dim,
        depth=len(blocks),
        heads=blocks[0].attn.num_heads,
        hidden=blocks[0].mlp.fc1.out_features,
        layer_scale=not isinstance(blocks[0].ls1, nn.Identity),
    )


def meta_image_encoder(config: ImageEncoderConfig) -> ImageEncoder:
    """The encoder without memory for its weights; one and the same for equal configurations."""
    return _meta_image_encoder(_key(config))


@functools.lru_cache(maxsize=8)
def _meta_image_encoder(key: str) -> ImageEncoder:
    with torch.device("meta"):
        return ImageEncoder(
            replace(ImageEncoderConfig(**json.loads(key)), weights=None, position_init="timm")
        )


def _key(config: ImageEncoderConfig) -> str:
    # A configuration holds a dict of timm's options, which cannot be hashed.
    return json.dumps(asdict(config), sort_keys=True)


def image_flops(config: ImageEncoderConfig) -> Flops:
    """One patch through the image encoder: by formula for a ViT, else by torch's counter without data."""
    return _image_flops(_key(config))


@functools.lru_cache(maxsize=32)
def _image_flops(key: str) -> Flops:
    config = ImageEncoderConfig(**json.loads(key))
    shape = vit_shape(config)
    if shape is not None:
        return vit_flops(shape)
    model = meta_image_encoder(config).eval()  # a batch of one has no batch statistics
    size = config.image_size
    return counted(lambda: model(torch.empty(1, 3, size, size, device="meta")))


def counted(forward: Callable[[], torch.Tensor]) -> Flops:
    """FLOP of `forward` and of its backward pass, by torch's counter."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        output = forward()
    first = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        output.sum().backward()
    return Flops(float(first), float(counter.get_total_flops()))


# --- cell -------------------------------------------------------------------------------------------------


def transformer_layer_flops(config: CellEncoderConfig, lengths: ArrayLike) -> Flops:
    """One layer of the cell transformer over sequences of these numbers of tokens, together."""
    lengths = np.asarray(lengths, np.float64)
    tokens, squares, d = float(lengths.sum()), float(np.square(lengths).sum()), config.width
    linear = product(tokens, d, 4 * d) + product(tokens, d, 2 * config.feedforward)
    return linear + product(squares, d, 2)


def transform_flops(config: CellEncoderConfig, lengths: ArrayLike) -> Flops:
    """The cell transformer over sequences of these numbers of tokens.

    Args:
        config: the cell encoder.
        lengths: tokens of each sequence, context included: the cells' own for the mathematics, the padded
            ones for what the hardware does.
    """
    return config.depth * transformer_layer_flops(config, lengths)


def encoder_lengths(config: CellEncoderConfig, lengths: ArrayLike) -> np.ndarray:
    """Tokens that the transformer needs of sequences of these numbers of tokens.

    What is longer than its positions is cut; where all positions are pooled, padding is part of the model.
    """
    lengths = np.asarray(lengths)
    return (
        np.full_like(lengths, config.positions)
        if config.pool == "positions"
        else lengths.clip(max=config.positions)
    )


def graph_size(config: CellEncoderConfig, cells: int, neighbors: int) -> tuple[int, int]:
    """Nodes and edges (loops included) of the graphs of `cells` centres."""
    size = 1 + neighbors
    return cells * size, cells * (size**2 if config.graph_edges == "complete" else size + 2 * neighbors)


def graph_flops(config: CellEncoderConfig, cells: int, *, neighbors: int = NEIGHBORS) -> Flops:
    """The GAT layers over the neighbourhoods of `cells` centres."""
    nodes, edges = graph_size(config, cells, neighbors)
    ids = config.graph_input == "token_ids"
    total, before = Flops(), config.max_genes if ids else config.width
    for layer, after in enumerate(config.graph_outputs):
        total += product(nodes, before, after, input_gradient=layer > 0 or not ids)
        if config.graph_distances:
            total += product(edges, 1, after, input_gradient=False)
        before = after
    return total


def fusion_flops(config: CellEncoderConfig, cells: int) -> Flops:
    """Attention of each cell over itself and its neighbourhood."""
    if not config.graph_layers or config.fusion != "attention":
        return Flops()
    d = config.width
    # The query is projected once, two keys and two values, and the output.
    return cells * (product(1 + 2 + 2 + 1, d, d) + attention(1, 2, d))


# --- both -------------------------------------------------------------------------------------------------


def head_flops(width: int, dim: int, cells: int) -> Flops:
    """One projection head."""
    return product(cells, width, dim) + product(cells, dim, dim)


def loss_flops(cells: int, dim: int) -> Flops:
    """Logits and both self-similarities of a whole batch; every rank computes all of it."""
    return 3 * product(cells, dim, cells)


def step_flops(
    config: DualEncoderConfig,
    lengths: ArrayLike,
    *,
    neighbors: int = NEIGHBORS,
    ranks: int = 1,
) -> dict[str, Flops]:
    """One rank's training step by component; `sum_flops` adds them up.

    Args:
        config: the model.
        lengths: (B,) tokens of the rank's centres, context included.
        neighbors: neighbours of each cell.
        ranks: processes that share the loss.
    """
    cells = len(np.atleast_1d(lengths))
    dim = config.projection_dim
    return {
        "image encoder": cells * image_flops(config.image),
        "cell transformer": transform_flops(config.cell, encoder_lengths(config.cell, lengths)),
        "graph": graph_flops(config.cell, cells, neighbors=neighbors),
        "fusion": fusion_flops(config.cell, cells),
        "projection heads": head_flops(image_width(config.image), dim, cells)
        + head_flops(config.cell.width, dim, cells),
        "loss": loss_flops(cells * ranks, dim),
    }


def extra_flops(
    config: DualEncoderConfig,
    lengths: ArrayLike,
    *,
    microbatch: int | None = None,
    checkpointing: bool = False,
) -> dict[str, float]:
    """What a rank's step runs beyond the mathematics: `padding`, and `recomputation` to save memory.

    Args:
        config: the model.
        lengths: (B,) tokens of the rank's centres.
        microbatch: as `DualEncoder.microbatch`: both encoders run forward twice.
        checkpointing: as `DualEncoder.activation_checkpointing`: their layers run forward once more, but for
            a layer's last product if nothing after it needs keeping.
    """
    lengths = encoder_lengths(config.cell, lengths)
    cells = len(lengths)
    chunks = plan_chunks(lengths, most=microbatch).chunks
    padded = np.concatenate([np.full(chunk.stop - chunk.start, chunk.width) for chunk in chunks])
    transform = transform_flops(config.cell, padded)
    again = 0.0
    if microbatch is not None and microbatch < cells:
        again += cells * image_flops(config.image).forward + transform.forward
    if checkpointing:
        last = product(float(padded.sum()), config.cell.feedforward, config.cell.width).forward
        layer = transformer_layer_flops(config.cell, padded).forward
        again += config.cell.depth * (layer - (last if config.cell.norm_first else 0.0))
        again += cells * _checkpointed_image_flops(config.image)
    return {
        "padding": transform.training - transform_flops(config.cell, lengths).training,
        "recomputation": again,
    }


def _checkpointed_image_flops(config: ImageEncoderConfig) -> float:
    shape = vit_shape(config)
    if shape is None:
        return image_flops(config).forward
    # Layer scale keeps the last product's outcome, which is then computed again too.
    last = 0.0 if shape.layer_scale else product(shape.tokens, shape.hidden, shape.width).forward
    return shape.depth * (vit_block_flops(shape).forward - last)


def sum_flops(parts: dict[str, Flops]) -> Flops:
    """All components together."""
    return functools.reduce(Flops.__add__, parts.values(), Flops())


def image_width(config: ImageEncoderConfig) -> int:
    """Channels of the image encoder's output."""
    return meta_image_encoder(config).dim
