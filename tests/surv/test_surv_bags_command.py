"""`past bags`: what is embedded where, what is skipped, what one failure leaves alone, several processes."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from past_core.cli import build_app
from past_core.embed import embed_slide
from past_core.encoders import load_image_encoder
from past_core.ingest.store import SlideStore
from past_surv.data.bag_making import BagSettings, is_complete, make_bag
from past_surv.data.bag_runs import (
    EncoderSource,
    SlideSheetError,
    SlideSheetNotFoundError,
    list_slides,
    make_bags,
)
from past_surv.data.bags import BagError, BagFolder, read_bag


def draw_slide(path: Path, seed: int = 0, mpp: float | None = 0.5, tissue: bool = True) -> Path:
    """300 x 400 px of pink tissue with dark nuclei, on glass."""
    stream = np.random.default_rng(seed)
    pixels = np.full((300, 400, 3), 244.0) + stream.normal(0, 2, (300, 400, 3))
    if tissue:
        pixels[40:260, 60:340] = np.array([214, 150, 190]) + stream.normal(0, 8, (220, 280, 3))
        y, x = np.mgrid[:300, :400]
        for centre in stream.uniform((60, 80), (240, 320), (40, 2)):
            pixels[(y - centre[0]) ** 2 + (x - centre[1]) ** 2 < 36] = (90, 60, 140)
    resolution = {} if mpp is None else {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = pixels.clip(0, 255).astype(np.uint8)
    tifffile.imwrite(path, pixels, photometric="rgb", tile=(64, 64), **resolution)
    return path


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    for number in range(3):
        # As the GDC's client lays them, with dots in the name.
        draw_slide(folder / f"uuid-{number}" / f"TCGA-A{number}-01Z-00-DX1.0123-abc.tif", seed=number)
    return folder


@pytest.fixture(scope="module")
def encoder() -> object:
    return load_image_encoder("demo")


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(build_app(), ["bags", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def test_a_grid_is_what_past_embed_embeds(slides: Path, tmp_path: Path, encoder: object) -> None:
    slide = next(slides.rglob("*DX1*"))
    bag = read_bag(make_bag(slide, encoder, tmp_path / "x.h5"))
    table = embed_slide(slide, encoder)
    np.testing.assert_array_equal(bag.features(), table.obsm["past_image"].astype(np.float16))
    np.testing.assert_array_equal(bag.coords(), table.obsm["spatial"])
    assert (bag.kind, bag.encoder, bag.mpp) == ("grid", "demo", encoder.mpp)
    assert bag.patch_um == encoder.field_um
    assert bag.manifest["slide_size"] == [400, 300]
    assert "trying out only" in bag.manifest["demo"]
    finer = read_bag(make_bag(slide, encoder, tmp_path / "y.h5", BagSettings(patch_um=encoder.field_um / 2)))
    assert finer.patches > 2 * bag.patches
    full = make_bag(slide, encoder, tmp_path / "z.h5", BagSettings(dtype="float32"))
    np.testing.assert_array_equal(read_bag(full).features(), table.obsm["past_image"])


def test_patches_around_cells(
    slides: Path, tmp_path: Path, encoder: object, tiny_slides: Sequence[Path]
) -> None:
    cells = BagSettings(patches="cells")
    store = SlideStore(tiny_slides[0])
    bag = read_bag(make_bag(tiny_slides[0], encoder, tmp_path / "s.h5", cells))
    np.testing.assert_array_equal(bag.coords(), store.centroids[store.passed])
    table = embed_slide(tiny_slides[0], encoder)
    np.testing.assert_array_equal(bag.features(), table.obsm["past_image"].astype(np.float16))
    assert (bag.kind, bag.patch_um) == ("cells", encoder.field_um)
    drawn = read_bag(make_bag(next(slides.rglob("*DX1*")), encoder, tmp_path / "i.h5", cells))
    assert 15 < drawn.patches < 60  # of 40 nuclei, some of which touch
    few = BagSettings(patches="cells", max_patches=7)
    thinned = read_bag(make_bag(tiny_slides[0], encoder, tmp_path / "f.h5", few))
    assert thinned.patches == 7
    assert {tuple(place) for place in thinned.coords()} < {tuple(place) for place in bag.coords()}


def test_many_slides_in_one_command(slides: Path, tmp_path: Path) -> None:
    code, said = run(slides, "-o", tmp_path, "--encoder", "demo")
    assert code == 0, said
    assert "3 done, 0 skipped, 0 failed" in said
    assert "trying out only" in said
    folder = BagFolder(tmp_path)
    assert folder.slides == [f"TCGA-A{number}-01Z-00-DX1.0123-abc" for number in range(3)]
    assert folder.find("TCGA-A1-01Z-00-DX1.0123-abc.svs").patches > 1
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".h5"] * 3  # nothing else is left
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    code, said = run(slides, "-o", tmp_path, "--encoder", "demo")
    assert "0 done, 3 skipped, 0 failed" in said
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    code, said = run(slides, "-o", tmp_path, "--encoder", "demo", "--patch-um", 20)
    assert code == 1
    assert "0 done, 0 skipped, 3 failed" in said
    assert "made with another patch_um" in said
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    code, said = run(slides, "-o", tmp_path, "--encoder", "demo", "--patch-um", 20, "--overwrite")
    assert (code, "3 done" in said) == (0, True)
    assert BagFolder(tmp_path).find("TCGA-A0-01Z-00-DX1.0123-abc").patch_um == 20


def test_one_failure_does_not_stop_the_rest(slides: Path, tmp_path: Path) -> None:
    good = sorted(slides.rglob("*.tif"))
    draw_slide(tmp_path / "glass.tif", tissue=False)
    draw_slide(tmp_path / "scaleless.tif", mpp=None)
    (tmp_path / "broken.tif").write_bytes(good[0].read_bytes()[:3000])
    rows = [
        f"{good[0]},",
        "glass.tif,",
        "scaleless.tif,",
        "broken.tif,",
        "missing.svs,",
        f"{good[1]},fine",
        "",
        ",0.5",
        f"{good[2]},0.5",
    ]
    (tmp_path / "sheet.csv").write_text("slide,mpp\n" + "\n".join(rows) + "\n")
    code, said = run(tmp_path / "sheet.csv", "-o", tmp_path / "bags", "--encoder", "demo")
    assert code == 1
    assert "2 done, 0 skipped, 6 failed" in said
    for words in (
        "no tissue found",
        "resolution",
        "no such slide",
        "sheet.csv, line 7: mpp 'fine' is not",
        "sheet.csv, line 9: the column 'slide' is empty",
    ):
        assert words in said
    assert len(BagFolder(tmp_path / "bags")) == 2
    # The resolution on the command line is for slides that do not state it; a row's comes first.
    code, said = run(tmp_path / "scaleless.tif", "-o", tmp_path / "bags", "-e", "demo", "--mpp", 0.4)
    assert code == 0
    assert read_bag(tmp_path / "bags" / "scaleless.h5").manifest["slide_mpp"] == 0.4


def test_a_killed_run_goes_on_and_ends_the_same(slides: Path, tmp_path: Path, encoder: object) -> None:
    slide, settings = next(slides.rglob("*DX1*")), BagSettings(patch_um=14.0, batch_size=8)
    whole = make_bag(slide, encoder, tmp_path / "whole.h5", settings)

    def killed(done: int, of: int) -> None:
        nonlocal seen
        seen += done
        if seen > of / 2:
            raise KeyboardInterrupt

    seen = 0
    with pytest.raises(KeyboardInterrupt):
        make_bag(slide, encoder, tmp_path / "part.h5", settings, progress=killed)
    assert not (tmp_path / "part.h5").exists()
    assert not is_complete(tmp_path / "part.h5", slide, encoder, settings)
    steps: list[int] = []
    make_bag(slide, encoder, tmp_path / "part.h5", settings, progress=lambda done, of: steps.append(done))
    assert steps[0] > 8  # what was done before came at once
    assert sum(steps) == read_bag(whole).patches
    np.testing.assert_array_equal(read_bag(tmp_path / "part.h5").features(), read_bag(whole).features())
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["part.h5", "whole.h5"]


def test_several_processes_make_the_same_bags(slides: Path, tmp_path: Path) -> None:
    source, settings = EncoderSource(name="demo", device="cpu"), BagSettings()
    listed = {count: list_slides([slides], tmp_path / str(count)) for count in (1, 2)}
    outcomes = {
        count: list(make_bags(jobs, source, settings, processes=count)) for count, jobs in listed.items()
    }
    assert [outcome.status for outcome in outcomes[2]] == ["done"] * 3
    for path in sorted((tmp_path / "1").iterdir()):
        one, two = read_bag(path), read_bag(tmp_path / "2" / path.name)
        np.testing.assert_allclose(two.features(), one.features(), atol=2e-3)
        assert one.manifest == two.manifest


def test_another_slide_of_the_same_name_is_no_complete_bag(tmp_path: Path, encoder: object) -> None:
    slide, settings = draw_slide(tmp_path / "a.tif"), BagSettings()
    output = make_bag(slide, encoder, tmp_path / "a.h5", settings)
    assert is_complete(output, slide, encoder, settings)
    with pytest.raises(BagError, match=r"another slide_mpp \(0\.5, now 0\.25\)"):
        is_complete(output, slide, encoder, settings, mpp=0.25)
    slide.write_bytes(slide.read_bytes() + b"more")
    with pytest.raises(BagError, match="made with another source"):
        is_complete(output, slide, encoder, settings)
    output.write_bytes(b"no bag")
    with pytest.raises(BagError, match="cannot be read as a bag"):
        is_complete(output, slide, encoder, settings)


def test_slides_that_cannot_be_listed(slides: Path, tmp_path: Path) -> None:
    with pytest.raises(SlideSheetNotFoundError, match="no such slide, folder or sheet"):
        list_slides([tmp_path / "none"], tmp_path)
    with pytest.raises(SlideSheetNotFoundError, match="no such sheet"):
        list_slides([tmp_path / "none.csv"], tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SlideSheetError, match="no slides in it"):
        list_slides([tmp_path / "empty"], tmp_path)
    (tmp_path / "a.csv").write_text("path\nx.svs\n")
    with pytest.raises(SlideSheetError, match="no column 'slide' among path"):
        list_slides([tmp_path / "a.csv"], tmp_path)
    (tmp_path / "a.csv").write_text("slide\n")
    with pytest.raises(SlideSheetError, match="no rows"):
        list_slides([tmp_path / "a.csv"], tmp_path)
    (tmp_path / "a.csv").write_text("slide\nx/s.svs\ny/s.tif\n")
    with pytest.raises(SlideSheetError, match=r"x/s\.svs and .*y/s\.tif would both write .*s\.h5"):
        list_slides([tmp_path / "a.csv"], tmp_path)
    shutil.copytree(slides, tmp_path / "deep" / "in")
    (tmp_path / "deep" / "store.zarr" / "images").mkdir(parents=True)
    (tmp_path / "deep" / "store.zarr" / "thumbnail.png").touch()
    (tmp_path / "deep" / ".hidden.svs").touch()
    names = [job.output.name for job in list_slides([tmp_path / "deep"], tmp_path)]
    assert names == [*(f"TCGA-A{k}-01Z-00-DX1.0123-abc.h5" for k in range(3)), "store.h5"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"patches": "dots"}, "expected grid or cells"),
        ({"patches": "cells", "patch_um": 50.0}, "patches around cells have none"),
        ({"patch_um": float("nan")}, "positive number"),
        ({"min_tissue": 1.5}, "share from 0 to 1"),
        ({"max_patches": 0}, "expected 1 or more"),
    ],
)
def test_settings_that_make_no_sense(options: dict[str, object], said: str) -> None:
    with pytest.raises(BagError, match=said):
        BagSettings(**options)
