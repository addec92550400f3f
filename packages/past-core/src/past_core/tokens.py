"""Rank tokens: a cell's raw counts become the list of its genes, most remarkable first.

A gene's value in a cell is its count, scaled to 10,000 counts per cell, over the gene's mean in the
(training) cells that express it; genes without counts are dropped, the rest sorted by value descending
and, where values tie, by vocabulary index ascending. Three context tokens lead, at most 300 genes follow,
`PAD` fills up. Nothing of this is stored with a slide: tokens are made when a batch is made.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from scipy import sparse

from past_core.counts import TokenError, check_counts, entries, has_mean
from past_core.gene_means import GeneCoverage, GeneMeans, gene_coverage, nonzero_means
from past_core.vocabulary import (
    CONTEXT_LENGTH,
    FIRST_GENE,
    MASK,
    PAD,
    Vocabulary,
    VocabularyError,
    VocabularyNotFoundError,
)

__all__ = [
    "CONTEXT_LENGTH",
    "FIRST_GENE",
    "MASK",
    "PAD",
    "GeneCoverage",
    "GeneMeans",
    "TokenError",
    "Vocabulary",
    "VocabularyError",
    "VocabularyNotFoundError",
    "gene_coverage",
    "nonzero_means",
    "rank_tokenize",
    "trim_padding",
]

_BLOCK = 1 << 20
"""Entries sorted at once: a block of padded rows that stays in the cache."""


def rank_tokenize(
    counts: sparse.csr_matrix,
    gene_index: np.ndarray,
    means: np.ndarray,
    context: Sequence[int] | np.ndarray,
    *,
    max_genes: int = 300,
    missing: Literal["drop", "one", "error"] = "drop",
) -> tuple[np.ndarray, np.ndarray]:
    """Rank tokens of cells.

    Scaling a cell to 10,000 counts multiplies all its values by one number, so it is left out: values are
    the float64 quotients count / mean, and only equal quotients tie. Columns with the same vocabulary index
    are summed, as are duplicate entries of the matrix; columns outside the vocabulary are ignored.

    Args:
        counts: (n, G) CSR of raw counts.
        gene_index: (G,) vocabulary index of each column, -1 for none.
        means: (n_genes,) non-zero mean of every gene of the vocabulary (`GeneMeans.means`, or a
            technology's from `past_core.nicheformer`).
        context: (3,) tokens from `Vocabulary.context`.
        max_genes: most genes kept per cell.
        missing: what becomes of a measured gene whose mean is NaN, zero or negative. "drop": it is left out,
            for no training cell expressed it and its token was never trained; "one": it is divided by 1, as
            nicheformer does (such genes then outrank all others); "error": refuse.

    Returns:
        tokens (n, 3 + max_genes) int32, filled up with `PAD`, and lengths (n,) int64, the three included.
        A cell without genes has its context only.

    Raises:
        TokenError: negative or non-finite counts, shapes that do not match, or a measured gene without a
            mean where `missing` is "error".
    """
    gene_index = np.asarray(gene_index, dtype=np.int64)
    means = np.asarray(means, dtype=np.float64)
    context = np.asarray(context)
    if context.shape != (CONTEXT_LENGTH,):
        msg = f"context has shape {context.shape}; expected the three tokens of Vocabulary.context"
        raise TokenError(msg)
    if max_genes < 1:
        msg = f"max_genes is {max_genes}; expected at least 1"
        raise TokenError(msg)
    counts = check_counts(counts, gene_index, len(means))
    usable, divisors = _divisors(gene_index, means, missing)
    data, ranks, indptr, genes = entries(counts, gene_index, usable)
    priority, gene_of_priority = _priorities(data, ranks, divisors[genes])

    n = counts.shape[0]
    detected = np.diff(indptr).astype(np.int64)
    tokens = np.full((n, CONTEXT_LENGTH + max_genes), PAD, dtype=np.int32)
    tokens[:, :CONTEXT_LENGTH] = context
    token_of_priority = np.append(FIRST_GENE + genes[gene_of_priority], PAD).astype(np.int32)
    rows_at_once = max(1, _BLOCK // max(1, int(detected.max(initial=0))))
    for start in range(0, n, rows_at_once):
        block = detected[start : start + rows_at_once]
        width = int(block.max())
        # Padding sorts last: its priority, one past the end, is that of the PAD token.
        keys = np.full((len(block), width), len(gene_of_priority), dtype=np.uint32)
        first, last = indptr[start], indptr[start + len(block)]
        offsets = np.arange(len(block)) * width - (indptr[start : start + len(block)] - first)
        keys.reshape(-1)[np.arange(last - first) + np.repeat(offsets, block)] = priority[first:last]
        keys.sort(axis=1)
        kept = min(width, max_genes)
        tokens[start : start + len(block), CONTEXT_LENGTH : CONTEXT_LENGTH + kept] = token_of_priority[
            keys[:, :kept]
        ]
    return tokens, CONTEXT_LENGTH + np.minimum(detected, max_genes)


def _divisors(gene_index: np.ndarray, means: np.ndarray, missing: str) -> tuple[np.ndarray, np.ndarray]:
    """Which columns are used, and what each gene of the vocabulary is divided by."""
    known = gene_index >= 0
    present = has_mean(means)
    without = known & ~present[gene_index]
    if missing == "drop":
        return known & ~without, means
    if missing == "one":
        return known, np.where(present, means, 1.0)
    if missing != "error":
        msg = f"missing={missing!r} is not known; expected 'drop', 'one' or 'error'"
        raise TokenError(msg)
    if without.any():
        some = ", ".join(map(str, gene_index[without][:5]))
        msg = (
            f"{np.count_nonzero(without)} of {np.count_nonzero(known)} measured genes have no "
            f"positive mean (vocabulary indices {some}, ...); estimate means on these cells' panel, "
            "or choose missing='drop' or 'one'"
        )
        raise TokenError(msg)
    return known, means


def _priorities(data: np.ndarray, ranks: np.ndarray, divisors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The place of each entry in the order (value descending, gene ascending) of all entries.

    Small whole counts give few different (gene, count) pairs: these are sorted instead of the entries,
    which is exact and an order of magnitude faster.

    Returns:
        priority (nnz,) uint32, lower is earlier, and the gene's rank for each priority.
    """
    most = np.zeros(len(divisors), dtype=data.dtype)
    np.maximum.at(most, ranks, data)
    if most.sum(dtype=np.float64) < len(data) and np.array_equal(whole := data.astype(np.int64), data):
        pairs = most.astype(np.int64)
        starts = np.cumsum(pairs) - pairs
        gene = np.repeat(np.arange(len(pairs)), pairs)
        value = (np.arange(len(gene)) - starts[gene] + 1) / divisors[gene]
        pair = starts[ranks] + whole - 1
    else:
        gene, value, pair = ranks, data / divisors[ranks], slice(None)
    order = np.lexsort((gene, -value))
    priority = np.empty(len(order), dtype=np.uint32)
    priority[order] = np.arange(len(order), dtype=np.uint32)
    return priority[pair], gene[order]


def trim_padding(tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Cut sequences to the longest of the batch (a view), so that padding costs nothing."""
    return tokens[:, : int(lengths.max(initial=CONTEXT_LENGTH))]
