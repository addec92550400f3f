"""Rows of a table in block order, so that the cells of one image block are one contiguous slice."""

import numpy as np

from past_core.ingest.neighbors import spatial_order

BLOCK_SIZE = 2048


def block_order(
    centroids: np.ndarray, image_size: tuple[int, int], *, block_size: int = BLOCK_SIZE
) -> tuple[np.ndarray, np.ndarray]:
    """Orders cells by image block, row-major, and along a Morton curve inside each block.

    Args:
        centroids: (N, 2) x, y in level-0 pixels.
        image_size: (height, width) in level-0 pixels; a cell outside the image goes to the nearest block.
        block_size: Side of a block in pixels.

    Returns:
        order (N,) int64, the permutation of rows; blocks (n_blocks, 4) int64 of [block_row, block_col, start,
        stop), only blocks that hold cells, in the order of the rows.
    """
    height, width = image_size
    block_column = np.clip(np.floor_divide(centroids[:, 0], block_size), 0, (width - 1) // block_size)
    block_row = np.clip(np.floor_divide(centroids[:, 1], block_size), 0, (height - 1) // block_size)
    columns = (width - 1) // block_size + 1
    block = (block_row * columns + block_column).astype(np.int64)
    along = np.empty(len(centroids), np.int64)
    along[spatial_order(centroids)] = np.arange(len(centroids))
    order = np.lexsort((along, block))
    numbers, starts = np.unique(block[order], return_index=True)
    stops = np.append(starts[1:], len(order))
    blocks = np.stack([numbers // columns, numbers % columns, starts, stops], axis=1)
    return order, blocks.astype(np.int64).reshape(-1, 4)
