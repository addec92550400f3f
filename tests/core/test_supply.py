"""The supply: patches equal direct slicing, tokens and neighbours are the cells' own, loaders resume."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from past_core.data.buffers import PatchBuffers
from past_core.data.loader import DEPTH, READ_AHEAD, SlideLoader, TrainLoader
from past_core.data.plan import BlockCells, EpochPlan
from past_core.data.supply import (
    BlockData,
    EmptySlideError,
    PatchSpec,
    RegionSupply,
    SlideSource,
    open_stores,
)
from past_core.ingest.store import SlideStore, StoreError
from past_core.tokens import PAD, GeneMeans, Vocabulary, VocabularyError, rank_tokenize

SPEC = PatchSpec(mpp=0.5, size=112)


@pytest.fixture(scope="module")
def stores(tiny_slides: Sequence[Path]) -> list[SlideStore]:
    return open_stores(tiny_slides[:2])


def source(store: SlideStore, vocabulary: Vocabulary, spec: PatchSpec = SPEC) -> SlideSource:
    index = vocabulary.lookup(list(store.genes.index))
    means = GeneMeans(len(vocabulary)).update(store.counts, index).means
    return SlideSource(store, spec=spec, vocabulary=vocabulary, gene_means=means, max_genes=64)


@pytest.fixture(scope="module")
def supply(stores: list[SlideStore]) -> RegionSupply:
    vocabulary = Vocabulary.from_panel([g for store in stores for g in store.genes.index])
    return RegionSupply([source(store, vocabulary) for store in stores], open_blocks=2)


def all_cells(supply: RegionSupply) -> np.ndarray:
    parts = [
        np.stack([np.full(len(b.rows), i), np.full(len(b.rows), b.block), b.rows], axis=1)
        for i, s in enumerate(supply.sources)
        for b in s.blocks(i)
    ]
    return np.concatenate(parts).astype(np.int64)


def test_patches_equal_direct_slicing_also_at_borders(supply: RegionSupply) -> None:
    cells = np.random.default_rng(0).permutation(all_cells(supply))
    batch = supply.batch(cells)
    size, on_border = SPEC.size, 0
    levels = [
        s.store.read(1, 0, 0, s.store.levels[1].height, s.store.levels[1].width) for s in supply.sources
    ]
    for image, (slide, _, row) in zip(batch.images.numpy(), cells, strict=True):
        x, y = supply.sources[slide].store.centroids[row] / 2
        left, top = int(np.floor(x - size / 2 + 0.5)), int(np.floor(y - size / 2 + 0.5))
        padded = np.pad(levels[slide], ((0, 0), (size, size), (size, size)), constant_values=255)
        assert np.array_equal(image, padded[:, top + size : top + 2 * size, left + size : left + 2 * size])
        on_border += left < 0 or top < 0
    assert on_border > 10
    assert {s.store.levels[1].mpp for s in supply.sources} == {0.5}


def test_a_batch_names_its_cells_and_their_neighbours(supply: RegionSupply) -> None:
    cells = np.random.default_rng(1).permutation(all_cells(supply))[:40]
    batch = supply.batch(cells)
    assert np.array_equal(batch.lengths, (batch.tokens[batch.centres] != PAD).sum(1))
    assert torch.equal(batch.slide, torch.from_numpy(cells[:, 0]))
    assert torch.equal(batch.cell, torch.from_numpy(cells[:, 2]))
    for b, (slide, _, row) in enumerate(cells):
        own = supply.sources[slide]
        near = own.store.neighbors[row]
        wanted, lengths = own.tokens(np.concatenate([[row], near[near >= 0]]))
        at = [batch.centres[b].item(), *batch.neighbors[b][batch.neighbors[b] >= 0].tolist()]
        for index, tokens, length in zip(at, wanted, lengths, strict=True):
            got = batch.tokens[index].numpy()
            assert np.array_equal(got[:length], tokens[:length])
            assert (got[length:] == PAD).all()
        expected = own.store.distances[row][near >= 0] / own.store.median_distance
        got = batch.distances[b].numpy()
        assert got[: len(expected)] == pytest.approx(expected, rel=1e-6)
        assert (got[len(expected) :] == 0).all()


def test_each_distinct_cell_of_a_block_is_tokenised_once(supply: RegionSupply) -> None:
    cells = all_cells(supply)
    batch = supply.batch(cells)
    distinct = 0
    for slide, block in np.unique(cells[:, :2], axis=0):
        near = supply.sources[slide].store.neighbors[cells[(cells[:, :2] == [slide, block]).all(1), 2]]
        own = cells[(cells[:, :2] == [slide, block]).all(1), 2]
        distinct += len(np.union1d(own, near[near >= 0]))
    assert len(batch.tokens) == distinct
    assert batch.tokens.shape[1] <= 67


def test_means_and_tokens_come_from_raw_counts(stores: list[SlideStore]) -> None:
    vocabulary = Vocabulary.from_panel(stores[0].genes.index)
    own = source(stores[0], vocabulary)
    rows = np.arange(5)
    dense = stores[0].counts[rows].toarray().astype(float)
    scaled = stores[0].counts.toarray().astype(float)
    scaled *= 1e4 / scaled.sum(axis=1, keepdims=True)
    means = np.array([column[column > 0].mean() if (column > 0).any() else np.nan for column in scaled.T])
    order = np.argsort(stores[0].genes.index)  # the vocabulary is sorted
    expected, _ = rank_tokenize(
        stores[0].counts[rows],
        vocabulary.lookup(list(stores[0].genes.index)),
        means[order],
        vocabulary.context("xenium", "human", "spatial"),
        max_genes=64,
    )
    got, lengths = own.tokens(rows)
    assert np.array_equal(lengths - 3, np.minimum(64, (dense > 0).sum(axis=1)))
    # Means of two summation orders may swap genes that tie to the last bit.
    assert np.mean(got == expected) > 0.999


def test_train_loader_resumes_in_mid_epoch(supply: RegionSupply) -> None:
    blocks = [block for i, s in enumerate(supply.sources) for block in s.blocks(i)]
    loader = TrainLoader(supply, EpochPlan(blocks, batch_size=16, seed=1))
    loader.set_epoch(3)
    batches, states = [], []
    for batch in loader:
        batches.append(batch)
        states.append(loader.state_dict())
    assert len(batches) == len(loader) > 3
    assert states[-1] == {"handed_out": 0}
    again = TrainLoader(supply, EpochPlan(blocks, batch_size=16, seed=1))
    again.load_state_dict(states[1])
    again.sampler.set_epoch(3)
    rest = list(again)
    assert len(rest) == len(batches) - 2
    for left, right in zip(batches[2:], rest, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))
    assert len(list(again)) == len(batches)  # the next epoch is whole again


def test_slide_loader_ranks_share_all_cells(supply: RegionSupply) -> None:
    rows = [all_cells(supply)[all_cells(supply)[:, 0] == i] for i in range(2)]
    loaders = [SlideLoader(supply, rows, batch_size=50, rank=r, world_size=2) for r in range(2)]
    seen = [
        (s, c)
        for loader in loaders
        for b in loader
        for s, c in zip(b.slide.tolist(), b.cell.tolist(), strict=True)
    ]
    assert sorted(seen) == sorted((s, r) for s, _, r in np.concatenate(rows).tolist())
    assert sum(map(len, loaders)) == sum(-(-len(part) // 50) for part in rows)


def test_memory_is_bounded_by_open_blocks(supply: RegionSupply) -> None:
    supply.batch(all_cells(supply))
    assert len(supply._blocks) <= 2


class Counting(SlideSource):
    """Counts what is read, and how many blocks are in memory when a batch is cut."""

    def __init__(self, *args: object, block_px: int, **options: object) -> None:
        super().__init__(*args, **options)
        # Finer blocks than the store's: small slides then have many.
        points = self.store.centroids // block_px
        keys, self._of = np.unique(points, axis=0, return_inverse=True)
        self._n, self.reads = len(keys), []

    def blocks(self, slide: int) -> list[BlockCells]:
        return [
            BlockCells(slide, b, r, self.store.centroids[r])
            for b in range(self._n)
            if len(r := self._usable(b))
        ]

    def _usable(self, block: int) -> np.ndarray:
        return np.flatnonzero((self._of.ravel() == block) & self.store.passed)

    def read_block(self, block: int) -> BlockData:
        self.reads.append(block)
        return super().read_block(block)


def test_an_epoch_reads_every_block_once_and_keeps_few(stores: list[SlideStore]) -> None:
    vocabulary = Vocabulary.from_panel([g for store in stores for g in store.genes.index])
    means = np.ones(len(vocabulary))
    options = {"spec": SPEC, "vocabulary": vocabulary, "gene_means": means, "max_genes": 64, "block_px": 160}
    sources = [Counting(store, **options) for store in stores]
    blocks = [block for i, s in enumerate(sources) for block in s.blocks(i)]
    assert len(blocks) > 25
    supply = RegionSupply(sources, open_blocks=4)
    in_memory = []
    for batch in TrainLoader(supply, EpochPlan(blocks, batch_size=8, open_blocks=4)):
        in_memory.append(len(supply._blocks))
        direct = supply.sources[int(batch.slide[0])].tokens(batch.cell[:1].numpy())[0][0]
        assert np.array_equal(batch.tokens[batch.centres[0]][:5].numpy(), direct[:5])
    assert [sorted(s.reads) for s in sources] == [
        [b.block for b in blocks if b.slide == i] for i in range(len(sources))
    ]
    # Open, read ahead, and those of the batches that are being made.
    assert max(in_memory) <= 4 + READ_AHEAD + 2 * DEPTH
    assert not supply._held
    assert not supply._blocks


def test_leaving_an_epoch_early_lets_its_blocks_go(supply: RegionSupply) -> None:
    blocks = [block for i, s in enumerate(supply.sources) for block in s.blocks(i)]
    batches = iter(TrainLoader(supply, EpochPlan(blocks, batch_size=16)))
    next(batches)
    assert supply._held
    batches.close()
    assert not supply._held


def test_a_damaged_block_is_an_error_and_nothing_hangs(
    supply: RegionSupply, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = [block for i, s in enumerate(supply.sources) for block in s.blocks(i)]

    def broken(*_: object) -> BlockData:
        raise StoreError("chunk 3 is damaged")

    monkeypatch.setattr(SlideSource, "read_block", broken)
    fresh = RegionSupply(supply.sources, open_blocks=2)
    with pytest.raises(StoreError, match="chunk 3"):
        list(TrainLoader(fresh, EpochPlan(blocks, batch_size=16)))
    assert not fresh._held


def test_buffers_return_when_the_last_holder_lets_go() -> None:
    buffers = PatchBuffers(8, pin=False)
    first = buffers.take(4)
    place = first.data_ptr()
    window = first.numpy()[1:]  # keeps the memory
    del first
    second = buffers.take(4)
    assert second.data_ptr() != place
    window[:] = 7
    second[:] = 0
    assert (window == 7).all()
    del window
    third = buffers.take(3)
    assert third.data_ptr() == place
    assert third.shape == (3, 3, 8, 8)
    assert buffers.take(9).shape == (9, 3, 8, 8)  # grows


def test_batches_that_are_kept_keep_their_pixels(supply: RegionSupply) -> None:
    cells = all_cells(supply)
    kept = [supply.batch(cells[k : k + 16]) for k in range(0, 96, 16)]
    for k, batch in zip(range(0, 96, 16), kept, strict=True):
        assert torch.equal(batch.images, supply.batch(cells[k : k + 16]).images)


def test_other_resolutions_are_resampled_to_size(stores: list[SlideStore]) -> None:
    vocabulary = Vocabulary.from_panel(stores[0].genes.index)
    own = source(stores[0], vocabulary, PatchSpec(mpp=0.4, size=70))
    batch = RegionSupply([own]).batch(np.array([[0, 0, 3]]))
    assert batch.images.shape == (1, 3, 70, 70)


def test_a_slide_without_shared_genes_is_refused(stores: list[SlideStore]) -> None:
    vocabulary = Vocabulary.from_panel(["ENSG99999999999"])
    with pytest.raises(VocabularyError, match=stores[0].path.name):
        SlideSource(stores[0], spec=SPEC, vocabulary=vocabulary, gene_means=np.ones(1), max_genes=8)


def test_a_slide_without_usable_cells_is_refused(
    stores: list[SlideStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SlideStore(stores[0].path)
    store.__dict__["passed"] = np.zeros(store.n_cells, dtype=bool)
    with pytest.raises(EmptySlideError, match="none of its"):
        source(store, Vocabulary.from_panel(store.genes.index))


def test_the_same_slide_twice_is_refused(tiny_slides: Sequence[Path]) -> None:
    with pytest.raises(EmptySlideError, match="listed twice"):
        open_stores([tiny_slides[0], tiny_slides[0].parent / "." / tiny_slides[0].name])
