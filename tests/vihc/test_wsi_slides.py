"""Whole slides with a known colour map: pixels, files, resuming, bands and faults."""

import hashlib
import itertools
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from made_stainer import MAP, FakeModel, draw_slide, fake_fingerprint, write_slide

from past_core.encoders import load_image_encoder
from past_core.ingest.pyramid import halve
from past_core.slides import open_slide
from past_vihc.wsi import stainer, tiff, work
from past_vihc.wsi.describe import read_record
from past_vihc.wsi.output import (
    StainExistsError,
    StainOutputError,
    StainWriteError,
    plan_outputs,
)
from past_vihc.wsi.settings import StainError, StainSettings
from past_vihc.wsi.work import WorkError

SIZE = (520, 610)
HELPER = Path(__file__).with_name("made_stainer.py")


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_slide(tmp_path_factory.mktemp("slide") / "case-7.tif", draw_slide(*SIZE))


@pytest.fixture(autouse=True)
def settings_of_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stainer, "STRIP", 128)
    monkeypatch.setattr(stainer, "model_fingerprint", fake_fingerprint)


def pixels(path: Path) -> np.ndarray:
    with open_slide(path) as opened:
        return opened.read(0, 0, 0, opened.height, opened.width)


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def mapped(image: np.ndarray) -> np.ndarray:
    """The fake's colours without jumps, `(3, H, W)`."""
    made = torch.einsum("ij,hwj->ihw", MAP, torch.from_numpy(image).float())
    return made.round().clamp(0, 255).byte().numpy()


def test_a_map_of_colours_comes_out_pixel_by_pixel(slide: Path, tmp_path: Path) -> None:
    out = plan_outputs(tmp_path / "out.ome.tif", zarr=tmp_path / "out.ome.zarr", compression="deflate")
    seen = []
    made = stainer.stain_slide(
        slide, out, FakeModel(), name="fake", progress=lambda *event: seen.append(event)
    )
    assert (made.complete, made.resumed, made.done) == (True, 0, made.strips)
    assert made.strips > 2
    for path in out.paths:
        found = pixels(path)
        expected = mapped(draw_slide(*SIZE))
        stained = (found != 255).any(axis=0)
        assert 0.4 < stained.mean() < 1  # the disc and windows around it; the corners are white
        assert (found[:, :20, :20] == 255).all()
        y, x = np.mgrid[: SIZE[0], : SIZE[1]]
        tissue = np.hypot((y - SIZE[0] / 2) / SIZE[0], (x - SIZE[1] / 2) / SIZE[1]) < 0.38
        np.testing.assert_array_equal(found[:, tissue], expected[:, tissue])
        with open_slide(path) as opened:
            assert opened.mpp == pytest.approx(0.5)
            assert len(opened.levels) == 2
            np.testing.assert_array_equal(
                opened.read(1, 0, 0, opened.levels[1].height, opened.levels[1].width), halve(found)
            )
        record = read_record(path)
        assert {"stain": "er", "model": "fake", "slide": "case-7.tif"}.items() <= record.items()
    windows = [event for event in seen if event[0] == "windows"]
    assert sum(event[1] for event in windows) == windows[0][2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.ome.tif", "out.ome.zarr"]


@pytest.mark.parametrize("compression", ["jpeg", "deflate"])
def test_tifffile_reads_ome_with_levels_resolution_and_words(
    slide: Path, tmp_path: Path, compression: str
) -> None:
    out = plan_outputs(tmp_path / "out.ome.tif", compression=compression)
    stainer.stain_slide(slide, out, FakeModel(), name="fake")
    with tifffile.TiffFile(out.main) as file:
        assert file.is_ome
        assert len(file.series) == 1
        assert [level.shape for level in file.series[0].levels] == [(*SIZE, 3), (260, 305, 3)]
        assert file.pages.first.tilelength == 512
        described = tifffile.xml2dict(file.ome_metadata)["OME"]
        assert described["Image"]["Pixels"]["PhysicalSizeX"] == pytest.approx(0.5)
        assert "research use only" in described["Image"]["Description"]
        image = file.series[0].asarray().transpose(2, 0, 1).astype(int)
    lossless = plan_outputs(tmp_path / "exact.ome.tif", compression="deflate")
    stainer.stain_slide(slide, lossless, FakeModel(), name="fake")
    difference = np.abs(image - pixels(lossless.main))
    assert difference.mean() < (1.5 if compression == "jpeg" else 1e-9)


def test_the_generic_layout_has_its_levels_as_pages(slide: Path, tmp_path: Path) -> None:
    """OpenSlide's reader of generic TIFFs takes the first page and all that are marked as reduced."""
    out = plan_outputs(tmp_path / "out.tif")
    stainer.stain_slide(slide, out, FakeModel(), name="fake")
    with tifffile.TiffFile(out.main) as file:
        assert not file.is_ome
        assert [(page.subfiletype, page.is_tiled, page.shape) for page in file.pages] == [
            (0, True, (*SIZE, 3)),
            (1, True, (260, 305, 3)),
        ]
        assert not file.pages.first.subifds
        x, _ = file.pages.first.resolution
        assert 1e4 / x == pytest.approx(0.5)
    assert read_record(out.main)["stain"] == "er"
    with open_slide(out.main) as opened:
        assert [level.height for level in opened.levels] == [520, 260]


@pytest.mark.parametrize("granularity", ["tile", "cells"])
def test_conditioned_models_are_given_their_encoder_s_vectors(
    slide: Path, tmp_path: Path, granularity: str
) -> None:
    encoder = load_image_encoder("demo")
    model = FakeModel(encoder=encoder, granularity=granularity)
    out = plan_outputs(tmp_path / "out.tif")
    stainer.stain_slide(slide, out, model, encoder, settings=StainSettings(batch_size=5))
    shape = (96,) if granularity == "tile" else (96, 5, 5)
    assert {tuple(vectors.shape[1:]) for vectors in model.embeddings} == {shape}
    record = read_record(out.main)
    assert record["encoder_fingerprint"] == encoder.fingerprint
    assert record["granularity"] == granularity


def test_strips_on_disk_are_read_as_the_image_they_are(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (3, 50, 70), dtype=np.uint8)
    rows, columns, edges = [0, 7, 20, 31, 50], [0, 40, 70], [0, 20, 50]
    folder = work.WorkFolder(
        tmp_path / "out.tif", {}, edges=edges, rows=rows, columns=columns, background=240
    )
    image[:, :7, :40] = 240  # never written: a hole in the file
    with folder.open(shared=False):
        for strip in (0, 1):
            with folder.writing(strip) as writer:
                for top, bottom in itertools.pairwise(rows):
                    for left, right in itertools.pairwise(columns):
                        if edges[strip] <= top < edges[strip + 1] and (top, left) != (0, 0):
                            writer.write(top, left, image[:, top:bottom, left:right])
        stored = folder.image()
        assert stored.shape == image.shape
        for _ in range(50):
            (y0, y1), (x0, x1) = (np.sort(rng.integers(0, n + 1, 2)) for n in image.shape[1:])
            np.testing.assert_array_equal(stored[:, y0:y1, x0:x1], image[:, y0:y1, x0:x1])


def test_batches_and_strips_do_not_change_a_pixel(
    slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for number, (size, strip) in enumerate(((1, 64), (5, 128), (64, 4096))):
        monkeypatch.setattr(stainer, "STRIP", strip)
        out = plan_outputs(tmp_path / f"{number}.ome.tif")
        stainer.stain_slide(slide, out, FakeModel(jump=15), settings=StainSettings(batch_size=size))
        found.append(sha(out.main))
    assert len(set(found)) == 1


def run(slide: Path, output: Path, band: tuple[int, int] = (1, 1), pause: float = 0.0) -> subprocess.Popen:
    command = [sys.executable, HELPER, slide, output, *map(str, band), str(pause)]
    return subprocess.Popen(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def test_killed_and_resumed_gives_the_same_bytes(slide: Path, tmp_path: Path) -> None:
    whole, resumed = tmp_path / "whole.ome.tif", tmp_path / "resumed.ome.tif"
    settings = StainSettings(batch_size=4)
    stainer.stain_slide(slide, plan_outputs(whole), FakeModel(jump=15), settings=settings)

    process = run(slide, resumed, pause=0.2)
    folder = tmp_path / ".resumed.ome.tif.work"
    try:
        deadline = time.monotonic() + 240
        while len(list(folder.glob("strip-*.raw"))) < 2:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    left = len(list(folder.glob("strip-*.raw")))
    assert 2 <= left < 5
    assert not resumed.exists()
    (folder / "strip-000003.raw").write_bytes(b"cut short")  # a strip that is not whole is made again

    made = stainer.stain_slide(slide, plan_outputs(resumed), FakeModel(jump=15), settings=settings)
    assert made.complete
    assert made.resumed == left
    assert sha(resumed) == sha(whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["resumed.ome.tif", "whole.ome.tif"]


def test_two_processes_share_a_slide_by_bands(slide: Path, tmp_path: Path) -> None:
    whole, shared = tmp_path / "whole.ome.tif", tmp_path / "shared.ome.tif"
    settings = StainSettings(batch_size=4)
    stainer.stain_slide(slide, plan_outputs(whole), FakeModel(jump=15), settings=settings)
    process = run(slide, shared, (1, 2))
    made = stainer.stain_slide(
        slide,
        plan_outputs(shared),
        FakeModel(jump=15),
        settings=settings,
        band=(2, 2),
        progress=lambda *event: time.sleep(0.1),
    )
    said, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    # Each did its band, whichever began first, and one of them wrote the output.
    assert sorted([said.split()[0], str(made.complete)]) == ["False", "True"]
    assert sha(shared) == sha(whole)
    assert not (tmp_path / ".shared.ome.tif.work").exists()


def test_a_band_alone_waits_for_the_others(slide: Path, tmp_path: Path) -> None:
    out = plan_outputs(tmp_path / "out.ome.tif")
    made = stainer.stain_slide(slide, out, FakeModel(), band=(2, 3))
    assert not made.complete
    assert 0 < made.done < made.strips
    assert not out.main.exists()
    rest = stainer.stain_slide(slide, out, FakeModel())  # without bands it makes what is missing
    assert rest.complete
    assert rest.resumed == made.done
    with pytest.raises(StainError, match="K from 1 to N"):
        stainer.stain_slide(slide, out, FakeModel(), band=(4, 3))


def test_strips_of_other_settings_are_not_mixed_in(
    slide: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = plan_outputs(tmp_path / "out.ome.tif")
    stainer.stain_slide(slide, out, FakeModel(jump=15, seed=1), band=(1, 2))
    with caplog.at_level(logging.WARNING):
        made = stainer.stain_slide(slide, out, FakeModel(jump=15, seed=2))
    assert "another slide, model or settings" in caplog.text
    assert (made.complete, made.resumed) == (True, 0)


def test_a_second_run_of_the_same_output_is_refused(slide: Path, tmp_path: Path) -> None:
    out = plan_outputs(tmp_path / "out.ome.tif")
    folder = work.WorkFolder(out.main, {"key": 1}, edges=[0, 9], rows=[0, 9], columns=[0, 9], background=255)
    with folder.open(shared=False), pytest.raises(WorkError, match="another run"):
        stainer.stain_slide(slide, out, FakeModel())
    with folder.open(shared=True), folder.open(shared=True):
        pass


def test_a_full_disk_leaves_nothing_under_the_name_and_the_strips_in_place(
    slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = plan_outputs(tmp_path / "out.ome.tif")

    def full(*args: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(tiff, "_encode", full)
        with pytest.raises(
            StainWriteError, match=r"out\.ome\.tif: there is no room.*Make room.*strips are kept"
        ):
            stainer.stain_slide(slide, out, FakeModel())
    assert [path.name for path in tmp_path.iterdir()] == [".out.ome.tif.work"]
    with monkeypatch.context() as patch:
        patch.setattr(work.os, "pwrite", full)
        with pytest.raises(WorkError, match="No space left"):
            stainer.stain_slide(slide, plan_outputs(tmp_path / "other.ome.tif"), FakeModel())
    made = stainer.stain_slide(slide, out, FakeModel())
    assert made.resumed == made.strips
    assert made.complete


def test_slides_smaller_than_a_window_and_at_other_resolutions(tmp_path: Path) -> None:
    image = draw_slide(40, 300)
    small = write_slide(tmp_path / "small.tif", image)
    out = plan_outputs(tmp_path / "out.ome.tif", compression="deflate")
    stainer.stain_slide(small, out, FakeModel(), settings=StainSettings(tissue_only=False))
    np.testing.assert_array_equal(pixels(out.main), mapped(image))
    fine = write_slide(tmp_path / "fine.tif", draw_slide(400, 400), mpp=0.25)
    out = plan_outputs(tmp_path / "half.ome.tif")
    stainer.stain_slide(fine, out, FakeModel())
    with open_slide(out.main) as opened:
        assert (opened.height, opened.width, opened.mpp) == (200, 200, pytest.approx(0.5))


def test_outputs_that_cannot_be_are_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(StainOutputError, match=r"\.ome\.tif \(QuPath"):
        plan_outputs(tmp_path / "out.png")
    with pytest.raises(StainOutputError, match="no OME-TIFF"):
        plan_outputs(tmp_path / "out.ome.tif", layout="generic")
    with pytest.raises(StainOutputError, match="OME-Zarr already"):
        plan_outputs(tmp_path / "out.ome.zarr", zarr=tmp_path / "b.ome.zarr")
    (tmp_path / "there.tif").touch()
    with pytest.raises(StainExistsError, match="--overwrite"):
        plan_outputs(tmp_path / "there.tif")
    assert plan_outputs(tmp_path / "there.tif", overwrite=True).tiff.layout == "generic"
    (tmp_path / "folder.ome.zarr").mkdir()
    with pytest.raises(StainExistsError, match="is not replaced"):
        plan_outputs(tmp_path / "folder.ome.zarr", overwrite=True)
    with pytest.raises(StainWriteError, match="cannot be written"):
        plan_outputs(tmp_path / "there.tif" / "out.tif")
    assert plan_outputs(tmp_path / "new" / "folder" / "out.ome.zarr").tiff is None
