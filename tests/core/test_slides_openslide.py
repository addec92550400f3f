"""Scanners' formats: every level and window against the picture that was drawn, threads, errors."""

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile
from made_openslide import (
    MPP,
    jpeg,
    mrxs_size,
    picture,
    write_bif,
    write_czi,
    write_dicom,
    write_mrxs,
    write_ndpi,
    write_philips,
    write_scn,
    write_vms,
)
from PIL import Image

from past_core.slides import SlideError, open_slide
from past_core.slides.openslide import OpenSlideSlide
from past_core.slides.tiff import TiffSlide

MAKERS = {
    "ndpi": lambda folder: write_ndpi(folder / "a.ndpi", picture(512, 768)),
    "vms": lambda folder: write_vms(folder / "a.vms", picture(512, 1024)),
    "mrxs": lambda folder: write_mrxs(folder / "a.mrxs", picture(*mrxs_size(6, 4, 0))),
    "mrxs overlapping": lambda folder: write_mrxs(
        folder / "a.mrxs", picture(*mrxs_size(6, 4, 16)), overlap=16
    ),
    "scn": lambda folder: write_scn(folder / "a.scn", picture(512, 768)),
    "bif": lambda folder: write_bif(folder / "a.bif", picture(8 + 56 * 6, 8 + 56 * 9)),
    "philips": lambda folder: write_philips(folder / "a.tiff", picture(576, 704)),
    "czi": lambda folder: write_czi(folder / "a.czi", picture(64 + 56 * 4, 64 + 56 * 8)),
    "dicom": lambda folder: write_dicom(folder / "series", picture(192, 320)),
}
JPEG_ERROR = 8


@pytest.fixture(scope="module", params=MAKERS)
def made(request, tmp_path_factory):
    return MAKERS[request.param](tmp_path_factory.mktemp("slide"))


def off(window, expected):
    """Largest and mean difference of `(3, H, W)` from `(H, W, 3)`."""
    difference = np.abs(window.astype(int) - expected.transpose(2, 0, 1))
    return difference.max(), difference.mean()


def read_all(path):
    """Every level, or its first 300 pixels each way: damage may make it larger."""
    with open_slide(path) as slide:
        for number, level in enumerate(slide.levels):
            slide.read(number, 0, 0, min(level.height, 300), min(level.width, 300))


def test_every_level_shows_the_picture(made):
    assert openslide.OpenSlide.detect_format(str(made.path)) == made.vendor
    seen = set()
    with open_slide(made.path) as slide:
        assert isinstance(slide, OpenSlideSlide)
        assert slide.vendor == made.vendor
        assert slide.mpp == pytest.approx(MPP, rel=1e-4)
        for number, level in enumerate(slide.levels):
            expected = made.levels.get(round(level.downsample))
            if expected is None:  # those that openslide adds by decoding a JPEG at a fraction of its size
                continue
            seen.add(round(level.downsample))
            assert (level.height, level.width) == expected.shape[:2]
            assert level.downsample == round(level.downsample)
            assert level.mpp == pytest.approx(MPP * level.downsample, rel=1e-4)
            most, mean = off(slide.read(number, 0, 0, level.height, level.width), expected)
            assert most <= JPEG_ERROR, f"level {number}"
            assert mean < 1, f"level {number}"
    assert seen == set(made.levels)


def test_windows_over_the_border_are_white_there(made):
    with open_slide(made.path) as slide:
        for number in (0, 1):
            level = slide.levels[number]
            whole = slide.read(number, 0, 0, level.height, level.width)
            frame = np.full((3, level.height + 60, level.width + 60), 255, np.uint8)
            frame[:, 30:-30, 30:-30] = whole
            for y, x in (
                (-30, -30),
                (level.height - 40, level.width - 50),
                (-30, level.width - 17),
                (71, 33),
            ):
                window = slide.read(number, y, x, 70, 80)
                expected = np.full((3, 70, 80), 255, np.uint8)
                part = frame[:, y + 30 : y + 100, x + 30 : x + 110]
                expected[:, : part.shape[1], : part.shape[2]] = part
                np.testing.assert_array_equal(window, expected)
        outside = slide.read(0, slide.height + 5, 0, 9, 9)
        assert (outside == 255).all()


def test_eight_threads_read_what_one_reads(made):
    with open_slide(made.path) as slide:
        rng = np.random.default_rng(1)
        size = np.array([[level.height, level.width] for level in slide.levels[:2]])
        levels = rng.integers(0, 2, 200)
        corners = (rng.uniform(-0.1, 1, (200, 2)) * size[levels]).astype(int)

        def read(job):
            return slide.read(int(job[0]), int(job[1][0]), int(job[1][1]), 50, 60)

        jobs = list(zip(levels, corners, strict=True))
        alone = [read(job) for job in jobs]
    with open_slide(made.path) as slide, ThreadPoolExecutor(8) as pool:
        together = list(pool.map(read, jobs))
    for expected, window in zip(alone, together, strict=True):
        np.testing.assert_array_equal(window, expected)


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


def test_photos_that_were_not_taken_are_white(tmp_path):
    image = picture(*mrxs_size(4, 4, 0))
    made = write_mrxs(tmp_path / "a.mrxs", image, missing=(5, 6))
    with open_slide(made.path) as slide:
        assert (slide.read(0, 128, 128, 128, 256) == 255).all()
        assert off(slide.read(0, 256, 0, 256, 512), image[256:])[0] <= JPEG_ERROR
        # In the coarser level their pixels exist, but openslide shows no photo that level 0 lacks.
        assert off(slide.read(0, 0, 0, 128, 512), image[:128])[0] <= JPEG_ERROR


def test_the_canvas_is_kept_and_its_bounds_are_told(tmp_path):
    made = write_scn(tmp_path / "a.scn", picture(512, 768))
    with open_slide(made.path) as slide:
        x, y, width, height = slide.bounds
        assert (x, y, width, height) == (384, 128, 768, 640)
        assert (slide.read(0, 0, 0, y, slide.width) == 255).all()
        assert (slide.read(0, 0, 0, slide.height, x) == 255).all()
        # At a resolution between the levels the areas stay where they are.
        view = slide.at(3 * MPP)
        window = view.read(y // 3 + 40, x // 3 + 20, 60, 60)
        expected = made.levels[1][3 * (y // 3 + 40) :, 3 * (x // 3 + 20) :][:180, :180]
        assert (
            off(window, expected.reshape(60, 3, 60, 3, 3).mean((1, 3)).round().astype(int))[0] <= JPEG_ERROR
        )


def test_padding_of_coarse_levels_is_cut_off(tmp_path):
    made = write_philips(tmp_path / "a.tiff", picture(576, 704))
    with tifffile.TiffFile(made.path) as tiff:
        assert tiff.pages[2].shape == (192, 192, 3)
    with open_slide(made.path) as slide:
        assert [(v.height, v.width, v.downsample) for v in slide.levels] == [
            (576, 704, 1.0),
            (288, 352, 2.0),
            (144, 176, 4.0),
        ]
        assert (slide.read(2, 144, 0, 3, 176) == 255).all()


def test_resolution_is_read_given_or_refused(tmp_path):
    made = write_mrxs(tmp_path / "a.mrxs", picture(*mrxs_size(2, 2, 0)))
    with open_slide(made.path, mpp=0.31) as slide:
        assert [level.mpp for level in slide.levels] == [0.31, 0.62]
    ini = made.parts[-1]
    text = ini.read_text(encoding="utf-8-sig")
    ini.write_text(text.replace(f"PIXEL_Y = {MPP}", "PIXEL_Y = 0.4"), encoding="utf-8-sig")
    with pytest.raises(SlideError, match=r"not square \(0.25 x 0.4"):
        open_slide(made.path)
    ini.write_text(
        text.replace(f"= {MPP}\r\n", "= 0\r\n").replace(f"= {MPP}\n", "= 0\n"), encoding="utf-8-sig"
    )
    with open_slide(made.path) as slide, pytest.raises(SlideError, match="--mpp"):
        slide.require_mpp()


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


def test_windows_agree_where_levels_do_not_halve_exactly(tmp_path):
    """A level of 2.0067 level-0 pixels a pixel: openslide would shift every window by another fraction."""
    image = picture(602, 1204)
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        options = {"tile": (64, 64), "photometric": "rgb", "compression": "deflate", "metadata": None}
        tiff.write(image, **options)
        half = np.asarray(Image.fromarray(image).resize((600, 300), Image.Resampling.BOX))
        tiff.write(half, subfiletype=1, **options)
    with OpenSlideSlide(tmp_path / "a.tif") as slide:
        factor = slide._downsamples[1]
        assert factor != round(factor)
        whole = slide.read(1, 0, 0, 300, 600)
        assert off(whole, half)[0] <= 4
        for y, x, height, width in ((3, 250, 290, 300), (255, 255, 2, 2), (100, 511, 50, 89), (0, 0, 300, 1)):
            window = slide.read(1, y, x, height, width)
            np.testing.assert_array_equal(window, whole[:, y : y + height, x : x + width])


def test_real_svs_is_the_same_through_both_readers(shared_data):
    path = shared_data / "wsi" / "CMU-1-Small-Region.svs"
    with open_slide(path) as ours, OpenSlideSlide(path) as theirs:
        assert isinstance(ours, TiffSlide)
        assert ours.mpp == theirs.mpp == 0.499
        assert ours.levels == theirs.levels
        for y, x, height, width in ((1000, 700, 600, 500), (2900, 2100, 67, 120), (0, 0, 300, 300)):
            difference = np.abs(
                ours.read(0, y, x, height, width).astype(int) - theirs.read(0, y, x, height, width)
            )
            assert difference.max() <= 2  # two JPEG decoders
            assert difference.mean() < 0.05


@pytest.mark.parametrize(
    ("name", "mpp"),
    [
        ("instanseg_HE_example.tif", None),
        ("tiatoolbox_target_image.png", 0.5),
        ("stardist_histo.jpg", 0.25),
    ],
)
def test_real_images_at_half_their_resolution(shared_data, name, mpp):
    with open_slide(shared_data / "he" / name, mpp=mpp) as slide:
        assert slide.mpp == (pytest.approx(0.5, abs=1e-3) if mpp is None else mpp)
        whole = slide.read(0, 0, 0, slide.height // 2 * 2, slide.width // 2 * 2)
        half = slide.at(2 * slide.mpp).read(0, 0, whole.shape[1] // 2, whole.shape[2] // 2)
        expected = whole.reshape(3, whole.shape[1] // 2, 2, whole.shape[2] // 2, 2).mean((2, 4))
        assert np.abs(half - expected).max() <= 0.5 + 1e-6


@pytest.mark.parametrize("compression", [33003, 33005])
def test_svs_of_jpeg2000_in_either_colour_space(tmp_path, compression):
    image = picture(256, 256)

    def tiles():
        for y in (0, 128):
            for x in (0, 128):
                tile = image[y : y + 128, x : x + 128]
                if compression == 33003:
                    tile = np.asarray(Image.fromarray(tile).convert("YCbCr"))
                yield imagecodecs.jpeg2k_encode(
                    np.ascontiguousarray(tile), level=0, codecformat="j2k", mct=False
                )

    with tifffile.TiffWriter(tmp_path / "a.svs") as tiff:
        tiff.write(
            tiles(),
            shape=image.shape,
            dtype=np.uint8,
            tile=(128, 128),
            compression=compression,
            photometric="rgb",
            description="Aperio Image Library v1\r\n256x256 |AppMag = 20|MPP = 0.5",
            metadata=None,
        )
    with open_slide(tmp_path / "a.svs") as slide:
        assert slide.mpp == 0.5
        assert off(slide.read(0, 0, 0, 256, 256), image)[0] <= 3


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


def test_a_folder_of_dicom_files_is_one_slide(tmp_path):
    image = picture(192, 320)
    write_dicom(tmp_path / "series", image)
    with open_slide(tmp_path / "series") as slide:
        assert (slide.name, slide.vendor, slide.mpp) == ("series", "dicom", MPP)
        assert [level.downsample for level in slide.levels] == [1.0, 2.0]
        np.testing.assert_array_equal(slide.read(0, 0, 0, 192, 320), image.transpose(2, 0, 1))
