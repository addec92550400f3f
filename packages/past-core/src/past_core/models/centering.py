"""Projection heads centred on the first cells, so that the targets of the loss are sharp from the start."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from past_core.models.cosine import mean_cosine
from past_core.models.errors import ModelError

if TYPE_CHECKING:
    from past_core.models.dual_encoder import DualEncoder


class Centering(NamedTuple):
    """What centring the projection heads found: mean cosine between two different cells, per side."""

    cells: int
    image_cosine_before: float
    image_cosine_after: float
    cell_cosine_before: float
    cell_cosine_after: float


@torch.no_grad()
def center_projection_heads(model: "DualEncoder", batches: Iterable[Sequence[Any]]) -> Centering:
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
