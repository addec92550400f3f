"""Streaming r by gene against NumPy in float64: batches, slides, ranks, missing genes, half precision."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from past_genex.metrics._kernel import merge_two
from past_genex.metrics.pairs import PairMoments
from past_genex.metrics.streaming import PearsonByGene, StreamingError, _batch_moments, merge_states


def reference(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """r of each gene over its measured cells, with np.corrcoef in float64."""
    r = np.full(truth.shape[1], np.nan)
    for g in range(truth.shape[1]):
        known = ~np.isnan(truth[:, g])
        p, t = predicted[known, g].astype(np.float64), truth[known, g].astype(np.float64)
        if len(t) and np.ptp(t) > 0:
            r[g] = np.corrcoef(p, t)[0, 1] if np.ptp(p) > 0 else 0.0
    return r


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=6),
    genes=st.sampled_from([1, 7, 530]),
    missing=st.sampled_from([0.0, 0.3]),
)
@settings(max_examples=15)
def test_it_is_the_correlation_of_all_batches_together(dtype, seed, sizes, genes, missing) -> None:
    rng = np.random.default_rng(seed)
    n = sum(sizes)
    level = rng.choice([0.0, 1.0, 30.0], genes)
    truth = torch.tensor(rng.normal(level, 1, (n, genes))).to(dtype)
    predicted = torch.tensor(rng.normal(level, 1, (n, genes)) + 0.5 * truth.double().numpy()).to(dtype)
    truth[torch.tensor(rng.random((n, genes)) < missing)] = torch.nan
    truth[:, rng.random(genes) < missing] = torch.nan
    truth[:, rng.random(genes) < 0.2] = 0.3
    predicted[:, rng.random(genes) < 0.2] = 0.1
    metric = PearsonByGene(genes)
    for p, t in zip(predicted.split(sizes), truth.split(sizes), strict=True):
        metric.update(p, t)
    expected = reference(predicted.double().numpy(), truth.double().numpy())
    np.testing.assert_allclose(metric.moments[0], (~torch.isnan(truth)).sum(0))
    if n:
        np.testing.assert_allclose(metric.compute(), expected, atol=1e-10, rtol=0)
    # The path of accelerators gives the same moments.
    if n:
        other, bad = _batch_moments(predicted, truth)
        assert bad == -1
        np.testing.assert_allclose(other, metric.moments, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e5])
def test_far_from_zero_nothing_cancels(offset: float) -> None:
    rng = np.random.default_rng(0)
    truth = torch.tensor(rng.normal(offset, 1, (4000, 300)))
    predicted = truth * 0.3 + torch.tensor(rng.normal(offset, 1, (4000, 300)))
    metric = PearsonByGene(300)
    for p, t in zip(predicted.split(256), truth.split(256), strict=True):
        metric.update(p, t)
    expected = reference(predicted.numpy(), truth.numpy())
    tolerance = 1e-10 if offset <= 1e3 else 1e-9
    assert np.abs(metric.compute().numpy() - expected).max() <= tolerance


def test_float32_at_mean_1000_is_exact_where_sums_in_float32_are_not() -> None:
    rng = np.random.default_rng(1)
    truth = torch.tensor(rng.normal(1000, 1, (2048, 64)), dtype=torch.float32)
    predicted = (truth - 1000) * 0.5 + 1000 + torch.tensor(rng.normal(0, 1, (2048, 64)), dtype=torch.float32)
    metric = PearsonByGene(64)
    for p, t in zip(predicted.split(300), truth.split(300), strict=True):
        metric.update(p, t)
    expected = reference(predicted.numpy(), truth.numpy())
    assert np.abs(metric.compute().numpy() - expected).max() <= 1e-10


def test_slides_of_different_levels_merge() -> None:
    """The shift of a batch is its own: a slide far from the first one costs no digits."""
    rng = np.random.default_rng(2)
    blocks = [rng.normal(level, 1, (100, 5)) for level in (1e6, 0.0, -1e6)]
    predicted = [block + rng.normal(0, 1, (100, 5)) for block in blocks]
    metric = PearsonByGene(5)
    for p, t in zip(predicted, blocks, strict=True):
        metric.update(torch.tensor(p), torch.tensor(t))
    expected = reference(np.concatenate(predicted), np.concatenate(blocks))
    np.testing.assert_allclose(metric.compute(), expected, atol=1e-10)


def test_merging_is_the_moments_of_the_union_and_agrees_with_pair_moments() -> None:
    rng = np.random.default_rng(3)
    metrics, pairs = [], []
    for n in (1, 50, 0, 7):
        p, t = rng.normal(5, 1, (n, 9)), rng.normal(2, 1, (n, 9))
        t[:, : n % 5] = np.nan
        metric = PearsonByGene(9)
        metric.update(torch.tensor(p), torch.tensor(t))
        metrics.append(metric)
        pairs.append(PairMoments.of(p, t))
    merged = merge_states(torch.stack([metric.moments for metric in metrics])).numpy()
    whole = PairMoments.stack(pairs).merged()
    for row, field in zip(merged, ("n", "mean_p", "mean_t", "pp", "tt", "pt"), strict=True):
        np.testing.assert_allclose(row, getattr(whole, field), atol=1e-11)
    # The interface of torchmetrics to the same.
    first = metrics[0]
    for other in metrics[1:]:
        first.merge_state(other)
    np.testing.assert_allclose(first.compute(), whole.r, atol=1e-12)
    np.testing.assert_allclose(first.pairs.r2, whole.r2, atol=1e-12)
    # One metric over all sets, merged one after another by the compiled kernel.
    left = metrics[1].moments
    for other in (metrics[2], metrics[3], metrics[0]):
        both = merge_two(left.numpy(), other.moments.numpy())
        np.testing.assert_allclose(both, merge_states(torch.stack([left, other.moments])), atol=1e-11)
        left = torch.from_numpy(both)


def test_forward_gives_the_batch_and_keeps_the_whole() -> None:
    rng = np.random.default_rng(4)
    p, t = torch.tensor(rng.normal(size=(60, 4))), torch.tensor(rng.normal(size=(60, 4)))
    metric = PearsonByGene(4)
    first = metric(p[:20], t[:20])
    second = metric(p[20:], t[20:])
    np.testing.assert_allclose(first, reference(p[:20].numpy(), t[:20].numpy()), atol=1e-12)
    np.testing.assert_allclose(second, reference(p[20:].numpy(), t[20:].numpy()), atol=1e-12)
    np.testing.assert_allclose(metric.compute(), reference(p.numpy(), t.numpy()), atol=1e-12)
    metric.reset()
    assert metric.moments.abs().sum() == 0
    assert metric.half().moments.dtype == torch.float64, "casts of the module must not cost digits"


def test_the_state_does_not_grow() -> None:
    metric = PearsonByGene(11)
    for _ in range(5):
        metric.update(torch.rand(100, 11), torch.rand(100, 11))
    assert sum(value.numel() for value in metric.metric_state.values()) == 6 * 11


def _data(rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(10 + rank)
    truth = rng.normal(1000 * rank, 1, (30 + 50 * rank, 6))
    truth[:, 0] = np.nan if rank == 0 else truth[:, 0]
    return torch.tensor(truth + rng.normal(size=truth.shape)), torch.tensor(truth)


def test_ranks_merge_exactly() -> None:
    """torchmetrics' own synchronisation, with a gather that hands out what two ranks hold."""
    ranks = [PearsonByGene(6), PearsonByGene(6)]
    for rank, metric in enumerate(ranks):
        metric.update(*_data(rank))
    held = [metric.moments.clone() for metric in ranks]
    synced = PearsonByGene(
        6, dist_sync_fn=lambda state, group=None: held, distributed_available_fn=lambda: True
    )
    synced.update(*_data(0))
    p, t = (torch.cat(parts).numpy() for parts in zip(_data(0), _data(1), strict=True))
    np.testing.assert_allclose(synced.compute(), reference(p, t), atol=1e-10)
    assert synced.pairs.n.max() == 30, "own state again after the synchronisation"
    with synced.sync_context(dist_sync_fn=lambda state, group=None: held):
        np.testing.assert_array_equal(synced.pairs.n, (~np.isnan(t)).sum(axis=0))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("path", ["kernel", "torch"])
def test_predictions_that_are_not_finite_are_refused_and_change_nothing(value: float, path: str) -> None:
    p, t = torch.rand(20, 700), torch.rand(20, 700)
    t[:, 3] = torch.nan
    p[:, 3] = value  # not measured: whatever is predicted there
    metric = PearsonByGene(700)
    metric.update(p, t)
    before = metric.moments.clone()
    p[7, 600] = value
    if path == "kernel":
        with pytest.raises(StreamingError, match="gene 600"):
            metric.update(p, t)
    else:
        assert _batch_moments(p, t)[1] == 600
    assert torch.equal(metric.moments, before)


def test_what_does_not_fit_is_refused() -> None:
    metric = PearsonByGene(5)
    with pytest.raises(StreamingError, match=r"expected both \(cells, 5\)"):
        metric.update(torch.rand(3, 4), torch.rand(3, 4))
    with pytest.raises(StreamingError, match="expected both"):
        metric.update(torch.rand(3, 5), torch.rand(2, 5))
    with pytest.raises(StreamingError, match="0 genes"):
        PearsonByGene(0)
    infinite = torch.rand(3, 5)
    infinite[1, 2] = torch.inf
    with pytest.raises(StreamingError, match="gene 2"):
        metric.update(torch.rand(3, 5), infinite)
