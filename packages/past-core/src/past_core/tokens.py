"""Rank tokens: a cell's raw counts become the list of its genes, most remarkable first.

A gene's value in a cell is its count, scaled to 10,000 counts per cell, over the gene's mean in the
(training) cells that express it; genes without counts are dropped, the rest sorted by value descending
and, where values tie, by vocabulary index ascending. Three context tokens lead, at most 300 genes follow,
`PAD` fills up. Nothing of this is stored with a slide: tokens are made when a batch is made.
"""

import logging
from collections.abc import Sequence
from typing import Literal, NamedTuple, Self

import numpy as np
from scipy import sparse

from past_core.errors import PastError
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

logger = logging.getLogger(__name__)

TARGET_SUM = 10_000.0
"""Counts per cell after normalisation."""
_BLOCK = 1 << 20
"""Entries sorted at once: a block of padded rows that stays in the cache."""


class TokenError(PastError, ValueError):
    """Counts, gene indices or means from which no tokens can be made."""


class _Entries(NamedTuple):
    """Positive counts of genes of the vocabulary, row after row; a gene's `rank` orders it by its index."""

    data: np.ndarray  # (nnz,)
    ranks: np.ndarray  # (nnz,) position of the gene in `genes`
    indptr: np.ndarray  # (n + 1,)
    genes: np.ndarray  # (r,) vocabulary indices, ascending


def _entries(counts: sparse.csr_matrix, gene_index: np.ndarray, usable: np.ndarray) -> _Entries:
    """Keep positive counts of usable columns; columns of the same gene are summed."""
    data, indptr = counts.data, counts.indptr
    genes, inverse = np.unique(gene_index[usable], return_inverse=True)
    rank_of_column = np.full(counts.shape[1], -1, dtype=np.int32)
    rank_of_column[usable] = inverse
    ranks = rank_of_column[counts.indices]
    keep = (ranks >= 0) & (data > 0)
    if not keep.all():
        indptr = np.concatenate([[0], np.cumsum(keep)])[indptr]
        data, ranks = data[keep], ranks[keep]
    if len(genes) < np.count_nonzero(usable):
        merged = sparse.csr_matrix((data, ranks, indptr), shape=(counts.shape[0], len(genes)))
        merged.sum_duplicates()
        data, ranks, indptr = merged.data, merged.indices, merged.indptr
    return _Entries(data, ranks, indptr, genes)


def _check_counts(counts: sparse.csr_matrix, gene_index: np.ndarray, n_genes: int) -> sparse.csr_matrix:
    """The counts in canonical CSR, or what is wrong with them."""
    if not sparse.issparse(counts) or counts.format != "csr":
        msg = f"counts must be a SciPy CSR matrix (cells, genes), got {type(counts).__name__}"
        raise TokenError(msg)
    if gene_index.shape != (counts.shape[1],):
        msg = (
            f"counts have {counts.shape[1]} gene columns but gene_index has shape {gene_index.shape}; "
            "expected one vocabulary index (or -1) per column"
        )
        raise TokenError(msg)
    if gene_index.size and not (gene_index.min() >= -1 and gene_index.max() < n_genes):
        msg = (
            f"gene_index runs from {gene_index.min()} to {gene_index.max()}; expected -1 for genes outside "
            f"the vocabulary and indices below {n_genes}, the number of gene means"
        )
        raise TokenError(msg)
    if counts.dtype.kind not in "biuf":
        msg = f"counts have dtype {counts.dtype}; expected integers or floats"
        raise TokenError(msg)
    wrong = ~(counts.data >= 0) | ~np.isfinite(counts.data)
    if wrong.any():
        first = int(np.argmax(wrong))
        row = int(np.searchsorted(counts.indptr, first, side="right")) - 1
        msg = (
            f"{np.count_nonzero(wrong)} counts are negative or not finite, the first is {counts.data[first]} "
            f"at row {row}, column {counts.indices[first]}; expected raw, non-negative counts"
        )
        raise TokenError(msg)
    if not counts.has_canonical_format:
        counts = counts.copy()
        counts.sum_duplicates()
    return counts


class GeneMeans:
    """Streaming mean of each gene over the cells that express it, after scaling cells to 10,000 counts.

    A cell's total is over the genes of the vocabulary only, so that columns outside it (controls, genes
    of another release) change nothing. Update with the QC-passing **training** cells of each slide.

    Args:
        n_genes: number of genes in the vocabulary.
    """

    def __init__(self, n_genes: int) -> None:
        self.sums = np.zeros(n_genes)
        self.expressing = np.zeros(n_genes, dtype=np.int64)
        self.cells = 0

    def update(self, counts: sparse.csr_matrix, gene_index: np.ndarray) -> Self:
        """Add cells.

        Args:
            counts: (n, G) raw counts.
            gene_index: (G,) vocabulary index of each column, -1 for none.

        Raises:
            TokenError: counts are negative or not finite, or shapes do not match.
        """
        n_genes = len(self.sums)
        gene_index = np.asarray(gene_index, dtype=np.int64)
        counts = _check_counts(counts, gene_index, n_genes)
        data, ranks, indptr, genes = _entries(counts, gene_index, gene_index >= 0)
        rows = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
        data = data.astype(np.float64)
        totals = np.bincount(rows, data, minlength=len(indptr) - 1)
        scaled = data * (TARGET_SUM / totals[rows])
        self.sums[genes] += np.bincount(ranks, scaled, minlength=len(genes))
        self.expressing[genes] += np.bincount(ranks, minlength=len(genes))
        self.cells += counts.shape[0]
        return self

    def merge(self, other: "GeneMeans") -> Self:
        """Add the cells that another accumulator (of the same vocabulary) has seen."""
        self.sums += other.sums
        self.expressing += other.expressing
        self.cells += other.cells
        return self

    @property
    def means(self) -> np.ndarray:
        """(n_genes,) float64; NaN for a gene that no cell expressed."""
        means = np.full(len(self.sums), np.nan)
        return np.divide(self.sums, self.expressing, out=means, where=self.expressing > 0)


def nonzero_means(counts: sparse.csr_matrix, gene_index: np.ndarray, n_genes: int) -> np.ndarray:
    """`GeneMeans` of one matrix: (n_genes,) float64, NaN where unseen."""
    return GeneMeans(n_genes).update(counts, gene_index).means


class GeneCoverage(NamedTuple):
    """How much of a panel can become tokens."""

    genes: int
    """Genes of the panel."""
    known: int
    """Of these, genes that are in the vocabulary."""
    with_mean: int
    """Of these, genes that have a mean, so that they are ranked on the same scale."""
    without_mean: tuple[str, ...]
    """Genes of the vocabulary without a mean."""


def gene_coverage(
    vocabulary: Vocabulary, genes: Sequence[str], means: np.ndarray, *, source: str = "the panel"
) -> GeneCoverage:
    """Count the genes of a panel that are in the vocabulary and have a mean; warn when some do not.

    Raises:
        VocabularyError: no gene is in the vocabulary.
        TokenError: no gene that is in the vocabulary has a mean.
    """
    index = vocabulary.overlap(genes, source=source)
    known = np.unique(index[index >= 0])
    missing = known[~_has_mean(np.asarray(means, dtype=np.float64)[known])]
    coverage = GeneCoverage(
        len(index), len(known), len(known) - len(missing), tuple(vocabulary.genes[i] for i in missing)
    )
    if not coverage.with_mean:
        msg = (
            f"none of the {coverage.known} genes that {source} shares with the vocabulary has a mean; "
            "estimate means on cells measured with these genes"
        )
        raise TokenError(msg)
    if coverage.without_mean:
        logger.warning(
            "%d of %d genes of %s have no mean (%.0f %% covered): %s%s",
            len(missing), len(known), source, 100 * coverage.with_mean / coverage.known,
            ", ".join(coverage.without_mean[:5]), ", ..." if len(missing) > 5 else "",
        )  # fmt: skip
    return coverage


def _has_mean(means: np.ndarray) -> np.ndarray:
    """Where a mean can divide: finite and positive (a published table holds negative ones, in error)."""
    return np.isfinite(means) & (means > 0)


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
    counts = _check_counts(counts, gene_index, len(means))
    usable, divisors = _divisors(gene_index, means, missing)
    data, ranks, indptr, genes = _entries(counts, gene_index, usable)
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
    present = _has_mean(means)
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
    gene, value, pair = ranks, data / divisors[ranks], slice(None)
    whole = data.astype(np.int64)
    if np.array_equal(whole, data):
        most = np.zeros(len(divisors), dtype=np.int64)
        np.maximum.at(most, ranks, whole)
        ends = np.cumsum(most)
        if len(ends) and ends[-1] <= max(len(data), 1 << 16):
            starts = ends - most
            gene = np.repeat(np.arange(len(divisors)), most)
            value = (np.arange(ends[-1]) - starts[gene] + 1) / divisors[gene]
            pair = starts[ranks] + whole - 1
    order = np.lexsort((gene, -value))
    priority = np.empty(len(order), dtype=np.uint32)
    priority[order] = np.arange(len(order), dtype=np.uint32)
    return priority[pair], gene[order]


def trim_padding(tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Cut sequences to the longest of the batch (a view), so that padding costs nothing."""
    return tokens[:, : int(lengths.max(initial=CONTEXT_LENGTH))]
