"""Raw counts as tokens and gene means need them: checked, and restricted to the genes of a vocabulary."""

from typing import NamedTuple

import numpy as np
from scipy import sparse

from past_core.errors import PastError


class TokenError(PastError, ValueError):
    """Counts, gene indices or means from which no tokens can be made."""


class Entries(NamedTuple):
    """Positive counts of genes of the vocabulary, row after row; a gene's `rank` orders it by its index."""

    data: np.ndarray  # (nnz,)
    ranks: np.ndarray  # (nnz,) position of the gene in `genes`
    indptr: np.ndarray  # (n + 1,)
    genes: np.ndarray  # (r,) vocabulary indices, ascending


def entries(counts: sparse.csr_matrix, gene_index: np.ndarray, usable: np.ndarray) -> Entries:
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
        # A copy, for sum_duplicates works in place; float64, for the sum may not fit the counts' type.
        data = data.astype(np.float64)
        merged = sparse.csr_matrix((data, ranks, indptr), shape=(counts.shape[0], len(genes)), copy=True)
        merged.sum_duplicates()
        data, ranks, indptr = merged.data, merged.indices, merged.indptr
    return Entries(data, ranks, indptr, genes)


def check_counts(counts: sparse.csr_matrix, gene_index: np.ndarray, n_genes: int) -> sparse.csr_matrix:
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


def has_mean(means: np.ndarray) -> np.ndarray:
    """Where a mean can divide: finite and positive (a published table holds negative ones, in error)."""
    return np.isfinite(means) & (means > 0)
