"""Scanners' TIFFs, drawn from one picture: SCN, BIF and Philips."""

from pathlib import Path

import numpy as np
import tifffile
from made_openslide import MPP, QUALITY, MadeSlide, shrunk

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
