"""Small Xenium bundles for tests, and when two slides that were read from them are the same."""

import numpy as np
import pandas as pd

from past_core.synthetic.expression import simulate_expression
from past_core.synthetic.tissue import TissueConfig, simulate_tissue

PATIENT = "T4"
HE = f"{PATIENT}_he_image.ome.tif"
ALIGNMENT = f"{PATIENT}_he_imagealignment.csv"


def small_tissue(spacing_um: float = 15.0, seed: int = 6):
    """Some 50 cells on 100 µm: the tissue and its expression."""
    config = TissueConfig(
        patient=PATIENT, cancer_type="lung", seed=seed, size_um=100.0, spacing_um=spacing_um
    )
    tissue = simulate_tissue(config)
    return tissue, simulate_expression(tissue)


def same_slide(found, expected, *, ids: bool = True, methods: bool = True, atol_px: float = 1e-3) -> None:
    """Asserts that cells, genes, counts, positions, attributes and outlines are equal.

    Args:
        found: What was read.
        expected: What it should be.
        ids: Cells have the same ids, too.
        methods: The segmentation methods are to be compared.
        atol_px: Of positions and vertices, in H&E pixels (outlines are stored as float32 µm).
    """
    left, right = found.table, expected.table
    if ids:
        np.testing.assert_array_equal(left.obs_names, right.obs_names)
    np.testing.assert_array_equal(left.var_names, right.var_names)
    np.testing.assert_array_equal(left.var["symbol"], right.var["symbol"])
    assert left.shape == right.shape
    assert (left.X != right.X).nnz == 0
    np.testing.assert_allclose(left.obsm["spatial"], right.obsm["spatial"], atol=atol_px)
    columns = [name for name in right.obs if methods or name != "segmentation_method"]
    assert set(columns) <= set(left.obs)
    for column in columns:
        if pd.api.types.is_numeric_dtype(right.obs[column]):
            np.testing.assert_allclose(left.obs[column], right.obs[column], rtol=1e-9)
        else:
            np.testing.assert_array_equal(left.obs[column].astype(str), right.obs[column].astype(str))
    assert abs(found.mpp / expected.mpp - 1) < 1e-6
    assert found.organism == expected.organism
    np.testing.assert_allclose(found.registration["matrix"], expected.registration["matrix"])
    same_outlines(found.cell_boundaries, expected.cell_boundaries, found, expected, atol_px)
    same_outlines(found.nucleus_boundaries, expected.nucleus_boundaries, found, expected, atol_px)


def same_outlines(left, right, found, expected, atol_px: float) -> None:
    """The same polygons of the same cells, in any order of the polygons of different cells."""
    assert (left is None) == (right is None)
    if left is None or right is None:
        return
    assert len(left) == len(right)
    ordered = []
    for rings, slide in ((left, found), (right, expected)):
        outlines = rings.to_geodataframe()
        owner = outlines.get("cell_id", outlines.index)
        row = slide.table.obs_names.get_indexer(pd.Index(owner).astype(str))
        assert (row >= 0).all()
        first = [geometry.exterior.coords[0] for geometry in outlines.geometry]
        order = np.lexsort((np.round([y for _, y in first], 1), np.round([x for x, _ in first], 1), row))
        ordered.append((row[order], outlines.geometry.to_numpy()[order]))
    (left_row, left_shape), (right_row, right_shape) = ordered
    np.testing.assert_array_equal(left_row, right_row)
    for one, other in zip(left_shape, right_shape, strict=True):
        np.testing.assert_allclose(one.exterior.coords, other.exterior.coords, atol=atol_px)
