"""How much memory of its device a training step takes, from the configuration alone.

The terms are what autograd keeps for the backward pass, layer by layer, as the networks are written: under
mixed precision the residual stream and the norms stay in float32, products and attention in 16 bits.
Attention goes through `scaled_dot_product_attention`, so that no T x T matrix is kept. Compiled layers keep
less.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import ArrayLike

from past_core.models.cell_encoder import CellEncoderConfig
from past_core.models.dual_encoder import DualEncoder, DualEncoderConfig
from past_core.models.image_encoder import ImageEncoderConfig
from past_core.models.lengths import plan_chunks
from past_core.planning.flops import (
    NEIGHBORS,
    VitShape,
    encoder_lengths,
    graph_size,
    image_width,
    meta_image_encoder,
    vit_shape,
)

LIBRARIES_GIB = 1.5
"""Assumed for the device's context, the libraries' workspaces and the exchange between ranks."""


@dataclass(frozen=True)
class Width:
    """Bytes of a number: weights, the residual stream and norms, and inside layers."""

    weights: int
    stream: int
    inside: int

    @classmethod
    def of(cls, precision: str) -> "Width":
        """The widths of a trainer's precision ("bf16-mixed", "bf16-true", "32-true", ...)."""
        if precision.startswith("64"):
            return cls(8, 8, 8)
        if precision in ("bf16-true", "16-true"):
            return cls(2, 2, 2)
        return cls(4, 4, 2) if precision in ("bf16-mixed", "16-mixed", "bf16", "16") else cls(4, 4, 4)


# --- activations ------------------------------------------------------------------------------------------


def vit_block_bytes(shape: VitShape, width: Width) -> float:
    """What one block keeps of one image."""
    T, D = shape.tokens, shape.width
    stream = 2 * T * D * width.stream  # inputs of both norms
    # Outputs of both norms, query, key and value, attention's output; feed-forward before and after its GELU.
    inside = (6 * T * D + 2 * T * shape.hidden + 2 * T * D * shape.layer_scale) * width.inside
    statistics = 4 * T * (4 + shape.heads)  # mean and deviation of both norms, log-sum-exp of each head
    return stream + inside + statistics


def vit_bytes(shape: VitShape, width: Width, *, checkpointing: bool = False) -> float:
    """What a ViT keeps of one image; with `checkpointing` at the moment when one block is recomputed."""
    block = vit_block_bytes(shape, width)
    kept = shape.tokens * shape.width * width.stream
    pixels = 3 * shape.patches * shape.patch_size**2 * width.inside
    last = kept + 8 * shape.tokens
    return pixels + last + (shape.depth * kept + block if checkpointing else shape.depth * block)


def image_bytes(config: ImageEncoderConfig, precision: str, *, checkpointing: bool = False) -> float:
    """What the image encoder keeps of one patch; models that are no plain ViT are traced without data."""
    width = Width.of(precision)
    shape = vit_shape(config)
    if shape is not None:
        return vit_bytes(shape, width, checkpointing=checkpointing)
    return _traced_bytes(config) * width.inside / 4


def _traced_bytes(config: ImageEncoderConfig, *, images: int = 2) -> float:
    model = meta_image_encoder(config).train()
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(torch.empty(images, 3, config.image_size, config.image_size, device="meta"))
    total = sum(t.untyped_storage().nbytes() for key, t in kept.items() if key not in weights)
    del output  # held until here, so that no storage was freed and its place given to another
    return total / images


def transformer_layer_bytes(config: CellEncoderConfig, tokens: float, width: Width) -> float:
    """What one layer of the cell transformer keeps of so many tokens, padding included."""
    d, hidden = config.width, config.feedforward * (2 if config.activation == "gelu" else 1)
    inside = (6 * d + hidden) * width.inside
    return tokens * (2 * d * width.stream + inside + 4 * (4 + config.heads))


def transform_bytes(
    config: CellEncoderConfig, lengths: ArrayLike, precision: str, *, checkpointing: bool = False
) -> float:
    """What the cell transformer keeps of sequences of these numbers of tokens.

    Args:
        config: the cell encoder.
        lengths: tokens of each sequence; they run in the chunks that `CellEncoder.transform` makes on a CPU
            (on a GPU in half precision there is no padding at all, in float32 there are fewer chunks, which
            pad more; lengths that are all alike make one everywhere).
        precision: of the trainer.
        checkpointing: keep the layers' inputs, and all of one layer of the largest chunk.
    """
    width = Width.of(precision)
    plan = plan_chunks(encoder_lengths(config, lengths))
    tokens = plan.tokens
    kept = tokens * config.width * width.stream
    ends = 16 * tokens + (kept if config.norm_first else 0)  # token ids, masks; the last norm
    if not checkpointing:
        return ends + config.depth * transformer_layer_bytes(config, tokens, width)
    largest = max((chunk.stop - chunk.start) * chunk.width for chunk in plan.chunks)
    return ends + config.depth * kept + transformer_layer_bytes(config, largest, width)


def graph_bytes(
    config: CellEncoderConfig, cells: int, precision: str, *, neighbors: int = NEIGHBORS
) -> float:
    """What GAT layers and fusion keep of `cells` centres."""
    if not config.graph_layers:
        return 0.0
    width, d = Width.of(precision), config.width
    nodes, edges = graph_size(config, cells, neighbors)
    features = 2 if config.graph_distances else 1  # messages, and the edges' features
    total = cells * d * 10 * width.stream  # the fusion
    for layer, channels in enumerate(config.graph_outputs):
        total += (features * edges + 2 * nodes) * channels * width.inside
        total += edges * (16 * config.graph_heads + 24)
        if layer:
            total += nodes * channels * (width.stream + width.inside)
    return total


def head_bytes(config: DualEncoderConfig, cells: int) -> float:
    """What both projection heads keep of so many cells."""
    return cells * 4 * (image_width(config.image) + config.cell.width + 12 * config.projection_dim)


def loss_bytes(cells: int) -> float:
    """Matrices of all cells against all: five are kept, as many again come and go in the backward pass."""
    return 10 * 4.0 * cells**2


def activation_bytes(
    config: DualEncoderConfig,
    lengths: ArrayLike,
    precision: str,
    *,
    neighbors: int = NEIGHBORS,
    microbatch: int | None = None,
    checkpointing: bool = False,
) -> float:
    """What both sides keep at most, the loss left out.

    Args:
        config: the model.
        lengths: (B,) tokens of the rank's centres.
        precision: of the trainer.
        neighbors: neighbours of each cell.
        microbatch: as `DualEncoder.microbatch`: both encoders hold one chunk at a time, one after the other.
        checkpointing: as `DualEncoder.activation_checkpointing`.
    """
    lengths = np.sort(np.asarray(lengths))[::-1]
    cells = len(lengths)
    image = image_bytes(config.image, precision, checkpointing=checkpointing)
    always = graph_bytes(config.cell, cells, precision, neighbors=neighbors) + head_bytes(config, cells)
    held = lengths[:microbatch]  # the longest together, at worst
    cell = transform_bytes(config.cell, held, precision, checkpointing=checkpointing)
    if microbatch is None or microbatch >= cells:
        return cells * image + cell + always
    return max(microbatch * image, cell) + always


# --- all of it --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters."""

    image: int
    total: int
    matrices: int
    """Those that enter products, of which mixed precision makes 16-bit copies."""


def count_parameters(config: DualEncoderConfig) -> Parameters:
    """Counts the parameters of a model without memory for them."""
    image = replace(config.image, weights=None, position_init="timm")
    with torch.device("meta"):
        model = DualEncoder(replace(config, image=image))
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    tables = ("embeddings.weight", "positional_embedding.weight", "pos_embed")
    matrices = sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if parameter.ndim >= 2 and not name.endswith(tables)
    )
    in_image = sum(size for name, size in sizes.items() if name.startswith("image_encoder."))
    return Parameters(in_image, sum(sizes.values()), matrices)


def step_memory(
    config: DualEncoderConfig,
    lengths: ArrayLike,
    precision: str,
    *,
    neighbors: int = NEIGHBORS,
    ranks: int = 1,
    bucket_view: bool = False,
    microbatch: int | None = None,
    checkpointing: bool = False,
    parameters: Parameters | None = None,
) -> dict[str, float]:
    """Bytes of one rank's device at the fullest moment, by what they hold; their sum is the need.

    Args:
        config: the model.
        lengths: (B,) tokens of the rank's centres.
        precision: of the trainer.
        neighbors: neighbours of each cell.
        ranks: processes; several exchange gradients through buckets, a second copy of them.
        bucket_view: DDP's `gradient_as_bucket_view`: the buckets are the gradients, no copy.
        microbatch: as `DualEncoder.microbatch`.
        checkpointing: as `DualEncoder.activation_checkpointing`.
        parameters: their numbers, if counted before.
    """
    numbers = parameters or count_parameters(config)
    width = Width.of(precision)
    cells = len(np.asarray(lengths))
    weights = numbers.total * width.weights
    return {
        "weights": weights,
        "16-bit copies": 2.0 * numbers.matrices if width.inside < width.weights else 0.0,
        "gradients": weights * (2 if ranks > 1 and not bucket_view else 1),
        "optimiser": 2 * weights,
        "activations": activation_bytes(
            config,
            lengths,
            precision,
            neighbors=neighbors,
            microbatch=microbatch,
            checkpointing=checkpointing,
        ),
        "loss": loss_bytes(cells * ranks),
        # This batch's and the next one's in uint8, and this one's augmented in float32.
        "patches": 6.0 * cells * 3 * config.image.image_size**2,
        "libraries (assumed)": LIBRARIES_GIB * 2**30,
    }
