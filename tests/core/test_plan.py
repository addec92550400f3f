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
def test_every_cell_is_drawn_equally_often(
    sizes: list[int], batch_size: int, world: int, group: int, opened: int
) -> None:
    blocks = blocks_of(sizes)
    total = sum(sizes)
    if total < batch_size * world:
        with pytest.raises(BatchSizeError, match=f"{total} usable cells"):
            EpochPlan(blocks, batch_size=batch_size, world_size=world)
        return
    options = {"batch_size": batch_size, "group_size": group, "open_blocks": opened, "world_size": world}
    plans = [EpochPlan(blocks, seed=3, rank=rank, **options) for rank in range(world)]
    everything = {(b.slide, b.block, int(row)): 0 for b in blocks for row in b.rows}
    # Over any number of epochs from the first, no cell is more than one draw ahead of another.
    for epoch in range(3):
        for plan in plans:
            cells = plan.epoch(epoch)
            assert cells.shape == (plan.batches_per_epoch, batch_size, 3)
            for cell in cells.reshape(-1, 3).tolist():
                everything[tuple(cell)] += 1
        assert max(everything.values()) - min(everything.values()) <= 1
    assert sum(everything.values()) == 3 * plans[0].batches_per_epoch * batch_size * world


@pytest.mark.parametrize("group", [1, 4])
def test_the_same_shards_give_the_same_steps_on_any_number_of_ranks(group: int) -> None:
    blocks = blocks_of([50, 30, 20, 64])
    options = {"seed": 5, "group_size": group, "open_blocks": 8, "shards": 4}
    steps = []
    for world, batch_size in ((1, 16), (2, 8), (4, 4)):
        plans = [
            EpochPlan(blocks, batch_size=batch_size, rank=r, world_size=world, **options)
            for r in range(world)
        ]
        steps.append(np.concatenate([plan.epoch(2) for plan in plans], axis=1))
    assert np.array_equal(steps[0], steps[1])
    assert np.array_equal(steps[0], steps[2])


@pytest.mark.parametrize(("shards", "batch_size"), [(3, 4), (0, 4), (8, 2)])
def test_shards_that_do_not_divide_are_refused(shards: int, batch_size: int) -> None:
    with pytest.raises(BatchSizeError, match=rf"data.shards is {shards}; expected a multiple of the 2 ranks"):
        EpochPlan(blocks_of([50]), batch_size=batch_size, world_size=2, shards=shards)


def test_ranks_read_blocks_of_their_own() -> None:
    blocks = blocks_of([40] * 60)
    plans = [EpochPlan(blocks, batch_size=8, world_size=4, rank=r, open_blocks=3) for r in range(4)]
    read = [set(plan.epoch(1)[..., 1].ravel().tolist()) for plan in plans]
    # At most the blocks that the three cuts and the epoch's ends run through are read twice.
    assert sum(map(len, read)) - len(set.union(*read)) <= 5


def test_a_block_is_open_once_and_for_a_short_time() -> None:
    blocks = blocks_of([64] * 50)
    cells = EpochPlan(blocks, batch_size=16, open_blocks=5, seed=1).epoch(0)
    first, last = {}, {}
    for step, batch in enumerate(cells):
        for block in batch[:, 1].tolist():
            first.setdefault(block, step)
            last[block] = step
    opened = np.zeros(len(cells), int)
    for block, step in first.items():
        opened[step : last[block] + 1] += 1
    assert opened.max() <= 5 + 1  # a batch may see one used up and the next one opened
    # They are read one by one, not all at the same step.
    starts = np.bincount(list(first.values()), minlength=len(cells))
    assert starts[10:].max() <= 3


def test_balance_draws_slides_alike() -> None:
    blocks = blocks_of([90, 10])  # two slides
    shares = []
    for balance in (1.0, 0.5, 0.0):
        cells = EpochPlan(blocks, batch_size=10, balance=balance, open_blocks=4).epoch(0)
        shares.append(np.mean(cells[..., 0] == 1))
    assert shares == [0.1, 0.25, 0.5]  # 1/10, sqrt(1/9) : 1, and half
    # Within a slide all cells are drawn equally often, up to one.
    rows = EpochPlan(blocks, batch_size=10, balance=0.0).epoch(0)[..., 2]
    small = np.unique(rows[rows >= 1000], return_counts=True)[1]
    assert len(small) == 10
    assert set(small.tolist()) == {5}
    with pytest.raises(BatchSizeError, match="balance is -1"):
        EpochPlan(blocks, batch_size=10, balance=-1)


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
    assert all(len(np.unique(batch[:, 1])) <= 2 + 1 for batch in cells)
