"""Features of slides: the encoder's own vectors, made once, kept, and made again when damaged."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from past_core.embed import embed_cells
from past_core.embed.output import EmbedError
from past_core.encoders import load_cell_encoder, load_image_encoder
from past_core.frozen import FrozenEncoder
from past_core.models.image_encoder import ImageEncoder
from past_genex.data.features import joint_features, slide_features
from past_genex.data.slides import ExpressionSlide


class Counting:
    """An encoder that counts the patches it is given, and may break at one of them."""

    def __init__(self, inner: FrozenEncoder, *, breaks_at: int | None = None, fault: float | None = None):
        self._inner, self.seen, self._at, self._fault = inner, 0, breaks_at, fault

    def __getattr__(self, name: str):
        return getattr(self._inner, name)

    def __call__(self, images) -> torch.Tensor:
        vectors = self._inner(images)
        if self._at is not None and self.seen + len(images) > self._at >= self.seen:
            if self._fault is None:
                raise KeyboardInterrupt
            vectors[self._at - self.seen, 0] = self._fault
        self.seen += len(images)
        return vectors


@pytest.fixture(scope="module")
def demo() -> FrozenEncoder:
    return load_image_encoder("demo")


@pytest.fixture
def slide(tiny_slides: Sequence[Path]) -> ExpressionSlide:
    return ExpressionSlide(tiny_slides[0])


def kept(cache: Path) -> list[Path]:
    return sorted((cache / "genex" / "features").iterdir())


def test_they_are_the_encoders_vectors_of_the_usable_cells(slide, demo, tmp_path: Path) -> None:
    features = slide_features(slide, demo, cache=tmp_path)
    assert features.shape == (slide.n_cells, demo.dim)
    assert features.dtype == np.float32
    whole = embed_cells(slide.store, demo)
    places = whole.obs_names.get_indexer(slide.cell_ids)
    np.testing.assert_allclose(features, whole.obsm["past_image"][places], atol=1e-5)
    with pytest.raises(ValueError, match="read-only"):
        features[0, 0] = 1.0


def test_they_are_made_once_and_progress_is_told(slide, demo, tmp_path: Path) -> None:
    counting, told = Counting(demo), []
    first = slide_features(
        slide,
        counting,
        cache=tmp_path,
        batch_size=32,
        progress=lambda done, total: told.append((done, total)),
    )
    assert counting.seen == slide.n_cells
    assert sum(done for done, _ in told) == slide.n_cells
    assert {total for _, total in told} == {slide.n_cells}
    again = slide_features(slide, counting, cache=tmp_path, progress=lambda *one: told.append(one))
    assert counting.seen == slide.n_cells
    assert told[-1] == (slide.n_cells, slide.n_cells)
    np.testing.assert_array_equal(first, again)
    assert [path.suffix for path in kept(tmp_path)] == [".npy"]  # and nothing half done beside it


def test_other_encoders_slides_and_cells_are_kept_apart(slide, demo, tiny_slides, tmp_path: Path) -> None:
    first = np.array(slide_features(slide, demo, cache=tmp_path))
    config = demo._encoder.config
    torch.manual_seed(1)
    other = FrozenEncoder("other", ImageEncoder(config))
    assert other.fingerprint != demo.fingerprint
    assert np.abs(slide_features(slide, other, cache=tmp_path) - first).max() > 1e-3
    slide_features(ExpressionSlide(tiny_slides[1]), demo, cache=tmp_path)
    fewer = ExpressionSlide(tiny_slides[0])
    fewer.rows = fewer.rows[5:]
    np.testing.assert_allclose(slide_features(fewer, demo, cache=tmp_path), first[5:], atol=1e-5)
    assert len(kept(tmp_path)) == 4


def test_ranks_with_one_empty_cache_share_the_work_of_one(slide, demo, tmp_path: Path) -> None:
    """As several ranks of a training do: whoever comes second waits for the first."""
    encoders = [Counting(demo), Counting(demo)]
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda encoder: slide_features(slide, encoder, cache=tmp_path), encoders)
    assert np.array_equal(first, second)
    assert sorted(encoder.seen for encoder in encoders) == [0, slide.n_cells]
    assert len(kept(tmp_path)) == 1


@pytest.mark.parametrize("damage", ["truncated", "shape", "type", "empty", "text"])
def test_a_damaged_file_is_made_again(slide, demo, tmp_path: Path, caplog, damage: str) -> None:
    whole = np.array(slide_features(slide, demo, cache=tmp_path))
    (path,) = kept(tmp_path)
    if damage == "shape":
        np.save(path, whole[1:])
    elif damage == "type":
        np.save(path, whole.astype(np.float64))
    else:
        content = path.read_bytes()
        path.write_bytes({"truncated": content[:-100], "empty": b"", "text": b"not an array"}[damage])
    np.testing.assert_array_equal(slide_features(slide, demo, cache=tmp_path), whole)
    assert "made again" in caplog.text
    np.testing.assert_array_equal(np.load(path), whole)


def test_a_killed_run_goes_on_where_it_stood(slide, demo, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        slide_features(slide, Counting(demo, breaks_at=100), cache=tmp_path, batch_size=16)
    assert not [path for path in kept(tmp_path) if path.suffix == ".npy"]
    counting = Counting(demo)
    resumed = slide_features(slide, counting, cache=tmp_path, batch_size=16)
    assert 0 < counting.seen < slide.n_cells
    np.testing.assert_allclose(resumed, slide_features(slide, demo, cache=tmp_path / "fresh"), atol=1e-5)
    assert len(kept(tmp_path)) == 1


@pytest.mark.parametrize("fault", [np.nan, np.inf])
def test_vectors_that_are_not_finite_name_encoder_and_cell(slide, demo, tmp_path: Path, fault: float) -> None:
    with pytest.raises(EmbedError, match="demo gives NaN or infinity for 1 of a batch") as raised:
        slide_features(slide, Counting(demo, breaks_at=70, fault=fault), cache=tmp_path)
    assert str(raised.value).rsplit(" ", 1)[1] in set(slide.cell_ids)
    assert not [path for path in kept(tmp_path) if path.suffix == ".npy"]
    assert np.isfinite(slide_features(slide, demo, cache=tmp_path)).all()


def test_the_cell_side_stands_in_the_same_space(slide, tmp_path: Path) -> None:
    cell = load_cell_encoder("demo", space="joint")
    joint = joint_features(slide, cell, cache=tmp_path)
    image = slide_features(slide, load_image_encoder("demo", space="joint"), cache=tmp_path)
    assert joint.shape == image.shape
    whole = embed_cells(slide.store, None, cell, sides="cell")
    places = whole.obs_names.get_indexer(slide.cell_ids)
    np.testing.assert_allclose(joint, whole.obsm["past_cell"][places], atol=1e-5)
    own = np.einsum("nd,nd->n", joint, image).mean()
    assert own > np.einsum("nd,nd->n", joint, np.roll(image, 17, axis=0)).mean()
    assert len(kept(tmp_path)) == 2


def test_cells_without_a_known_gene_are_nan_and_other_faults_are_errors(slide, tmp_path, monkeypatch) -> None:
    cell = load_cell_encoder("demo", space="joint")
    unknown = cell.vocabulary.lookup(list(slide.genes)) < 0
    counts = slide.store.counts.tolil()
    counts[slide.rows[4]] = 0
    if not unknown.any():  # the panel is wholly known: a cell of nothing else
        unknown = np.zeros(counts.shape[1], bool)
    counts[slide.rows[4], np.flatnonzero(unknown)[:1]] = 3
    slide.store.__dict__["counts"] = counts.tocsr()
    joint = joint_features(slide, cell, cache=tmp_path)
    assert np.isnan(joint[4]).all()
    assert np.isfinite(np.delete(joint, 4, axis=0)).all()

    encode = type(cell)._encode

    def broken(self, *args):
        vectors = encode(self, *args)
        vectors[2, 0] = np.inf
        return vectors

    monkeypatch.setattr(type(cell), "_encode", broken)
    for _ in range(2):  # what the faulty run kept does not count the next time
        with pytest.raises(EmbedError, match=f"demo gives NaN or infinity .* first {slide.cell_ids[2]}"):
            joint_features(slide, cell, cache=tmp_path / "other")
    monkeypatch.setattr(type(cell), "_encode", lambda self, *args: encode(self, *args) * np.nan)
    with pytest.raises(EmbedError, match="check its weights"):
        joint_features(slide, cell, cache=tmp_path / "third")
