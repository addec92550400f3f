"""Non-zero means of genes over training cells, and how much of a panel they cover."""

import logging
from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
from scipy import sparse

from past_core.counts import TokenError, check_counts, entries, has_mean
from past_core.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

TARGET_SUM = 10_000.0
"""Counts per cell after normalisation."""


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
        counts = check_counts(counts, gene_index, n_genes)
        data, ranks, indptr, genes = entries(counts, gene_index, gene_index >= 0)
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
    missing = known[~has_mean(np.asarray(means, dtype=np.float64)[known])]
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
