"""Leiden clusters of expression: PCA, neighbours, communities; the same numbers for the same input."""

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from past_core.errors import PastError

RESOLUTIONS = (1e-3, 50.0)
"""Between these a resolution is sought that gives a wanted number of clusters."""
STEPS = 24
"""Halvings of that interval (on a log scale) at most."""


class ClusterError(PastError, ValueError):
    """Expression that cannot be clustered."""


@dataclass(frozen=True)
class Clustering:
    """Clusters of N cells.

    Attributes:
        labels: `(N,)` int64, 0 the largest cluster.
        resolution: of the Leiden run.
        components: principal components that it saw.
        neighbors: nearest neighbours of a cell in the graph.
    """

    labels: np.ndarray
    resolution: float
    components: int
    neighbors: int

    @property
    def n(self) -> int:
        """Number of clusters."""
        return int(self.labels.max()) + 1

    @property
    def sizes(self) -> np.ndarray:
        """`(n,)` cells of each cluster."""
        return np.bincount(self.labels)

    @property
    def names(self) -> list[str]:
        """The clusters' names: "0", "1", ..."""
        return [str(cluster) for cluster in range(self.n)]


def varying(expression: np.ndarray) -> np.ndarray:
    """`(G,)` bool, genes that are not the same in every cell."""
    return np.ptp(expression, axis=0) > 0


def leiden(
    expression: np.ndarray,
    *,
    resolution: float | None = None,
    clusters: int | None = None,
    components: int = 30,
    neighbors: int = 15,
    seed: int = 0,
    side: str = "expression",
) -> Clustering:
    """Leiden communities of the cells' neighbour graph (scanpy, igraph's implementation).

    Args:
        expression: `(N, G)` on a log scale; nothing is normalised here.
        resolution: of the communities; 1 where neither this nor `clusters` is given.
        clusters: number wanted; the resolution is found by bisection, the nearest number reached is kept.
        components: principal components at most.
        neighbors: nearest neighbours at most.
        seed: of PCA, graph and communities.
        side: what the expression is, for messages.

    Raises:
        ClusterError: too few cells or varying genes, values that are not finite, settings that make no sense.
    """
    expression = _checked(expression, side)
    if resolution is not None and clusters is not None:
        raise ClusterError("a resolution and a number of clusters are given; expected one of them")
    if resolution is not None and not (np.isfinite(resolution) and resolution > 0):
        raise ClusterError(f"resolution {resolution}; expected a positive number")
    n, genes = expression.shape
    if clusters is not None and not 2 <= clusters <= n // 2:
        raise ClusterError(f"{clusters} clusters wanted of {n} cells; expected 2 to {n // 2}")
    components = min(components, n - 1, genes - 1)
    neighbors = min(neighbors, n - 1)
    with _quiet():
        import anndata as ad
        import scanpy as sc

        table = ad.AnnData(expression)
        sc.pp.pca(table, n_comps=components, svd_solver="arpack", random_state=seed)
        sc.pp.neighbors(table, n_neighbors=neighbors, use_rep="X_pca", random_state=seed)

        def at(value: float) -> np.ndarray:
            sc.tl.leiden(
                table, resolution=value, flavor="igraph", n_iterations=2, directed=False, random_state=seed
            )
            return _by_size(table.obs["leiden"].cat.codes.to_numpy())

        if clusters is None:
            value = 1.0 if resolution is None else float(resolution)
            labels = at(value)
        else:
            value, labels = _bisect(at, clusters)
    return Clustering(labels, value, components, neighbors)


def _checked(expression: np.ndarray, side: str) -> np.ndarray:
    expression = np.asarray(expression)
    if expression.ndim != 2 or len(expression) < 4:
        raise ClusterError(f"{side}: shape {expression.shape}; expected (N, G) with at least 4 cells")
    if not np.isfinite(expression).all():
        cells, genes = np.nonzero(~np.isfinite(expression))
        raise ClusterError(
            f"{side}: NaN or infinity in {len(np.unique(cells))} cells and {len(np.unique(genes))} genes; "
            "leave genes out that were not measured or not predicted"
        )
    kept = varying(expression)
    if kept.sum() < 3:
        raise ClusterError(
            f"{side}: {expression.shape[1] - kept.sum()} of {expression.shape[1]} genes are the same in "
            f"every cell; clusters need at least 3 that vary"
        )
    return np.ascontiguousarray(expression[:, kept], np.float32)


def _by_size(codes: np.ndarray) -> np.ndarray:
    """Numbers clusters by falling size; equal ones by their first cell."""
    names, first, codes, sizes = np.unique(codes, return_index=True, return_inverse=True, return_counts=True)
    order = np.lexsort([first, -sizes])
    rank = np.empty(len(names), np.int64)
    rank[order] = np.arange(len(names))
    return rank[codes]


def _bisect(at: Callable[[float], np.ndarray], wanted: int) -> tuple[float, np.ndarray]:
    low, high = np.log(RESOLUTIONS)
    best: tuple[float, np.ndarray] | None = None
    middle = 0.0  # a resolution of 1 first
    for _ in range(STEPS):
        value = float(np.exp(middle))
        labels = at(value)
        found = labels.max() + 1
        if best is None or abs(found - wanted) < abs(best[1].max() + 1 - wanted):
            best = value, labels
        if found == wanted:
            break
        low, high = (middle, high) if found < wanted else (low, middle)
        middle = (low + high) / 2
    assert best is not None  # of the first step
    return best


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the dependencies' announcements, and with torch's threads as they were.

    Numba, on which the neighbour graph builds, sets OpenMP's threads for the whole process: with another
    number sums round differently, and what follows would not be equal to the bit.
    """
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        if torch:
            torch.set_num_threads(threads)
