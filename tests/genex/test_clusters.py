"""Clusters, markers, correspondence, agreement, transfer."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr
from sklearn.metrics import adjusted_rand_score, f1_score

from past_genex.clusters import (
    ClusterComparison,
    ClusterError,
    compare_clusters,
    correspond,
    leiden,
    rank_markers,
    retrieve_labels,
    type_scores,
)
from past_genex.clusters.agreement import adjusted_rand, known, majority
from past_genex.clusters.correspondence import cluster_means, overlap_counts

TYPES = np.array(["tumour", "fibroblast", "T cell", "mast"])
GENES = pd.Index([f"G{i}" for i in range(24)])


@pytest.fixture(scope="module")
def planted() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Four types, one rare, each with six genes of its own: measured, predicted, type."""
    random = np.random.default_rng(0)
    code = np.repeat(np.arange(4), [160, 110, 80, 20])
    random.shuffle(code)
    height = np.tile([4.0, 7.0, 11.0, 16.0, 22.0, 30.0], 4)
    rate = np.where(np.arange(24)[None] // 6 == np.arange(4)[:, None], height, 0.7)
    measured = np.log1p(random.poisson(rate[code]))
    predicted = 0.3 + 0.5 * np.log1p(rate[code]) + random.normal(0, 0.1, measured.shape)
    return measured, predicted, code


@pytest.fixture(scope="module")
def comparison(planted: tuple[np.ndarray, ...]) -> ClusterComparison:
    measured, predicted, code = planted
    return compare_clusters(
        measured, predicted, genes=GENES, labels=TYPES[code], clusters=4, retrieved=TYPES[code]
    )


def test_planted_clusters_correspond(comparison: ClusterComparison, planted: tuple[np.ndarray, ...]) -> None:
    code = planted[2]
    assert comparison.measured.clustering.n == comparison.predicted.clustering.n == 4
    assert comparison.ari["measured clusters, predicted clusters"] > 0.95
    assert adjusted_rand_score(code, comparison.measured.clustering.labels) == pytest.approx(
        comparison.ari["measured clusters, cell_type"]
    )
    assert (comparison.transferred == TYPES[code]).mean() > 0.97
    # Every pair is matched as its cells are.
    match = comparison.correspondence
    assert (match.best == match.overlap.argmax(axis=0)).all()
    assert (match.pcc[match.best, np.arange(4)] > 0.9).all()
    # A right pair shares its markers, others have two sets.
    assert (match.genes[match.best, np.arange(4)] <= 7).all()
    assert (match.genes <= 10).all()


def test_rare_types_are_named_and_scored(comparison: ClusterComparison) -> None:
    scores = comparison.scores["predicted clusters"]
    assert scores.rare == ["mast"]
    assert scores.rare_f1 == scores.table.loc["mast", "f1"] > 0.9
    assert comparison.scores["retrieval"].macro_f1 == 1


def test_markers_are_the_planted_genes(
    comparison: ClusterComparison, planted: tuple[np.ndarray, ...]
) -> None:
    code = planted[2]
    for side in (comparison.measured, comparison.predicted):
        for cluster, rows in side.markers.groupby("cluster"):
            owner = np.bincount(code[side.clustering.labels == cluster]).argmax()
            assert len(rows) == 5
            assert {GENES.get_loc(gene) // 6 for gene in rows["gene"]} == {owner}
            assert (rows["score"].diff().dropna() <= 1e-6).all()


@pytest.mark.parametrize("method", ["wilcoxon", "t-test"])
def test_markers_of_tiny_clusters_are_left_out(planted: tuple[np.ndarray, ...], method: str) -> None:
    measured = planted[0].copy()
    measured[:, 23] = 1.0  # constant: never a marker
    labels = planted[2].copy()
    labels[np.flatnonzero(labels == 3)[2:]] = 0
    markers = rank_markers(measured, labels, GENES, method=method)
    assert set(markers["cluster"]) == {0, 1, 2}
    assert "G23" not in set(markers["gene"])
    means = cluster_means(measured, labels)
    first = markers.iloc[0]
    column = GENES.get_loc(first["gene"])
    assert first["difference"] == pytest.approx(means[0, column] - measured[labels != 0, column].mean())


def test_the_same_input_gives_the_same_clusters_and_threads_stay(planted: tuple[np.ndarray, ...]) -> None:
    noisy = planted[0] + np.random.default_rng(3).normal(0, 1, planted[0].shape)
    threads = torch.get_num_threads()
    first, second = (leiden(noisy, resolution=1.3, seed=5) for _ in range(2))
    np.testing.assert_array_equal(first.labels, second.labels)
    assert (np.diff(first.sizes) <= 0).all()
    assert torch.get_num_threads() == threads


def test_predictions_get_as_many_clusters_as_the_measured(planted: tuple[np.ndarray, ...]) -> None:
    measured, predicted, _ = planted
    result = compare_clusters(measured, predicted, genes=GENES)
    assert result.predicted.clustering.n == result.measured.clustering.n
    assert result.measured.clustering.resolution == 1
    assert result.reference_name == "measured clusters"


def test_measured_alone(planted: tuple[np.ndarray, ...]) -> None:
    result = compare_clusters(planted[0], genes=GENES, labels=TYPES[planted[2]], resolution=0.5)
    assert result.predicted is result.correspondence is result.transferred is None
    assert list(result.scores) == ["measured clusters"]


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.integers(2, 5), st.integers(1, 4))
def test_correspondence_is_pearson_over_the_union(seed: int, clusters: int, markers: int) -> None:
    random = np.random.default_rng(seed)
    left, right = random.normal(size=(clusters, 12)), random.normal(size=(3, 12))
    of_left = [random.choice(12, markers, replace=False) for _ in range(clusters)]
    of_right = [random.choice(12, markers, replace=False) for _ in range(3)]
    result = correspond(left, right, of_left, of_right, np.zeros((clusters, 3), int))
    for i in range(clusters):
        for j in range(3):
            union = sorted(set(of_left[i]) | set(of_right[j]))
            assert result.genes[i, j] == len(union)
            if len(union) < 3:
                assert np.isnan(result.pcc[i, j])
            else:
                expected = pearsonr(left[i, union], right[j, union]).statistic
                assert result.pcc[i, j] == pytest.approx(expected, abs=1e-12)
    table = result.table()
    for j, best in enumerate(result.best):
        ranked = table[(table["predicted"] == j) & (table["rank"] == 1)]
        assert list(ranked["measured"]) == ([] if best < 0 else [best])


def test_undefined_correlations() -> None:
    flat, profile = np.full((1, 5), 0.7), np.arange(5.0)[None]
    markers = [np.arange(4)]
    assert np.isnan(correspond(flat, profile, markers, markers, np.zeros((1, 1))).pcc).all()
    none = correspond(profile, profile, [np.array([], int)], [np.array([], int)], np.zeros((1, 1)))
    assert none.genes[0, 0] == 0
    assert none.best[0] == -1


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(["a", "b", "z", ""])), min_size=1))
def test_f1_is_scikit_learns(pairs: list[tuple[str, str]]) -> None:
    truth, label = np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs])
    scores = type_scores(np.append(truth, ""), np.append(label, "a"))
    types = np.unique(truth)
    expected = f1_score(truth, label, labels=types, average=None, zero_division=0)
    np.testing.assert_allclose(scores.table["f1"][types], expected)
    assert scores.macro_f1 == pytest.approx(expected.mean())
    assert scores.left_out == 1
    assert scores.confusion.to_numpy().sum() == len(pairs)
    assert scores.rare == [t for t in scores.table.index if (truth == t).mean() < 0.08]
    assert adjusted_rand(truth, truth) == pytest.approx(1)


def test_majority_and_overlap() -> None:
    groups, names = np.array([0, 0, 0, 1, 2]), np.array(["b", "b", "a", "", "a"])
    assert list(majority(groups, names, 3)) == ["b", "", "a"]
    assert overlap_counts(groups, np.array([0, 1, 0, 1, 1]), (3, 2)).tolist() == [[2, 1], [0, 1], [0, 1]]
    assert list(known(pd.Series([None, "x ", np.nan, ""]))) == ["", "x", "", ""]


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.integers(1, 9), st.integers(1, 7))
def test_retrieval_votes_as_a_plain_loop(seed: int, k: int, chunk: int) -> None:
    random = np.random.default_rng(seed)
    queries, bank = random.normal(size=(6, 5)), random.normal(size=(20, 5))
    labels = random.choice(["a", "b", "c", ""], 20)
    labels[0] = "a"
    given_labels, share = retrieve_labels(queries, bank, labels, k=k, chunk=chunk)
    cosine = (queries / np.linalg.norm(queries, axis=1, keepdims=True)) @ (
        bank / np.linalg.norm(bank, axis=1, keepdims=True)
    ).T
    cosine[:, labels == ""] = -np.inf
    voters = min(k, int((labels != "").sum()))
    for query in range(6):
        top = np.argsort(-cosine[query])[:voters]
        votes = {t: ((labels[top] == t).sum(), cosine[query][top[labels[top] == t]].sum()) for t in "abc"}
        assert given_labels[query] == max(votes, key=votes.get)
        assert share[query] == pytest.approx(max(votes.values())[0] / voters)


def test_retrieval_refuses() -> None:
    one = np.ones((3, 2))
    with pytest.raises(ClusterError, match="no reference cell carries"):
        retrieve_labels(one, one, np.array(["", "", ""]))
    with pytest.raises(ClusterError, match="2 of 3 queries"):
        retrieve_labels(np.array([[0, 0], [1, np.nan], [1, 1]]), one, np.array(["a"] * 3))
    with pytest.raises(ClusterError, match="one space"):
        retrieve_labels(np.ones((3, 4)), one, np.array(["a"] * 3))


def test_bad_input(planted: tuple[np.ndarray, ...]) -> None:
    measured, predicted, code = planted
    with pytest.raises(ClusterError, match="are the same in every cell"):
        compare_clusters(measured, np.ones_like(measured), genes=GENES)
    with pytest.raises(ClusterError, match="1 of 370 cells have no expression"):
        compare_clusters(np.where(np.arange(370)[:, None] == 7, 0, measured), genes=GENES)
    with pytest.raises(ClusterError, match="predicted expression: NaN or infinity in 370 cells and 1 genes"):
        compare_clusters(measured, np.where(np.arange(24) == 2, np.nan, predicted), genes=GENES)
    with pytest.raises(ClusterError, match="one cluster only at resolution"):
        compare_clusters(measured[code == 0], genes=GENES, resolution=0.001)
    with pytest.raises(ClusterError, match="expected one of them"):
        leiden(measured, resolution=1, clusters=3)
    with pytest.raises(ClusterError, match="for 23 genes"):
        compare_clusters(measured, genes=GENES[:23])
    with pytest.raises(ClusterError, match="none of 370 cells"):
        compare_clusters(measured, genes=GENES, labels=np.full(370, ""))
