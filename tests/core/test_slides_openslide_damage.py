"""Scanners' slides that are cut off, damaged or incomplete: named errors, and nothing else is hurt."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import openslide
import pytest
import tifffile
from made_openslide import JPEG_ERROR, jpeg, mrxs_size, off, picture, write_mrxs, write_vms
from made_openslide_others import MAKERS
from made_openslide_tiffs import write_bif, write_scn

from past_core.slides import SlideError, open_slide


@pytest.fixture(scope="module", params=MAKERS)
def made(request, tmp_path_factory):
    return MAKERS[request.param](tmp_path_factory.mktemp("slide"))


def read_all(path):
    """Every level, or its first 300 pixels each way: damage may make it larger."""
    with open_slide(path) as slide:
        for number, level in enumerate(slide.levels):
            slide.read(number, 0, 0, min(level.height, 300), min(level.width, 300))


def test_cut_off_anywhere_is_an_error(made, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(made.path.parent, folder)
    copy = folder / made.path.name
    rng = np.random.default_rng(3)
    for part in made.parts:
        part = folder / part.relative_to(made.path.parent)
        whole = part.read_bytes()
        for length in [0, len(whole) - 1, *rng.integers(1, len(whole) - 1, 12)]:
            part.write_bytes(whole[:length])
            with pytest.raises(SlideError, match=str(folder)):
                read_all(copy)
        part.write_bytes(whole)


def test_damaged_bytes_never_give_a_foreign_error(made, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(made.path.parent, folder)
    files = [folder / part.relative_to(made.path.parent) for part in made.parts]
    whole = {file: file.read_bytes() for file in files}
    rng = np.random.default_rng(5)
    failures = 0
    for number in range(40):
        file = files[number % len(files)]
        damaged = bytearray(whole[file])
        # Half of the damage is within what lies at either end, which in most formats is the structure.
        ends = np.concatenate([np.arange(min(1000, len(damaged))), -1 - np.arange(min(1000, len(damaged)))])
        for _ in range(4):
            place = rng.choice(ends) if rng.random() < 0.5 else rng.integers(len(damaged))
            damaged[place] = rng.choice([0, 1, 128, 255, rng.integers(256)])
        file.write_bytes(damaged)
        try:
            read_all(folder / made.path.name)
        except SlideError:
            failures += 1
        file.write_bytes(whole[file])
    assert failures >= 10


def test_an_mrxs_without_its_folder_is_not_taken_for_its_preview(tmp_path):
    made = write_mrxs(tmp_path / "a.mrxs", picture(*mrxs_size(2, 2, 0)))
    shutil.copy(made.path, tmp_path / "b.mrxs")
    shutil.copy(made.path, tmp_path / "A.MRXS")
    for name in ("b.mrxs", "A.MRXS"):
        with pytest.raises(SlideError, match=r"Slidedat\.ini"):
            open_slide(tmp_path / name)
    (made.parts[0]).unlink()
    with pytest.raises(SlideError, match=r"Data0000\.dat"):
        open_slide(made.path)


@pytest.fixture
def damaged(tmp_path):
    """An SCN with one tile of its first area's full level overwritten: rows 64 to 128, columns 128 to 192."""
    made = write_scn(tmp_path / "a.scn", picture(512, 768))
    with tifffile.TiffFile(made.path) as tiff:
        page = tiff.pages[1]
        offset, count = page.dataoffsets[1 * 6 + 2], page.databytecounts[1 * 6 + 2]
    with made.path.open("r+b") as file:
        file.seek(offset)
        file.write(bytes(count))
    return made


def test_damage_names_its_place_and_the_rest_stays_readable(damaged):
    y, x = 128 + 64, 384 + 128
    with open_slide(damaged.path) as slide:
        for _ in range(3):
            with pytest.raises(
                SlideError, match=rf"a\.scn: damaged .* level 0, .* row {y + 5}, column {x - 9}"
            ):
                slide.read(0, y + 5, x - 9, 20, 30)
            assert (
                off(slide.read(0, y + 64, x, 64, 64), damaged.levels[1][y + 64 :, x:][:64, :64])[0]
                <= JPEG_ERROR
            )
            assert (
                off(slide.read(1, y // 2, x // 2, 32, 32), damaged.levels[2][y // 2 :, x // 2 :][:32, :32])[0]
                < 9
            )


def test_damage_that_one_thread_meets_does_not_hurt_the_others(damaged):
    """openslide's handle is dead after its first error, in every thread."""
    y, x = 128 + 64, 384 + 128
    expected = damaged.levels[1][y + 64 :, x:][:64, :64]
    stop = threading.Event()

    with open_slide(damaged.path) as slide:

        def hit(_):
            failures = 0
            while not stop.is_set():
                with pytest.raises(SlideError):
                    slide.read(0, y, x, 64, 64)
                failures += 1
            return failures

        def miss(_):
            return max(off(slide.read(0, y + 64, x, 64, 64), expected)[0] for _ in range(100))

        with ThreadPoolExecutor(8) as pool:
            hits = [pool.submit(hit, k) for k in range(2)]
            try:
                assert max(pool.map(miss, range(6))) <= JPEG_ERROR
            finally:
                stop.set()
            assert min(future.result() for future in hits) > 0


def test_a_closed_slide_says_so(tmp_path):
    made = write_scn(tmp_path / "a.scn", picture(128, 256))
    slide = open_slide(made.path)
    slide.close()
    with pytest.raises(SlideError, match="closed"):
        slide.read(0, 0, 0, 9, 9)


def test_a_scanners_tiff_that_openslide_does_not_know_is_refused(tmp_path):
    """Read as a plain TIFF its overlapping tiles would lie side by side."""
    made = write_bif(tmp_path / "a.bif", picture(64 + 56, 64 + 56))
    content = made.path.read_bytes()
    made.path.write_bytes(content.replace(b"<iScan", b"<iSc&n", 1))
    assert openslide.OpenSlide.detect_format(str(made.path)) != "ventana"
    with pytest.raises(SlideError, match=r"a\.bif"):
        open_slide(made.path)


def test_a_vms_with_a_lost_image(tmp_path):
    made = write_vms(tmp_path / "a.vms", picture(512, 1024))
    made.parts[1].unlink()
    with pytest.raises(SlideError, match=r"part-1\.jpg"):
        open_slide(made.path)


def test_png_and_jpeg_do_without_openslide(tmp_path, monkeypatch):
    (tmp_path / "a.jpg").write_bytes(jpeg(picture(64, 64)))
    made = write_scn(tmp_path / "a.scn", picture(128, 256))
    monkeypatch.setitem(__import__("sys").modules, "openslide", None)
    assert open_slide(tmp_path / "a.jpg").width == 64
    with pytest.raises(SlideError, match="openslide-bin"):
        open_slide(made.path)
