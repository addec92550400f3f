"""Rank tokens against a cell-by-cell reference in exact rational arithmetic."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from past_core import tokens as tokens_module
from past_core.tokens import FIRST_GENE, PAD, TokenError, Vocabulary, rank_tokenize, trim_padding

CONTEXT = np.array([9, 5, 4])


def reference(counts, gene_index, means, max_genes, missing="drop"):
    """One cell at a time: exact quotients, rounded once to float64, (value descending, index ascending)."""
    rows = []
    for row in counts:
        totals: dict[int, Fraction] = {}
        for column, count in enumerate(row):
            index = int(gene_index[column])
            if index >= 0 and count > 0:
                totals[index] = totals.get(index, Fraction(0)) + Fraction(float(count))
        values = {}
        for index, count in totals.items():
            mean = float(means[index])
            if not (math.isfinite(mean) and mean > 0):
                if missing == "drop":
                    continue
                mean = 1.0
            values[index] = float(count / Fraction(mean))
        order = sorted(values, key=lambda index: (-values[index], index))[:max_genes]
        rows.append([*CONTEXT, *(FIRST_GENE + index for index in order)])
    return rows


def assert_tokens(result, expected, max_genes):
    tokens, lengths = result
    assert tokens.dtype == np.int32
    assert tokens.shape == (len(expected), 3 + max_genes)
    assert lengths.tolist() == [len(row) for row in expected]
    for row, wanted in zip(tokens.tolist(), expected, strict=True):
        assert row == wanted + [PAD] * (3 + max_genes - len(wanted))


@st.composite
def panels(draw):
    n_genes = draw(st.integers(1, 12))
    columns = draw(st.integers(1, 14))
    gene_index = draw(st.lists(st.integers(-1, n_genes - 1), min_size=columns, max_size=columns))
    # Small whole numbers tie often; thirds and tenths round; the rest counts as missing.
    mean = st.sampled_from([1.0, 2.0, 3.0, 0.1, 0.3, 1 / 3, 48.2, 142.9, math.nan, 0.0, -102.0, math.inf])
    means = draw(st.lists(mean, min_size=n_genes, max_size=n_genes))
    count = draw(
        st.sampled_from(
            [
                st.integers(0, 3),
                st.sampled_from([0, 0, 1, 2, 30, 5000, 2**40]),
                st.sampled_from([0.0, 0.5, 1.0, 2.5, 1e-3, 1e300]),
            ]
        )
    )
    rows = draw(st.integers(0, 7))
    counts = draw(st.lists(st.lists(count, min_size=columns, max_size=columns), min_size=rows, max_size=rows))
    dtype = draw(st.sampled_from([np.float64, np.float32]))
    dense = np.array(counts, dtype=np.float64).reshape(rows, columns)
    if dtype == np.float32 and dense.max(initial=0) < 1e30:
        dense = dense.astype(np.float32)
    elif dense.max(initial=0) < 2**41 and (dense == np.floor(dense)).all():
        dense = dense.astype(np.int64)
    return dense, np.array(gene_index), np.array(means)


@settings(max_examples=300, deadline=None)
@given(panels(), st.integers(1, 8), st.sampled_from(["drop", "one"]), st.sampled_from([1, 5, 1 << 20]))
def test_equals_the_reference_cell_by_cell(panel, max_genes, missing, block):
    dense, gene_index, means = panel
    counts = sparse.csr_matrix(dense)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens_module, "_BLOCK", block)
        result = rank_tokenize(counts, gene_index, means, CONTEXT, max_genes=max_genes, missing=missing)
    assert_tokens(result, reference(dense, gene_index, means, max_genes, missing), max_genes)
    np.testing.assert_array_equal(counts.toarray(), dense)  # the input is left as it was


@settings(max_examples=50, deadline=None)
@given(panels(), st.randoms(use_true_random=False))
def test_order_of_columns_changes_nothing(panel, random):
    dense, gene_index, means = panel
    order = list(range(dense.shape[1]))
    random.shuffle(order)
    straight = rank_tokenize(sparse.csr_matrix(dense), gene_index, means, CONTEXT, max_genes=6)
    shuffled = rank_tokenize(
        sparse.csr_matrix(dense[:, order]), gene_index[order], means, CONTEXT, max_genes=6
    )
    np.testing.assert_array_equal(straight[0], shuffled[0])
    np.testing.assert_array_equal(straight[1], shuffled[1])


@pytest.fixture(scope="module")
def realistic():
    """A 377-gene panel at Xenium depth, columns in no order, one cell without counts."""
    random = np.random.default_rng(0)
    rates = random.lognormal(0, 1.5, 377) * 0.2
    dense = random.poisson(rates * random.gamma(2, 0.5, (400, 1)))
    dense[17] = 0
    gene_index = random.permutation(1000)[:377]
    means = np.full(1000, np.nan)
    means[gene_index] = random.gamma(2, 50, 377)
    return dense, gene_index, means


@pytest.mark.parametrize("scale", [1, 0.5])  # 0.5: not whole numbers, the general path
def test_realistic_panel(realistic, scale):
    dense, gene_index, means = realistic
    result = rank_tokenize(sparse.csr_matrix(dense * scale), gene_index, means, CONTEXT)
    assert_tokens(result, reference(dense * scale, gene_index, means, 300), 300)


def test_cells_do_not_depend_on_one_another(realistic):
    dense, gene_index, means = realistic
    counts = sparse.csr_matrix(dense)
    together, lengths = rank_tokenize(counts, gene_index, means, CONTEXT)
    for row in (0, 17, 399):
        alone, length = rank_tokenize(counts[row : row + 1], gene_index, means, CONTEXT)
        np.testing.assert_array_equal(alone[0], together[row])
        assert length[0] == lengths[row]


def test_depth_changes_nothing(realistic):
    dense, gene_index, means = realistic
    deep = rank_tokenize(sparse.csr_matrix(dense * 4), gene_index, means, CONTEXT)
    plain = rank_tokenize(sparse.csr_matrix(dense), gene_index, means, CONTEXT)
    np.testing.assert_array_equal(deep[0], plain[0])


def test_near_ties_are_decided_in_float64():
    # In float32 both quotients are the same number, and gene 0 would lead by its index.
    means = np.array([3.0, 3.0 * (1 - 1e-9)])
    assert np.float32(1) / np.float32(means[0]) == np.float32(1) / np.float32(means[1])
    tokens, _ = rank_tokenize(sparse.csr_matrix([[1, 1]]), np.array([0, 1]), means, CONTEXT, max_genes=2)
    assert tokens[0, 3:].tolist() == [FIRST_GENE + 1, FIRST_GENE]


def test_ties_go_by_vocabulary_index_not_by_column():
    tokens, _ = rank_tokenize(
        sparse.csr_matrix([[2, 1, 4]]), np.array([7, 2, 5]), np.array([1.0] * 5 + [4.0, 1.0, 2.0]), CONTEXT
    )
    assert tokens[0, :7].tolist() == [9, 5, 4, FIRST_GENE + 2, FIRST_GENE + 5, FIRST_GENE + 7, PAD]


def test_a_cell_without_genes_has_its_context_only():
    counts = sparse.csr_matrix((2, 3), dtype=np.int32)
    tokens, lengths = rank_tokenize(counts, np.array([0, 1, -1]), np.ones(2), CONTEXT, max_genes=4)
    assert tokens.tolist() == [[9, 5, 4, PAD, PAD, PAD, PAD]] * 2
    assert lengths.tolist() == [3, 3]
    assert trim_padding(tokens, lengths).shape == (2, 3)


def test_explicit_zeros_and_double_entries():
    counts = sparse.csr_matrix(
        (np.array([0, 1, 1, 3], dtype=np.int8), np.array([0, 1, 1, 2]), np.array([0, 4])), shape=(1, 3)
    )
    tokens, lengths = rank_tokenize(counts, np.arange(3), np.array([1.0, 1.0, 2.0]), CONTEXT, max_genes=3)
    assert tokens[0, 3:].tolist() == [FIRST_GENE + 1, FIRST_GENE + 2, PAD]
    assert lengths[0] == 5


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([[1.0, np.nan]], "nan at row 0, column 1"),
        ([[1.0, 2.0], [0.0, -1.0]], "-1.0 at row 1, column 1"),
        ([[np.inf, 2.0]], "inf at row 0"),
    ],
)
def test_wrong_counts_are_refused_with_their_place(counts, message):
    with pytest.raises(TokenError, match=message):
        rank_tokenize(sparse.csr_matrix(np.array(counts)), np.arange(2), np.ones(2), CONTEXT)


def test_wrong_arguments_are_refused():
    counts = sparse.csr_matrix(np.ones((2, 3)))
    with pytest.raises(TokenError, match="3 gene columns"):
        rank_tokenize(counts, np.arange(2), np.ones(3), CONTEXT)
    with pytest.raises(TokenError, match="runs from 0 to 2"):
        rank_tokenize(counts, np.arange(3), np.ones(2), CONTEXT)
    with pytest.raises(TokenError, match="CSR"):
        rank_tokenize(counts.tocsc(), np.arange(3), np.ones(3), CONTEXT)
    with pytest.raises(TokenError, match="dtype complex"):
        rank_tokenize(counts.astype(complex), np.arange(3), np.ones(3), CONTEXT)
    with pytest.raises(TokenError, match="three tokens"):
        rank_tokenize(counts, np.arange(3), np.ones(3), [9, 5])
    with pytest.raises(TokenError, match="max_genes"):
        rank_tokenize(counts, np.arange(3), np.ones(3), CONTEXT, max_genes=0)
    with pytest.raises(TokenError, match="missing='none'"):
        rank_tokenize(counts, np.arange(3), np.ones(3), CONTEXT, missing="none")
    with pytest.raises(TokenError, match="1 of 3 measured genes have no positive mean"):
        rank_tokenize(counts, np.arange(3), np.array([1, 0, 1.0]), CONTEXT, missing="error")


def test_real_panel_in_the_published_vocabulary(shared_data):
    """Lung panel, published means: exact nicheformer mode lets genes without a mean outrank all others."""
    import pandas as pd

    from past_core.nicheformer import prepared_means, read_means

    table = shared_data / "vocabulary" / "nicheformer_vocab_20310.csv"
    vocabulary = Vocabulary.nicheformer(table)
    panel = pd.read_csv(shared_data / "vocabulary" / "xenium_panels" / "Xenium_hLung_v1_metadata.csv")
    gene_index = vocabulary.overlap(panel["Ensembl_ID"].tolist(), source="the lung panel")
    assert np.count_nonzero(gene_index >= 0) > 0.9 * len(panel)
    dense = np.random.default_rng(1).poisson(0.6, (50, len(panel)))
    context = vocabulary.context("xenium", "human", "spatial")
    counts = sparse.csr_matrix(dense)
    for means, missing in ((read_means("xenium", table), "drop"), (prepared_means("xenium", table), "one")):
        result = rank_tokenize(counts, gene_index, means, context, missing=missing)
        assert_tokens(result, reference(dense, gene_index, means, 300, missing), 300)
