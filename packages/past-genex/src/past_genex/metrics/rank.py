"""Spearman's rank correlation by gene of materialised predictions."""

import numpy as np

from past_genex.metrics.pairs import PairMoments

GENES_AT_A_TIME = 256


def spearman(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Spearman's rho by gene: Pearson's r of ranks, ties at their mean rank, as `scipy.stats.spearmanr`.

    Args:
        predicted: `(N, G)`, usually of one slide: ranks of different slides do not merge.
        truth: `(N, G)`; a column of NaN is a gene that is not measured.

    Returns:
        `(G,)`; NaN where the truth is constant or not measured, 0 where only the prediction is constant.

    Raises:
        PairError: shapes that differ, or a measured gene with a value that is not finite.
    """
    from scipy.stats import rankdata

    # The same checks, and the same rules, as for r.
    PairMoments.of(predicted, truth)
    out = np.full(truth.shape[1], np.nan)
    measured = np.flatnonzero(~np.isnan(truth).all(axis=0)) if len(truth) else np.zeros(0, np.int64)
    for start in range(0, len(measured), GENES_AT_A_TIME):
        genes = measured[start : start + GENES_AT_A_TIME]
        ranks = (rankdata(values[:, genes], axis=0) for values in (predicted, truth))
        out[genes] = PairMoments.of(*ranks).r
    return out
