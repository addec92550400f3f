"""The k nearest cells of each cell, in micrometres, and their graphs under squidpy's keys."""

from typing import Any

import numpy as np
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

CONNECTIVITIES = "spatial_connectivities"
DISTANCES = "spatial_distances"
PARAMETERS = "spatial_neighbors"

_KEY_BITS = 16


def spatial_order(points: np.ndarray) -> np.ndarray:
    """Order of points along a Morton (Z) curve over their bounding box.

    A k-d tree over points in such an order is built and queried about twice as fast as over shuffled ones,
    and rows of a table in this order have their neighbours nearby. Points in the same of 65,536 x 65,536
    squares keep their order.

    Args:
        points: (N, 2) coordinates in any unit.

    Returns:
        (N,) int64 permutation.
    """
    if len(points) == 0:
        return np.zeros(0, np.int64)
    low = points.min(axis=0)
    extent = max(float((points.max(axis=0) - low).max()), np.finfo(np.float64).tiny)
    cells = np.minimum((points - low) / extent * 2**_KEY_BITS, 2**_KEY_BITS - 1).astype(np.uint64)
    return np.argsort(_spread_bits(cells[:, 0]) | (_spread_bits(cells[:, 1]) << np.uint64(1)), kind="stable")


def _spread_bits(values: np.ndarray) -> np.ndarray:
    """Moves bit i of each 16-bit value to bit 2i."""
    for shift, mask in ((8, 0x00FF00FF), (4, 0x0F0F0F0F), (2, 0x33333333), (1, 0x55555555)):
        values = (values | (values << np.uint64(shift))) & np.uint64(mask)
    return values


def spatial_neighbors(
    points_um: np.ndarray, k: int = 8, *, workers: int = -1
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the k nearest other points of each point.

    A point is never its own neighbour; other points at the same place are, at distance 0. Neighbours at equal
    distance come in the order of their indices, except that which of several points tied at the k-th distance
    are kept is left to the tree.

    Args:
        points_um: (N, 2) float coordinates in um.
        k: Number of neighbours, at least 1.
        workers: Threads of the query; -1 takes all cores.

    Returns:
        indices (N, k) int64, nearest first, -1 where there are fewer than k other points;
        distances (N, k) float32 in um, inf where absent.

    Raises:
        ValueError: If k is below 1 or a coordinate is not finite.
    """
    points = np.ascontiguousarray(points_um, dtype=np.float64)
    if k < 1:
        raise ValueError(f"k must be at least 1, found {k}")
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise ValueError(f"points must be finite with shape (N, 2), found shape {points.shape}")
    n = len(points)
    indices = np.full((n, k), -1, np.int64)
    distances = np.full((n, k), np.inf, np.float32)
    if n < 2:
        return indices, distances

    order = spatial_order(points)
    ordered = points[order]
    wanted = min(k + 1, n)
    found_distances, found = cKDTree(ordered, balanced_tree=False).query(ordered, k=wanted, workers=workers)

    # A point finds itself first, unless others lie at the same place: then it may stand anywhere in its
    # own row, or not be in it at all, and the farthest goes.
    odd = np.flatnonzero(found[:, 0] != np.arange(n))
    is_self = found[odd] == odd[:, None]
    drop = np.where(is_self.any(axis=1), is_self.argmax(axis=1), wanted - 1)
    keep = np.arange(wanted)[None, :] != drop[:, None]
    for values in (found, found_distances):
        values[odd, 1:] = values[odd][keep].reshape(-1, wanted - 1)
    found, found_distances = order[found[:, 1:]], found_distances[:, 1:]

    tied = np.flatnonzero((found_distances[:, 1:] == found_distances[:, :-1]).any(axis=1))
    if len(tied):
        rank = np.lexsort((found[tied], found_distances[tied]), axis=1)
        found[tied] = np.take_along_axis(found[tied], rank, axis=1)
    indices[order, : wanted - 1] = found
    distances[order, : wanted - 1] = found_distances
    return indices, distances


def set_neighbors(table: Any, *, mpp: float, k: int = 8) -> float:
    """Puts the neighbour graphs of the QC-passing cells into a table; to be called again when flags change.

    Each row of the graphs holds the k nearest QC-passing cells of that cell (a directed graph, as squidpy's
    own k-nearest-neighbour graph is); cells that failed have neither neighbours nor are they any.

    Args:
        table: AnnData with `obs["qc_pass"]` and `obsm["spatial"]` in pixels; gains
            `obsp["spatial_connectivities"]`, `obsp["spatial_distances"]` (um) and `uns["spatial_neighbors"]`.
        mpp: um per pixel of `obsm["spatial"]`.
        k: Number of neighbours.

    Returns:
        The median neighbour distance in um, nan where no cell has a neighbour.
    """
    rows = np.flatnonzero(table.obs["qc_pass"].to_numpy(bool))
    indices, distances = spatial_neighbors(np.asarray(table.obsm["spatial"])[rows] * mpp, k)
    present = indices >= 0
    per_row = np.zeros(table.n_obs, np.int64)
    per_row[rows] = present.sum(axis=1)
    indptr = np.concatenate([[0], np.cumsum(per_row)])
    columns = rows[indices[present]]
    shape = (table.n_obs, table.n_obs)
    # Distances of 0 (cells at one place) stay as explicit entries: both graphs share one structure.
    lengths = csr_matrix((distances[present].astype(np.float32), columns, indptr), shape=shape)
    links = csr_matrix((np.ones(len(columns), np.float32), columns.copy(), indptr.copy()), shape=shape)
    lengths.sort_indices()
    links.sort_indices()
    table.obsp[CONNECTIVITIES] = links
    table.obsp[DISTANCES] = lengths
    table.uns[PARAMETERS] = {
        "connectivities_key": CONNECTIVITIES,
        "distances_key": DISTANCES,
        "params": {"n_neighbors": k, "coord_type": "generic", "radius": None, "transform": None},
    }
    return float(np.median(distances[present])) if present.any() else float("nan")
