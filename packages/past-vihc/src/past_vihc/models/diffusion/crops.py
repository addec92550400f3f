"""Parts of tiles to train on."""

import torch
from torch import Tensor


def random_crops(he: Tensor, ihc: Tensor, *, size: int | None) -> tuple[Tensor, Tensor]:
    """The same square of both images, drawn for each tile from torch's own generator.

    Args:
        he: `(B, 3, S, S)`.
        ihc: `(B, 3, S, S)`.
        size: side in pixels, at most S; None or S is the whole tile.

    Returns:
        Both as `(B, 3, size, size)`.
    """
    whole = he.shape[-1]
    if size is None or size == whole:
        return he, ihc
    corners = torch.randint(whole - size + 1, (len(he), 2)).tolist()
    both = torch.cat([he, ihc], dim=1)
    parts = [tile[:, y : y + size, x : x + size] for tile, (y, x) in zip(both, corners, strict=True)]
    he, ihc = torch.stack(parts).chunk(2, dim=1)
    return he, ihc
