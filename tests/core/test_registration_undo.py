"""A local correction undone: the grid against the iteration, both against the correction itself."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_keypoints import NINE, SIDE_UM, waves

from past_core.registration import undo as module
from past_core.registration.local import BlendedRigid, ThinPlate
from past_core.registration.undo import Undo, UndoError, undo_exactly

PIXEL = 0.2125


def corrections(seed):
    rng = np.random.default_rng(seed)
    nodes = np.concatenate([NINE + rng.uniform(-300, 300, NINE.shape) for _ in range(3)])
    moved = waves(nodes, 12.0) + rng.normal(0, 0.5, nodes.shape)
    return {
        "thin-plate": ThinPlate(nodes, moved, np.full(len(nodes), 0.1)),
        "sharp thin-plate": ThinPlate(nodes, moved, np.full(len(nodes), 0.01)),
        "blended": BlendedRigid(NINE, waves(NINE, 12.0), rng.normal(0, 1e-3, len(NINE)), 2000.0),
    }


@settings(max_examples=10)
@given(st.integers(0, 2**16), st.sampled_from(["thin-plate", "sharp thin-plate", "blended"]))
def test_the_iteration_undoes_the_correction(seed, kind):
    correction = corrections(seed)[kind]
    before = np.random.default_rng(seed).uniform(-500, SIDE_UM + 500, (500, 2))
    after = before + correction(before)
    np.testing.assert_allclose(undo_exactly(correction, after), before, atol=1e-6)


@pytest.mark.parametrize("kind", ["thin-plate", "blended"])
def test_the_grid_is_within_a_thousandth_of_a_pixel(kind):
    correction = corrections(3)[kind]
    undo = Undo(correction, np.zeros(2), np.full(2, SIDE_UM))
    assert undo.step_um is not None
    assert undo.error_um < 1e-3 * PIXEL
    before = np.random.default_rng(1).uniform(50, SIDE_UM - 50, (50_000, 2))
    if kind == "thin-plate":  # at its nodes splines do worst
        before[: len(correction.nodes)] = correction.nodes
    found = undo(before + correction(before))
    assert np.abs(found - before).max() < 1e-3 * PIXEL
    # Beyond the box it is computed exactly.
    outside = np.array([[-900.0, 20.0], [SIDE_UM + 700, SIDE_UM + 900]])
    np.testing.assert_allclose(undo(outside + correction(outside)), outside, atol=1e-6)


def test_the_answer_does_not_depend_on_the_other_points(monkeypatch):
    correction = corrections(4)["blended"]
    undo = Undo(correction, np.zeros(2), np.full(2, SIDE_UM))
    points = np.random.default_rng(2).uniform(0, SIDE_UM, (1000, 2))
    whole = undo(points)
    monkeypatch.setattr(module, "BLOCK", 64)
    np.testing.assert_array_equal(whole, undo(points))
    np.testing.assert_array_equal(whole[500:], undo(points[500:]))
    assert undo(points[:0]).shape == (0, 2)


def test_without_a_grid_all_is_exact(monkeypatch, caplog):
    monkeypatch.setattr(module, "MOST_NODES", 100)
    correction = corrections(5)["thin-plate"]
    undo = Undo(correction, np.zeros(2), np.full(2, SIDE_UM))
    assert undo.step_um is None
    assert "too sharp for a grid" in caplog.text
    before = np.random.default_rng(3).uniform(0, SIDE_UM, (200, 2))
    np.testing.assert_allclose(undo(before + correction(before)), before, atol=1e-6)


def test_a_correction_that_folds_is_refused():
    nodes = np.array([[0, 0], [100, 0], [0, 100], [100, 100], [50, 50.0]])
    torn = ThinPlate(nodes, np.array([[0, 0], [0, 0], [0, 0], [0, 0], [150, 0.0]]), np.zeros(5))
    with pytest.raises(UndoError, match="folds the tissue"):
        Undo(torn, np.zeros(2), np.full(2, 100.0))
