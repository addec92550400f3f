"""Moran's I against scanpy and squidpy, and the recovery of spatial structure."""

import numpy as np
import pytest
import scanpy as sc
from anndata import AnnData
from scipy import sparse, stats

from past_genex.metrics.spatial import (
    SpatialError,
    autocorrelation_recovery,
    morans_i,
    row_normalised,
    spatial_weights,
)


@pytest.fixture(scope="module")
def tissue() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    xy = rng.random((400, 2)) * 500
    smooth = np.sin(xy[:, :1] / 60 + np.arange(8))
    return xy, smooth * np.linspace(0, 2, 8) + rng.normal(size=(400, 8))


def test_it_is_scanpys(tissue) -> None:
    xy, values = tissue
    for weights in (spatial_weights(xy, neighbours=5), spatial_weights(xy)):
        np.testing.assert_allclose(weights.sum(axis=1), 1.0)
        np.testing.assert_allclose(
            morans_i(values, weights), sc.metrics.morans_i(weights, values.T), atol=1e-12
        )


def test_it_is_squidpys(tissue) -> None:
    squidpy = pytest.importorskip("squidpy")
    if not hasattr(squidpy.gr, "spatial_neighbors_knn"):
        pytest.skip("this squidpy builds the graph elsewhere")
    xy, values = tissue
    table = AnnData(values, obsm={"spatial": xy})
    squidpy.gr.spatial_neighbors_knn(table, n_neighs=6)
    squidpy.gr.spatial_autocorr(table, mode="moran", transformation=True, n_perms=None)
    expected = table.uns["moranI"]["I"].reindex(table.var_names).to_numpy()
    np.testing.assert_allclose(morans_i(values, spatial_weights(xy, neighbours=6)), expected, atol=1e-6)
    own = row_normalised(table.obsp["spatial_connectivities"])
    np.testing.assert_allclose(morans_i(values, own), expected, atol=1e-6)


def test_weights_are_the_nearest_others_also_where_cells_coincide() -> None:
    xy = np.array([[0, 0], [0, 0], [1, 0], [10, 0], [11, 0]], float)
    weights = spatial_weights(xy, neighbours=2).toarray()
    assert np.diag(weights).sum() == 0
    np.testing.assert_allclose(weights[0], [0, 0.5, 0.5, 0, 0])
    np.testing.assert_allclose(spatial_weights(xy, neighbours=50).toarray(), (1 - np.eye(5)) / 4)


def test_constant_and_missing_genes_have_none(tissue) -> None:
    xy, values = tissue
    values = values.copy()
    values[:, 1], values[:, 2] = 0.1, np.nan
    found = morans_i(values, spatial_weights(xy))
    assert np.flatnonzero(np.isnan(found)).tolist() == [1, 2]
    values[3, 5] = np.nan
    with pytest.raises(SpatialError, match="gene 5"):
        morans_i(values, spatial_weights(xy))


def test_recovery_compares_genes_that_have_both(tissue) -> None:
    xy, values = tissue
    weights = spatial_weights(xy)
    truth = morans_i(values, weights)
    smoother = morans_i(weights @ values, weights)
    truth[0], smoother[3] = np.nan, np.nan
    found = autocorrelation_recovery(truth, smoother)
    both = [1, 2, 4, 5, 6, 7]
    assert (found.genes, found.no_truth, found.no_prediction) == (6, 1, 1)
    assert found.correlation == pytest.approx(stats.pearsonr(truth[both], smoother[both]).statistic)
    assert found.difference == pytest.approx(np.mean(smoother[both] - truth[both]))
    assert found.difference > 0.1, "averages of neighbours are smoother"
    few = autocorrelation_recovery(truth[:3], smoother[:3])
    assert few.genes == 2
    assert np.isnan(few.correlation)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: spatial_weights(np.zeros((2, 2))), "2 cells"),
        (lambda: spatial_weights(np.full((5, 2), np.nan)), "5 cells have no place"),
        (lambda: row_normalised(sparse.csr_matrix((3, 3))), "sum 0"),
        (lambda: morans_i(np.zeros((4, 1)), sparse.eye(3).tocsr()), "for 4 cells"),
        (lambda: autocorrelation_recovery(np.zeros(3), np.zeros(4)), "expected both"),
    ],
)
def test_what_has_no_structure_is_refused(call, message: str) -> None:
    with pytest.raises(SpatialError, match=message):
        call()
