"""Published tokens of toy cells, worked out by hand and against a plain loop."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_published import small_model
from scipy import sparse

from past_core.nicheformer import read_means
from past_core.published.tokens import node_token_ids, published_tokens
from past_core.tokens import PAD, Vocabulary


def test_a_toy_cell_by_hand():
    """Five genes, one of them outside the vocabulary; two without a mean, which are divided by 1."""
    vocabulary = Vocabulary(("A", "B", "C", "D", "E"))
    means = np.array([100.0, 50.0, np.nan, 200.0, np.nan])
    counts = sparse.csr_matrix(np.array([[6, 4, 0, 9, 1, 7], [0, 0, 0, 0, 0, 5], [0, 3, 0, 1, 0, 0]]))
    columns = np.array([3, 0, 2, 1, 4, -1])  # D A C B E and one that is not in the vocabulary
    tokens, lengths = published_tokens(counts, columns, means, vocabulary)
    # Values of the first cell: D 6/200 = 0.03, A 4/100 = 0.04, B 9/50 = 0.18, E 1/1 = 1; C is not expressed.
    context = [4, 9, 5]  # spatial, xenium, human
    assert tokens.shape == (3, 303)
    assert tokens[0, :8].tolist() == [*context, 34, 31, 30, 33, PAD]
    assert tokens[1, :4].tolist() == [*context, PAD]  # no gene is left
    assert tokens[2, :6].tolist() == [*context, 30, 31, PAD]  # A 3/100 = 0.03, B 1/50 = 0.02
    assert (tokens[:, 8:] == PAD).all()
    assert lengths.tolist() == [7, 3, 5]
    ids = node_token_ids(tokens)
    assert ids.dtype == np.float32
    assert ids.shape == (3, 300)
    assert ids[0, :5].tolist() == [34.0, 31.0, 30.0, 33.0, 1.0]
    assert ids[1].tolist() == [1.0] * 300


@settings(max_examples=10)
@given(st.integers(0, 10_000), st.sampled_from([5, 296, 297, 298, 300, 301, 320]))
def test_equals_the_steps_of_the_release(seed, detected):
    """Scale, divide, sort, cut to 300 with 0 for nothing, prepend, cut to 300, 0 to 1."""
    random = np.random.default_rng(seed)
    n = 330
    vocabulary = Vocabulary(tuple(f"G{i:03d}" for i in range(n)))
    means = np.where(random.random(n) < 0.5, random.uniform(20, 500, n), np.nan)
    cell = np.zeros(n)
    cell[random.permutation(n)[:detected]] = random.integers(1, 50, detected)
    # No ties, whose order the release leaves open.
    cell[cell > 0] += random.random(detected)
    tokens, lengths = published_tokens(sparse.csr_matrix(cell[None]), np.arange(n), means, vocabulary)

    value = cell / cell.sum() * 10_000 / np.where(np.isnan(means), 1, means)
    order = [i for i in np.argsort(-value) if value[i] > 0]
    X = np.array([i + 30 for i in order] + [0] * (4096 - len(order)))[:300]
    sequence = np.concatenate([[4, 9, 5], X])[:300]
    np.testing.assert_array_equal(tokens[0, :300], np.where(sequence == 0, 1, sequence))
    np.testing.assert_array_equal(node_token_ids(tokens)[0], np.where(X == 0, 1, X))
    assert lengths[0] == 3 + min(detected, 300)


def test_the_graph_of_the_model_takes_these_ids():
    tokens = np.full((2, 303), PAD)
    tokens[0, :6] = [4, 9, 5, 77, 31, 320]
    tokens[1, :3] = [4, 9, 5]
    model = small_model().cell_encoder
    features = model.node_features(torch.from_numpy(tokens))
    np.testing.assert_array_equal(features.numpy(), node_token_ids(tokens))
    np.testing.assert_array_equal(
        model.node_features(torch.from_numpy(tokens[:, :6])), node_token_ids(tokens)
    )


def test_genes_without_a_mean_outrank_others_on_the_real_table(shared_data):
    table = shared_data / "vocabulary" / "nicheformer_vocab_20310.csv"
    vocabulary, means = Vocabulary.nicheformer(table), read_means("xenium", table)
    egfr, foxa1 = 8775 - 30, 6100 - 30
    without = int(np.flatnonzero(np.isnan(means))[0])
    assert np.isfinite(means[[egfr, foxa1]]).all()
    counts = np.zeros((1, len(vocabulary)))
    counts[0, [egfr, foxa1, without]] = [40, 1, 1]
    tokens, _ = published_tokens(sparse.csr_matrix(counts), np.arange(len(vocabulary)), means, vocabulary)
    assert tokens[0, :7].tolist() == [4, 9, 5, without + 30, 8775, 6100, PAD]


@pytest.mark.parametrize(("assay", "token"), [("merfish", 7), ("cosmx", 8), ("xenium", 9)])
def test_context_is_modality_assay_organism(assay, token):
    vocabulary = Vocabulary(("A",))
    counts = sparse.csr_matrix(np.array([[1]]))
    tokens, _ = published_tokens(
        counts, np.array([0]), np.ones(1), vocabulary, assay=assay, organism="mouse", modality="dissociated"
    )
    assert tokens[0, :4].tolist() == [3, token, 6, 30]
