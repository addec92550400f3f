"""Moments of predictions and truths against SciPy and scikit-learn, and their merging."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import r2_score

from past_genex.metrics.pairs import PairError, PairMoments
from past_genex.metrics.rank import spearman

FIELDS = ("n", "mean_p", "mean_t", "pp", "tt", "pt")


def same(a: PairMoments, b: PairMoments, atol: float = 1e-9) -> None:
    for field in FIELDS:
        np.testing.assert_allclose(getattr(a, field), getattr(b, field), rtol=1e-9, atol=atol, err_msg=field)


@st.composite
def values(draw: st.DrawFn, cells: int = 60) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, genes = draw(st.integers(3, cells)), draw(st.integers(1, 6))
    level = draw(st.sampled_from([0.0, 1.0, 1000.0]))
    truth = np.round(rng.normal(level, 1, (n, genes)), draw(st.sampled_from([0, 8])))
    predicted = rng.normal(level, 1, (n, genes)) + rng.normal() * truth
    truth[:, rng.random(genes) < 0.2] = np.nan
    truth[:, rng.random(genes) < 0.2] = rng.normal()
    predicted[:, rng.random(genes) < 0.2] = rng.normal()
    return predicted, truth, rng


@given(values())
def test_r_and_r2_are_those_of_scipy_and_scikit_learn(drawn) -> None:
    predicted, truth, _ = drawn
    pairs = PairMoments.of(predicted, truth)
    for g in range(truth.shape[1]):
        p, t = predicted[:, g], truth[:, g]
        if np.isnan(t).all():
            assert pairs.n[g] == 0
        if np.isnan(t).all() or np.ptp(t) == 0:
            assert np.isnan(pairs.r[g])
            assert np.isnan(pairs.r2[g])
            continue
        expected = 0.0 if np.ptp(p) == 0 else stats.pearsonr(p, t).statistic
        assert pairs.r[g] == pytest.approx(expected, abs=1e-10)
        assert pairs.r2[g] == pytest.approx(r2_score(t, p), rel=1e-8, abs=1e-8)


@given(values())
def test_ranks_are_those_of_scipy(drawn) -> None:
    predicted, truth, _ = drawn
    rho = spearman(predicted, truth)
    for g in range(truth.shape[1]):
        p, t = predicted[:, g], truth[:, g]
        if np.isnan(t).all() or np.ptp(t) == 0:
            assert np.isnan(rho[g])
        else:
            expected = 0.0 if np.ptp(p) == 0 else stats.spearmanr(p, t).statistic
            assert rho[g] == pytest.approx(expected, abs=1e-12)


@given(values(), st.integers(1, 8))
def test_any_grouping_in_any_order_merges_to_the_whole(drawn, groups: int) -> None:
    predicted, truth, rng = drawn
    part = rng.integers(0, groups, len(truth))
    pieces = [PairMoments.of(predicted[part == k], truth[part == k]) for k in rng.permutation(groups)]
    whole = PairMoments.of(predicted, truth)
    scale = float(np.nanmax(np.abs(predicted)) + 1) ** 2
    same(PairMoments.stack(pieces).merged(), whole, atol=1e-10 * scale)
    # Tree by tree: the first some, the others, then both.
    cut = int(rng.integers(0, groups))
    halves = [PairMoments.stack(half).merged() for half in (pieces[:cut], pieces[cut:]) if half]
    same(PairMoments.stack(halves).merged(), whole, atol=1e-10 * scale)
    np.testing.assert_array_equal(np.isnan(PairMoments.stack(pieces).merged().r), np.isnan(whole.r))


@given(values(), st.integers(1, 5))
def test_a_weight_is_that_many_copies(drawn, groups: int) -> None:
    predicted, truth, rng = drawn
    part = rng.integers(0, groups, len(truth))
    units = PairMoments.stack([PairMoments.of(predicted[part == k], truth[part == k]) for k in range(groups)])
    weights = rng.integers(0, 4, groups)
    rows = np.concatenate([np.tile(np.flatnonzero(part == k), w) for k, w in enumerate(weights)]).astype(int)
    merged = units.merged(weights=weights)
    if not len(rows):
        assert np.isnan(merged.r).all()
        return
    np.testing.assert_allclose(merged.r, PairMoments.of(predicted[rows], truth[rows]).r, atol=1e-8)


def test_a_unit_without_the_gene_does_not_count() -> None:
    rng = np.random.default_rng(0)
    predicted, truth = rng.normal(size=(2, 20, 3)), rng.normal(size=(2, 20, 3))
    truth[0, :, 1] = np.nan
    units = PairMoments.stack([PairMoments.of(p, t) for p, t in zip(predicted, truth, strict=True)])
    merged = units.merged()
    np.testing.assert_array_equal(merged.n, [40, 20, 40])
    assert merged.r[1] == pytest.approx(stats.pearsonr(predicted[1, :, 1], truth[1, :, 1]).statistic)
    same(units[:, :2].merged(), merged[:2])
    # Along another axis, as for units of several systems at once.
    same(PairMoments.stack([units, units]).merged(axis=1)[1], merged)


@pytest.mark.parametrize("scale", [1e-120, 1e-30, 1.0, 1e60])
def test_r_does_not_depend_on_the_scale(scale: float) -> None:
    rng = np.random.default_rng(1)
    predicted, truth = rng.normal(size=(2, 50, 4))
    expected = PairMoments.of(predicted, truth).r
    np.testing.assert_allclose(PairMoments.of(predicted * scale, truth * scale).r, expected, rtol=1e-10)


def test_constants_of_any_value_are_constant() -> None:
    rng = np.random.default_rng(2)
    constant = np.tile([0.1, 1 / 3, 1e9 / 7, -0.7, 0.0], (1001, 1))
    varying = rng.normal(size=constant.shape)
    assert np.isnan(PairMoments.of(varying, constant).r).all()
    np.testing.assert_array_equal(PairMoments.of(constant, varying).r, 0.0)
    pieces = PairMoments.stack([PairMoments.of(varying[i::7], constant[i::7]) for i in range(7)])
    assert np.isnan(pieces.merged().r).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("function", [PairMoments.of, spearman])
def test_values_that_are_not_finite_are_refused(function, bad: float) -> None:
    predicted, truth = np.random.default_rng(3).normal(size=(2, 9, 4))
    predicted[3, 2] = bad
    with pytest.raises(PairError, match="column 2"):
        function(predicted, truth)
    with pytest.raises(PairError, match="column 2"):
        function(truth, predicted)
    with pytest.raises(PairError, match="expected"):
        function(truth, predicted[:, :2])


def test_no_cells_measure_nothing() -> None:
    pairs = PairMoments.of(np.zeros((0, 3)), np.zeros((0, 3)))
    np.testing.assert_array_equal(pairs.n, 0)
    assert np.isnan(pairs.r).all()
    assert np.isnan(spearman(np.zeros((0, 3)), np.zeros((0, 3)))).all()
