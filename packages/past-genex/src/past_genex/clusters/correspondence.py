"""Which predicted cluster is which measured one: PCC_cluster over the union of their markers."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

LEAST_GENES = 3
"""A correlation over fewer genes says nothing."""


@dataclass(frozen=True)
class Correspondence:
    """How R measured and C predicted clusters correspond.

    Attributes:
        pcc: `(R, C)` correlation of mean expression over the union of both clusters' markers; NaN where
            undefined (fewer than 3 genes, or a profile that is constant over them).
        genes: `(R, C)` int64, number of genes in that union.
        overlap: `(R, C)` int64, cells that are in both.
    """

    pcc: np.ndarray
    genes: np.ndarray
    overlap: np.ndarray

    @property
    def best(self) -> np.ndarray:
        """`(C,)` measured cluster of the highest PCC for each predicted one; -1 where none is defined."""
        filled = np.where(np.isnan(self.pcc), -np.inf, self.pcc)
        return np.where(np.isfinite(filled).any(axis=0), filled.argmax(axis=0), -1)

    def table(self) -> pd.DataFrame:
        """All pairs with pcc, genes, cells in both, and rank (1 = best match of the predicted cluster)."""
        rows, columns = self.pcc.shape
        measured, predicted = np.divmod(np.arange(rows * columns), columns)
        table = pd.DataFrame(
            {
                "predicted": predicted,
                "measured": measured,
                "pcc": self.pcc.ravel(),
                "genes": self.genes.ravel(),
                "cells_in_both": self.overlap.ravel(),
            }
        )
        table["rank"] = table.groupby("predicted")["pcc"].rank(ascending=False, method="first")
        table["rank"] = table["rank"].astype("Int64")  # undefined pairs have none
        return table.sort_values(["predicted", "rank", "measured"], ignore_index=True)


def cluster_means(expression: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """`(K, G)` float64 mean expression of clusters 0..K-1, none of them empty."""
    sums = np.zeros((int(labels.max()) + 1, expression.shape[1]))
    np.add.at(sums, labels, expression)
    return sums / np.bincount(labels)[:, None]


def correspond(
    measured_means: np.ndarray,
    predicted_means: np.ndarray,
    measured_markers: list[np.ndarray],
    predicted_markers: list[np.ndarray],
    overlap: np.ndarray,
) -> Correspondence:
    """PCC_cluster of all pairs.

    Args:
        measured_means: `(R, G)` mean expression.
        predicted_means: `(C, G)`, over the same genes.
        measured_markers: for each measured cluster the columns of its markers.
        predicted_markers: for each predicted one.
        overlap: `(R, C)` cells in both.
    """
    shape = len(measured_means), len(predicted_means)
    pcc, genes = np.full(shape, np.nan), np.zeros(shape, np.int64)
    for i in range(shape[0]):
        for j in range(shape[1]):
            union = np.union1d(measured_markers[i], predicted_markers[j]).astype(np.int64)
            genes[i, j] = len(union)
            pcc[i, j] = _pearson(measured_means[i, union], predicted_means[j, union])
    return Correspondence(pcc, genes, overlap)


def _pearson(a: np.ndarray, b: np.ndarray) -> float:
    if len(a) < LEAST_GENES:
        return np.nan
    x, y = a - a.mean(), b - b.mean()
    if min(np.abs(x).max(), np.abs(y).max()) <= 1e-9 * max(np.abs(a).max(), np.abs(b).max()):
        return np.nan
    return float(np.clip(x @ y / np.sqrt((x @ x) * (y @ y)), -1, 1))


def overlap_counts(rows: np.ndarray, columns: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """`(R, C)` int64 number of cells by two numberings of them."""
    counts = np.zeros(shape, np.int64)
    np.add.at(counts, (rows, columns), 1)
    return counts
