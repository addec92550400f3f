"""Statistics against numpy: whatever the chunks, the order and the offset, the same numbers."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from past_genex.statistics.moments import Moments, MomentsError, leave_one_out_merges, merge_moments


def data(seed: int, n: int, d: int = 5, genes: int = 3, offset: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + offset
    return x, np.log1p(rng.poisson(2.0, size=(n, genes))) + 0.3 * x[:, :1]


def reference(x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    dx, dy = x - x.mean(axis=0), y - y.mean(axis=0)
    return {
        "n": len(x),
        "mean_x": x.mean(axis=0),
        "mean_y": y.mean(axis=0),
        "xx": dx.T @ dx,
        "xy": dx.T @ dy,
        "yy": (dy**2).sum(axis=0),
    }


def assert_equal(found: Moments, expected: dict[str, np.ndarray], rtol: float = 1e-10) -> None:
    for name, value in expected.items():
        scale = max(1.0, float(np.abs(value).max()))
        np.testing.assert_allclose(getattr(found, name), value, rtol=rtol, atol=rtol * scale, err_msg=name)


@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 60),
    chunk=st.integers(1, 70),
    cuts=st.lists(st.integers(0, 60), max_size=6),
    offset=st.sampled_from([0.0, 1000.0]),
)
def test_any_chunks_and_any_partition_give_the_moments_of_all(seed, n, chunk, cuts, offset) -> None:
    x, y = data(seed, n, offset=offset)
    expected = reference(x, y)
    assert_equal(Moments.of(x, y, chunk=chunk), expected)
    edges = [0, *sorted(min(cut, n) for cut in cuts), n]
    parts = [Moments.of(x[a:b], y[a:b]) for a, b in itertools.pairwise(edges)]
    assert_equal(merge_moments(parts), expected)
    one_by_one = parts[0]
    for part in parts[1:]:
        one_by_one = one_by_one.merge(part)
    assert_equal(one_by_one, expected)
    assert np.array_equal(one_by_one.xx, one_by_one.xx.T)
    bounds = list(itertools.pairwise(edges))
    left_out = list(leave_one_out_merges(parts))
    assert len(left_out) == len(parts)
    for (a, b), found in zip(bounds, left_out, strict=True):
        rest = np.r_[0:a, b:n]
        assert found.n == len(rest)
        if len(rest):
            assert_equal(found, reference(x[rest], y[rest]))


def test_small_deviations_from_a_large_mean_survive_where_sums_of_squares_lose_them() -> None:
    rng = np.random.default_rng(0)
    x = 1e6 + 1e-3 * rng.normal(size=(20_000, 4))
    y = 1e6 + 1e-3 * rng.normal(size=(20_000, 2))
    exact = np.cov(x.astype(np.longdouble).T.astype(np.float64) - 1e6) * (len(x) - 1)
    parts = [Moments.of(x[a : a + 3000], y[a : a + 3000], chunk=777) for a in range(0, len(x), 3000)]
    for found in (merge_moments(parts), parts[0].merge(merge_moments(parts[1:]))):
        np.testing.assert_allclose(found.xx, exact, rtol=1e-5, atol=1e-5 * exact.max())
    naive = x.T @ x - len(x) * np.outer(x.mean(axis=0), x.mean(axis=0))
    assert np.abs(naive - exact).max() > 0.1 * exact.max()


def test_float32_embeddings_are_accumulated_in_float64() -> None:
    x, y = data(1, 30_000, offset=1000.0)
    x = x.astype(np.float32)
    assert_equal(Moments.of(x, y), reference(x.astype(np.float64), y), rtol=1e-11)


def test_the_larger_part_left_out_is_exact_where_subtracting_would_not_be() -> None:
    rng = np.random.default_rng(2)
    big, small = 1e8 * rng.normal(size=(500, 3)), 1e-3 * rng.normal(size=(20, 3))
    y = [rng.normal(size=(500, 1)), rng.normal(size=(20, 1))]
    rest = next(iter(leave_one_out_merges([Moments.of(big, y[0]), Moments.of(small, y[1])])))
    assert_equal(rest, reference(small, y[1]), rtol=1e-14)


def test_some_genes_are_the_statistics_of_these_genes() -> None:
    x, y = data(3, 40)
    some = Moments.of(x, y).select([2, 0])
    assert_equal(some, reference(x, y[:, [2, 0]]))


def test_no_cells_are_neutral() -> None:
    x, y = data(4, 10)
    found = Moments.of(x, y)
    nothing = Moments.of(x[:0], y[:0])
    assert nothing.n == 0
    assert_equal(nothing.merge(found), reference(x, y))
    assert_equal(found.merge(nothing), reference(x, y))
    assert merge_moments([nothing, nothing]).n == 0
    assert next(iter(leave_one_out_merges([found]))).n == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_named_with_its_row(bad) -> None:
    x, y = data(5, 20)
    x[13, 2] = bad
    with pytest.raises(MomentsError, match=r"embedding of row 13 is .* in column 2"):
        Moments.of(x, y, chunk=6)
    x[13, 2], y[7, 1] = 0.0, bad
    with pytest.raises(MomentsError, match=r"expression of row 7 is .* in column 1"):
        Moments.of(x, y, chunk=6)


def test_what_does_not_fit_is_refused() -> None:
    x, y = data(6, 20)
    with pytest.raises(MomentsError, match=r"\(19, 5\).*\(20, 3\)"):
        Moments.of(x[:-1], y)
    with pytest.raises(MomentsError, match="4 x 3, 5 x 3"):
        Moments.of(x, y).merge(Moments.of(x[:, :4], y))
    with pytest.raises(MomentsError, match="no statistics"):
        merge_moments([])
