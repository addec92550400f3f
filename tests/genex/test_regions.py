"""Regions of a slide: a partition whose rims keep a distance."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from past_genex.data.regions import INTERIOR, RIM, RegionError, Regions


@st.composite
def tissues(draw: st.DrawFn) -> tuple[np.ndarray, float, float]:
    seed, n = draw(st.integers(0, 2**32 - 1)), draw(st.integers(1, 400))
    extent = np.array([draw(st.floats(1, 900)), draw(st.floats(1, 900))])
    rim = draw(st.floats(0, 60))
    size = draw(st.floats(max(3 * rim, 1.0), 400))
    return np.random.default_rng(seed).random((n, 2)) * extent + 37.0, size, rim


@given(tissues())
def test_the_interior_of_a_region_is_a_rim_away_from_every_other_region(tissue) -> None:
    xy, size, rim = tissue
    regions = Regions.spatial(xy, size_um=size, rim_um=rim)
    assert regions.sizes().sum() == len(xy)
    assert (regions.sizes().sum(axis=1) > 0).all()
    for region in range(regions.n_regions):
        inside = regions.cells(
            np.eye(2 * regions.n_regions, dtype=bool)[2 * region + INTERIOR].reshape(-1, 2)
        )
        others = regions.region != region
        if inside.any() and others.any():
            distance, _ = cKDTree(xy[others]).query(xy[inside])
            assert distance.min() >= rim * (1 - 1e-9)


@given(tissues(), st.integers(0, 2**32 - 1))
def test_parts_choose_what_they_say(tissue, seed: int) -> None:
    xy, size, rim = tissue
    regions = Regions.spatial(xy, size_um=size, rim_um=rim)
    parts = np.random.default_rng(seed).random((regions.n_regions, 2)) < 0.5
    chosen = regions.cells(parts)
    assert chosen.sum() == regions.sizes()[parts].sum()
    expected = [
        parts[g, RIM if at_rim else INTERIOR] for g, at_rim in zip(regions.region, regions.rim, strict=True)
    ]
    np.testing.assert_array_equal(chosen, expected)
    assert regions.cells(regions.everything()).all()


def test_touching_includes_corners() -> None:
    x, y = np.meshgrid(np.arange(0, 300, 10.0), np.arange(0, 300, 10.0))
    regions = Regions.spatial(np.stack([x.ravel(), y.ravel()], axis=1), size_um=90, rim_um=20)
    assert regions.n_regions == 9
    corner = (regions.place == [0, 0]).all(axis=1)
    assert {tuple(place) for place in regions.place[regions.touching(corner)]} == {(0, 1), (1, 0), (1, 1)}
    assert not regions.touching(np.ones(9, bool)).any()


def test_squares_cover_the_extent_without_a_sliver() -> None:
    xy = np.random.default_rng(0).random((5000, 2)) * [1000, 450]
    regions = Regions.spatial(xy, size_um=200, rim_um=50)
    assert regions.place.max(axis=0).tolist() == [1, 3] or regions.place.max(axis=0).tolist() == [1, 4]
    assert regions.sizes().sum(axis=1).min() > 0.7 * len(xy) / regions.n_regions


def test_random_regions_are_even_and_have_no_rim() -> None:
    regions = Regions.random(103, regions=4, seed=1)
    assert sorted(regions.sizes()[:, INTERIOR].tolist()) == [25, 26, 26, 26]
    assert not regions.rim.any()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Regions.spatial(np.zeros((0, 2)), size_um=100, rim_um=10), "no cells"),
        (lambda: Regions.spatial(np.zeros((5, 2)), size_um=100, rim_um=56), "three rims"),
        (lambda: Regions.random(3, regions=4), "4 random regions of 3 cells"),
    ],
)
def test_what_cannot_be_cut_is_refused(build, message: str) -> None:
    with pytest.raises(RegionError, match=message):
        build()
