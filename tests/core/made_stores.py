"""When two stores of one slide, at two resolutions, show the same cells at the same places."""

import geopandas
import numpy as np
import pandas as pd


def same_micrometres(found, expected, *, patch_um: float = 40.0) -> None:
    """Asserts that cells, outlines, matrices and the image around cells are the same in µm.

    Args:
        found: A slide store.
        expected: Another, of another resolution.
        patch_um: Side of the patches that are compared.
    """
    rows = pd.Index(found.cell_ids).get_indexer(expected.cell_ids)
    assert (rows >= 0).all()
    assert found.n_cells == expected.n_cells
    assert (found.counts[rows] != expected.counts).nnz == 0
    places = found.centroids[rows] * found.mpp
    np.testing.assert_allclose(places, expected.centroids * expected.mpp, atol=1e-6)
    distances = (found.distances[rows], expected.distances)
    np.testing.assert_allclose(*(np.where(np.isfinite(d), d, -1) for d in distances), atol=1e-3)
    on_morphology = []
    for store, centroids in ((found, found.centroids[rows]), (expected, expected.centroids)):
        matrix = np.array(store.manifest["registration"]["matrix"])
        on_morphology.append(centroids @ matrix[:2, :2].T + matrix[:2, 2])
    np.testing.assert_allclose(*on_morphology, atol=1e-6)
    areas = [
        geopandas.read_parquet(store.path / "shapes" / "cell_boundaries" / "shapes.parquet").area
        * store.mpp**2
        for store in (found, expected)
    ]
    np.testing.assert_allclose(areas[0].loc[areas[1].index], areas[1], rtol=1e-6)
    level = expected.levels[0]
    size = np.array([level.width, level.height]) * level.mpp
    inside = np.flatnonzero(((places > patch_um / 2) & (places < size - patch_um / 2)).all(axis=1))
    for place in places[inside[:: max(1, len(inside) // 5)]]:
        left, right = (_patch(store, place, patch_um) for store in (found, expected))
        assert np.abs(left - right).mean() < 6
        assert np.corrcoef(left.ravel(), right.ravel())[0, 1] > 0.9


def _patch(store, place: np.ndarray, side_um: float) -> np.ndarray:
    """(3, 10, 10) means over a patch's squares of side_um / 10."""
    from PIL import Image

    side = round(side_um / store.mpp)
    x, y = np.floor(place / store.mpp - side / 2).astype(int)
    pixels = store.read(0, int(y), int(x), side, side).transpose(1, 2, 0)
    return np.asarray(Image.fromarray(pixels).resize((10, 10), Image.Resampling.BOX), float).transpose(
        2, 0, 1
    )
