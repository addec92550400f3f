"""What one training step of virtual staining gets."""

from typing import NamedTuple

from torch import Tensor


class StainBatch(NamedTuple):
    """B tiles of S × S pixels with their real stain."""

    he: Tensor
    """`(B, 3, S, S)` uint8 H&E."""
    ihc: Tensor
    """`(B, 3, S, S)` uint8 immunohistochemistry of the same place."""
    embedding: Tensor
    """`(B, d)`, or `(B, d, g, g)` at the nodes of the conditioning grid, float32; d is 0 without encoder."""
    stain: Tensor
    """`(B,)` int64 index into the data module's `stains`."""
    nuclei: Tensor
    """`(B, S, S)` int32 labels of nuclei, 1 to their number within the tile; 0 is background."""
    case: list[str]
    """Names of the B cases."""
    index: Tensor  # type: ignore[assignment]  # in place of tuple.index
    """`(B,)` int64 row of the data module's `tiles`."""
