"""The order of cells: every cell equally often, ranks apart, groups together, fixed by the seed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from past_core.data.groups import kd_groups
from past_core.data.plan import BatchSizeError, BlockCells, EpochPlan


def blocks_of(sizes: list[int], seed: int = 0) -> list[BlockCells]:
    rng = np.random.default_rng(seed)
    return [
        BlockCells(slide=i % 2, block=i, rows=np.arange(n) + 1000 * i, points=rng.random((n, 2)))
        for i, n in enumerate(sizes)
    ]


@given(st.integers(0, 200), st.integers(1, 40), st.integers(0, 5))
def test_kd_groups_partition_into_full_groups(n: int, size: int, seed: int) -> None:
    groups = kd_groups(np.random.default_rng(seed).random((n, 2)), size)
    assert sorted(np.concatenate([*groups, np.empty(0, int)]).tolist()) == list(range(n))
    assert sum(len(group) < size for group in groups) <= 1
    assert all(len(group) <= size for group in groups)


def test_kd_groups_are_compact() -> None:
    points = np.random.default_rng(0).random((1024, 2))
    spread = np.mean([np.ptp(points[group], axis=0).max() for group in kd_groups(points, 16)])
    shuffled = np.mean([np.ptp(points[group], axis=0).max() for group in np.arange(1024).reshape(64, 16)])
    assert spread < 0.3 * shuffled


def test_kd_groups_take_coinciding_points() -> None:
    assert [len(group) for group in kd_groups(np.zeros((10, 2)), 4)] == [4, 4, 2]


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=6),
    st.integers(1, 7),
    st.integers(1, 3),
    st.integers(1, 9),
    st.integers(1, 4),
)
def test_every_round_deals_every_cell_once(
    sizes: list[int], batch_size: int, world: int, group: int, opened: int
) -> None:
    blocks = blocks_of(sizes)
    total = sum(sizes)
    if total < batch_size * world:
        with pytest.raises(BatchSizeError, match=f"{total} usable cells"):
            EpochPlan(blocks, batch_size=batch_size, world_size=world)
        return
    plans = [
        EpochPlan(
            blocks,
            batch_size=batch_size,
            group_size=group,
            open_blocks=opened,
            seed=3,
            rank=rank,
            world_size=world,
        )
        for rank in range(world)
    ]
    everything = {(b.slide, b.block, int(row)) for b in blocks for row in b.rows}
    # The stream over epochs and ranks, put back in order, is one round after another.
    epochs = -(-2 * total // (plans[0].batches_per_epoch * batch_size * world))
    stream = np.concatenate(
        [np.stack([plan.epoch(e) for plan in plans], axis=1).reshape(-1, 3) for e in range(epochs)]
    )
    for start in range(0, len(stream) - total + 1, total):
        dealt = [tuple(cell) for cell in stream[start : start + total].tolist()]
        assert len(set(dealt)) == total
        assert set(dealt) == everything


def test_ranks_together_are_the_one_rank_of_a_larger_batch() -> None:
    blocks = blocks_of([50, 30, 20])
    one = EpochPlan(blocks, batch_size=8, seed=5).epoch(2)
    two = [EpochPlan(blocks, batch_size=4, seed=5, rank=r, world_size=2).epoch(2) for r in range(2)]
    assert np.array_equal(np.concatenate(two, axis=1), one)


def test_order_depends_on_seed_and_epoch_only() -> None:
    blocks = blocks_of([60, 60])
    plan = EpochPlan(blocks, batch_size=10, seed=1)
    assert np.array_equal(plan.epoch(4), EpochPlan(blocks, batch_size=10, seed=1).epoch(4))
    assert not np.array_equal(plan.epoch(4), plan.epoch(5))
    assert not np.array_equal(plan.epoch(4), EpochPlan(blocks, batch_size=10, seed=2).epoch(4))


def test_groups_stay_together_and_blocks_mix() -> None:
    blocks = blocks_of([64] * 4)
    cells = EpochPlan(blocks, batch_size=32, group_size=8, open_blocks=4, seed=0).epoch(0)
    for batch in cells:
        runs = batch.reshape(4, 8, 3)
        for run in runs:
            assert len(np.unique(run[:, 1])) == 1
            points = blocks[run[0, 1]].points[run[:, 2] - 1000 * run[0, 1]]
            assert np.ptp(points, axis=0).max() < 0.7
    assert np.mean([len(np.unique(batch[:, 1])) for batch in cells]) > 2


def test_only_open_blocks_are_mixed() -> None:
    blocks = blocks_of([32] * 8)
    cells = EpochPlan(blocks, batch_size=32, open_blocks=2, seed=0).epoch(0)
    assert all(len(np.unique(batch[:, 1])) <= 2 for batch in cells)
