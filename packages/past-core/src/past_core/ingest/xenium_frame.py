"""Where a bundle's cells lie on its H&E, and what is on record about it."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from past_core.ingest.xenium_alignment import Alignment, alignment_beside, check_matrix, read_alignment
from past_core.ingest.xenium_files import BundleError, BundleNotFoundError
from past_core.slides import Slide

if TYPE_CHECKING:
    from past_core.registration.stored import Stored

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


def register_slide(
    image: Slide,
    he: Path,
    *,
    alignment: Path | str | None,
    pixel_size: float,
    registration: Path | str | None = None,
    bundle: Path | None = None,
) -> Registered:
    """Reads the alignment of an H&E, by default the file that the vendor puts beside it.

    Args:
        image: The H&E, open.
        he: Its file.
        alignment: CSV with the 3x3 matrix from full-resolution H&E pixels to morphology pixels.
        pixel_size: µm of a morphology pixel.
        registration: Folder of `past register` or the report in it, instead of an alignment: its matrix and
            its local correction.
        bundle: The bundle's folder, to check that the registration is of it.

    Raises:
        BundleNotFoundError: There is none.
        BundleError: It is damaged, or contradicts the image's resolution; both kinds were given.
        StoredNotFoundError, StoredError: The registration is not there, is damaged, has the verdict `reject`,
            or was made for another H&E or bundle.
    """
    if registration is not None and alignment is not None:
        raise BundleError(
            f"both an alignment ({alignment}) and a registration ({registration}) were given; give one: the "
            "registration holds its own matrix"
        )
    if registration is not None:
        return _by_registration(image, he, Path(registration), pixel_size=pixel_size, bundle=bundle)
    path = _alignment_path(he, alignment)
    frame = read_alignment(path)
    mpp = _resolution(image, frame, pixel_size, path)
    return Registered(frame, mpp, path, {"method": "matrix"} | _record(frame, pixel_size))


def _record(frame: Alignment, pixel_size: float) -> dict[str, Any]:
    return {
        "matrix": frame.matrix.tolist(),
        "morphology_mpp": pixel_size,
        "scale_mpp": frame.scale * pixel_size,
        "rotation_deg": frame.rotation_deg,
        "anisotropy": frame.anisotropy,
    }


def _by_registration(
    image: Slide, he: Path, path: Path, *, pixel_size: float, bundle: Path | None
) -> Registered:
    """The matrix and the local correction that `past register` found."""
    from past_core.ingest.hashing import sha256
    from past_core.registration.stored import read_stored, refuse_unusable, same_bundle, same_he

    stored = read_stored(path)
    refuse_unusable(stored)
    same_he(stored, he, width=image.width, height=image.height, mpp=image.mpp)
    if bundle is not None:
        same_bundle(stored, bundle, pixel_size=pixel_size)
    if stored.verdict != "good":
        logger.warning("%s: verdict %s: %s", stored.path, stored.verdict, "; ".join(stored.reasons))
    rigid = check_matrix(stored.matrix, stored.path)
    undo, undo_record = _undo(stored, image.width, image.height)
    record = stored.record | _record(rigid, pixel_size) | undo_record
    # A scale was fitted on purpose, or is 1: what the image's resolution says, the registration was given.
    mpp = rigid.scale * pixel_size
    return Registered(
        Alignment(rigid.matrix, undo),
        mpp,
        stored.path,
        record | {"report_sha256": sha256(stored.path), "source": stored.source},
    )


def _undo(stored: "Stored", width: int, height: int) -> tuple[Any, dict[str, Any]]:
    """The correction undone for morphology pixels over the whole H&E, and what is on record of that."""
    if stored.correction is None:
        return None, {}
    from past_core.registration.stored import StoredError
    from past_core.registration.undo import Undo, UndoError

    x, y = (np.linspace(0, side, 33) for side in (width, height))
    he = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    matrix = stored.matrix
    moved = (he @ matrix[:2, :2].T + matrix[:2, 2]) * stored.pixel_size
    moved = moved + stored.correction(moved)
    try:
        undo = Undo(stored.correction, moved.min(axis=0), moved.max(axis=0))
    except UndoError as error:
        raise StoredError(f"{stored.path}: {error}") from error
    size = stored.pixel_size
    return (lambda pixels: undo(pixels * size) / size), {"correction_undone_within_um": undo.error_um}


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
