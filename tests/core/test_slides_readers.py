"""Readers against independent ones (tifffile, PIL, zarr), over every layout, and with damaged files."""

import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from past_core.slides import SlideError, SlideNotFoundError, open_slide

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 255, (150, 210, 3), dtype=np.uint8)  # (H, W, 3), no multiple of the tile
HALF = IMAGE[:150:2, :210:2].copy()


def ome(mpp, **options):
    return {"axes": "YXS", "PhysicalSizeX": mpp, "PhysicalSizeY": mpp, "PhysicalSizeXUnit": "µm", **options}


def write_pyramid(path, *, planar=False, compression=None, **options):
    """An OME-TIFF whose second level is a SubIFD, interleaved (YXS) or one page a channel (CYX)."""
    layout = {
        "tile": (64, 64),
        "compression": compression,
        "metadata": ome(0.25, **options),
        "photometric": "rgb",
    }
    if planar:
        layout |= {"photometric": "minisblack", "metadata": ome(0.25, axes="CYX")}
    full, half = (np.ascontiguousarray(i.transpose(2, 0, 1)) if planar else i for i in (IMAGE, HALF))
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(full, subifds=1, **layout)
        layout.pop("metadata")
        tiff.write(half, subfiletype=1, **layout)
    return path


def write_flat_pyramid(path):
    """Full and reduced pages one after the other, as vips writes."""
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(IMAGE, tile=(64, 64), photometric="rgb", compression="deflate", metadata=None)
        tiff.write(
            HALF, tile=(64, 64), photometric="rgb", compression="deflate", metadata=None, subfiletype=1
        )
    return path


LAYOUTS = {
    "tiled": {"tile": (64, 48)},
    "tiled lzw": {"tile": (64, 64), "compression": "lzw", "predictor": True},
    "strips": {"rowsperstrip": 16, "compression": "deflate"},
    "one raw strip": {},
    "raw strips": {"rowsperstrip": 7},
    "separate planes": {"planarconfig": "separate", "tile": (64, 64), "compression": "deflate"},
    "separate raw planes": {"planarconfig": "separate"},
    "big endian": {"byteorder": ">", "rowsperstrip": 10},
    "BigTIFF": {"bigtiff": True, "tile": (32, 32)},
    "jpeg2000": {"tile": (64, 64), "compression": "jpeg2000"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_tiff_layout_equals_tifffile(tmp_path, layout):
    options = dict(LAYOUTS[layout])
    data = IMAGE.transpose(2, 0, 1) if "planarconfig" in options else IMAGE
    writer = {k: options.pop(k) for k in ("byteorder", "bigtiff") if k in options}
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path, **writer) as tiff:
        tiff.write(data, photometric="rgb", **options)
    want = tifffile.imread(path)
    want = want if want.shape[0] == 3 else want.transpose(2, 0, 1)
    with open_slide(path) as slide:
        assert (slide.height, slide.width, slide.mpp) == (150, 210, None)
        np.testing.assert_array_equal(slide.read(0, 0, 0, 150, 210), want)
        np.testing.assert_array_equal(slide.read(0, 61, 47, 9, 60), want[:, 61:70, 47:107])
        window = slide.read(0, -5, 200, 20, 20)
        np.testing.assert_array_equal(window[:, 5:, :10], want[:, :15, 200:])
        assert (window[:, :5] == 255).all()
        assert (window[:, :, 10:] == 255).all()


@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("compression", [None, "deflate"])
def test_ome_tiff_pyramids(tmp_path, planar, compression):
    with open_slide(write_pyramid(tmp_path / "a.ome.tif", planar=planar, compression=compression)) as slide:
        assert [(v.height, v.width, v.downsample, v.mpp) for v in slide.levels] == [
            (150, 210, 1.0, 0.25),
            (75, 105, 2.0, 0.5),
        ]
        np.testing.assert_array_equal(slide.read(0, 10, 20, 70, 80), IMAGE[10:80, 20:100].transpose(2, 0, 1))
        np.testing.assert_array_equal(slide.read(1, 5, 50, 66, 55), HALF[5:71, 50:105].transpose(2, 0, 1))


def test_flat_pyramid(tmp_path):
    with open_slide(write_flat_pyramid(tmp_path / "a.tif"), mpp=0.5) as slide:
        assert [v.mpp for v in slide.levels] == [0.5, 1.0]
        np.testing.assert_array_equal(slide.read(1, 0, 0, 75, 105), HALF.transpose(2, 0, 1))


def test_real_svs(shared_data):
    path = shared_data / "wsi" / "CMU-1-Small-Region.svs"
    want = tifffile.imread(path, key=0).transpose(2, 0, 1)
    with open_slide(path) as slide:
        assert slide.mpp == 0.499
        assert (slide.height, slide.width) == (2967, 2220)
        np.testing.assert_array_equal(slide.read(0, 1000, 700, 500, 600), want[:, 1000:1500, 700:1300])
        np.testing.assert_array_equal(slide.read(0, 2900, 2200, 67, 20), want[:, 2900:, 2200:])


def test_real_images(shared_data):
    with open_slide(shared_data / "he" / "instanseg_HE_example.tif") as slide:
        assert slide.mpp == pytest.approx(0.5, abs=1e-3)
        want = tifffile.imread(slide.path).transpose(2, 0, 1)
        np.testing.assert_array_equal(slide.read(0, 300, 500, 900, 800), want[:, 300:1200, 500:1300])
    for name in ("tiatoolbox_target_image.png", "stardist_histo.jpg"):
        with open_slide(shared_data / "he" / name) as slide, Image.open(slide.path) as image:
            want = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
            np.testing.assert_array_equal(slide.read(0, 0, 0, slide.height, slide.width), want)
            assert slide.mpp is None


def test_only_the_touched_tiles_are_decoded(tmp_path, monkeypatch):
    with open_slide(write_pyramid(tmp_path / "a.ome.tif", compression="deflate")) as slide:
        decoded = []
        real = slide._decode
        monkeypatch.setattr(slide, "_decode", lambda part, index: decoded.append(index) or real(part, index))
        slide.read(0, 70, 70, 10, 10)
        assert decoded == [5]  # tiles are 4 across: row 1, column 1
        slide.read(0, 64, 100, 10, 60)
        assert decoded == [5, 6]  # the first comes from the cache


def test_threads_read_the_same(tmp_path):
    with open_slide(write_pyramid(tmp_path / "a.ome.tif", compression="deflate")) as slide:
        corners = RNG.integers(0, 100, (200, 2))
        with ThreadPoolExecutor(8) as pool:
            windows = list(pool.map(lambda c: slide.read(0, c[0], c[1], 50, 60), corners))
    for (y, x), window in zip(corners, windows, strict=True):
        np.testing.assert_array_equal(window, IMAGE[y : y + 50, x : x + 60].transpose(2, 0, 1))


def test_sparse_tiles_are_white(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, IMAGE, tile=(64, 64), photometric="rgb", compression="deflate", metadata=None)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        counts = tiff.pages[0].tags["TileByteCounts"]
        counts.overwrite([0, *counts.value[1:]])
    with open_slide(path) as slide:
        window = slide.read(0, 0, 0, 64, 128)
        assert (window[:, :, :64] == 255).all()
        np.testing.assert_array_equal(window[:, :, 64:], IMAGE[:64, 64:128].transpose(2, 0, 1))


def test_transparency_is_laid_over_white(tmp_path):
    rgba = np.dstack([IMAGE, np.where(np.arange(210) < 100, 255, 0).astype(np.uint8)[None].repeat(150, 0)])
    Image.fromarray(rgba).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", rgba, photometric="rgb", extrasamples=["unassalpha"])
    for name in ("a.png", "a.tif"):
        window = open_slide(tmp_path / name).read(0, 0, 0, 150, 210)
        np.testing.assert_array_equal(window[:, :, :100], IMAGE[:, :100].transpose(2, 0, 1))
        assert (window[:, :, 100:] == 255).all()


@pytest.mark.parametrize(
    ("resolution", "unit", "mpp"),
    [
        ((40000, 40000), "CENTIMETER", 0.25),
        ((50800, 50800), "INCH", 0.5),
        ((72, 72), "INCH", None),
        ((1, 1), "NONE", None),
    ],
)
def test_resolution_tags(tmp_path, resolution, unit, mpp):
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, IMAGE, photometric="rgb", resolution=resolution, resolutionunit=unit, metadata=None
    )
    assert open_slide(path).mpp == (mpp if mpp is None else pytest.approx(mpp))
    assert open_slide(path, mpp=0.7).mpp == 0.7


def test_ome_units_and_imagej(tmp_path):
    path = tmp_path / "a.ome.tif"
    write_pyramid(
        path, PhysicalSizeX=250.0, PhysicalSizeY=250.0, PhysicalSizeXUnit="nm", PhysicalSizeYUnit="nm"
    )
    assert open_slide(path).mpp == pytest.approx(0.25)
    tifffile.imwrite(tmp_path / "b.tif", IMAGE, imagej=True, resolution=(4, 4), metadata={"unit": "um"})
    assert open_slide(tmp_path / "b.tif").mpp == pytest.approx(0.25)


def write_ome_zarr(path, *, version=3, axes="cyx", unit="micrometer", levels=2):
    group = zarr.open_group(path, mode="w", zarr_format=version)
    images = [i.transpose(2, 0, 1) for i in (IMAGE, HALF)][:levels]
    datasets = []
    for k, image in enumerate(images):
        array = image.reshape([{"c": 3, "y": image.shape[1], "x": image.shape[2]}.get(a, 1) for a in axes])
        chunks = (1,) * (len(axes) - 2) + (64, 64)
        group.create_array(str(k), shape=array.shape, dtype="u1", chunks=chunks)[...] = array
        scale = [1.0] * (len(axes) - 2) + [0.5 * 2**k] * 2
        datasets.append({"path": str(k), "coordinateTransformations": [{"type": "scale", "scale": scale}]})
    kinds = {"c": {"type": "channel"}, "t": {"type": "time"}}
    space = {"type": "space"} | ({"unit": unit} if unit else {})
    named = [{"name": a, **kinds.get(a, space)} for a in axes]
    multiscales = [{"axes": named, "datasets": datasets, "version": "0.5"}]
    group.attrs.update(
        {"ome": {"multiscales": multiscales}} if version == 3 else {"multiscales": multiscales}
    )
    return path


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("axes", ["cyx", "tczyx"])
def test_ome_zarr(tmp_path, version, axes):
    with open_slide(write_ome_zarr(tmp_path / "a.zarr", version=version, axes=axes)) as slide:
        assert [(v.height, v.width, v.mpp) for v in slide.levels] == [(150, 210, 0.5), (75, 105, 1.0)]
        np.testing.assert_array_equal(slide.read(0, 100, 150, 50, 60), IMAGE[100:, 150:].transpose(2, 0, 1))
        window = slide.read(1, 70, -3, 10, 10)
        np.testing.assert_array_equal(window[:, :5, 3:], HALF[70:, :7].transpose(2, 0, 1))
        assert (window[:, 5:] == 255).all()


def test_ome_zarr_without_unit_or_inside_a_folder(tmp_path):
    assert open_slide(write_ome_zarr(tmp_path / "a.zarr", unit=None)).mpp is None
    zarr.open_group(tmp_path / "sd.zarr", mode="w")
    write_ome_zarr(tmp_path / "sd.zarr" / "images" / "he")
    assert open_slide(tmp_path / "sd.zarr").mpp == 0.5
    write_ome_zarr(tmp_path / "sd.zarr" / "images" / "dapi")
    with pytest.raises(SlideError, match=r"images/dapi, images/he"):
        open_slide(tmp_path / "sd.zarr")


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(SlideNotFoundError, match="no such slide"):
        open_slide(tmp_path / "no.svs")
    files = {
        "empty.svs": (b"", "empty"),
        "text.tif": (b"these are not the pixels", "not an image"),
        "a.ndpi": (b"MM\0*", "damaged or truncated"),
        "a.isyntax": (b"<?xml vers", "iSyntax"),
        "a.mrxs": (b"\xff\xd8\xff", "MRXS"),
    }
    for name, (content, message) in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SlideError, match=message):
            open_slide(tmp_path / name)
    (tmp_path / "folder").mkdir()
    with pytest.raises(SlideError, match="without OME-Zarr"):
        open_slide(tmp_path / "folder")


@pytest.mark.parametrize(
    ("image", "options"),
    [
        (IMAGE[:, :, 0], {}),
        (IMAGE.astype(np.uint16), {"photometric": "rgb"}),
        (IMAGE[None].repeat(2, 0), {"photometric": "rgb", "metadata": {"axes": "ZYXS"}}),
        (IMAGE[:, :, :2], {"photometric": "minisblack", "planarconfig": "contig"}),
    ],
)
def test_not_rgb(tmp_path, image, options):
    tifffile.imwrite(tmp_path / "a.tif", image, **options)
    with pytest.raises(SlideError, match="RGB"):
        open_slide(tmp_path / "a.tif")


def test_plain_image_without_colour(tmp_path):
    Image.fromarray(IMAGE[:, :, 0]).save(tmp_path / "grey.png")
    with pytest.raises(SlideError, match="mode L"):
        open_slide(tmp_path / "grey.png")


def test_not_square(tmp_path):
    with pytest.raises(SlideError, match="not square"):
        open_slide(write_pyramid(tmp_path / "a.ome.tif", PhysicalSizeY=0.5))


@pytest.mark.parametrize("kind", ["svs-like", "raw", "png", "jpg"])
def test_truncation_anywhere_is_an_error(tmp_path, kind):
    """Whatever is cut off: a SlideError at opening or at reading, or else exactly the right pixels."""
    path = tmp_path / {"svs-like": "a.tif", "raw": "b.tif", "png": "a.png", "jpg": "a.jpg"}[kind]
    if kind in {"png", "jpg"}:
        Image.fromarray(IMAGE).save(path)
    else:
        options = {"tile": (64, 64), "compression": "deflate"} if kind == "svs-like" else {}
        tifffile.imwrite(path, IMAGE, photometric="rgb", **options)
    whole = path.read_bytes()
    want = open_slide(path).read(0, 0, 0, 150, 210)
    failures = 0
    for cut in np.unique(np.geomspace(1, len(whole) - 1, 40).astype(int)):
        path.write_bytes(whole[: len(whole) - cut])
        try:
            got = open_slide(path).read(0, 0, 0, 150, 210)
        except SlideError:
            failures += 1
        else:
            np.testing.assert_array_equal(got, want)
    assert failures >= 25  # a few cuts hit only padding after the pixels


def test_damaged_bytes_never_give_a_foreign_error(tmp_path):
    path = write_pyramid(tmp_path / "a.ome.tif", compression="deflate")
    whole = bytearray(path.read_bytes())
    rng = np.random.default_rng(7)
    for _ in range(150):
        damaged = bytearray(whole)
        header = rng.random() < 0.5  # half of the damage hits the first directory
        for position in rng.integers(0, 2000 if header else len(whole), 8):
            damaged[position] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            slide = open_slide(path)
            slide.read(0, 0, 0, min(slide.height, 150), min(slide.width, 210))
        except SlideError:
            pass


def test_huge_claims_are_refused_before_allocation(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, IMAGE, photometric="rgb", compression="deflate", metadata=None)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        for tag in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            tiff.pages[0].tags[tag].overwrite(2**31 - 1, dtype="I")
    with pytest.raises(SlideError):
        open_slide(path)
    png = bytearray(b"\x89PNG\r\n\x1a\n")
    header = b"IHDR" + struct.pack(">IIBBBBB", 200_000, 200_000, 8, 2, 0, 0, 0)
    png += struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    (tmp_path / "a.png").write_bytes(png)
    with pytest.raises(SlideError, match=r"200000 x 200000|damaged"):
        open_slide(tmp_path / "a.png")


def test_damaged_ome_zarr(tmp_path):
    path = write_ome_zarr(tmp_path / "a.zarr")
    chunk = next(p for p in (path / "0" / "c").rglob("*") if p.is_file())
    chunk.write_bytes(b"broken")
    with pytest.raises(SlideError, match="damaged data in level 0"):
        open_slide(path).read(0, 0, 0, 150, 210)
    (path / "1" / "zarr.json").unlink()
    with pytest.raises(SlideError, match="level '1'"):
        open_slide(path)
    (path / "zarr.json").write_text("{")
    with pytest.raises(SlideError, match="truncated"):
        open_slide(path)


def test_opening_imports_neither_torch_nor_spatialdata(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, photometric="rgb")
    code = (
        "import sys; from past_core.slides import open_slide; "
        f"open_slide({str(tmp_path / 'a.tif')!r}).read(0, 0, 0, 9, 9); "
        "assert not {'torch', 'lightning', 'spatialdata'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
