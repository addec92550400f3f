"""Files that claim, or unpack to, far more than they hold: a named error, in bounded memory."""

import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

ALLOWED = 2**30
"""Bytes of address space that reading may take beyond the imports."""


def many_rows(path: Path) -> None:
    """33 MiB of rows in 33 KiB: members of a gzip follow one another as one text."""
    import gzip

    path.write_bytes(gzip.compress(b"0,1\n" * 2**18) * 33)


def huge_h5(path: Path, name: str) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        file.create_dataset(name, (10**6, 10**6), "f4", chunks=(1, 100), fillvalue=0)


def elsewhere_h5(path: Path, name: str) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        file.create_dataset(name, (10, 2), "u1", external=[("/etc/passwd", 0, 20)])


def linked_h5(path: Path, name: str) -> None:
    import h5py

    with h5py.File(path.with_name("other.h5"), "w") as file:
        file["x"] = [1.0]
    with h5py.File(path, "w") as file:
        file[name] = h5py.ExternalLink("other.h5", "/x")


def huge_zarr(path: Path, *, shape: list[int], chunk: list[int]) -> None:
    import zarr

    group = zarr.open_group(path, mode="w", zarr_format=3)
    group.create_array("0", shape=(3, 64, 64), chunks=(3, 64, 64), dtype="u1")[:] = 7
    group.attrs["ome"] = {
        "version": "0.5",
        "multiscales": [
            {
                "axes": [{"name": name} for name in "cyx"],
                "datasets": [
                    {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1, 1, 1]}]}
                ],
            }
        ],
    }
    file = path / "0" / "zarr.json"
    content = json.loads(file.read_text())
    content["shape"], content["chunk_grid"]["configuration"]["chunk_shape"] = shape, chunk
    file.write_text(json.dumps(content))


def png(path: Path, side: int) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(1000))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b""))


def tiff(path: Path, kind: str) -> None:
    from made_hostile import LONG, ONE_TILE, rgb_tags, tiled, write_tiff

    good = zlib.compress(bytes(256 * 256 * 3))
    bomb = zlib.compress(bytes(2**27), 1)

    def strips(side: int, count: int) -> dict:
        segments = {273: (LONG, [8]), 278: (LONG, [side]), 279: (LONG, [count])}
        return rgb_tags(side, side, 8) | segments

    made = {
        "one huge strip": lambda: write_tiff(path, strips(60_000, 100)),
        "sides of 2**31": lambda: write_tiff(path, strips(2**31, 100)),
        "one tile of 2**44": lambda: write_tiff(path, tiled(2**30, 2**30, 8, [8], [10])),
        "a huge tile": lambda: write_tiff(path, tiled(100, 100, 8, [8], [10], tile=2**30)),
        "tiles of no size": lambda: write_tiff(path, tiled(100, 100, 8, [8], [10], tile=0)),
        "data beyond the file": lambda: write_tiff(path, tiled(256, 256, 8, [2**31], [1000])),
        "a length beyond the file": lambda: write_tiff(path, tiled(256, 256, 8, [200], [2**31])),
        "a tile that unpacks to 128 MiB": lambda: write_tiff(
            path, tiled(256, 256, 8, [ONE_TILE], [len(bomb)]), bomb
        ),
        "a circle of directories": lambda: write_tiff(
            path, tiled(256, 256, 8, [ONE_TILE], [len(good)]), good, next_ifd=8
        ),
    }
    made[kind]()


def labels(path: Path) -> None:
    """A label image in which almost nothing is stored, of the very size of its slide."""
    from made_hostile import LONG, SHORT, write_tiff

    tags = {256: (LONG, [60_000]), 257: (LONG, [60_000]), 258: (SHORT, [32]), 259: (SHORT, [8])}
    tags |= {262: (SHORT, [1]), 273: (LONG, [8]), 277: (SHORT, [1]), 278: (LONG, [60_000]), 279: (LONG, [50])}
    write_tiff(path, tags)


TIFFS = (
    *("one huge strip", "sides of 2**31", "one tile of 2**44", "a huge tile", "tiles of no size"),
    *("data beyond the file", "a length beyond the file", "a tile that unpacks to 128 MiB"),
    "a circle of directories",
)
GOOD = {"a circle of directories", "a zarr of missing chunks"}
"""What is read all the same, for all of its pixels are there or stand for nothing."""
CASES: dict[str, tuple[str, str, Callable[[Path], None]]] = {
    **{kind: ("slide", ".tif", lambda path, kind=kind: tiff(path, kind)) for kind in TIFFS},  # type: ignore[misc]
    "a PNG of 60,000 pixels": ("slide", ".png", lambda path: png(path, 60_000)),
    "a PNG of 2**31 pixels": ("slide", ".png", lambda path: png(path, 2**31 - 1)),
    "a zarr of missing chunks": (
        *("slide", ".zarr"),
        lambda path: huge_zarr(path, shape=[3, 2**40, 2**40], chunk=[3, 64, 64]),
    ),
    "a zarr of one huge chunk": (
        *("slide", ".zarr"),
        lambda path: huge_zarr(path, shape=[3, 2**40, 2**40], chunk=[3, 2**40, 2**40]),
    ),
    "labels of 60,000 pixels": ("labels", ".tif", labels),
    "an h5ad that claims 4 TB": ("hest", ".h5ad", lambda path: huge_h5(path, "X")),
    "an h5ad in another file": ("hest", ".h5ad", lambda path: elsewhere_h5(path, "X")),
    "an h5ad with a link out": ("hest", ".h5ad", lambda path: linked_h5(path, "X")),
    "embeddings that claim 4 TB": ("manifest", ".h5ad", lambda path: huge_h5(path, "uns/past")),
    "a table of 33 MiB in a gz": ("table", ".csv.gz", many_rows),
    "JSON of 100,000 levels": ("geojson", ".geojson", lambda path: path.write_bytes(b"[" * 100_000) and None),
    "a line of 100 MB in a sheet": (
        "sheet",
        ".csv",
        lambda path: path.write_bytes(b"path\n" + b"a" * 10**8) and None,
    ),
    "a line of 10 MB in a sheet": (
        "sheet",
        ".csv",
        lambda path: path.write_bytes(b"path\n" + b"a" * 10**7) and None,
    ),
}
"""What reads it, its ending, and what makes it."""

CODE = """
import json, resource, sys
from pathlib import Path
from past_core.embed.output import read_manifest
from past_core.embed.sheet import read_sheet
from past_core.errors import PastError
from past_core.foreign.errors import ForeignError
from past_core.foreign.tables import read_csv
from past_core.ingest.hest import read_hest
from past_core.nuclei.geojson import read_geojson
from past_core.nuclei.labels import read_labels
from past_core.slides import open_slide

def slide(path):
    with open_slide(path, mpp=0.5) as opened:
        opened.read(0, 0, 0, min(opened.height, 256), min(opened.width, 256))

readers = {
    "slide": slide,
    "labels": lambda path: read_labels(path, shape=(60_000, 60_000)),
    "hest": lambda path: read_hest(path, path),
    "manifest": read_manifest,
    "table": lambda path: read_csv(path, max_bytes=2**24),
    "geojson": lambda path: read_geojson(path, None),
    "sheet": lambda path: read_sheet(path, path.parent, suffix=".h5ad", suffixes=(".h5ad",)),
}
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + ALLOWED, used + ALLOWED))
said = {}
for name, (reader, path) in json.load(sys.stdin).items():
    try:
        readers[reader](Path(path))
        said[name] = ["read", ""]
    except (PastError, ForeignError) as error:
        said[name] = ["refused", str(error)]
    except BaseException as error:
        said[name] = ["foreign", repr(error)]
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What became of each case, all in one process that may take a GiB."""
    folder = tmp_path_factory.mktemp("bombs")
    paths = {
        name: folder / f"{number}{suffix}" for number, (name, (_, suffix, _)) in enumerate(CASES.items())
    }
    for name, (_, _, make) in CASES.items():
        make(paths[name])
    given = {name: (CASES[name][0], str(path)) for name, path in paths.items()}
    code = CODE.replace("ALLOWED", str(ALLOWED))
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(given), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="the limit on memory is Linux's")
@pytest.mark.parametrize("case", CASES)
def test_it_is_refused_in_bounded_memory(case: str, said: dict[str, list[str]]) -> None:
    outcome, text = said[case]
    assert outcome == ("read" if case in GOOD else "refused"), text
    assert "Unable to allocate" not in text  # told before it was tried
