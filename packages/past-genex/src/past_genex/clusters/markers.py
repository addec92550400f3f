"""Marker genes of clusters by differential expression against all other cells."""

import warnings
from typing import Literal, get_args

import numpy as np
import pandas as pd

from past_genex.clusters.leiden import ClusterError, varying

Method = Literal["wilcoxon", "t-test"]
LEAST_CELLS = 3
"""A cluster with fewer cells has no markers: nothing can be tested."""


def rank_markers(
    expression: np.ndarray,
    labels: np.ndarray,
    genes: pd.Index,
    *,
    top: int = 5,
    method: Method = "wilcoxon",
) -> pd.DataFrame:
    """The genes that tell each cluster from the other cells (scanpy's `rank_genes_groups`).

    Args:
        expression: `(N, G)` on a log scale.
        labels: `(N,)` int, the cells' clusters.
        genes: `(G,)` ids.
        top: markers of a cluster; only genes that are higher in it than elsewhere count, so there may be
            fewer.
        method: "wilcoxon" (rank sums, corrected for ties) or "t-test" (Welch's).

    Returns:
        One row per marker: cluster, rank (from 1), gene, score (z or t), difference of means, p-value after
        Benjamini-Hochberg. Clusters of fewer than 3 cells have no row.

    Raises:
        ClusterError: one cluster only, or an unknown method.
    """
    if method not in get_args(Method):
        raise ClusterError(f"method {method!r}; expected one of {', '.join(get_args(Method))}")
    names, sizes = np.unique(labels, return_counts=True)
    if len(names) < 2:
        raise ClusterError("one cluster only: it has no markers, for there are no other cells")
    tested = [str(name) for name, size in zip(names, sizes, strict=True) if size >= LEAST_CELLS]
    # Scanpy divides by the spread: genes without any are left out, they are no markers.
    kept = np.flatnonzero(varying(expression))
    columns = ["cluster", "rank", "gene", "score", "difference", "p_adjusted"]
    if not tested or not len(kept):
        return pd.DataFrame(columns=columns)
    import anndata as ad
    import scanpy as sc

    table = ad.AnnData(
        np.asarray(expression[:, kept], np.float32),
        obs=pd.DataFrame({"cluster": pd.Categorical(labels.astype(str))}, index=_numbers(len(labels))),
        var=pd.DataFrame(index=_numbers(len(kept))),
    )
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # about fold changes of negative predictions, which are not used
        sc.tl.rank_genes_groups(
            table, "cluster", groups=tested, method=method, use_raw=False,
            **({"tie_correct": True} if method == "wilcoxon" else {}),
        )  # fmt: skip
    result = table.uns["rank_genes_groups"]
    parts = []
    for name in tested:
        column = kept[np.asarray(result["names"][name]).astype(int)]
        inside = labels.astype(str) == name
        difference = expression[inside].mean(axis=0) - expression[~inside].mean(axis=0)
        higher = np.flatnonzero((result["scores"][name] > 0) & (difference[column] > 0))[:top]
        parts.append(
            pd.DataFrame(
                {
                    "cluster": int(name),
                    "rank": np.arange(1, len(higher) + 1),
                    "gene": np.asarray(genes)[column[higher]],
                    "score": result["scores"][name][higher].astype(np.float64),
                    "difference": difference[column[higher]].astype(np.float64),
                    "p_adjusted": result["pvals_adj"][name][higher].astype(np.float64),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)[columns].sort_values(["cluster", "rank"], ignore_index=True)


def _numbers(n: int) -> list[str]:
    return [str(i) for i in range(n)]
