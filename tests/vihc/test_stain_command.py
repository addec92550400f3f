"""`past stain` through the command line, with small generators of the real kind."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from made_stainer import draw_slide, write_slide
from PIL import Image
from typer.testing import CliRunner

from past_core.cli import build_app
from past_core.encoders import load_image_encoder
from past_core.errors import PastError
from past_core.slides import open_slide
from past_vihc.files import EncoderInfo, GeneratorInfo, save_generator
from past_vihc.models.generator import FiLMGenerator
from past_vihc.wsi.describe import read_record


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generator of two stains, not conditioned by an encoder, with random weights."""
    torch.manual_seed(0)
    network = FiLMGenerator(width=4, blocks=1, hidden=8, stains=("er", "pr"))
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    return save_generator(path, network, GeneratorInfo(mpp=0.5, tile=64))


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_slide(tmp_path_factory.mktemp("slide") / "he.tif", draw_slide(520, 610))


def past(*words: object) -> tuple[int, str, BaseException | None]:
    result = CliRunner().invoke(build_app(), ["stain", *map(str, words)])
    if result.exception is not None and not isinstance(result.exception, (PastError, SystemExit)):
        raise result.exception
    return result.exit_code, re.sub(r"\s+", " ", result.output), result.exception


def refused(pattern: str, *words: object) -> None:
    code, _, error = past(*words)
    assert code == 1
    assert isinstance(error, PastError)
    assert re.search(pattern, str(error)), str(error)


def test_a_slide_becomes_an_ome_tiff_in_a_new_folder(slide: Path, model: Path, tmp_path: Path) -> None:
    output = tmp_path / "new" / "er.ome.tif"
    code, said, _ = past(slide, "-o", output, "--model", model, "--stain", "ER", "--device", "cpu")
    assert code == 0
    assert "virtual er" in said
    record = read_record(output)
    assert (record["stain"], record["model"], record["slide"]) == ("er", "small.safetensors", "he.tif")
    with open_slide(output) as made:
        assert (made.height, made.width, made.mpp) == (520, 610, pytest.approx(0.5))
        assert (made.read(0, 0, 0, 8, 8) == 255).all()
        assert made.read(0, 260, 300, 8, 8).std() > 0
    refused("exists already.*--overwrite", slide, "-o", output, "--model", model, "--stain", "er")
    assert past(slide, "-o", output, "-m", model, "--stain", "pr", "--overwrite")[0] == 0
    assert read_record(output)["stain"] == "pr"


def test_a_conditioned_generator_loads_its_encoder_and_writes_zarr(slide: Path, tmp_path: Path) -> None:
    encoder = load_image_encoder("demo")
    info = GeneratorInfo(
        mpp=0.5,
        tile=64,
        pitch_um=16,
        encoder=EncoderInfo(encoder.name, encoder.fingerprint, encoder.dim),
        demo=True,
    )
    network = FiLMGenerator(
        width=4, blocks=1, hidden=8, embedding_dim=encoder.dim, granularity="cells", stains=("er",)
    )
    path = save_generator(tmp_path / "cells.safetensors", network, info)
    output = tmp_path / "out.ome.zarr"
    code, said, _ = past(slide, "-o", output, "-m", path, "--background", "240")
    assert code == 0
    assert "trained on synthetic tissue" in said
    assert read_record(output)["demo"] is True
    with open_slide(output) as made:
        assert made.mpp == pytest.approx(0.5)
        assert (made.read(0, 0, 0, 4, 4) == 240).all()
    other = GeneratorInfo(mpp=0.5, tile=64, pitch_um=16, encoder=EncoderInfo("demo", "0" * 64, encoder.dim))
    path = save_generator(tmp_path / "other.safetensors", network, other)
    refused("was trained with demo", slide, "-o", tmp_path / "b.tif", "-m", path)
    assert not (tmp_path / "b.tif").exists()


def test_bands_are_finished_one_after_the_other(slide: Path, model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.tif"
    words = (slide, "-o", output, "-m", model, "--stain", "er", "--bands")
    # The slide is one strip: the first of two bands has nothing to do.
    code, said, _ = past(*words, "1/2")
    assert code == 0
    assert "band 1/2 is finished, 0 of 1 strips are there" in said
    assert not output.exists()
    assert past(*words, "2/2")[0] == 0
    assert output.exists()
    for wrong in ("0/2", "3/2", "half", "1"):
        refused("expected K/N", slide, "-o", tmp_path / "b.tif", "-m", model, "--bands", wrong)


def test_bad_input_is_refused_in_words(slide: Path, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.ome.tif"
    words = ("-o", out, "-m", model, "--stain", "er")
    image = draw_slide(260, 300)
    grey = tmp_path / "grey.tif"
    tifffile.imwrite(grey, image[..., 0], photometric="minisblack", resolution=(20000, 20000))
    refused("expected 8-bit RGB", grey, "--mpp", 0.5, *words)
    deep = tmp_path / "deep.tif"
    tifffile.imwrite(deep, image.astype(np.uint16) * 257, photometric="rgb")
    refused("uint16 image.*expected 8-bit RGB", deep, "--mpp", 0.5, *words)
    Image.fromarray(image[..., 0]).save(tmp_path / "grey.png")
    refused("mode L; expected 8-bit colour", tmp_path / "grey.png", "--mpp", 0.5, *words)
    unknown = write_slide(tmp_path / "unknown.tif", image, mpp=None)
    refused("does not state its resolution.*--mpp", unknown, *words)
    glass = write_slide(tmp_path / "glass.tif", np.full((260, 300, 3), 250, np.uint8))
    refused("no tissue found.*--no-tissue-mask", glass, *words)
    refused("not trained on ki67; it makes er, pr", slide, *words[:4], "--stain", "ki67")
    refused("no stain 'xyz'", slide, *words[:4], "--stain", "xyz")
    refused("makes er, pr; say which", slide, *words[:4])
    refused("no such slide", tmp_path / "none.svs", *words)
    refused("does not exist", slide, "-o", out, "-m", tmp_path / "none.safetensors")
    refused(r"overlap 0\.7", slide, *words, "--overlap", 0.7)
    refused("one of these suffixes", slide, "-o", tmp_path / "x.png", "-m", model, "--stain", "er")
    refused("give a slide, or --sheet", *words)
    refused("are for a sheet", slide, *words, "--jobs", 2)
    assert not out.exists()
    assert not list(tmp_path.glob(".*"))
    assert past(unknown, *words, "--mpp", 0.5)[0] == 0
    assert past(glass, "--no-tissue-mask", "--overwrite", *words)[0] == 0


def test_transparency_lies_over_white(model: Path, tmp_path: Path) -> None:
    image = draw_slide(200, 200)
    alpha = np.where(np.arange(200)[:, None] < 100, 255, 0) * np.ones((1, 200), int)
    rgba = np.dstack([image, alpha]).astype(np.uint8)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    flat = np.where(alpha[..., None] == 255, image, 255).astype(np.uint8)
    Image.fromarray(flat).save(tmp_path / "b.png")
    made = []
    for name in "ab":
        out = tmp_path / f"{name}.tif"
        assert past(tmp_path / f"{name}.png", "-o", out, "-m", model, "--stain", "er", "--mpp", 0.5)[0] == 0
        with open_slide(out) as opened:
            made.append(opened.read(0, 0, 0, 200, 200))
    np.testing.assert_array_equal(*made)


def test_a_sheet_goes_on_after_a_failure_and_skips_what_is_complete(
    slide: Path, model: Path, tmp_path: Path
) -> None:
    sheet = tmp_path / "slides.csv"
    sheet.write_text(f"path,name,mpp\n{slide},one,\nnone.tif,two,\n{slide},three,0.25\n")
    words = ("--sheet", sheet, "-o", tmp_path / "out", "-m", model, "--stain")
    code, said, _ = past(*words, "er")
    assert code == 1
    assert "2 done, 0 skipped, 1 failed" in said
    assert "row 3" in said
    assert "no such slide" in said
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"one.ome.tif", "three.ome.tif"}
    with open_slide(tmp_path / "out" / "three.ome.tif") as made:
        assert made.height == 260
    assert "0 done, 2 skipped, 1 failed" in past(*words, "er")[1]
    said = past(*words, "pr")[1]
    assert "0 done, 0 skipped, 3 failed" in said
    assert "made with another stain (er, now pr)" in said


def test_a_sheet_on_dask(slide: Path, model: Path, tmp_path: Path) -> None:
    """Workers are threads of this process here: what travels is the same, and the test is quick."""
    from distributed import Client, LocalCluster

    sheet = tmp_path / "slides.csv"
    sheet.write_text(f"path,name\n{slide},one\nnone.tif,two\n{slide},three\n")
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster),
    ):
        address = cluster.scheduler_address
        code, said, _ = past(
            "--sheet", sheet, "-o", tmp_path / "out", "-m", model, "--stain", "er", "--dask", address
        )
    assert code == 1
    assert "2 done, 0 skipped, 1 failed" in said
    assert "no such slide" in said
    assert read_record(tmp_path / "out" / "three.ome.tif")["stain"] == "er"


def test_without_dask_a_sheet_says_what_to_install(
    slide: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    sheet = tmp_path / "slides.csv"
    sheet.write_text(f"path\n{slide}\n")
    words = ("--sheet", sheet, "-o", tmp_path / "out", "-m", model, "--stain", "er")
    refused(r"pip install past-vihc\[dask\]", *words, "--jobs", 2)
    assert past(*words)[0] == 0


def test_a_real_slide(model: Path, tmp_path: Path, shared_data: Path) -> None:
    source = shared_data / "wsi" / "CMU-1-Small-Region.svs"
    output = tmp_path / "cmu.ome.tif"
    assert past(source, "-o", output, "-m", model, "--stain", "er")[0] == 0
    with open_slide(source) as he, open_slide(output) as made:
        assert (made.height, made.width) == (he.height, he.width)
        assert made.mpp == pytest.approx(he.mpp)
    with tifffile.TiffFile(output) as file:
        assert [level.shape[:2] for level in file.series[0].levels] == [
            (2967, 2220),
            (1484, 1110),
            (742, 555),
        ]
