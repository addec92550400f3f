"""Spatial groups of cells by k-d bisection."""

import numpy as np


def kd_groups(points: np.ndarray, size: int) -> list[np.ndarray]:
    """Splits points into spatially compact groups of `size` by bisecting the longer side in turn.

    Every split falls on a multiple of `size`, so all groups are full but at most one.

    Args:
        points: `(N, 2)` coordinates, any unit.
        size: points in a group; 1 gives every point a group of its own.

    Returns:
        Index arrays that partition `range(N)`, each of at most `size`, in spatial order.

    Raises:
        ValueError: `size` is below 1.
    """
    if size < 1:
        raise ValueError(f"group size must be at least 1, got {size}")
    if size == 1:
        return list(np.arange(len(points))[:, None])
    groups: list[np.ndarray] = []
    stack = [np.arange(len(points))]
    while stack:
        index = stack.pop()
        if len(index) <= size:
            if len(index):
                groups.append(index)
            continue
        part = points[index]
        axis = int(np.argmax(np.ptp(part, axis=0)))
        order = index[np.argsort(part[:, axis], kind="stable")]
        cut = -(-len(index) // size) // 2 * size
        stack += [order[cut:], order[:cut]]
    return groups
