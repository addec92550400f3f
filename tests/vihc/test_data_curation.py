"""Tiles, what is measured on them, and why they are dropped."""

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_pairs import made_pair, write_image
from scipy import ndimage

from past_core.slides import SlideError, open_slide
from past_vihc.data import measures
from past_vihc.data.curation import (
    BLURRED,
    BORDER,
    EMPTY,
    WHITE,
    CurationError,
    CurationSettings,
    check_parts,
    curate,
)
from past_vihc.data.pairs import Pair
from past_vihc.data.tiles import TileError, TileSpec

TILE = 64
SPEC = TileSpec(tile=TILE, mpp=0.5, pitch_um=16)


def blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    return np.stack([ndimage.gaussian_filter(channel.astype(float), sigma) for channel in image]).astype(
        np.uint8
    )


@pytest.fixture(scope="module")
def flawed(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Three by four tiles: the first row is good, and so are the last two of the others."""
    he, ihc, _ = made_pair(1, 3 * TILE + 20, 4 * TILE + 5)
    tile = {
        (r, c): np.s_[:, r * TILE : (r + 1) * TILE, c * TILE : (c + 1) * TILE]
        for r in (1, 2)
        for c in (0, 1, 2)
    }
    he[:, TILE : 2 * TILE, : TILE // 2 + 4] = 240  # glass from the image's left side
    # A little more than the tile: at its border a sharp neighbour would be an edge.
    soft = np.s_[:, TILE - 3 : 2 * TILE + 3, 2 * TILE - 3 : 3 * TILE + 3]
    he[soft] = blurred(he, 2.5)[soft]
    he[tile[1, 1]] = 240  # glass
    ihc[tile[2, 1]] = 238  # no section there
    ihc[:, 2 * TILE :, : TILE // 2] = 255  # what registration moved away
    folder = tmp_path_factory.mktemp("flawed")
    return Pair("one", "er", write_image(folder / "he.tif", he), write_image(folder / "ihc.tif", ihc))


def test_every_flaw_has_its_reason_and_the_rest_is_kept(
    flawed: Pair, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        curation = curate([flawed], SPEC, CurationSettings(), cache=tmp_path)
    reason = curation.tiles["reason"].to_numpy().reshape(3, 4).tolist()
    # The tile beside the glass is more than half glass; with a higher limit it is a border.
    assert reason == [["", "", "", ""], [WHITE, WHITE, BLURRED, ""], [BORDER, EMPTY, "", ""]]
    assert (curation.tiles["kept"] == (curation.tiles["reason"] == "")).all()
    more = curate([flawed], SPEC, CurationSettings(max_white=0.6, min_focus=0), cache=tmp_path)
    assert more.tiles["reason"].to_numpy().reshape(3, 4)[1].tolist() == [BORDER, WHITE, "", ""]
    counts = curation.counts().iloc[0]
    assert [counts[c] for c in ("tiles", "kept", EMPTY, WHITE, BORDER, BLURRED)] == [12, 7, 1, 2, 1, 1]
    assert "7 of 12 tiles kept" in caplog.text
    assert "2 white, 1 white border, 1 undefined boundaries" in caplog.text


def test_without_limits_every_tile_is_kept(flawed: Pair, tmp_path: Path) -> None:
    table = curate([flawed], SPEC, None, cache=tmp_path).tiles
    assert table["kept"].all()
    assert len(table) == 12
    assert table[["y", "x"]].to_numpy().tolist() == [[r * TILE, c * TILE] for r in range(3) for c in range(4)]
    assert set(table["source"]) == {str(flawed.he)}


def test_the_table_is_written_whole_and_read_back(flawed: Pair, tmp_path: Path) -> None:
    curation = curate([flawed], SPEC, CurationSettings(), cache=tmp_path)
    path = curation.write(tmp_path / "run" / "curation.csv")
    read = pd.read_csv(path, keep_default_na=False)
    assert read["reason"].tolist() == curation.tiles["reason"].tolist()
    assert read["index"].tolist() == list(range(12))
    assert {"case", "stain", "source", "y", "x", "kept", "he_white", "focus"} <= set(read.columns)
    assert [p.name for p in path.parent.iterdir()] == ["curation.csv"]


def test_measures_are_kept_and_a_changed_image_is_measured_again(
    flawed: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    real = measures.focus
    monkeypatch.setattr(measures, "focus", lambda *args: calls.append(1) or real(*args))
    first = curate([flawed], SPEC, CurationSettings(), cache=tmp_path).tiles
    again = curate([flawed], SPEC, CurationSettings(), cache=tmp_path).tiles
    assert len(calls) == 1
    assert first.equals(again)
    (kept,) = (tmp_path / "vihc" / "tiles").iterdir()
    kept.write_bytes(kept.read_bytes()[:100])
    assert curate([flawed], SPEC, CurationSettings(), cache=tmp_path).tiles.equals(first)
    assert len(calls) == 2
    he, _, _ = made_pair(2, 3 * TILE + 20, 4 * TILE + 5)
    other = Pair("one", "er", write_image(tmp_path / "he.tif", he), flawed.ihc)
    assert not curate([other], SPEC, CurationSettings(), cache=tmp_path).tiles.equals(first)
    assert len(calls) == 3


@given(st.integers(0, 200), st.floats(0.5, 1.8))
def test_focus_does_not_depend_on_the_strength_of_the_stain(seed: int, gain: float) -> None:
    he = made_pair(seed, TILE, TILE)[0]
    weaker = 255 * (he / 255) ** gain  # optical density times gain
    one, two = (float(measures.focus(image, TILE)[0, 0]) for image in (he.astype(float), weaker))
    assert two == pytest.approx(one, rel=0.15)
    assert 3 * float(measures.focus(blurred(he, 1.5), TILE)[0, 0]) < one


def test_an_even_tile_has_no_boundaries() -> None:
    even = np.broadcast_to(np.array([200, 120, 180], np.uint8)[:, None, None], (3, TILE, TILE))
    assert measures.focus(even, TILE).tolist() == [[0.0]]


@pytest.mark.parametrize("name", ["ER", "PR", "HER2", "Ki67"])
def test_real_tiles_are_kept_and_blurred_ones_dropped(name: str, shared_data: Path, tmp_path: Path) -> None:
    files = [shared_data / "ihc" / "mist" / f"MIST_{name}_{side}.png" for side in ("he", "ihc")]
    spec = TileSpec(tile=128, mpp=0.5)
    table = curate(
        [Pair("m", name.lower(), *files)], spec, CurationSettings(), source_mpp=0.5, cache=tmp_path
    ).tiles
    assert table["kept"].all(), table[["reason", "he_white", "ihc_white", "focus"]]
    with open_slide(files[0]) as slide:
        soft = write_image(tmp_path / "soft.png", blurred(slide.read(0, 0, 0, 512, 512), 2))
    pair = Pair("m", name.lower(), soft, files[1])
    dropped = curate([pair], spec, CurationSettings(), source_mpp=0.5, cache=tmp_path).tiles
    assert (dropped["reason"] == BLURRED).all()


@given(
    st.integers(8, 300),
    st.sampled_from([0.25, 0.3, 0.5, 1.0]),
    st.integers(1, 9),
)
def test_nodes_lie_on_the_corners_of_tiles(tile: int, mpp: float, steps: int) -> None:
    if tile % steps:
        with pytest.raises(TileError, match=r"\d px at .* whole pixels"):
            TileSpec(tile=tile, mpp=mpp, pitch_um=tile * mpp / steps)
        return
    spec = TileSpec(tile=tile, mpp=mpp, pitch_um=tile * mpp / steps)
    assert spec.nodes == steps + 1
    with pytest.raises(TileError, match="no whole multiple of pitch_um"):
        TileSpec(tile=tile, mpp=mpp, pitch_um=tile * mpp / (steps + 0.5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_white": 1.5}, "data.curation.max_white is 1.5; expected a share from 0 to 1"),
        ({"max_border": -0.1}, "max_border"),
        ({"min_focus": float("nan")}, "min_focus is nan; expected 0 or more"),
    ],
)
def test_limits_out_of_range(options: dict[str, float], message: str) -> None:
    with pytest.raises(CurationError, match=message):
        CurationSettings(**options)


@pytest.mark.parametrize("options", [{"tile": 4}, {"mpp": 0}, {"mpp": float("nan")}, {"pitch_um": -1}])
def test_tiles_that_cannot_be(options: dict[str, float]) -> None:
    with pytest.raises(TileError, match="expected"):
        TileSpec(**options)


def test_images_smaller_than_a_tile(tmp_path: Path) -> None:
    path = write_image(tmp_path / "he.tif", made_pair(0, 40, 200)[0])
    with pytest.raises(
        TileError, match=r"one er .he\.tif.: 200 x 40 px at 0\.5 µm .* too small for a tile of 64"
    ):
        curate([Pair("one", "er", path, path)], SPEC, cache=tmp_path)
    damaged = tmp_path / "cut.tif"
    damaged.write_bytes(path.read_bytes()[:-4000])
    with pytest.raises(SlideError, match=r"cut\.tif"):
        curate([Pair("one", "er", path, damaged)], TileSpec(tile=32, pitch_um=16), cache=tmp_path)


def test_a_stain_without_training_tiles_is_refused(flawed: Pair, tmp_path: Path) -> None:
    curation = curate(
        [flawed], SPEC, CurationSettings(max_white=0, max_border=0, min_focus=9), cache=tmp_path
    )
    curation.tiles["part"] = "train"
    with pytest.raises(CurationError, match=r"no training tiles of er are kept:\n.*undefined boundaries"):
        check_parts(curation, ["er"])
