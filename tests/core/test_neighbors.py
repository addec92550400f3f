"""Neighbours against brute force, and the graphs that squidpy reads."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st

from past_core.ingest.neighbors import set_neighbors, spatial_neighbors, spatial_order


def brute_force(points: np.ndarray, k: int) -> np.ndarray:
    """(N, k) distances in float64, inf where there are fewer than k other points."""
    distances = np.sqrt(((points[:, None] - points[None]) ** 2).sum(axis=2))
    np.fill_diagonal(distances, np.inf)
    padded = np.pad(np.sort(distances, axis=1), ((0, 0), (0, k)), constant_values=np.inf)
    return padded[:, :k]


@settings(deadline=None, max_examples=150)
@given(
    # A coarse grid makes duplicates and ties frequent.
    st.lists(st.tuples(st.integers(-6, 6), st.integers(0, 9)), min_size=0, max_size=40),
    st.integers(1, 10),
    st.sampled_from([1.0, 0.37, 1e4]),
)
def test_distances_equal_brute_force(grid, k, scale):
    points = np.array(grid, dtype=np.float64).reshape(-1, 2) * scale
    indices, distances = spatial_neighbors(points, k)
    assert indices.shape == distances.shape == (len(points), k)
    np.testing.assert_allclose(distances, brute_force(points, k), rtol=1e-6)
    present = indices >= 0
    assert np.array_equal(present, np.isfinite(distances))
    rows = np.broadcast_to(np.arange(len(points))[:, None], indices.shape)
    assert not (indices == rows).any(), "a cell is its own neighbour"
    gaps = points[rows[present]] - points[indices[present]]
    np.testing.assert_allclose(np.hypot(*gaps.T), distances[present], rtol=1e-6)
    for row in indices:
        assert len(set(row[row >= 0])) == (row >= 0).sum(), "a neighbour is counted twice"


def test_order_of_points_changes_nothing():
    rng = np.random.default_rng(1)
    points = rng.normal(size=(300, 2)) * 100
    shuffle = rng.permutation(300)
    indices, distances = spatial_neighbors(points, 5)
    moved, moved_distances = spatial_neighbors(points[shuffle], 5)
    np.testing.assert_array_equal(shuffle[moved], indices[shuffle])
    np.testing.assert_array_equal(moved_distances, distances[shuffle])


def test_many_cells_at_one_place():
    points = np.zeros((30, 2))
    indices, distances = spatial_neighbors(points, 8)
    assert (distances == 0).all()
    assert (indices >= 0).all()
    assert not (indices == np.arange(30)[:, None]).any()


def test_spatial_order_is_a_permutation_that_keeps_neighbours_close():
    points = np.random.default_rng(2).uniform(size=(4000, 2))
    order = spatial_order(points)
    assert np.array_equal(np.sort(order), np.arange(4000))
    steps = np.hypot(*np.diff(points[order], axis=0).T).mean()
    assert steps < 0.1 * np.hypot(*np.diff(points, axis=0).T).mean()


def test_morton_order_of_a_small_grid():
    points = np.array([(x, y) for y in range(4) for x in range(4)], dtype=float)
    expected = [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]
    assert spatial_order(points).tolist() == expected


@pytest.mark.parametrize("k", [0, -1])
def test_k_must_be_positive(k):
    with pytest.raises(ValueError, match="at least 1"):
        spatial_neighbors(np.zeros((3, 2)), k)


def test_points_must_be_finite():
    with pytest.raises(ValueError, match="finite"):
        spatial_neighbors(np.array([[0.0, np.nan], [1, 1]]), 1)


def test_failed_cells_are_in_no_neighbourhood_and_graphs_follow_the_flags():
    rng = np.random.default_rng(3)
    passed = rng.random(80) > 0.3
    table = AnnData(obs=pd.DataFrame({"qc_pass": passed}, index=[str(i) for i in range(80)]))
    table.obsm["spatial"] = rng.uniform(0, 400, (80, 2))
    median = set_neighbors(table, mpp=0.5, k=4)
    lengths = table.obsp["spatial_distances"]
    assert np.array_equal(np.diff(lengths.indptr), np.where(passed, 4, 0))
    assert passed[lengths.indices].all()
    expected = brute_force(table.obsm["spatial"][passed] * 0.5, 4)
    np.testing.assert_allclose(np.sort(lengths[passed].data.reshape(-1, 4), axis=1), expected, rtol=1e-6)
    assert median == pytest.approx(np.median(expected), rel=1e-6)

    table.obs["qc_pass"] = ~passed
    set_neighbors(table, mpp=0.5, k=4)
    assert not passed[table.obsp["spatial_connectivities"].indices].any()


def test_no_cell_passes_gives_an_empty_graph():
    table = AnnData(obs=pd.DataFrame({"qc_pass": [False] * 3}, index=list("abc")))
    table.obsm["spatial"] = np.zeros((3, 2))
    assert np.isnan(set_neighbors(table, mpp=1.0))
    assert table.obsp["spatial_connectivities"].nnz == 0
