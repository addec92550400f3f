"""The noise ceiling on simulated counts whose rates are known."""

import numpy as np
import pytest
from scipy import sparse, stats

from past_genex.metrics.ceiling import CeilingError, log1p_variance, noise_ceiling

CELLS, GENES = 2000, 60


def rates(kind: str, rng: np.random.Generator) -> np.ndarray:
    """`(N, G)` expected normalised counts, means from sparse to plenty."""
    level = np.exp(np.linspace(np.log(0.05), np.log(20), GENES))
    if kind == "continuous":
        return rng.gamma(1.5, 1 / 1.5, (CELLS, GENES)) * level
    types = np.exp(rng.normal(0, 1, (5, GENES)))[rng.integers(0, 5, CELLS)]
    return types * rng.lognormal(0, 0.3, (CELLS, GENES)) * level


@pytest.mark.parametrize("kind", ["continuous", "types"])
@pytest.mark.parametrize("normalised", [True, False])
def test_it_is_what_the_best_predictor_of_the_rate_reaches(kind: str, normalised: bool) -> None:
    rng = np.random.default_rng(0)
    totals = rng.lognormal(np.log(200), 0.5, CELLS)
    scale = float(np.median(totals)) if normalised else None
    factor = (scale / totals if normalised else np.ones(CELLS))[:, None]
    mu = rates(kind, rng) / factor
    measured = np.log1p(rng.poisson(mu) * factor)
    # E[y | rate], the truth-optimal predictor, by many draws.
    best = np.mean([np.log1p(rng.poisson(mu) * factor) for _ in range(100)], axis=0)
    reached = np.array([stats.pearsonr(b, m).statistic for b, m in zip(best.T, measured.T, strict=True)])
    counts = sparse.csr_matrix(np.rint(np.expm1(measured) / factor))
    found = noise_ceiling(counts, totals, scale=scale)
    assert not found.reason.any()
    assert abs((found.r - reached).mean()) < 0.02
    dense = mu.mean(axis=0) > 2
    assert np.abs(found.r - reached)[dense].max() < 0.05


def test_without_signal_it_is_low_and_with_strong_signal_high() -> None:
    rng = np.random.default_rng(1)
    mu = np.stack([np.full(3000, 3.0), rng.choice([5.0, 500.0], 3000)], axis=1)
    low, high = noise_ceiling(sparse.csr_matrix(rng.poisson(mu)), np.full(3000, 100.0), scale=None).r
    assert low < 0.25
    assert high > 0.98


def test_noise_of_a_rate_is_that_of_draws_on_both_sides_of_the_approximation() -> None:
    rng = np.random.default_rng(2)
    mu, factor = np.array([1e-3, 0.3, 4.0, 59.0, 61.0, 900.0]), np.array([1.0, 2.0, 0.3, 1.0, 1.0, 5.0])
    draws = np.log1p(rng.poisson(mu, (400_000, 6)) * factor).var(axis=0)
    np.testing.assert_allclose(log1p_variance(mu, factor), draws, rtol=0.02, atol=1e-4)


def test_too_sparse_genes_say_why() -> None:
    rng = np.random.default_rng(3)
    counts = rng.poisson([0.0, 0.01, 2.0], (500, 3))
    counts[:, 0] = 0
    found = noise_ceiling(sparse.csr_matrix(counts), np.full(500, 50.0), scale=None)
    assert np.flatnonzero(np.isnan(found.r)).tolist() == [0, 1]
    assert found.reason[0].startswith("a count in 0 cells")
    assert found.reason[2] == ""
    constant = noise_ceiling(sparse.csr_matrix(np.ones((100, 1))), np.full(100, 9.0), scale=9.0)
    assert constant.reason[0] == "the same value in every cell"


@pytest.mark.parametrize(
    ("counts", "totals", "message"),
    [
        (np.full((5, 1), 0.5), np.ones(5), "whole numbers"),
        (np.full((5, 1), -1.0), np.ones(5), "negative"),
        (np.ones((5, 1)), np.ones(4), "4 totals"),
        (np.ones((5, 1)), np.zeros(5), "positive"),
    ],
)
def test_what_are_no_counts_is_refused(counts, totals, message: str) -> None:
    with pytest.raises(CeilingError, match=message):
        noise_ceiling(sparse.csr_matrix(counts), totals, scale=None)
