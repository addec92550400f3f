"""Every small parser on damaged copies of a good file: a named error, or something that was read."""

import io
import json
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from made_hostile import DEEP, fuzz, refused
from past_core.checkpoint.content import open_checkpoint
from past_core.embed.sheet import read_sheet
from past_core.foreign.tables import read_csv
from past_core.ingest.annotations import _read
from past_core.ingest.sheet import read_ingest_sheet
from past_core.models.weights import read_weights
from past_core.nicheformer import read_means
from past_core.nuclei.geojson import read_geojson
from past_core.nuclei.labels import read_labels
from past_core.registration.boundaries import outlines_in
from past_core.registration.keypoints import read_keypoints
from past_core.registration.stored import read_stored
from past_core.slides import open_slide

SIDE = 64
KEYPOINTS = "fixedX,fixedY,alignmentX,alignmentY\n" + "".join(
    f"{x},{y},{x + 5.5},{y - 3}\n" for x, y in ((1, 2), (300, 40), (80, 500), (410, 390))
)
SQUARES = {
    "type": "FeatureCollection",
    "features": [
        {
            "type": "Feature",
            "geometry": {
                "type": "Polygon",
                "coordinates": [[[x, 5], [x + 6, 5], [x + 6, 11], [x, 11], [x, 5]]],
            },
            "properties": {"objectType": "detection"},
        }
        for x in (5, 20, 40)
    ],
}
OUTLINES = "cell_id,vertex_x,vertex_y\n" + "".join(f"c{k},{k + 1},{k % 4}\n" for k in range(20))


def read_slide(path: Path) -> None:
    with open_slide(path) as slide:
        slide.read(0, 0, 0, min(slide.height, SIDE), min(slide.width, SIDE))


def polygons(path: Path) -> None:
    with open_slide(path.parent / "he.tif", mpp=0.5) as slide:
        read_geojson(path, slide)


def written(write: Callable[[io.BytesIO], object]) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def rgb() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), np.uint8)


def tiff(**options: object) -> bytes:
    return written(lambda file: tifffile.imwrite(file, rgb(), photometric="rgb", **options))


def safetensors() -> bytes:
    from safetensors.torch import save
    from torch import zeros

    return save({"a": zeros(3, 2)}, metadata={"past": json.dumps({"format": 1, "model": {}})})


def torchs() -> bytes:
    import torch

    return written(lambda file: torch.save({"state_dict": {"a": torch.zeros(3, 2)}, "past": {}}, file))


def label_image() -> np.ndarray:
    return np.pad(np.arange(1, 10, dtype=np.uint16).reshape(3, 3), ((0, SIDE - 3), (0, SIDE - 3)))


def gzipped(text: str) -> bytes:
    import gzip

    return gzip.compress(text.encode(), mtime=0)


PARSERS: dict[str, tuple[str, Callable[[], bytes], Callable[[Path], object]]] = {
    "a tiled TIFF": (".tif", lambda: tiff(tile=(32, 32), compression="zlib"), read_slide),
    "an OME-TIFF": (
        ".ome.tif",
        lambda: tiff(ome=True, metadata={"axes": "YXS", "PhysicalSizeX": 0.5}),
        read_slide,
    ),
    "a plain TIFF": (".tif", tiff, read_slide),
    "a PNG": (".png", lambda: written(lambda file: Image.fromarray(rgb()).save(file, "PNG")), read_slide),
    "a JPEG": (".jpg", lambda: written(lambda file: Image.fromarray(rgb()).save(file, "JPEG")), read_slide),
    "labels, TIFF": (
        ".tif",
        lambda: written(lambda file: tifffile.imwrite(file, label_image(), compression="zlib")),
        lambda path: read_labels(path, shape=(SIDE, SIDE)),
    ),
    "labels, PNG": (
        ".png",
        lambda: written(lambda file: Image.fromarray(label_image()).save(file, "PNG")),
        lambda path: read_labels(path, shape=(SIDE, SIDE)),
    ),
    "labels, npy": (
        ".npy",
        lambda: written(lambda file: np.save(file, label_image())),
        lambda path: read_labels(path, shape=(SIDE, SIDE)),
    ),
    "polygons": (".geojson", lambda: json.dumps(SQUARES).encode(), polygons),
    "polygons, gz": (".geojson.gz", lambda: gzipped(json.dumps(SQUARES)), polygons),
    "keypoints": (".csv", KEYPOINTS.encode, lambda path: read_keypoints([path])),
    "a registration": (
        ".json",
        lambda: json.dumps({"kind": "registration", "matrix": [[1]]}).encode(),
        read_stored,
    ),
    "a sheet to embed": (
        ".csv",
        lambda: b"path,name,mpp\na.svs,A,0.5\nb.svs,B,\n",
        lambda path: read_sheet(path, path.parent),
    ),
    "a sheet to ingest": (
        ".csv",
        lambda: b"slide,bundle,patient\nA,in/a,p1\nB,in/b,p2\n",
        lambda path: read_ingest_sheet(path, path.parent),
    ),
    "annotations": (".csv", lambda: b"cell_id,type\na,T\nb,B\n", _read),
    "annotations, gz": (".csv.gz", lambda: gzipped("cell_id,type\na,T\nb,B\n"), _read),
    "outlines": (".csv", OUTLINES.encode, lambda path: outlines_in(path, [(0, 0, 9, 9)])),
    "outlines, gz": (".csv.gz", lambda: gzipped(OUTLINES), lambda path: outlines_in(path, [(0, 0, 9, 9)])),
    "safetensors": (".safetensors", safetensors, open_checkpoint),
    "a checkpoint": (".ckpt", torchs, open_checkpoint),
    "weights": (".pth", torchs, read_weights),
    "means, npy": (
        ".npy",
        lambda: written(lambda file: np.save(file, np.ones(9))),
        lambda p: read_means("xenium", p),
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "he.tif").write_bytes(tiff())
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("parser", PARSERS)
def test_damage_ends_in_a_named_error_or_is_read(parser: str, folder: Path) -> None:
    suffix, make, read = PARSERS[parser]
    fuzz(folder / f"damaged{suffix}", make(), read, named=True)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 100, b"\x93NUMPY\x01\x00\xff\xff{", b"PK\x03\x04", b"\x1f\x8b\x08", DEEP, b"\xff\xfe\x00a"],
    ids=["empty", "zeros", "npy", "zip", "gzip", "deep", "utf-16"],
)
def test_other_content_is_refused(parser: str, content: bytes, folder: Path) -> None:
    suffix, _, read = PARSERS[parser]
    path = folder / f"other{suffix}"
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    refused(lambda: read(path), path.name)


def test_an_ome_tiff_that_names_another_file_is_refused(tmp_path: Path) -> None:
    """Its positions would be looked up in the wrong file, and the wrong pixels shown."""
    tifffile.imwrite(tmp_path / "secret.tif", rgb(), photometric="rgb")
    (tmp_path / "in").mkdir()
    said = (
        '<?xml version="1.0"?>'
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:1">'
        '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="64" SizeY="64" '
        'SizeC="3" SizeZ="1" SizeT="1"><Channel ID="Channel:0:0" SamplesPerPixel="3"/><TiffData IFD="0" '
        'PlaneCount="1"><UUID FileName="../secret.tif">urn:uuid:2</UUID></TiffData></Pixels></Image></OME>'
    )
    path = tmp_path / "in" / "a.ome.tif"
    tifffile.imwrite(path, rgb() // 2, photometric="rgb", description=said, metadata=None)
    refused(lambda: open_slide(path), "a.ome.tif", "secret.tif", "other files")


def test_a_picture_of_another_kind_by_the_name_of_a_png(tmp_path: Path) -> None:
    """PIL would hand an EPS to Ghostscript."""
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\n")
    refused(lambda: read_labels(tmp_path / "a.png", shape=(64, 64)), "cannot identify image file")


def test_a_table_is_bounded_once_unpacked(tmp_path: Path) -> None:
    import zipfile

    text = b"a,b\n" + b"1,2\n" * 50_000
    (tmp_path / "a.csv.gz").write_bytes(zlib.compress(text, 9, 31))
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../a.csv", text)  # read in place, whatever its name
    for name in ("a.csv.gz", "a.zip"):
        assert len(read_csv(tmp_path / name)) == 50_000
        with pytest.raises(ValueError, match=r"more than 1,000 bytes|source failed"):
            read_csv(tmp_path / name, max_bytes=1000)
    assert {each.name for each in tmp_path.iterdir()} == {"a.csv.gz", "a.zip"}
