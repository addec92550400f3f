"""CZI and DICOM slides, drawn from one picture; and every format by name."""

import struct
from pathlib import Path

import imagecodecs
import numpy as np
from made_openslide import MPP, MadeSlide, mrxs_size, picture, shrunk, write_mrxs, write_ndpi, write_vms
from made_openslide_tiffs import write_bif, write_philips, write_scn

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
"""Makes a slide of a format in a folder."""
