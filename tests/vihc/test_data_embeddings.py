"""Embeddings: where the encoder looks, what is kept, and what is exchanged in the ablations."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_pairs import made_pair, write_image

from past_core.embed.output import EmbedError
from past_core.embed.partial import partial_vectors
from past_core.encoders import load_image_encoder
from past_core.frozen import EncoderError
from past_core.slides import open_slide, patches
from past_vihc.data import embeddings
from past_vihc.data.embeddings import embed_pair, embedding_points
from past_vihc.data.encoders import load_conditioner
from past_vihc.data.pairs import Pair
from past_vihc.data.shuffle import derangement, shuffled
from past_vihc.data.tiles import TileError, TileSpec

SPEC = TileSpec(tile=64, mpp=0.5, pitch_um=16)
GRID = (2, 3)


class MeanColour:
    """Stands in for an encoder: the mean and the deviation of each channel of an 80 px field at 0.5 µm."""

    name, fingerprint, precision, dim, mpp, patch_size = "mean", "f" * 64, "32", 6, 0.5, 80
    device = torch.device("cpu")
    seen = 0

    def __call__(self, images: np.ndarray) -> torch.Tensor:
        self.seen += len(images)
        pixels = torch.as_tensor(images).float().flatten(2)
        return torch.cat([pixels.mean(2), pixels.std(2)], dim=1)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("pair")
    he, ihc, _ = made_pair(5, 2 * 64 + 9, 3 * 64)
    return Pair("a", "er", write_image(folder / "he.tif", he), write_image(folder / "ihc.tif", ihc))


def test_tiles_are_seen_round_their_centres(pair: Pair, tmp_path: Path) -> None:
    encoder = MeanColour()
    made = embed_pair(pair, SPEC, GRID, encoder, cache=tmp_path)
    with open_slide(pair.he) as slide:
        for row in range(2):
            for column in range(3):
                field = slide.read(0, row * 64 + 32 - 40, column * 64 + 32 - 40, 80, 80)  # white outside
                assert np.allclose(made.take(row, column), encoder(field[None])[0], atol=1e-4)


def test_neighbours_share_the_nodes_between_them(pair: Pair, tmp_path: Path) -> None:
    encoder = MeanColour()
    made = embed_pair(pair, SPEC, GRID, encoder, granularity="cells", cache=tmp_path)
    assert made.take(0, 0).shape == (6, 3, 3)
    assert encoder.seen == (2 * 2 + 1) * (3 * 2 + 1)  # each node once
    assert np.array_equal(made.take(0, 0)[:, :, 2], made.take(0, 1)[:, :, 0])
    assert np.array_equal(made.take(0, 1)[:, 2, :], made.take(1, 1)[:, 0, :])
    with open_slide(pair.he) as slide:
        node = patches(slide, [[64 + 32, 64]], mpp=0.5, size=80)  # row 1's top edge, the middle of column 1
        assert np.allclose(made.take(1, 1)[:, 0, 1], encoder(node)[0], atol=1e-4)


def test_points_of_an_image_at_another_resolution(tmp_path: Path) -> None:
    with open_slide(write_image(tmp_path / "he.tif", made_pair(0, 80, 80)[0], mpp=0.25)) as slide:
        points = embedding_points(slide, TileSpec(tile=16, mpp=0.5, pitch_um=4), (2, 2), "cells")
    assert points.shape == (5, 5, 2)
    assert points[0, :, 0].tolist() == [0, 16, 32, 48, 64]  # 4 µm are 16 px of the image
    assert (points[:, 3, 0] == 48).all()


def test_what_is_kept_is_keyed_by_encoder_image_and_grid(pair: Pair, tmp_path: Path) -> None:
    def again(pair: Pair = pair, spec: TileSpec = SPEC, encoder: MeanColour | None = None, **options) -> int:
        encoder = encoder or MeanColour()
        embed_pair(pair, spec, GRID, encoder, cache=tmp_path, **options)
        return encoder.seen

    assert again() == 6
    assert again() == 0  # a hit
    moved = tmp_path / "moved.tif"
    moved.write_bytes(pair.he.read_bytes())
    assert again(Pair("b", "pr", moved, pair.ihc)) == 0  # the same image for another stain
    other = MeanColour()
    other.fingerprint = "e" * 64
    assert again(encoder=other) == 6
    assert again(granularity="cells") == 35
    assert again(Pair("a", "er", pair.he, pair.ihc, mpp=0.49)) == 6
    image = made_pair(6, 2 * 64 + 9, 3 * 64)[0]
    assert again(Pair("a", "er", write_image(tmp_path / "other.tif", image), pair.ihc)) == 6
    files = sorted((tmp_path / "vihc" / "embeddings").iterdir())
    assert len(files) == 5
    assert {file.suffix for file in files} == {".npy"}  # nothing half made
    assert isinstance(embed_pair(pair, SPEC, GRID, MeanColour(), cache=tmp_path).values, np.memmap)
    for file in files:
        file.write_bytes(file.read_bytes()[:-10])  # damaged
    assert again() == 6


def test_vectors_that_are_not_finite_are_refused_and_not_kept(pair: Pair, tmp_path: Path) -> None:
    class Broken(MeanColour):
        def __call__(self, images: np.ndarray) -> torch.Tensor:
            return super().__call__(images) * float("nan")

    with pytest.raises(EmbedError, match=r"he\.tif: mean gives NaN .* the first at \("):
        embed_pair(pair, SPEC, GRID, Broken(), cache=tmp_path)
    assert not list((tmp_path / "vihc" / "embeddings").glob("*.npy"))


def test_what_another_process_makes_is_waited_for(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = embed_pair(pair, SPEC, GRID, MeanColour(), cache=tmp_path / "other")
    (done,) = (tmp_path / "other" / "vihc" / "embeddings").iterdir()
    mine = tmp_path / "mine" / "vihc" / "embeddings" / done.name
    looks = []

    def held(*args: object) -> None:
        with partial_vectors(mine, {}, 1, 1), partial_vectors(mine, {}, 1, 1):  # the second is refused
            pass

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            mine.write_bytes(done.read_bytes())

    monkeypatch.setattr(embeddings, "_make", held)
    monkeypatch.setattr(embeddings.time, "sleep", sleep)
    again = embed_pair(pair, SPEC, GRID, MeanColour(), cache=tmp_path / "mine")
    assert len(looks) == 3
    assert np.array_equal(again.values, made.values)


def test_random_weights_are_another_encoder_of_the_same_kind() -> None:
    trained, state = load_image_encoder("demo"), torch.get_rng_state()
    one, two, other = (load_conditioner("demo", "random", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert len({trained.fingerprint, one.fingerprint, two.fingerprint, other.fingerprint}) == 3
    assert one.fingerprint == two.fingerprint
    assert (one.dim, one.mpp, one.patch_size, one.mean) == (
        trained.dim,
        trained.mpp,
        trained.patch_size,
        trained.mean,
    )
    assert one.name == "demo (random weights)"
    assert load_conditioner("demo").fingerprint == trained.fingerprint
    with pytest.raises(EncoderError, match="no encoder 'nonesuch'"):
        load_conditioner("nonesuch", "random")


@given(st.lists(st.integers(0, 30), min_size=1, max_size=60), st.integers(0, 1000))
def test_nobody_keeps_its_own(places: list[int], seed: int) -> None:
    places = np.array(places)
    source = derangement(places, seed=seed)
    if len(set(places.tolist())) > 1:
        assert (places[source] != places).all()
        # Places are exchanged as a whole, and all of them are used.
        assert len({(a, b) for a, b in zip(places, places[source], strict=True)}) == len(set(places.tolist()))
        assert set(places[source].tolist()) == set(places.tolist())
    assert np.array_equal(source, derangement(places, seed=seed))


def test_embeddings_are_exchanged_within_a_part_and_between_places() -> None:
    tiles = pd.DataFrame(
        {
            "source": ["a", "a", "b", "b", "c", "c", "c"],
            "y": 0,
            "x": [0, 64, 0, 0, 0, 64, 128],
            "stain": ["er", "er", "er", "pr", "er", "er", "er"],
            "kept": [True, True, True, True, True, True, False],
            "part": ["train", "train", "train", "train", "val", "val", "val"],
        }
    )
    source = shuffled(tiles, seed=3)
    assert set(source[:4]) <= {0, 1, 2, 3}
    assert source[4:].tolist() == [5, 4, 6]
    assert source[2] == source[3]  # two stains of one tile of one image
    assert source[2] in (0, 1)
    with pytest.raises(TileError, match="the part val has one tile"):
        shuffled(tiles.drop(index=5), seed=3)
