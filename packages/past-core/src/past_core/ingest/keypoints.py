"""Slides that come with keypoints: registered into a folder beside the store, then ingested with that."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from past_core.ingest.run import IngestError, IngestRequest

if TYPE_CHECKING:
    from past_core.registration.run import RegisterRequest
    from past_core.registration.stored import Stored

logger = logging.getLogger(__name__)

REGISTRATIONS = "registrations"
"""Folder beside the stores, with a folder for each slide."""


class RejectedError(IngestError):
    """The registration by a slide's keypoints must not be used."""


class RegistrationGoneError(IngestError):
    """A store's registration is not there any more, or was made of other files."""


def registration_folder(request: IngestRequest) -> Path:
    """Where the registration of a request's keypoints lies."""
    return request.output.parent / REGISTRATIONS / request.output.stem


def with_registration(request: IngestRequest, *, make: bool = True) -> IngestRequest:
    """The request with the registration that its keypoints make, as `past register` would make it.

    A registration that is there and was made of the same files is used again. One that was made of others is
    replaced: the folder is this slide's.

    Args:
        request: any; one without keypoints is returned as it is.
        make: register where nothing can be used again; else that is an error.

    Raises:
        RejectedError: The registration's verdict is `reject`.
        RegistrationGoneError: There is none to use again, and none is to be made.
        PastError: Of the keypoints, the H&E or the bundle.
    """
    if not request.options.get("keypoints"):
        return request
    from past_core.registration.folder import PAGE, read_same, register_into
    from past_core.registration.stored import read_stored

    folder, wanted = registration_folder(request), _wanted(request)
    stored = read_same(wanted, folder)
    if stored is None and not make:
        raise RegistrationGoneError(
            f"{request.output} exists, but {folder} does not hold the registration of these keypoints; pass "
            "--overwrite to make both again, or choose another folder"
        )
    if stored is None:
        register_into(wanted, folder, overwrite=True)
        stored = read_stored(folder)
    else:
        logger.info("%s: uses the registration in %s again", request.output.stem, folder)
    _refuse(stored, folder / PAGE)
    options = {
        name: value for name, value in request.options.items() if name not in ("keypoints", "alignment")
    }
    return replace(request, options=options | {"registration": folder})


def _wanted(request: IngestRequest) -> "RegisterRequest":
    from past_core.registration.run import RegisterRequest

    options = request.options
    return RegisterRequest(
        keypoints=tuple(Path(path) for path in options["keypoints"]),
        bundle=request.path,
        he=options["he"],
        he_mpp=options.get("mpp"),
        matrix=options.get("alignment"),
    )


def _refuse(stored: "Stored", page: Path) -> None:
    if stored.verdict == "reject":
        raise RejectedError(
            f"the registration by its keypoints must not be used: {'; '.join(stored.reasons)}. Look at "
            f"{page}, and pick or correct the keypoints"
        )
