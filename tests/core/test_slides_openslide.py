"""Scanners' formats: every level and window against the picture that was drawn, threads, errors."""

from concurrent.futures import ThreadPoolExecutor

import imagecodecs
import numpy as np
import openslide
import pytest
import tifffile
from made_openslide import JPEG_ERROR, MPP, mrxs_size, off, picture, write_mrxs
from made_openslide_others import MAKERS, write_dicom
from made_openslide_tiffs import write_philips, write_scn
from PIL import Image

from past_core.slides import SLIDE_SUFFIXES, SlideError, open_slide
from past_core.slides.openslide import OpenSlideSlide
from past_core.slides.tiff import TiffSlide


@pytest.fixture(scope="module", params=MAKERS)
def made(request, tmp_path_factory):
    return MAKERS[request.param](tmp_path_factory.mktemp("slide"))


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


def test_a_folder_of_dicom_files_is_one_slide(tmp_path):
    image = picture(192, 320)
    write_dicom(tmp_path / "series", image)
    with open_slide(tmp_path / "series") as slide:
        assert (slide.name, slide.vendor, slide.mpp) == ("series", "dicom", MPP)
        assert [level.downsample for level in slide.levels] == [1.0, 2.0]
        np.testing.assert_array_equal(slide.read(0, 0, 0, 192, 320), image.transpose(2, 0, 1))


def test_endings_are_cut_off_whole():
    """Scans take the first ending that fits: a compound one must not stand behind its last part."""
    for number, suffix in enumerate(SLIDE_SUFFIXES):
        assert suffix == suffix.lower()
        assert not [other for other in SLIDE_SUFFIXES[:number] if suffix.endswith(other)]
    assert {".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".tif", ".ome.tiff", ".png", ".zarr"} <= set(
        SLIDE_SUFFIXES
    )
