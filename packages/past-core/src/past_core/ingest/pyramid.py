"""An image written as a chunked pyramid, a few tiles at a time."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import tensorstore as ts
import zarr
from zarr.codecs import ZstdCodec

from past_core.errors import PastError
from past_core.ingest.checks import SlideDataError
from past_core.ingest.layout import StoreError
from past_core.ingest.threads import usable_cores
from past_core.remote import Location, open_kvstore
from past_core.servers import used_here

CHUNK = 256
TILE = 2048
SMALLEST_LEVEL = 1024
FILL = 255
"""White. Chunks equal to it are written all the same, so that a missing chunk is known to be lost."""

Progress = Callable[[int, int], None]

_MAX_WORKERS = 8
"""Tiles in work at once at most: each takes up to about 60 MB between its decoder and its encoder."""
_BAND = 64
"""Rows that are halved at a time, so that sums stay in the cache."""
_CASCADE = 3  # TILE >> 3 == CHUNK: the last level whose share of a tile is still whole chunks


@runtime_checkable
class PixelReader(Protocol):
    """What is read by `read(level, y, x, height, width) -> (3, height, width) uint8`: an open slide."""

    levels: Any

    def read(self, level: int, y: int, x: int, height: int, width: int) -> np.ndarray:
        """Reads one window of one level."""
        ...


class SlideImage:
    """Level 0 of an open slide, sliced like an array of shape (3, H, W)."""

    dtype = np.dtype(np.uint8)

    def __init__(self, reader: PixelReader):
        self._reader = reader
        self.shape = (3, int(reader.levels[0].height), int(reader.levels[0].width))

    def __getitem__(self, window: tuple[slice, slice, slice]) -> np.ndarray:
        """Reads `[:, y0:y1, x0:x1]`."""
        channels, rows, columns = window
        y0, y1, _ = rows.indices(self.shape[1])
        x0, x1, _ = columns.indices(self.shape[2])
        return self._reader.read(0, y0, x0, y1 - y0, x1 - x0)[channels]


def halve(image: np.ndarray) -> np.ndarray:
    """Halves an image by the mean of each 2 x 2 square, rounded half to even.

    Half to even keeps the mean brightness over many levels, where half up would gain 1/8 of a grey level a
    level. A last odd row or column is the mean of the pixels that exist.

    Args:
        image: (C, H, W) uint8.

    Returns:
        (C, ceil(H/2), ceil(W/2)) uint8.
    """
    _, height, width = image.shape
    if height % 2 or width % 2:
        image = np.pad(image, ((0, 0), (0, height % 2), (0, width % 2)), mode="edge")
    pairs = np.ascontiguousarray(image).view("<u2")  # two neighbours in one number: no strided access
    channels, rows, columns = pairs.shape
    out = np.empty((channels, rows // 2, columns), np.uint8)
    for channel in range(channels):
        for top in range(0, rows, _BAND):
            band = pairs[channel, top : top + _BAND]
            wide = band & 0xFF
            wide += band >> 8
            total = wide[0::2] + wide[1::2]
            odd = total >> 2
            odd &= 1
            total += odd
            total += 1
            total >>= 2
            out[channel, top // 2 : top // 2 + len(total)] = total
    return out


def level_shapes(height: int, width: int) -> list[tuple[int, int]]:
    """Sizes of the levels: halved (rounded up) until both sides are below 1,024 px, at least two levels."""
    shapes = [(height, width)]
    while len(shapes) < 2 or max(shapes[-1]) >= SMALLEST_LEVEL:
        height, width = -(-height // 2), -(-width // 2)
        shapes.append((height, width))
    return shapes


def write_pyramid(image: Any, folder: Path, *, progress: Progress | None = None) -> None:
    """Writes levels `s0`, `s1`, ... of an image as zarr v3 arrays, reading the image once, tile by tile.

    Every level is `halve` of the level above it. Tiles are decoded, halved and encoded in a thread for each
    core. Memory: a few tiles of 2,048 px, whatever the image's size.

    Args:
        image: (3, H, W) uint8; anything whose slices `[:, y0:y1, x0:x1]` become arrays (numpy, dask, zarr),
            also from several threads at once.
        folder: An existing OME-Zarr image group; arrays of these names in it are replaced.
        progress: Called with tiles done and tiles in all of level 0.
    """
    _, height, width = image.shape
    levels = []
    for number, (rows, columns) in enumerate(level_shapes(height, width)):
        zarr.create_array(
            folder / f"s{number}",
            shape=(3, rows, columns),
            chunks=(3, CHUNK, CHUNK),
            dtype="uint8",
            fill_value=FILL,
            compressors=ZstdCodec(level=3),
            dimension_names=("c", "y", "x"),
            overwrite=True,
        )
        levels.append(open_level(folder / f"s{number}", write=True))
    # A tile of a level fills whole chunks of that level and the next three; coarser ones start again from
    # there.
    for first in range(0, len(levels), _CASCADE):
        source = image if first == 0 else levels[first]
        targets = levels[first : first + _CASCADE + 1]
        _write_tiles(source, targets, write_first=first == 0, progress=progress if first == 0 else None)
        if first + _CASCADE + 1 >= len(levels):
            break


def _write_tiles(source: Any, targets: list[Any], *, write_first: bool, progress: Progress | None) -> None:
    """Writes one run of levels from its finest, several tiles at a time, finished in their order."""
    _, height, width = source.shape
    corners = [(y, x) for y in range(0, height, TILE) for x in range(0, width, TILE)]
    # One more than cores: a tile that waits for the disk leaves its core to another.
    workers = min(usable_cores() + 1, _MAX_WORKERS, len(corners))
    running: deque[Future[None]] = deque()
    done = 0
    pool = ThreadPoolExecutor(workers, thread_name_prefix="past-pyramid")
    try:
        for y, x in corners:
            running.append(pool.submit(_write_tile, source, targets, y, x, write_first=write_first))
            while len(running) >= workers or (running and (y, x) == corners[-1]):
                running.popleft().result()
                done += 1
                if progress is not None:
                    progress(done, len(corners))
    finally:
        pool.shutdown(cancel_futures=True)


def _write_tile(source: Any, targets: list[Any], y: int, x: int, *, write_first: bool) -> None:
    """Reads one tile and writes its share of every level; tiles share no chunk."""
    _, height, width = source.shape
    tile = _read(source, y, x, min(y + TILE, height), min(x + TILE, width))
    writes = []
    for depth, target in enumerate(targets):
        if depth:
            tile = halve(tile)
        if depth or write_first:
            top, left = y >> depth, x >> depth
            window = target[:, top : top + tile.shape[1], left : left + tile.shape[2]]
            writes.append(window.write(np.ascontiguousarray(tile)))
    for write in writes:
        write.result()


def _read(source: Any, top: int, left: int, bottom: int, right: int) -> np.ndarray:
    try:
        return np.asarray(source[:, top:bottom, left:right])
    except PastError:
        raise
    except Exception as error:
        raise SlideDataError(
            f"the image cannot be read at x {left} to {right}, y {top} to {bottom} ({error}); is it complete?"
        ) from error


def refuse_after_fork() -> None:
    """Raises an error where tensorstore would abort the process, in a child forked after its first use.

    Raises:
        StoreError: With what to do instead.
    """
    if not used_here():
        raise StoreError(
            "slide pixels cannot be read in a process forked after others were read; use threads, or start "
            "processes with 'spawn' (DataLoader: multiprocessing_context='spawn')"
        )


def open_level(folder: Location, *, write: bool = False) -> Any:
    """Opens one zarr v3 array with tensorstore, to be shared by threads but not with forked processes.

    A chunk that is lost raises ValueError when it is read.
    """
    refuse_after_fork()
    spec = {
        "driver": "zarr3",
        "store_data_equal_to_fill_value": True,
        "fill_missing_data_reads": write,
        "recheck_cached_data": "open",
    }
    kvstore = open_kvstore(folder, pixels=True)
    return ts.open(spec, kvstore=kvstore, open=True, read=True, write=write).result()
