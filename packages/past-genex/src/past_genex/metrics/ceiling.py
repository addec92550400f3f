"""How high r can be: the share of a gene's variance that is not count noise.

Counts are Poisson around each cell's rate. Whatever predicts log1p of normalised counts can know the rate at
best, and then its best prediction is the conditional mean m = E[y | rate]; no function of the rate correlates
better with y. Its r is sqrt(Var(m) / Var(y)) = sqrt(1 - E[Var(y | rate)] / Var(y)), the square root of the
reliability.

The noise, E[Var(y | rate)], depends on the distribution of a gene's rates over cells. Splitting counts in
halves (binomial thinning: Neufeld et al., "Inference after latent variable estimation for single-cell RNA
sequencing data", Biostatistics 2022) gives independent measurements, but at half the depth, where log1p of a
small count is another scale; Spearman-Brown's correction holds for linear scales only. Here the distribution
of rates is estimated at full depth instead: the mixing distribution of maximum likelihood (Kiefer & Wolfowitz
1956), on a grid, by EM; the noise of each rate then follows from the Poisson distribution itself. On
simulated rates the mean over genes is within 0.01 of the truth; one gene with few counts may be off by 0.1
and more.

What counts as signal: all variation beyond Poisson, also what is technical (segmentation, diffusion,
efficiency by cell), which no image shows. The cell's total is taken as known. The ceiling is thus an upper
bound, not what morphology allows.
"""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from past_core.errors import PastError

MIN_DETECTED = 30
"""Cells with a count below which a gene's distribution of rates cannot be told from a constant."""

GRID = 48
ITERATIONS = 300
NORMAL_ABOVE = 60.0


class CeilingError(PastError, ValueError):
    """Counts of which no ceiling can be computed."""


@dataclass(frozen=True)
class Ceiling:
    """Highest r of a noiseless predictor by gene.

    Attributes:
        r: `(G,)` in 0..1, NaN where it cannot be said.
        reason: `(G,)` str, why r is NaN; empty where it is not.
    """

    r: np.ndarray
    reason: np.ndarray


def noise_ceiling(
    counts: sparse.csr_matrix,
    totals: np.ndarray,
    *,
    scale: float | None,
    exposures: int = 12,
    min_detected: int = MIN_DETECTED,
) -> Ceiling:
    """The ceiling of r within one slide, for the target log1p(counts x scale / totals).

    Args:
        counts: `(N, G)` raw counts, whole numbers.
        totals: `(N,)` counts of the cells over the whole panel, positive.
        scale: what each cell's total is brought to (`Target.scale`); None for log1p of raw counts, where the
            cell's depth is part of the rate.
        exposures: groups of cells of similar total in which the total is taken as one.
        min_detected: cells with a count that a gene needs.

    Raises:
        CeilingError: sizes that differ, totals that are not positive, or counts that are not whole numbers.
    """
    counts = sparse.csc_matrix(counts)
    totals = np.asarray(totals, np.float64)
    n, genes = counts.shape
    if totals.shape != (n,) or not n or totals.min() <= 0:
        raise CeilingError(
            f"counts of shape {counts.shape} and {totals.size} totals; expected a positive one a cell"
        )
    if counts.nnz and (counts.data.min() < 0 or (counts.data % 1).any()):
        raise CeilingError("counts that are negative or not whole numbers; the ceiling needs raw counts")
    ratio = np.ones(n) if scale is None else scale / totals
    # Groups of cells of similar depth: a count's probability needs the depth, not the cell.
    edges = np.unique(np.quantile(ratio, np.linspace(0, 1, exposures + 1)))
    group = np.clip(np.searchsorted(edges, ratio, side="right") - 1, 0, max(len(edges) - 2, 0))
    size = np.bincount(group)
    factor = np.bincount(group, ratio) / size
    r, reason = np.full(genes, np.nan), np.full(genes, "", dtype=object)
    for gene in range(genes):
        column = counts[:, [gene]]
        detected = column.indices[column.data > 0]
        if len(detected) < min_detected:
            reason[gene] = f"a count in {len(detected)} cells, fewer than {min_detected}"
            continue
        value = np.zeros(n)
        value[column.indices] = column.data
        variance = np.log1p(value * ratio).var()
        noise = _noise(value, group, factor, size)
        r[gene] = np.sqrt(np.clip(1 - noise / variance, 0.0, 1.0)) if variance > 0 else np.nan
        if variance <= 0:
            reason[gene] = "the same value in every cell"
    return Ceiling(r, reason)


def _noise(value: np.ndarray, group: np.ndarray, factor: np.ndarray, size: np.ndarray) -> float:
    """E[Var(log1p(factor x count) | rate)] over cells, under the fitted distribution of rates.

    Args:
        value: `(N,)` counts.
        group: `(N,)` group of each cell.
        factor: `(E,)` scale / total of each group.
        size: `(E,)` cells of each group.
    """
    from scipy.special import gammaln

    seen, times = np.unique(np.stack([group, value.astype(np.int64)]), axis=1, return_counts=True)
    at, count = seen[0], seen[1].astype(np.float64)
    # Rates on the normalised scale: from well below the mean up to the largest that was seen.
    mean = (count * times).sum() / (times / factor[at]).sum()
    top = max((count * factor[at]).max(), 2 * mean)
    theta = np.concatenate([[mean * 1e-3], np.geomspace(0.02 * mean, top, GRID - 1)])
    mu = theta[None] / factor[:, None]
    log_p = count[:, None] * np.log(mu[at]) - mu[at] - gammaln(count + 1)[:, None]
    p = np.exp(log_p - log_p.max(axis=1, keepdims=True))
    prior = np.full(GRID, 1 / GRID)
    for _ in range(ITERATIONS):
        posterior = p * prior
        posterior *= (times / posterior.sum(axis=1))[:, None]
        new = posterior.sum(axis=0) / times.sum()
        done = np.abs(new - prior).max() < 1e-6
        prior = new
        if done:
            break
    # By group, for the rate may depend on the depth.
    weight = np.zeros((len(size), GRID))
    np.add.at(weight, at, posterior)
    return float((weight * log1p_variance(mu, factor[:, None])).sum() / times.sum())


def log1p_variance(mu: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Var(log1p(factor x X)) of X ~ Poisson(mu), elementwise.

    The sum over counts up to `NORMAL_ABOVE`; above it, Gauss-Hermite quadrature of the normal approximation.
    """
    from scipy.special import gammaln

    mu, factor = np.broadcast_arrays(np.asarray(mu, np.float64), np.asarray(factor, np.float64))
    out = np.empty(mu.shape)
    small = mu <= NORMAL_ABOVE
    x = np.arange(int(NORMAL_ABOVE + 10 * np.sqrt(NORMAL_ABOVE)))
    p = np.exp(x * np.log(np.maximum(mu[small], 1e-300))[:, None] - mu[small][:, None] - gammaln(x + 1))
    out[small] = _variance(p, np.log1p(factor[small][:, None] * x))
    nodes, weights = np.polynomial.hermite_e.hermegauss(24)
    large = mu[~small][:, None]
    x = np.maximum(large + np.sqrt(large) * nodes, 0.0)
    out[~small] = _variance(weights / weights.sum() + 0 * x, np.log1p(factor[~small][:, None] * x))
    return out


def _variance(p: np.ndarray, y: np.ndarray) -> np.ndarray:
    mean = (p * y).sum(axis=1, keepdims=True)
    return (p * (y - mean) ** 2).sum(axis=1)
