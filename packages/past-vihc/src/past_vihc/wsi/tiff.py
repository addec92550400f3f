"""Pyramidal, tiled TIFF, written tile row by tile row: for Bio-Formats and QuPath, or for OpenSlide."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from past_core.errors import PastError
from past_core.ingest.pyramid import halve, level_shapes
from past_vihc.wsi.describe import ome_xml, plain_text
from past_vihc.wsi.work import StripImage

Layout = Literal["ome", "generic"]
Compression = Literal["jpeg", "deflate"]

TILE = 512
CLASSIC = 2**31
"""Bytes of uncompressed pixels from which on a file is a BigTIFF; a classic TIFF ends at 4 GiB."""
THREADS = 2


class TiffOptionError(PastError, ValueError):
    """A TIFF that cannot be written as asked."""


@dataclass(frozen=True)
class TiffOptions:
    """How a TIFF is written.

    Attributes:
        layout: "ome": OME-TIFF with its levels in SubIFDs, for QuPath and Bio-Formats, of which OpenSlide
            reads the first level only. "generic": levels as pages, for OpenSlide and viewers built on it.
        compression: "jpeg" without chroma subsampling, or "deflate", which keeps every pixel.
        quality: of JPEG, 1 to 100.
    """

    layout: Layout = "ome"
    compression: Compression = "jpeg"
    quality: int = 95

    def __post_init__(self) -> None:
        if self.layout not in ("ome", "generic"):
            raise TiffOptionError(f"layout {self.layout!r}; expected ome or generic")
        if self.compression not in ("jpeg", "deflate"):
            raise TiffOptionError(f"compression {self.compression!r}; expected jpeg or deflate")
        if not 1 <= self.quality <= 100:
            raise TiffOptionError(f"JPEG quality {self.quality}; expected 1 to 100")


def write_tiff(
    image: Any,
    path: Path,
    record: Mapping[str, Any],
    *,
    mpp: float,
    scratch: Path,
    options: TiffOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes an image with its pyramid; the bytes depend on nothing but the arguments.

    Every level is `halve` of the one above; levels wait as raw strips in `scratch`, so that memory is a tile
    row of 512 lines.

    Args:
        image: (3, H, W) uint8, sliced as `[:, y0:y1, x0:x1]`.
        path: the file, replaced if it is there.
        record: see `describe`.
        mpp: µm per pixel.
        scratch: an existing folder for levels (a third of the image's bytes).
        options: how.
        progress: called with tiles written since the last call, and tiles in all.

    Raises:
        OSError: the file cannot be written.
    """
    import tifffile

    options = options or TiffOptions()
    _, height, width = image.shape
    shapes = level_shapes(height, width)
    total = sum(-(-h // TILE) * -(-w // TILE) for h, w in shapes)
    description = (
        ome_xml(record, height=height, width=width, mpp=mpp)
        if options.layout == "ome"
        else plain_text(record)
    ).encode()
    common: dict[str, Any] = {"dtype": np.uint8, "tile": (TILE, TILE), "metadata": None}
    common["software"] = str(record["software"])
    if options.compression == "jpeg":
        common |= {"compression": "jpeg", "photometric": "ycbcr", "subsampling": (1, 1)}
    else:
        common |= {"compression": "adobe_deflate", "photometric": "rgb", "predictor": 2}
    with tifffile.TiffWriter(path, bigtiff=4 * height * width > CLASSIC) as file:
        for number, (h, w) in enumerate(shapes):
            last = number + 1 == len(shapes)
            below = None if last else _NextLevel(scratch, number + 1, shapes[number + 1])
            density = 1e4 / (mpp * (height / h + width / w) / 2)
            file.write(
                _tiles(image, options, below, (lambda: progress(1, total)) if progress else None),
                shape=(h, w, 3),
                resolution=(density, density),
                resolutionunit="CENTIMETER",
                subifds=len(shapes) - 1 if number == 0 and options.layout == "ome" else None,
                subfiletype=1 if number else 0,
                description=None if number else description,
                **common,
            )
            if below is not None:
                image = below.image()


def _tiles(
    image: Any, options: TiffOptions, below: "_NextLevel | None", report: Callable[[], None] | None
) -> Iterator[bytes]:
    """Encoded tiles row by row; rows are halved into the next level on the way."""
    _, height, width = image.shape
    columns = range(0, width, TILE)

    def encode(tile: np.ndarray) -> bytes:
        return _encode(tile, options)

    blank = np.full((3, TILE, TILE), 255, np.uint8)
    white: bytes | None = None
    with ThreadPoolExecutor(THREADS) as pool:
        for y in range(0, height, TILE):
            rows = np.ascontiguousarray(image[:, y : min(y + TILE, height), :])
            if below is not None:
                below.append(halve(rows))
            futures: list[bytes | Future[bytes]] = []
            for x in columns:
                tile = rows[:, :, x : x + TILE]
                if tile.shape == blank.shape and tile[0, 0, 0] == 255 and np.array_equal(tile, blank):
                    white = white or encode(blank)
                    futures.append(white)
                else:
                    futures.append(pool.submit(encode, tile))
            for future in futures:
                yield future if isinstance(future, bytes) else future.result()
                if report is not None:
                    report()


def _encode(tile: np.ndarray, options: TiffOptions) -> bytes:
    import imagecodecs

    _, height, width = tile.shape
    if (height, width) != (TILE, TILE):  # repeated at the border, so that JPEG does not ring there
        tile = np.pad(tile, ((0, 0), (0, TILE - height), (0, TILE - width)), mode="edge")
    pixels = np.ascontiguousarray(tile.transpose(1, 2, 0))
    if options.compression == "jpeg":
        return bytes(
            imagecodecs.jpeg8_encode(
                pixels, level=options.quality, colorspace="RGB", outcolorspace="YCBCR", subsampling="444"
            )
        )
    return bytes(imagecodecs.zlib_encode(imagecodecs.delta_encode(pixels, axis=-2).tobytes(), level=6))


class _NextLevel:
    """The level below, as strips of half a tile row."""

    def __init__(self, scratch: Path, number: int, shape: tuple[int, int]) -> None:
        self.folder, self.number, self.shape = scratch, number, shape
        self.paths: list[Path] = []
        self.edges = [0]

    def append(self, rows: np.ndarray) -> None:
        path = self.folder / f"level-{self.number}-{len(self.paths):06d}.raw"
        path.write_bytes(np.ascontiguousarray(rows).data)
        self.paths.append(path)
        self.edges.append(self.edges[-1] + rows.shape[1])

    def image(self) -> StripImage:
        return StripImage(self.paths, self.edges, self.edges, [0, self.shape[1]], 0)
