"""Non-zero gene means: streaming against a plain loop, and what a panel's coverage says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from past_core.tokens import (
    GeneMeans,
    TokenError,
    Vocabulary,
    VocabularyError,
    gene_coverage,
    nonzero_means,
)


def reference(dense, gene_index, n_genes):
    values = [[] for _ in range(n_genes)]
    for row in dense:
        merged = np.zeros(n_genes)
        for column, index in enumerate(gene_index):
            if index >= 0:
                merged[index] += row[column]
        for index in np.flatnonzero(merged):
            values[index].append(merged[index] * 10_000 / merged.sum())
    return np.array([np.mean(v) if v else np.nan for v in values])


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(0, 12))
def test_equals_a_plain_loop_in_any_batches(seed, columns, rows):
    random = np.random.default_rng(seed)
    dense = random.poisson(0.7, (rows, columns))
    gene_index = random.integers(-1, 6, columns)
    counts = sparse.csr_matrix(dense)
    expected = reference(dense, gene_index, 6)
    np.testing.assert_allclose(nonzero_means(counts, gene_index, 6), expected, rtol=1e-12)
    split = random.integers(0, rows + 1)
    one = GeneMeans(6).update(counts[:split], gene_index)
    two = GeneMeans(6).update(counts[split:], gene_index)
    merged = one.merge(two)
    np.testing.assert_allclose(merged.means, expected, rtol=1e-12)
    assert merged.cells == rows


def test_columns_outside_the_vocabulary_change_nothing():
    dense = np.array([[3, 1, 50], [0, 4, 7]])
    inside = nonzero_means(sparse.csr_matrix(dense[:, :2]), np.array([0, 1]), 2)
    all_columns = nonzero_means(sparse.csr_matrix(dense), np.array([0, 1, -1]), 2)
    np.testing.assert_array_equal(inside, all_columns)
    np.testing.assert_allclose(inside, [7500, (2500 + 10_000) / 2])


def test_wrong_counts_are_refused():
    with pytest.raises(TokenError, match="row 0, column 1"):
        GeneMeans(2).update(sparse.csr_matrix([[1.0, -2.0]]), np.array([0, 1]))


def test_coverage_counts_and_warns(caplog):
    vocabulary = Vocabulary.from_panel(["a", "b", "c"])
    coverage = gene_coverage(vocabulary, ["c", "a", "x"], np.array([1.0, 2.0, np.nan]), source="slide A")
    assert coverage == (3, 2, 1, ("c",))
    assert "1 of 2 genes of slide A have no mean (50 % covered): c" in caplog.text
    with pytest.raises(TokenError, match="none of the 2 genes"):
        gene_coverage(vocabulary, ["a", "b"], np.array([np.nan, -1.0, 5.0]))
    with pytest.raises(VocabularyError, match="none of the 1 genes"):
        gene_coverage(vocabulary, ["x"], np.ones(3))
