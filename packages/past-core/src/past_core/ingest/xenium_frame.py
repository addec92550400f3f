"""Where a bundle's cells lie on its H&E, and what is on record about it."""

import logging
from pathlib import Path
from typing import Any, NamedTuple

from past_core.ingest.xenium_alignment import Alignment, alignment_beside, read_alignment
from past_core.ingest.xenium_files import BundleError, BundleNotFoundError
from past_core.slides import Slide

logger = logging.getLogger(__name__)

MPP_WARNING = 0.02
MPP_ERROR = 0.2
"""Relative differences between the H&E's stated resolution and the alignment's scale."""


class Registered(NamedTuple):
    """An H&E that is registered to its bundle.

    Attributes:
        frame: Maps morphology pixels to H&E pixels.
        mpp: µm per H&E pixel.
        path: The file that says so.
        record: For the store's manifest.
    """

    frame: Alignment
    mpp: float
    path: Path
    record: dict[str, Any]


def register_slide(image: Slide, he: Path, *, alignment: Path | str | None, pixel_size: float) -> Registered:
    """Reads the alignment of an H&E, by default the file that the vendor puts beside it.

    Args:
        image: The H&E, open.
        he: Its file.
        alignment: CSV with the 3x3 matrix from full-resolution H&E pixels to morphology pixels.
        pixel_size: µm of a morphology pixel.

    Raises:
        BundleNotFoundError: There is none.
        BundleError: It is damaged, or contradicts the image's resolution.
    """
    path = _alignment_path(he, alignment)
    frame = read_alignment(path)
    mpp = _resolution(image, frame, pixel_size, path)
    record = {
        "method": "matrix",
        "matrix": frame.matrix.tolist(),
        "morphology_mpp": pixel_size,
        "scale_mpp": frame.scale * pixel_size,
        "rotation_deg": frame.rotation_deg,
        "anisotropy": frame.anisotropy,
    }
    return Registered(frame, mpp, path, record)


def _alignment_path(he: Path, given: Path | str | None) -> Path:
    if given is not None:
        return Path(given)
    beside = alignment_beside(he)
    if beside is None or not beside.is_file():
        looked = f"{beside} not found" if beside else f"{he.name} does not end in .ome.tif"
        raise BundleNotFoundError(
            f"no alignment for {he}: {looked}. Pass the 3x3 matrix from H&E pixels to morphology pixels with "
            "--alignment (Xenium Explorer exports it as matrix.csv)"
        )
    return beside


def _resolution(image: Slide, frame: Alignment, pixel_size: float, path: Path) -> float:
    """µm per H&E pixel: as the image states it unless the alignment says otherwise."""
    scale_mpp = frame.scale * pixel_size
    if image.mpp is None:
        logger.info("%s states no resolution; the alignment gives %.4f µm per pixel", image.path, scale_mpp)
        return scale_mpp
    difference = abs(scale_mpp / image.mpp - 1)
    found = (
        f"{image.path} states {image.mpp:.4g} µm per pixel, but the alignment {path} means {scale_mpp:.4g} "
        f"({difference:.1%} apart)"
    )
    if difference > MPP_ERROR:
        raise BundleError(
            f"{found}; the matrix probably belongs to a copy of the image at another size or maps the other "
            "way (expected: full-resolution H&E pixels to morphology pixels). If the image's resolution is "
            "wrong, give the right one with --mpp"
        )
    if difference > MPP_WARNING:
        logger.warning("%s; uses the alignment's, which the cells follow", found)
        return scale_mpp
    return image.mpp
