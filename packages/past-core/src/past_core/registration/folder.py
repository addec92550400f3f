"""The folder of one registration: made whole or not at all, and used again while its inputs are the same."""

import hashlib
import json
import zipfile
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from past_core.atomic import replacing
from past_core.errors import PastError
from past_core.ingest.hashing import sha256
from past_core.registration.stored import REPORT, Stored, StoredError, StoredNotFoundError, read_stored

if TYPE_CHECKING:
    from past_core.registration.run import RegisterRequest

MATRIX, PICTURE, PAGE = "alignment.csv", "residuals.png", "report.html"
OVERLAYS = "overlay-*.png"
FINGERPRINT = "fingerprint"
"""Key of the report's `source`."""


class RegisterExistsError(PastError, FileExistsError):
    """The output folder is in use."""


def check_folder(output: Path, *, overwrite: bool) -> None:
    """Refuses an output folder before any work is done.

    Raises:
        RegisterExistsError: It is a file, the working directory, holds something else than a registration, or
            holds one that is not to be replaced.
    """
    if output.exists() and output.resolve() == Path.cwd():
        raise RegisterExistsError(f"{output} is the working directory; name a folder in it")
    if output.exists() and not output.is_dir():
        raise RegisterExistsError(f"{output} is a file; name a folder")
    present = {path.name for path in output.iterdir()} if output.is_dir() else set()
    known = {MATRIX, REPORT, PICTURE, PAGE}
    if {name for name in present - known if not fnmatch(name, OVERLAYS)}:
        raise RegisterExistsError(f"{output} holds something else than a registration; name another folder")
    if present and not overwrite:
        raise RegisterExistsError(f"{output} is not empty; pass --overwrite to replace it")


def register_into(request: "RegisterRequest", output: Path, *, overwrite: bool = False) -> dict[str, Any]:
    """Registers into a folder, which exists whole or not at all.

    Args:
        request: what is given.
        output: the folder.
        overwrite: replace a registration that is there.

    Returns:
        the report, whatever its verdict.

    Raises:
        RegisterExistsError: See `check_folder`.
        PastError: Of `run.register`.
    """
    from past_core.registration.run import register

    check_folder(output, overwrite=overwrite)
    with replacing(output) as folder:
        folder.mkdir()
        return register(request, folder)


def read_same(request: "RegisterRequest", output: Path) -> Stored | None:
    """The registration in a folder if it was made of the same; None where it is another, damaged or none."""
    try:
        stored = read_stored(output)
    except (StoredError, StoredNotFoundError):
        return None
    same = stored.source.get(FINGERPRINT) == fingerprint(request)
    return stored if same and (output / PAGE).is_file() else None


def fingerprint(request: "RegisterRequest") -> str:
    """Tells the inputs of a registration apart by what is in them, not by where they lie.

    Small files are hashed whole, of large ones what `source_key` looks at, of a zip its list of contents with
    their checksums. What is not there is missed by whoever reads it.
    """
    from past_core.slides.identity import source_key

    inputs: dict[str, Any] = {
        "keypoints": [[path.name, sha256(path)] for path in request.keypoints],
        "matrix": None if request.matrix is None else sha256(request.matrix),
        "he": None if request.he is None else source_key(request.he),
        "bundle": None if request.bundle is None else _bundle(request.bundle),
    }
    options = ("he_mpp", "pixel_size", "scale", "refine")
    inputs |= {name: getattr(request, name) for name in options}
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def _bundle(bundle: Path) -> list[str]:
    """What a registration reads of a bundle where it is there: manifest, cells, nuclei (masks or DAPI)."""
    from past_core.ingest.xenium_layout import EXPERIMENT, MASKS, SUFFIXES
    from past_core.registration.nuclei_points import dapi_files
    from past_core.slides.identity import source_key

    cells = [path for suffix in SUFFIXES if (path := bundle / f"cells{suffix}").is_file()]
    masks = bundle / MASKS
    return [
        *(sha256(path) for path in (bundle / EXPERIMENT, *cells[:1])),
        _zip_key(masks) if masks.is_file() else "",
        *(source_key(path) for path in dapi_files(bundle)[:1]),
    ]


def _zip_key(path: Path) -> str:
    """Hash over names, sizes and checksums of a zip's entries; of what is no zip, over its ends."""
    from past_core.slides.identity import source_key

    total = hashlib.sha256()
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in sorted(archive.infolist(), key=lambda entry: entry.filename):
                total.update(f"{entry.filename}\0{entry.file_size}\0{entry.CRC}\n".encode())
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        return source_key(path)
    return total.hexdigest()
