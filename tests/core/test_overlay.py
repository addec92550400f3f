"""The picture of cells over H&E: outlines land on the pixels of their cells."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from past_core.ingest.overlay import OverlayError, crowded_field, outlines_within, write_overlay
from past_core.ingest.store import SlideStore


def test_the_crowded_field_holds_most_cells() -> None:
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.random((50, 2)) * 1000, 600 + 80 * rng.random((200, 2))])
    left, top = crowded_field(points, 100, (1000, 1000))
    inside = ((points >= [left, top]) & (points < [left + 100, top + 100])).all(axis=1)
    assert inside.sum() > 200


def test_outlines_surround_their_centroids(tiny_slides: Sequence[Path]) -> None:
    store = SlideStore(tiny_slides[0])
    box = (100, 100, 400, 400)
    outlines = outlines_within(store, "cell_boundaries", box)
    inside = store.centroids[((store.centroids > 120) & (store.centroids < 380)).all(axis=1)]
    assert len(outlines) >= len(inside) > 10
    middles = np.array([(outline.min(axis=0) + outline.max(axis=0)) / 2 for outline in outlines])
    nearest = np.linalg.norm(inside[:, None] - middles[None], axis=2).min(axis=1)
    assert np.median(nearest) * store.mpp < 1.0  # µm


def test_it_writes_a_picture(tiny_slides: Sequence[Path], tmp_path: Path) -> None:
    path = write_overlay(SlideStore(tiny_slides[0]), tmp_path / "o.png", field_um=60.0)
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    yellow = (pixels[..., 0] > 200) & (pixels[..., 1] > 180) & (pixels[..., 2] < 80)
    assert yellow.sum() > 1000


def test_it_refuses_another_suffix(tiny_slides: Sequence[Path], tmp_path: Path) -> None:
    with pytest.raises(OverlayError, match="png"):
        write_overlay(SlideStore(tiny_slides[0]), tmp_path / "o.bmp")
