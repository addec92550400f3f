"""Small but genuine files of scanners, drawn from one picture: NDPI, VMS and MRXS."""

import io
import re
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

MPP = 0.25
QUALITY = 95


@dataclass(frozen=True)
class MadeSlide:
    """A file and what it shows: `levels[k]` is `(H, W, 3)`, of downsample `factors[k]`."""

    path: Path
    vendor: str
    levels: dict[int, np.ndarray]
    parts: tuple[Path, ...]
    """The files that hold the pixels of level 0."""


def picture(height: int, width: int) -> np.ndarray:
    """`(H, W, 3)` smooth colours that differ everywhere, so that a wrong place shows; JPEG loses little."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    red = 120 + 100 * np.sin(x / 37.0) * np.cos(y / 53.0)
    green = 40 + 180 * y / height
    blue = 40 + 180 * x / width
    return np.stack([red, green, blue], axis=2).round().astype(np.uint8)


def shrunk(image: np.ndarray, factor: int) -> np.ndarray:
    """Area averages of `factor` x `factor` squares."""
    height, width = image.shape[0] // factor, image.shape[1] // factor
    squares = image[: height * factor, : width * factor].reshape(height, factor, width, factor, 3)
    return (squares.mean(axis=(1, 3)) + 0.5).astype(np.uint8)


def jpeg(image: np.ndarray, **options: int) -> bytes:
    """An image as a JPEG file without chroma subsampling."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=QUALITY, subsampling=0, **options)
    return buffer.getvalue()


# Hamamatsu -------------------------------------------------------------------------------------------

RESTART_BLOCKS = 8  # of 8 pixels: what the decoder can enter at is a strip of 64 x 8 pixels


def _restarts(data: bytes) -> list[int]:
    """Where the entropy-coded pieces of a JPEG begin."""
    scan = data.index(b"\xff\xda")
    first = scan + 2 + struct.unpack(">H", data[scan + 2 : scan + 4])[0]
    return [first, *(first + found.end() for found in re.finditer(rb"\xff[\xd0-\xd7]", data[first:]))]


def write_ndpi(path: Path, image: np.ndarray, *, mpp: float = MPP) -> MadeSlide:
    """Two levels (full and a quarter) and a macro image, in the classic TIFF with 64-bit offsets of NDPI."""
    quarter = shrunk(image, 4)
    macro = np.full((64, 128, 3), 200, np.uint8)
    body = bytearray(b"II*\0" + bytes(8))  # the first directory's offset is put in last
    place, offsets = 4, []
    for pixels, lens in ((image, 40.0), (quarter, 10.0), (macro, -1.0)):
        offset = len(body)
        data = jpeg(pixels, restart_marker_blocks=RESTART_BLOCKS)
        body += data + bytes(len(data) % 2)
        scale = image.shape[1] / pixels.shape[1]
        place = _ndpi_directory(body, place, pixels, offset, data, lens, mpp * scale)
        offsets.append(offset)
    path.write_bytes(body)
    levels = {1: image, 2: shrunk(image, 2), 4: quarter, 8: shrunk(image, 8), 16: shrunk(quarter, 4)}
    return MadeSlide(path, "hamamatsu", levels, (path,))


def _ndpi_directory(
    body: bytearray, place: int, pixels: np.ndarray, offset: int, data: bytes, lens: float, mpp: float
) -> int:
    """Appends a directory, points the 8 bytes at `place` to it; returns where the next one's offset goes."""
    height, width = pixels.shape[:2]

    def apart(content: bytes) -> int:
        body.extend(content + bytes(len(content) % 2))
        return len(body) - len(content) - len(content) % 2

    starts = _restarts(data)
    per_cm = struct.pack("<II", round(10_000 / mpp * 1000), 1000)
    entries = [
        (254, 4, 1, 0),
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, 3, apart(struct.pack("<3H", 8, 8, 8))),
        (259, 3, 1, 7),
        (262, 3, 1, 6),
        (271, 2, 10, apart(b"Hamamatsu\0")),
        (273, 4, 1, offset),
        (277, 3, 1, 3),
        (278, 4, 1, height),
        (279, 4, 1, len(data)),
        (282, 5, 1, apart(per_cm)),
        (283, 5, 1, apart(per_cm)),
        (296, 3, 1, 3),
        (65420, 4, 1, 1),
        (65421, 11, 1, struct.unpack("<I", struct.pack("<f", lens))[0]),
        (65422, 9, 1, 0),
        (65423, 9, 1, 0),
        (65424, 9, 1, 0),
        (65426, 4, len(starts), apart(struct.pack(f"<{len(starts)}I", *starts))),
    ]
    body[place : place + 8] = struct.pack("<Q", len(body))
    body.extend(struct.pack("<H", len(entries)))
    for entry in entries:
        body.extend(struct.pack("<HHII", *entry))
    following = len(body)
    body.extend(bytes(8 + 4 * len(entries)))  # no next directory yet; then each value's upper half
    return following


def write_vms(path: Path, image: np.ndarray, *, mpp: float = MPP) -> MadeSlide:
    """Two JPEGs side by side and a map file of an eighth of the size."""
    height, width = image.shape[:2]
    half = width // 2
    files = {
        "part-0.jpg": jpeg(image[:, :half], restart_marker_blocks=RESTART_BLOCKS),
        "part-1.jpg": jpeg(image[:, half:], restart_marker_blocks=RESTART_BLOCKS),
        "map.jpg": jpeg(shrunk(image, 8), restart_marker_blocks=shrunk(image, 8).shape[1] // 8),
    }
    for name, content in files.items():
        (path.parent / name).write_bytes(content)
    path.write_text(
        "[Virtual Microscope Specimen]\nNoLayers=1\nNoJpegColumns=2\nNoJpegRows=1\n"
        "ImageFile=part-0.jpg\nImageFile(1,0)=part-1.jpg\nMapFile=map.jpg\nSourceLens=40\n"
        f"PhysicalWidth={round(width * mpp * 1000)}\nPhysicalHeight={round(height * mpp * 1000)}\n"
    )
    levels = {factor: shrunk(image, factor) for factor in (1, 2, 4, 8)}
    return MadeSlide(path, "hamamatsu", levels, tuple(path.parent / name for name in files))


# 3DHISTECH -------------------------------------------------------------------------------------------

PHOTO = 128


def mrxs_size(columns: int, rows: int, overlap: int) -> tuple[int, int]:
    """Height and width of a slide of so many photos."""
    return rows * PHOTO - (rows - 1) * overlap, columns * PHOTO - (columns - 1) * overlap


def write_mrxs(
    path: Path, image: np.ndarray, *, overlap: int = 0, mpp: float = MPP, missing: tuple[int, ...] = ()
) -> MadeSlide:
    """Photos of 128 px, with or without overlap, and one level of half the size made of four photos each.

    Args:
        image: of a size that `mrxs_size` gives, for even numbers of photos.
        overlap: pixels (even) that neighbouring photos share.
        missing: photos, counted row by row, that were not scanned.
    """
    step = PHOTO - overlap
    rows, columns = ((size - overlap) // step for size in image.shape[:2])
    folder = path.with_suffix("")
    folder.mkdir()
    path.write_bytes(jpeg(shrunk(image, 8)))
    data, records = bytearray(), ([], [])

    def photo(column: int, row: int) -> np.ndarray:
        return image[row * step : row * step + PHOTO, column * step : column * step + PHOTO]

    def store(level: int, index: int, pixels: np.ndarray) -> None:
        content = jpeg(pixels)
        records[level].append((index, len(data), len(content), 0))
        data.extend(content)

    for number in range(rows * columns):
        if number not in missing:
            store(0, number, photo(number % columns, number // columns))
    for row in range(0, rows, 2):
        for column in range(0, columns, 2):
            four = [[shrunk(photo(column + i, row + j), 2) for i in (0, 1)] for j in (0, 1)]
            store(1, row * columns + column, np.vstack([np.hstack(line) for line in four]))
    (folder / "Data0000.dat").write_bytes(data)
    (folder / "Index.dat").write_bytes(_mrxs_index(records))
    (folder / "Slidedat.ini").write_text(_mrxs_ini(columns, rows, overlap, mpp), encoding="utf-8-sig")
    parts = (folder / "Data0000.dat", folder / "Index.dat", folder / "Slidedat.ini")
    return MadeSlide(path, "mirax", {1: image, 2: shrunk(image, 2)}, parts)


MRXS_ID = "ABCDEF0123456789ABCDEF0123456789"


def _mrxs_index(records: tuple[list[tuple[int, int, int, int]], ...]) -> bytes:
    """Version, id, and for each level a chain of pages: here one page that lists all photos."""
    body = bytearray(b"01.02" + MRXS_ID.encode())
    roots = len(body)
    body += bytes(8)
    table = len(body)
    struct.pack_into("<i", body, roots, table)
    body += bytes(4 * len(records))
    for level, entries in enumerate(records):
        struct.pack_into("<i", body, table + 4 * level, len(body))
        body += struct.pack("<ii", 0, len(body) + 8)
        body += struct.pack("<ii", len(entries), 0)
        for entry in entries:
            body += struct.pack("<4i", *entry)
    return bytes(body)


def _mrxs_ini(columns: int, rows: int, overlap: int, mpp: float) -> str:
    lines = [
        "[GENERAL]",
        "SLIDE_VERSION = 01.02",
        f"SLIDE_ID = {MRXS_ID}",
        f"IMAGENUMBER_X = {columns}",
        f"IMAGENUMBER_Y = {rows}",
        "OBJECTIVE_MAGNIFICATION = 20",
        "CameraImageDivisionsPerSide = 1",
        "[HIERARCHICAL]",
        "HIER_COUNT = 1",
        "NONHIER_COUNT = 0",
        "INDEXFILE = Index.dat",
        "HIER_0_NAME = Slide zoom level",
        "HIER_0_COUNT = 2",
        "HIER_0_VAL_0_SECTION = LAYER_0_LEVEL_0_SECTION",
        "HIER_0_VAL_1_SECTION = LAYER_0_LEVEL_1_SECTION",
        "[DATAFILE]",
        "FILE_COUNT = 1",
        "FILE_0 = Data0000.dat",
    ]
    for level in (0, 1):
        lines += [
            f"[LAYER_0_LEVEL_{level}_SECTION]",
            f"IMAGE_CONCAT_FACTOR = {level}",
            f"OVERLAP_X = {overlap / 2**level}",
            f"OVERLAP_Y = {overlap / 2**level}",
            f"MICROMETER_PER_PIXEL_X = {mpp * 2**level}",
            f"MICROMETER_PER_PIXEL_Y = {mpp * 2**level}",
            "IMAGE_FILL_COLOR_BGR = 16777215",
            f"DIGITIZER_WIDTH = {PHOTO}",
            f"DIGITIZER_HEIGHT = {PHOTO}",
            "IMAGE_FORMAT = JPEG",
        ]
    return "\r\n".join(lines) + "\r\n"


JPEG_ERROR = 8
"""Most grey levels that a pixel of `picture` loses in a JPEG."""


def off(window, expected):
    """Largest and mean difference of `(3, H, W)` from `(H, W, 3)`."""
    difference = np.abs(window.astype(int) - expected.transpose(2, 0, 1))
    return difference.max(), difference.mean()
