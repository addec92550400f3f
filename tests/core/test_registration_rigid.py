"""Rigid and similarity fits, against scipy, skimage and the truth."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_keypoints import turned
from scipy.spatial.transform import Rotation
from skimage.transform import estimate_transform

from past_core.ingest.xenium_alignment import check_matrix
from past_core.registration.rigid import RigidError, kabsch, matrix_um, mirrored, rms, umeyama

angles = st.floats(-np.pi, np.pi)
shifts = st.tuples(st.floats(-2e4, 2e4), st.floats(-2e4, 2e4))
seeds = st.integers(0, 2**32 - 1)


@given(angles, shifts, st.floats(0.1, 10), seeds, st.integers(2, 20))
def test_a_known_transform_is_recovered(angle, shift, scale, seed, n):
    points = np.random.default_rng(seed).uniform(0, 1e4, (n, 2))
    truth = turned(angle, shift, scale)
    found = umeyama(points, truth(points))
    np.testing.assert_allclose(found.matrix, truth.matrix, atol=1e-6)
    rigid = turned(angle, shift)
    np.testing.assert_allclose(kabsch(points, rigid(points)).matrix, rigid.matrix, atol=1e-6)
    np.testing.assert_allclose(found.inverse(found(points)), points, atol=1e-6)


@given(seeds, st.integers(3, 30))
def test_the_rotation_is_scipys(seed, n):
    rng = np.random.default_rng(seed)
    x, y, w = rng.normal(size=(n, 2)), rng.normal(size=(n, 2)), rng.uniform(0.1, 3, n)
    found = kabsch(x, y, weights=w)
    flat = [np.column_stack([p - np.average(p, axis=0, weights=w), np.zeros(n)]) for p in (x, y)]
    # A vector along z keeps the third dimension's rotations out.
    ahead = np.array([[0, 0, 1.0]])
    reference, _ = Rotation.align_vectors(
        np.vstack([flat[1], ahead]), np.vstack([flat[0], ahead]), weights=[*w, np.inf]
    )
    np.testing.assert_allclose(found.rotation, reference.as_matrix()[:2, :2], atol=1e-6)


@given(seeds, st.integers(2, 30))
def test_the_similarity_is_skimages(seed, n):
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 100, (n, 2))
    y = turned(rng.uniform(-3, 3), (5.0, -7.0), 1.3)(x) + rng.normal(0, 1, x.shape)
    reference = estimate_transform("similarity", x, y).params
    np.testing.assert_allclose(umeyama(x, y).matrix, reference, rtol=1e-6, atol=1e-6)


@given(seeds)
def test_no_other_angle_fits_better(seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(5, 2)), rng.normal(size=(5, 2))
    least = rms(kabsch(x, y)(x) - y)
    for angle in np.linspace(0, 2 * np.pi, 37):
        other = turned(angle)
        assert least <= rms(other(x - x.mean(0)) - (y - y.mean(0))) + 1e-9


def test_weights_count_as_copies():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(4, 2)), rng.normal(size=(4, 2))
    copies = [0, 1, 1, 2, 2, 2]
    weighted = kabsch(x, y, weights=[1, 2, 3, 0])
    np.testing.assert_allclose(weighted.matrix, kabsch(x[copies], y[copies]).matrix)


def test_a_reflection_is_never_returned_and_is_noticed():
    x = np.random.default_rng(1).uniform(0, 1000, (12, 2))
    y = turned(0.7, (10.0, 20.0))(x * [-1, 1])
    assert np.linalg.det(kabsch(x, y).rotation) == pytest.approx(1)
    assert mirrored(x, y)
    assert not mirrored(x, turned(0.7)(x) + 1)
    square = np.array([[0, 0], [1, 0], [1, 1], [0, 1.0]])
    assert mirrored(square, square * [-1, 1])
    with pytest.raises(RigidError, match="flip the image"):
        kabsch(square, square * [-1, 1])


def test_collinear_points_are_enough_for_a_rotation():
    x = np.column_stack([np.arange(4.0), 2 * np.arange(4.0)])
    truth = turned(2.0, (3.0, 4.0))
    np.testing.assert_allclose(kabsch(x, truth(x)).matrix, truth.matrix, atol=1e-9)


def test_the_vendors_matrix_in_pixels():
    truth = turned(np.radians(90.5), (800.0, 15000.0))
    matrix = truth.pixel_matrix(he_mpp=0.274, pixel_size=0.2125)
    alignment = check_matrix(matrix, "here")
    assert alignment.scale == pytest.approx(0.274 / 0.2125)
    assert alignment.rotation_deg == pytest.approx(90.5)
    assert truth.angle_deg == pytest.approx(90.5)
    np.testing.assert_allclose(matrix_um(matrix, he_mpp=0.274, pixel_size=0.2125), truth.matrix, atol=1e-9)
    he = np.array([[1000.0, 2000.0]])
    morphology = truth(he * 0.274) / 0.2125
    np.testing.assert_allclose(alignment.to_image(morphology), he)


@pytest.mark.parametrize(
    ("source", "target", "options", "words"),
    [
        ([[0, 0]], [[1, 1]], {}, "1 points; at least 2"),
        (np.zeros((0, 2)), np.zeros((0, 2)), {}, "0 points"),
        ([[0, 0], [1, 1]], [[0, 0]], {}, "2 source points and 1 target"),
        ([[0, 0], [np.nan, 1]], [[0, 0], [1, 1]], {}, "source point 1"),
        ([[0, 0], [1, 1]], [[0, 0], [np.inf, 1]], {}, "target point 1"),
        ([[0, 0, 0]], [[0, 0]], {}, "expected (N, 2)"),
        ([[5, 5], [5, 5], [5, 5]], [[0, 0], [1, 1], [2, 3]], {}, "all source points lie on"),
        ([[0, 0], [1, 1]], [[3, 3], [3, 3]], {}, "all target points lie on"),
        ([[0, 0], [1, 1]], [[0, 0], [1, 1]], {"weights": [1, -1]}, "finite numbers from 0"),
        ([[0, 0], [1, 1]], [[0, 0], [1, 1]], {"weights": [1, 0]}, "1 points"),
        ([[0, 0], [1, 1]], [[0, 0], [1, 1]], {"weights": [1]}, "weights must be 2"),
    ],
)
def test_what_fixes_no_transform_is_named(source, target, options, words):
    with pytest.raises(RigidError) as caught:
        kabsch(source, target, **options)
    assert words in str(caught.value)
