"""The resolution that a TIFF states, in the dialects of scanners and converters."""

import logging
import re
from pathlib import Path
from typing import Any

import tifffile

from past_core.slides.slide import square_mpp

logger = logging.getLogger(__name__)

PLAUSIBLE_MPP = (0.02, 30.0)
"""µm per pixel outside this range is a print resolution (72 dpi is 353 µm), not a scanner's."""
OME_UNITS = {
    "nm": 1e-3,
    "µm": 1.0,
    "μm": 1.0,
    "um": 1.0,
    "mm": 1e3,
    "cm": 1e4,
    "m": 1e6,
}  # both signs for micro
IMAGEJ_UNITS = {"micron": 1.0, "um": 1.0, "µm": 1.0, "\\u00b5m": 1.0, "mm": 1e3, "cm": 1e4}
TIFF_UNITS = {2: 25_400.0, 3: 10_000.0}  # inch, centimetre
DAMAGE = (tifffile.TiffFileError, LookupError, TypeError, ValueError, SyntaxError, ArithmeticError)


def stated_mpp(path: Path, tiff: tifffile.TiffFile) -> float | None:
    """µm per level-0 pixel from OME-XML, the Aperio header, or ImageJ's or TIFF's resolution tags.

    Returns:
        None where nothing plausible is stated.

    Raises:
        SlideError: the pixels are not square.
    """
    page = tiff.pages.first
    for source in (_ome, _aperio, _resolution):
        try:
            found = source(tiff, page)
        except DAMAGE as error:
            logger.info("%s: unreadable resolution metadata: %s", path, error)
            continue
        if found is None:
            continue
        mpp = square_mpp(path, *found)
        if mpp is not None and PLAUSIBLE_MPP[0] <= mpp <= PLAUSIBLE_MPP[1]:
            return mpp
        logger.info("%s: ignores the stated %s µm per pixel, which no scanner has", path, found)
    return None


def _ome(tiff: tifffile.TiffFile, page: Any) -> tuple[float, float] | None:
    if not tiff.is_ome or not tiff.ome_metadata:
        return None
    image = tifffile.xml2dict(tiff.ome_metadata)["OME"]["Image"]
    pixels = (image[0] if isinstance(image, list) else image)["Pixels"]
    if "PhysicalSizeX" not in pixels:
        return None
    sizes = [pixels["PhysicalSizeX"], pixels.get("PhysicalSizeY", pixels["PhysicalSizeX"])]
    units = [pixels.get(f"PhysicalSize{axis}Unit", "µm") for axis in "XY"]
    x, y = (float(size) * OME_UNITS[unit] for size, unit in zip(sizes, units, strict=True))
    return x, y


def _aperio(tiff: tifffile.TiffFile, page: Any) -> tuple[float, float] | None:
    match = re.search(r"\|\s*MPP\s*=\s*([0-9.]+)", page.description) if tiff.is_svs else None
    return (float(match[1]),) * 2 if match else None


def _resolution(tiff: tifffile.TiffFile, page: Any) -> tuple[float, float] | None:
    x, y = (float(value) for value in page.resolution)
    if x <= 0 or y <= 0:
        return None
    if tiff.is_imagej:
        unit = IMAGEJ_UNITS.get(str((tiff.imagej_metadata or {}).get("unit", "")).lower())
    else:
        unit = TIFF_UNITS.get(int(page.resolutionunit))
    return None if unit is None else (unit / x, unit / y)
