"""Spatial autocorrelation by gene, and whether predictions recover it."""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from past_core.errors import PastError
from past_genex.metrics.pairs import CONSTANT

GENES_AT_A_TIME = 256


class SpatialError(PastError, ValueError):
    """Places or weights of which no autocorrelation can be computed."""


def spatial_weights(xy_um: np.ndarray, *, neighbours: int = 6) -> sparse.csr_matrix:
    """Row-normalised weights of every cell's k nearest neighbours, itself not among them.

    Args:
        xy_um: `(N, 2)` places.
        neighbours: k; six by default as in squidpy; N - 1 where there are fewer cells.

    Returns:
        `(N, N)`, rows of which sum to one.

    Raises:
        SpatialError: fewer than three cells, no neighbours asked for, or places that are not finite.
    """
    from sklearn.neighbors import NearestNeighbors

    xy_um = np.asarray(xy_um, np.float64)
    if len(xy_um) < 3 or neighbours < 1:
        raise SpatialError(
            f"{len(xy_um)} cells and {neighbours} neighbours; expected at least three cells, one neighbour"
        )
    if not np.isfinite(xy_um).all():
        raise SpatialError(f"{int((~np.isfinite(xy_um)).any(axis=1).sum())} cells have no place")
    # Without a query, scikit-learn leaves each cell itself out, also where cells coincide.
    model = NearestNeighbors(n_neighbors=min(neighbours, len(xy_um) - 1)).fit(xy_um)
    return row_normalised(model.kneighbors_graph(mode="connectivity"))


def row_normalised(weights: sparse.spmatrix) -> sparse.csr_matrix:
    """Weights of which each row sums to one; a cell without neighbours keeps an empty row.

    Raises:
        SpatialError: not square, or no weight at all.
    """
    weights = sparse.csr_matrix(weights, dtype=np.float64)
    if weights.shape[0] != weights.shape[1] or not weights.sum():
        raise SpatialError(
            f"weights of shape {weights.shape} with sum {weights.sum():g}; expected (N, N), not 0"
        )
    sums = np.asarray(weights.sum(axis=1)).ravel()
    return sparse.diags(np.divide(1.0, sums, out=np.zeros_like(sums), where=sums > 0)).tocsr() @ weights


def morans_i(values: np.ndarray, weights: sparse.csr_matrix) -> np.ndarray:
    """Moran's I by gene, N / sum(W) x z' W z / z' z for deviations z from the mean (Moran 1950).

    Args:
        values: `(N, G)`; a column of NaN is a gene that is not measured or not predicted.
        weights: `(N, N)`, see `spatial_weights`; used as they are.

    Returns:
        `(G,)`; NaN where the gene is constant, or NaN throughout.

    Raises:
        SpatialError: sizes that differ, or a gene with some values that are not finite.
    """
    n, genes = values.shape
    if weights.shape != (n, n):
        raise SpatialError(f"weights of shape {weights.shape} for {n} cells")
    out, total = np.full(genes, np.nan), weights.sum()
    for start in range(0, genes, GENES_AT_A_TIME):
        x = np.asarray(values[:, start : start + GENES_AT_A_TIME], np.float64)
        measured = ~np.isnan(x).all(axis=0)
        if not np.isfinite(x[:, measured]).all():
            bad = start + np.flatnonzero(measured & ~np.isfinite(x).all(axis=0))[0]
            raise SpatialError(f"gene {bad} (column) has values that are NaN or infinite in some cells")
        x = np.where(measured, x, 0.0)
        mean = x.mean(axis=0)
        z = x - mean
        zz = np.einsum("ng,ng->g", z, z)
        varies = zz > CONSTANT * (zz + n * mean**2)
        zwz = np.einsum("ng,ng->g", z, weights @ z)
        chunk = np.full(x.shape[1], np.nan)
        np.divide(n * zwz, total * zz, out=chunk, where=varies)
        out[start : start + GENES_AT_A_TIME] = chunk
    return out


@dataclass(frozen=True)
class AutocorrelationRecovery:
    """How the spatial autocorrelation of predictions compares with that of measurements.

    Predictions are smoother than measurements, which carry count noise that is independent between cells and
    lowers their Moran's I. A positive `difference` is therefore expected even of a perfect predictor; the
    correlation says whether the genes with structure are found.

    Attributes:
        correlation: Pearson's r over genes between both Moran's I; NaN for fewer than three genes, or where
            the truth's do not vary.
        difference: mean over genes of prediction minus truth; NaN without genes.
        genes: genes compared.
        no_truth: genes left out, for the measured Moran's I is undefined (constant or not measured).
        no_prediction: further genes left out, for that of the predictions is (constant or not predicted).
    """

    correlation: float
    difference: float
    genes: int
    no_truth: int
    no_prediction: int


def autocorrelation_recovery(truth: np.ndarray, predicted: np.ndarray) -> AutocorrelationRecovery:
    """Compares `(G,)` Moran's I of measurements with those of predictions, gene by gene."""
    from past_genex.metrics.pairs import PairMoments

    truth, predicted = np.asarray(truth, np.float64), np.asarray(predicted, np.float64)
    if truth.shape != predicted.shape or truth.ndim != 1:
        raise SpatialError(f"Moran's I of shapes {truth.shape} and {predicted.shape}; expected both (genes,)")
    known = ~np.isnan(truth)
    both = known & ~np.isnan(predicted)
    n = int(both.sum())
    r = PairMoments.of(predicted[both, None], truth[both, None]).r[0] if n >= 3 else np.nan
    return AutocorrelationRecovery(
        float(r),
        float((predicted - truth)[both].mean()) if n else float("nan"),
        n,
        int((~known).sum()),
        int((known & ~both).sum()),
    )
