"""Batches: pairs stay aligned, order is resumed, ranks share, nuclei come from where they should."""

import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from made_pairs import made_pair, write_cases, write_image

from past_core.augment import dihedral
from past_core.data.plan import BatchSizeError
from past_core.embed import EmbedError
from past_core.slides import SlideError
from past_vihc.data.batch import StainBatch
from past_vihc.data.blocks import BlockCache
from past_vihc.data.curation import CurationSettings
from past_vihc.data.datamodule import StainDataModule
from past_vihc.data.pairs import PairError
from past_vihc.data.split import CaseSplitError
from past_vihc.data.supply import turned
from past_vihc.data.tiles import TileError
from past_vihc.markers import MarkerError

INVERSE = [0, 3, 2, 1, 4, 5, 6, 7]
"""Which symmetry undoes each: a mirror image after a turn undoes itself."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cases(tmp_path_factory.mktemp("pairs"), 6, stains=("er", "pr"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("cache"))


def module(root: Path | None, cache: str, *, rank: int = 0, world: int = 1, **options) -> StainDataModule:
    settings = {"tile": 64, "pitch_um": 16, "batch_size": 4, "encoder": None, "cache": cache, "device": "cpu"}
    data = StainDataModule(None if root is None else str(root), **settings | options)
    data.trainer = SimpleNamespace(global_rank=rank, world_size=world, is_global_zero=rank == 0)
    data.setup("fit")
    return data


def same(one: StainBatch, two: StainBatch) -> bool:
    return all(a == b if isinstance(a, list) else torch.equal(a, b) for a, b in zip(one, two, strict=True))


def epoch(loader, number: int) -> Iterator[StainBatch]:
    loader.sampler.set_epoch(number)
    return iter(loader)


def test_a_batch_is_what_lies_at_its_places(root: Path, cache: str) -> None:
    data = module(root, cache, stains=("pr", "er"), augment=False, encoder="demo", granularity="cells")
    assert (data.stains, data.embedding_dim, data.synthetic) == (("pr", "er"), 96, False)
    batches = list(data.train_dataloader())
    assert len(batches) == data.batches_per_epoch
    for batch in batches:
        assert batch.he.shape == batch.ihc.shape == (4, 3, 64, 64)
        assert batch.embedding.shape == (4, 96, 3, 3)
        assert (batch.nuclei.dtype, batch.stain.dtype) == (torch.int32, torch.int64)
        for n, row in enumerate(batch.index.tolist()):
            tile = data.tiles.iloc[row]
            assert (batch.case[n], data.stains[batch.stain[n]]) == (tile["case"], tile["stain"])
            assert (tile["part"], tile["kept"]) == ("train", True)
            he, ihc, labels = made_pair(int(tile["case"][1:]))
            ihc = np.roll(ihc, ("er", "pr").index(tile["stain"]), axis=0)
            window = np.s_[..., tile.y : tile.y + 64, tile.x : tile.x + 64]
            assert np.array_equal(batch.he[n], he[window])
            assert np.array_equal(batch.ihc[n], ihc[window])
            own = batch.nuclei[n].numpy()
            assert np.array_equal(own > 0, labels[window] > 0)
            assert len(np.unique(own)) == len(np.unique(labels[window])) == own.max() + 1


def test_every_tile_once_in_an_epoch_and_another_order_in_the_next(root: Path, cache: str) -> None:
    data = module(root, cache, batch_size=2)
    loader = data.train_dataloader()
    orders = [[int(i) for b in epoch(loader, number) for i in b.index] for number in (0, 1, 0)]
    rows = np.flatnonzero((data.tiles["part"] == "train") & data.tiles["kept"])
    assert sorted(orders[0]) == sorted(orders[1]) == rows.tolist()
    assert orders[0] == orders[2] != orders[1]


@pytest.mark.parametrize("symmetry", range(8))
def test_augmentation_keeps_everything_aligned(symmetry: int) -> None:
    he, ihc, labels = made_pair(1, 64, 64)
    grid = torch.arange(18.0).reshape(1, 2, 3, 3)
    batch = StainBatch(
        *(torch.from_numpy(image)[None] for image in (he, ihc)),
        grid,
        torch.zeros(1, dtype=torch.int64),
        torch.from_numpy(labels)[None],
        ["a"],
        torch.zeros(1, dtype=torch.int64),
    )
    made = turned(batch, torch.tensor([symmetry]))
    assert same(turned(made, torch.tensor([INVERSE[symmetry]])), batch)
    if symmetry:
        assert not torch.equal(made.he, batch.he)
    # A node's embedding moves with the pixels under it: to each corner goes what the pixel there came from.
    place = dihedral(torch.arange(64 * 64).reshape(1, 1, 64, 64), torch.tensor([symmetry]))
    for row in (0, 1):
        for column in (0, 1):
            y, x = divmod(int(place[0, 0, -row, -column]), 64)
            assert torch.equal(made.embedding[0, :, -row, -column], grid[0, :, -(y > 32), -(x > 32)])
            assert torch.equal(made.ihc[0, :, -row, -column], batch.ihc[0, :, y, x])
            assert made.nuclei[0, -row, -column] == batch.nuclei[0, y, x]
    whole = batch._replace(embedding=grid[:, :, 0, 0])
    assert torch.equal(turned(whole, torch.tensor([symmetry])).embedding, whole.embedding)


def test_augmented_batches_are_turned_tiles(root: Path, cache: str) -> None:
    batches = module(root, cache, augment=False).train_dataloader()
    plain = {int(i): image for batch in batches for i, image in zip(batch.index, batch.he, strict=True)}
    turns = set()
    loader = module(root, cache).train_dataloader()
    for number in range(4):
        for batch in epoch(loader, number):
            for index, image in zip(batch.index.tolist(), batch.he, strict=True):
                every = dihedral(plain[index].expand(8, -1, -1, -1), torch.arange(8))
                fits = [s for s in range(8) if torch.equal(every[s], image)]
                assert len(fits) == 1
                turns.add(fits[0])
    assert turns == set(range(8))


def test_training_goes_on_in_mid_epoch_with_the_same_batches(root: Path, cache: str) -> None:
    options = {"encoder": "demo", "granularity": "cells", "shuffle_embeddings": True}
    whole = list(epoch(module(root, cache, **options).train_dataloader(), 3))
    first = module(root, cache, **options).train_dataloader()
    some = epoch(first, 3)
    for _ in range(2):
        next(some)
    state = first.state_dict()
    some.close()
    second = module(root, cache, **options).train_dataloader()
    second.load_state_dict(state)
    rest = list(epoch(second, 3))
    assert len(rest) == len(whole) - 2
    assert all(same(a, b) for a, b in zip(rest, whole[2:], strict=True))


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_share_the_tiles(root: Path, cache: str, world: int) -> None:
    seen, held_out, lengths = [], [], set()
    for rank in range(world):
        data = module(root, cache, rank=rank, world=world, batch_size=2, val_batch_size=3)
        loader = data.train_dataloader()
        lengths.add(len(list(loader)))
        seen += [int(i) for b in epoch(loader, 0) for i in b.index]
        held_out += [int(i) for b in data.val_dataloader() for i in b.index]
        assert len(data.val_dataloader()) > 0
    assert len(lengths) == 1
    assert len(set(seen)) == len(seen) == 2 * world * lengths.pop()
    rows = np.flatnonzero((data.tiles["part"] == "val") & data.tiles["kept"])
    assert sorted(held_out) == rows.tolist()


def test_shuffled_embeddings_are_another_tiles_in_every_part(root: Path, cache: str) -> None:
    options = {"encoder": "demo", "augment": False}
    own, other = (module(root, cache, shuffle_embeddings=s, **options) for s in (False, True))
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        for a, b in zip(getattr(own, name)(), getattr(other, name)(), strict=True):
            assert torch.equal(a.he, b.he)
            assert not (a.embedding == b.embedding).all(dim=1).any()
    part = [e for b in own.val_dataloader() for e in b.embedding.tolist()]
    assert sorted(part) == sorted(e for b in other.val_dataloader() for e in b.embedding.tolist())


def test_without_encoder_embeddings_are_empty(root: Path, cache: str) -> None:
    data = module(root, cache)
    assert (data.encoder, data.embedding_dim) == (None, 0)
    assert next(iter(data.train_dataloader())).embedding.shape == (4, 0)


def test_nuclei_are_segmented_for_held_out_tiles_alone(tmp_path: Path, cache: str) -> None:
    data = module(write_cases(tmp_path / "pairs", 4, nuclei=False), cache)
    assert not any(batch.nuclei.any() for batch in data.train_dataloader())
    batches = list(data.val_dataloader())
    assert all((batch.nuclei.amax(dim=(1, 2)) > 5).all() for batch in batches)
    for batch, rows in ((b, b.index.tolist()) for b in batches):
        for labels, row in zip(batch.nuclei, rows, strict=True):
            tile = data.tiles.iloc[row]
            truth = made_pair(int(tile["case"][1:]))[2][tile.y : tile.y + 64, tile.x : tile.x + 64] > 0
            assert ((labels.numpy() > 0) & truth).sum() > 0.6 * ((labels.numpy() > 0) | truth).sum()


def test_whole_images_of_a_part(root: Path, cache: str) -> None:
    data = module(root, cache, test_cases=["C1"], val_cases=[])
    assert [(pair.case, pair.he.name) for pair in data.test_pairs] == [("C1", "he.tif")]
    assert {pair.case for pair in data.train_pairs} == {"C0", "C2", "C3", "C4", "C5"}
    assert data.val_dataloader() == data.val_pairs == []
    with pytest.raises(CaseSplitError, match="no tiles to test on"):
        module(root, cache, test_cases=[]).test_dataloader()


def test_what_was_dropped_is_written_and_said(
    root: Path, cache: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = StainDataModule(
        str(root), tile=64, encoder=None, cache=cache, save_curation=True, batch_size=1,
        curation=CurationSettings(max_white=0.0005),
    )  # fmt: skip
    data.trainer = SimpleNamespace(
        global_rank=0, world_size=1, is_global_zero=True, logger=None, default_root_dir=str(tmp_path)
    )
    with caplog.at_level(logging.INFO):
        data.setup("fit")
    assert (tmp_path / "curation.csv").is_file()
    assert "no case is on both sides" in caplog.text
    assert "tiles kept" in caplog.text
    assert len((tmp_path / "curation.csv").read_text().splitlines()) == len(data.tiles) + 1


@pytest.mark.slow  # the simulator runs in processes of its own
def test_the_embedded_default(cache: str) -> None:
    options = {"patients": ["P8", "P9", "P13"], "size_um": 140, "encoder": "demo", "stains": ("er",)}
    data = module(None, cache, batch_size=2, **options)
    assert data.synthetic
    assert sorted({pair.case for pair in data.pairs}) == ["P13", "P8", "P9"]
    batch = next(iter(data.val_dataloader()))
    assert batch.nuclei.max() > 3
    assert torch.isfinite(batch.embedding).all()
    assert all(pair.truth.is_file() for pair in data.test_pairs)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"stains": ("cd3",)}, MarkerError, "no stain 'cd3'"),
        ({"stains": ()}, PairError, "data.stains is empty"),
        ({"stains": ("ki67",)}, PairError, "no pairs of ki67; there are pairs of er, pr"),
        ({"granularity": "slide"}, TileError, "data.granularity 'slide'; expected tile or cells"),
        ({"granularity": "cells", "pitch_um": 20}, TileError, "no whole multiple of pitch_um 20"),
        ({"batch_size": 500}, BatchSizeError, "16 training tiles are kept, but one step needs 500"),
        ({"val_cases": ["C9"]}, CaseSplitError, "data.val_cases names C9; the pairs' cases are C0, C1"),
        ({"patients": ["P8"]}, PairError, "of the embedded default"),
        ({"tile": 512}, TileError, "too small for a tile of 512 px"),
    ],
)
def test_settings_that_cannot_be(root: Path, cache: str, options: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        module(root, cache, **options)


def test_one_case_alone(tmp_path: Path, cache: str) -> None:
    write_cases(tmp_path, 1)
    with pytest.raises(CaseSplitError, match=r"1 cases \(C0\) leave none to train on"):
        module(tmp_path, cache)
    assert len(list(module(tmp_path, cache, fractions=(0.0, 0.0)).train_dataloader())) == 1


def test_an_image_that_goes_bad_in_training_stops_it(tmp_path: Path, cache: str) -> None:
    data = module(write_cases(tmp_path, 3), cache, batch_size=2)
    for pair in data.train_pairs:
        pair.he.write_bytes(pair.he.read_bytes()[:-5000])
    with pytest.raises(SlideError, match=r"he\.tif.*truncated"):
        list(data.train_dataloader())


def test_pictures_without_resolution(tmp_path: Path, cache: str) -> None:
    for number in range(4):
        he, ihc, _ = made_pair(number)
        write_image(tmp_path / "he" / f"S{number}.png", he)
        write_image(tmp_path / "er" / f"S{number}.png", ihc)
    with pytest.raises(PairError, match=r"does not state its resolution.*data\.source_mpp"):
        module(tmp_path, cache)
    assert len(module(tmp_path, cache, source_mpp=0.5).tiles) == 16
    assert len(module(tmp_path, cache, source_mpp=1.0, curation=None).tiles) == 4 * 25


def test_pixels_stay_in_memory_up_to_the_limit() -> None:
    reads = []

    def read(key: tuple[int, int]) -> np.ndarray:
        reads.append(key)
        return np.zeros(1000, np.uint8)

    cache = BlockCache(read, memory=2500)
    for key in [(0, 0), (0, 1), (0, 0), (0, 2), (0, 0), (0, 1)]:
        cache.get(key)
    assert reads == [(0, 0), (0, 1), (0, 2), (0, 1)]  # the least recently used went
    assert cache.nbytes == 2000
    cache.hold([(1, n) for n in range(4)])
    for n in range(4):
        cache.get((1, n))
    assert cache.nbytes == 6000  # what is held is kept beyond the limit
    cache.release([(1, n) for n in range(4)])
    assert cache.nbytes == 2000


def test_a_block_that_failed_is_read_again() -> None:
    answers = iter([EmbedError("once"), np.zeros(1)])

    def read(key: tuple[int, int]) -> np.ndarray:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    cache = BlockCache(read, memory=100)
    cache.hold([(0, 0)])
    with pytest.raises(EmbedError, match="once"):
        cache.get((0, 0))
    assert len(cache.get((0, 0))) == 1
    cache.release([(0, 0)])
