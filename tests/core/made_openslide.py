"""Small but genuine files of scanners, drawn from a picture: NDPI, VMS, MRXS, SCN, BIF, CZI, ..."""

import io
import re
import struct
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
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


# Leica, Ventana and Philips --------------------------------------------------------------------------

TILED = {
    "tile": (64, 64),
    "photometric": "rgb",
    "subsampling": (1, 1),
    "compression": "jpeg",
    "compressionargs": {"level": QUALITY},
    "metadata": None,
}
SCN_NAMESPACE = "http://www.leica-microsystems.com/scn/2010/10/01"


def write_scn(path: Path, image: np.ndarray, *, mpp: float = MPP) -> MadeSlide:
    """Two scanned areas on a canvas twice as high and wide as the picture, two levels each, and a macro.

    The picture's left half lies at a quarter of the canvas, its right half beside it, a quarter lower.
    """
    height, width = image.shape[:2]
    half, nm = width // 2, round(mpp * 1000)
    canvas = np.full((2 * height, 2 * width, 3), 255, np.uint8)
    areas = [(image[:, :half], half, height // 4), (image[:, half:], 2 * half, height // 2)]
    images = [f'<image name="macro"><pixels sizeX="{width}" sizeY="{height}">'
              f'<dimension sizeX="{width // 4}" sizeY="{height // 4}" ifd="0" r="0"/></pixels>'
              f'<view sizeX="{2 * width * nm}" sizeY="{2 * height * nm}" offsetX="0" offsetY="0"/>'
              + _scn_settings(1) + "</image>"]  # fmt: skip
    for number, (pixels, x, y) in enumerate(areas):
        canvas[y : y + height, x : x + half] = pixels
        dimensions = "".join(
            f'<dimension sizeX="{half // factor}" sizeY="{height // factor}" ifd="{1 + 2 * number + k}" '
            f'r="{k}"/>'
            for k, factor in enumerate((1, 2))
        )
        images.append(
            f'<image name="area {number}"><creationDate>2020-01-01T00:00:00Z</creationDate>'
            f'<device model="Leica SCN400" version="1"/><pixels sizeX="{half}" sizeY="{height}">{dimensions}'
            f'</pixels><view sizeX="{half * nm}" sizeY="{height * nm}" offsetX="{x * nm}" '
            f'offsetY="{y * nm}"/>{_scn_settings(20)}</image>'
        )
    description = (
        f'<?xml version="1.0"?><scn xmlns="{SCN_NAMESPACE}"><collection name="made" '
        f'sizeX="{2 * width * nm}" sizeY="{2 * height * nm}"><barcode>MDE=</barcode>{"".join(images)}'
        "</collection></scn>"
    )
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        tiff.write(shrunk(image, 4), description=description, **TILED)
        for pixels, _, _ in areas:
            for factor in (1, 2):
                per_cm = 10_000 / (mpp * factor)
                tiff.write(
                    shrunk(pixels, factor),
                    resolution=(per_cm, per_cm),
                    resolutionunit="CENTIMETER",
                    subfiletype=int(factor > 1),
                    **TILED,
                )
    return MadeSlide(path, "leica", {1: canvas, 2: shrunk(canvas, 2)}, (path,))


def _scn_settings(objective: int) -> str:
    return (
        f"<scanSettings><objectiveSettings><objective>{objective}</objective></objectiveSettings>"
        "<illuminationSettings><numericalAperture>0.4</numericalAperture>"
        "<illuminationSource>brightfield</illuminationSource></illuminationSettings></scanSettings>"
    )


def write_bif(path: Path, image: np.ndarray, *, overlap: int = 8, mpp: float = MPP) -> MadeSlide:
    """Tiles of 64 px that overlap, stored side by side; two levels.

    Args:
        image: of a size that is 64 + n · (64 - overlap) pixels each way.
        overlap: pixels (even) that neighbouring tiles share.
    """
    step = 64 - overlap
    rows, columns = ((size - overlap) // step for size in image.shape[:2])

    def side_by_side(factor: int) -> np.ndarray:
        return np.vstack(
            [
                np.hstack(
                    [
                        shrunk(image[r * step : r * step + 64, c * step : c * step + 64], factor)
                        for c in range(columns)
                    ]
                )
                for r in range(rows)
            ]
        )

    joints = []
    for row in range(rows):  # rows count from the bottom, every second one runs from right to left
        line = [row * columns + (c if row % 2 == 0 else columns - 1 - c) + 1 for c in range(columns)]
        above = [(row + 1) * columns + (c if row % 2 else columns - 1 - c) + 1 for c in range(columns)]
        joints += [("RIGHT", line[c], line[c + 1], overlap, 0) for c in range(columns - 1)]
        if row + 1 < rows:
            joints += [("UP", line[c], above[c], 0, overlap) for c in range(columns)]
    encode = (
        '<?xml version="1.0"?><EncodeInfo Ver="2"><SlideInfo/><SlideStitchInfo><ImageInfo AOIScanned="1" '
        f'AOIIndex="0" NumRows="{rows}" NumCols="{columns}" Width="64" Height="64" Pos-X="0" Pos-Y="0">'
        + "".join(
            f'<TileJointInfo FlagJoined="1" Confidence="99" Direction="{direction}" Tile1="{first}" '
            f'Tile2="{second}" OverlapX="{x}" OverlapY="{y}"/>'
            for direction, first, second, x, y in joints
        )
        + '</ImageInfo></SlideStitchInfo><AoiOrigin><AOI0 OriginX="0" OriginY="0"/></AoiOrigin></EncodeInfo>'
    ).encode()
    scan = f'<iScan Z-layers="1" Magnification="20" ScanRes="{mpp}"><AOI0/></iScan>'.encode()
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        tiff.write(
            np.full((64, 128, 3), 200, np.uint8),
            description="Label Image",
            extratags=[(700, 1, len(scan), scan, True)],
            photometric="rgb",
            metadata=None,
        )
        tiff.write(
            side_by_side(1),
            description="level=0 mag=20 quality=95",
            extratags=[(700, 1, len(encode), encode, True)],
            **TILED,
        )
        tiff.write(side_by_side(2), description="level=1 mag=10 quality=95", **TILED)
    return MadeSlide(path, "ventana", {1: image, 2: shrunk(image, 2)}, (path,))


def write_philips(path: Path, image: np.ndarray, *, mpp: float = MPP) -> MadeSlide:
    """Three levels, the coarser ones padded with grey to whole tiles, as this scanner's converter does."""
    levels = {factor: shrunk(image, factor) for factor in (1, 2, 4)}
    spacing = {
        factor: f"&quot;{mpp * factor / 1000:.6f}&quot; &quot;{mpp * factor / 1000:.6f}&quot;"
        for factor in levels
    }
    representations = "".join(
        '<DataObject ObjectType="PixelDataRepresentation"><Attribute Name="DICOM_PIXEL_SPACING" '
        f'Group="0x0028" Element="0x0030" PMSVR="IDoubleArray">{spacing[factor]}</Attribute><Attribute '
        f'Name="PIIM_PIXEL_DATA_REPRESENTATION_NUMBER" Group="0x301D" Element="0x1001" '
        f'PMSVR="IUInt16">{number}</Attribute></DataObject>'
        for number, factor in enumerate(levels)
    )
    description = (
        '<?xml version="1.0" encoding="UTF-8" ?><DataObject ObjectType="DPUfsImport"><Attribute '
        'Name="PIM_DP_SCANNED_IMAGES" Group="0x301D" Element="0x1003" PMSVR="IDataObjectArray"><Array>'
        '<DataObject ObjectType="DPScannedImage"><Attribute Name="PIM_DP_IMAGE_TYPE" Group="0x301D" '
        'Element="0x1004" PMSVR="IString">WSI</Attribute><Attribute Name="DICOM_PIXEL_SPACING" '
        f'Group="0x0028" Element="0x0030" PMSVR="IDoubleArray">{spacing[1]}</Attribute><Attribute '
        'Name="PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE" Group="0x1001" Element="0x8B01" '
        f'PMSVR="IDataObjectArray"><Array>{representations}</Array></Attribute></DataObject></Array>'
        "</Attribute></DataObject>"
    )
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for factor, pixels in levels.items():
            extra = {"subfiletype": 1} if factor > 1 else {"description": description}
            padding = [(0, -size % 64) for size in pixels.shape[:2]] if factor > 1 else [(0, 0), (0, 0)]
            padded = np.pad(pixels, [*padding, (0, 0)], constant_values=128)
            tiff.write(padded, software="Philips DP v1.0", **extra, **TILED)
    return MadeSlide(path, "philips", levels, (path,))


# Zeiss -----------------------------------------------------------------------------------------------

CZI_TILE, CZI_OVERLAP = 64, 8


def write_czi(path: Path, image: np.ndarray, *, mpp: float = MPP) -> MadeSlide:
    """Tiles of 64 px that overlap by 8, in zstd, and a level of half the size; the corner is -1000, -500.

    Args:
        image: of a size that is 64 + n · 56 pixels each way.
    """
    body = bytearray(_czi_segment("ZISRAWFILE", bytes(512)))
    entries = []
    step = CZI_TILE - CZI_OVERLAP
    for factor in (1, 2):
        pixels = shrunk(image, factor)
        by = step if factor == 1 else CZI_TILE
        for y in range(0, pixels.shape[0] - (CZI_OVERLAP if factor == 1 else 0), by):
            for x in range(0, pixels.shape[1] - (CZI_OVERLAP if factor == 1 else 0), by):
                tile = pixels[y : y + CZI_TILE, x : x + CZI_TILE]
                place = (x * factor - 1000, y * factor - 500)
                entry = _czi_entry(len(body), place, tile.shape[:2], factor, len(entries))
                data = imagecodecs.zstd_encode(np.ascontiguousarray(tile[:, :, ::-1]).tobytes())
                head = struct.pack("<iiq", 0, 0, len(data)) + entry
                body += _czi_segment("ZISRAWSUBBLOCK", head.ljust(256, b"\0") + data)
                entries.append(entry)
    directory = len(body)
    body += _czi_segment(
        "ZISRAWDIRECTORY", struct.pack("<i", len(entries)).ljust(128, b"\0") + b"".join(entries)
    )
    metadata = len(body)
    distances = "".join(f'<Distance Id="{axis}"><Value>{mpp * 1e-6:.6e}</Value></Distance>' for axis in "XY")
    xml = (
        f"<ImageDocument><Metadata><Information><Image><SizeX>{image.shape[1]}</SizeX><SizeY>{image.shape[0]}"
        f"</SizeY><SizeS>1</SizeS></Image></Information><Scaling><Items>{distances}</Items></Scaling>"
        "</Metadata></ImageDocument>"
    ).encode()
    body += _czi_segment("ZISRAWMETADATA", struct.pack("<ii", len(xml), 0).ljust(256, b"\0") + xml)
    attachments = len(body)
    body += _czi_segment("ZISRAWATTDIR", bytes(256))
    struct.pack_into(
        "<iiii16s16siqqiq", body, 32, 1, 0, 0, 0, b"1" * 16, b"2" * 16, 0, directory, metadata, 0, attachments
    )
    path.write_bytes(body)
    return MadeSlide(path, "zeiss", {1: image, 2: shrunk(image, 2)}, (path,))


def _czi_segment(name: str, content: bytes) -> bytes:
    return struct.pack("<16sqq", name.encode(), len(content), len(content)) + content


def _czi_entry(
    position: int, place: tuple[int, int], size: tuple[int, int], factor: int, number: int
) -> bytes:
    """Where a tile lies and what it is: three bytes a pixel (type 3), zstd (compression 5)."""
    dimensions = [
        (b"X", place[0], size[1] * factor, size[1]),
        (b"Y", place[1], size[0] * factor, size[0]),
        (b"C", 0, 1, 1),
        (b"M", number, 1, 1),
        (b"S", 0, 1, 1),
    ]
    entry = struct.pack("<2siqiibx4xi", b"DV", 3, position, 0, 5, int(factor > 1), len(dimensions))
    return entry + b"".join(
        struct.pack("<4siifi", name, start, length, 0.0, stored) for name, start, length, stored in dimensions
    )


# DICOM -----------------------------------------------------------------------------------------------

VL_WHOLE_SLIDE, EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.5.1.4.1.1.77.1.6", "1.2.840.10008.1.2.1"


def write_dicom(folder: Path, image: np.ndarray, *, mpp: float = MPP) -> MadeSlide:
    """A series of two files: the full level and one of half the size, in raw tiles of 64 px."""
    folder.mkdir()
    levels = {factor: shrunk(image, factor) for factor in (1, 2)}
    for factor, pixels in levels.items():
        (folder / f"level-{factor}.dcm").write_bytes(_dicom(pixels, factor, mpp * factor))
    return MadeSlide(folder / "level-1.dcm", "dicom", levels, (folder / "level-1.dcm",))


def _dicom(pixels: np.ndarray, factor: int, mpp: float) -> bytes:
    height, width = pixels.shape[:2]
    padded = np.pad(pixels, ((0, -height % 64), (0, -width % 64), (0, 0)))
    tiles = [
        padded[y : y + 64, x : x + 64].tobytes() for y in range(0, height, 64) for x in range(0, width, 64)
    ]
    spacing = _element(0x28, 0x30, "DS", f"{mpp / 1000:.8f}\\{mpp / 1000:.8f}")
    kind = "ORIGINAL\\PRIMARY\\VOLUME\\NONE" if factor == 1 else "DERIVED\\PRIMARY\\VOLUME\\RESAMPLED"
    meta = [
        (2, 0x1, "OB", b"\0\1"),
        (2, 0x2, "UI", VL_WHOLE_SLIDE),
        (2, 0x3, "UI", f"1.2.3.4.{factor}"),
        (2, 0x10, "UI", EXPLICIT_LITTLE_ENDIAN),
    ]
    elements = [
        (0x8, 0x8, "CS", kind),
        (0x8, 0x16, "UI", VL_WHOLE_SLIDE),
        (0x8, 0x18, "UI", f"1.2.3.4.{factor}"),
        (0x8, 0x60, "CS", "SM"),
        (0x20, 0xD, "UI", "1.2.3"),
        (0x20, 0xE, "UI", "1.2.3.4"),
        (0x20, 0x9311, "CS", "TILED_FULL"),
        (0x28, 0x2, "US", 3),
        (0x28, 0x4, "CS", "RGB"),
        (0x28, 0x6, "US", 0),
        (0x28, 0x8, "IS", str(len(tiles))),
        (0x28, 0x10, "US", 64),
        (0x28, 0x11, "US", 64),
        (0x28, 0x100, "US", 8),
        (0x28, 0x101, "US", 8),
        (0x28, 0x102, "US", 7),
        (0x28, 0x103, "US", 0),
        (0x48, 0x6, "UL", width),
        (0x48, 0x7, "UL", height),
        (0x48, 0x303, "UL", 1),
        (0x5200, 0x9229, "SQ", _item(_element(0x28, 0x9110, "SQ", _item(spacing)))),
        (0x7FE0, 0x10, "OB", b"".join(tiles)),
    ]
    head = b"".join(_element(*values) for values in meta)
    body = b"".join(_element(*values) for values in elements)
    return bytes(128) + b"DICM" + _element(2, 0, "UL", len(head)) + head + body


def _element(group: int, number: int, kind: str, value: str | int | bytes) -> bytes:
    if isinstance(value, str):
        value = value.encode() + (b"\0" if kind == "UI" else b" ") * (len(value) % 2)
    elif isinstance(value, int):
        value = struct.pack({"US": "<H", "UL": "<I"}[kind], value)
    length = struct.pack("<2xI" if kind in {"OB", "SQ"} else "<H", len(value))
    return struct.pack("<HH2s", group, number, kind.encode()) + length + value


def _item(content: bytes) -> bytes:
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content
