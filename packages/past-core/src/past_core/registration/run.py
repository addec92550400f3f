"""One registration from its files to its report and pictures: what `past register` does."""

import json
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from past_core.errors import PastError
from past_core.ingest.xenium_alignment import Alignment, check_matrix, read_alignment
from past_core.ingest.xenium_tables import read_experiment
from past_core.registration.combine import PairSet, combine
from past_core.registration.folder import FINGERPRINT, MATRIX, PAGE, PICTURE, fingerprint
from past_core.registration.image_report import describe_refinement, image_report
from past_core.registration.keypoints import read_keypoints
from past_core.registration.measure import pair_sets
from past_core.registration.nuclei_points import NucleiImage, open_nuclei
from past_core.registration.overlays import choose_places, draw_overlays
from past_core.registration.page import write_page
from past_core.registration.refine import LEAST_WINDOWS, Refinement, refine, refined_keypoints
from past_core.registration.report import pairs_um, registration_report, residual_map
from past_core.registration.rigid import matrix_um
from past_core.registration.search import Affine
from past_core.registration.stored import REPORT, describe_bundle, describe_files, describe_he
from past_core.registration.verdict import judge
from past_core.registration.windows import Frame
from past_core.slides import Slide, open_slide

PICKING = (
    "To pick keypoints, open the bundle in Xenium Explorer, add the H&E image, choose its alignment by "
    "keypoints, pick at least 4 landmarks (nuclei seen in both) in each of 5 regions spread over the tissue, "
    "and export them. keypoints.csv has the header fixedX,fixedY,alignmentX,alignmentY: morphology pixels, "
    "then full-resolution H&E pixels; give one file a region, or one file with a column `region`"
)


class RegisterError(PastError, ValueError):
    """Options of a registration that do not go together, or a registration that must not be used."""


@dataclass(frozen=True, kw_only=True)
class RegisterRequest:
    """What to register, and with what.

    Attributes:
        keypoints: Keypoint files.
        bundle: The Xenium bundle.
        he: The H&E image.
        he_mpp: µm per H&E pixel, over what the image says.
        pixel_size: µm per morphology pixel, without a bundle.
        matrix: An alignment matrix: the start without keypoints, a comparison with them.
        scale: Fit the scale too.
        refine: Whether the image may refine what keypoints or matrix say.
    """

    keypoints: tuple[Path, ...] = ()
    bundle: Path | None = None
    he: Path | None = None
    he_mpp: float | None = None
    pixel_size: float | None = None
    matrix: Path | None = None
    scale: bool = False
    refine: bool = True


def register(request: RegisterRequest, folder: Path) -> dict[str, Any]:
    """Registers, and writes the matrix, the report, and the pictures.

    The matrix is left out where it must not be used: a verdict of `reject`, or a local correction without
    which it is no good.

    Args:
        request: what is given.
        folder: an empty folder.

    Returns:
        the report.

    Raises:
        RegisterError: Options that do not go together, or too little to register with.
        PastError: Of the keypoints, the matrix, the bundle or the H&E.
    """
    _check_options(request)
    with ExitStack() as stack:
        given = None if request.matrix is None else read_alignment(request.matrix)
        pixel_size = _pixel_size(request)
        sets = read_keypoints(request.keypoints) if request.keypoints else []
        slide = None
        if request.he is not None:
            slide = stack.enter_context(_open_he(request.he, request, given, pixel_size))
        he_mpp = slide.require_mpp() if slide is not None else float(request.he_mpp or 0)
        nuclei = None
        if slide is not None and request.bundle is not None and (request.refine or not sets):
            nuclei = stack.enter_context(open_nuclei(request.bundle))
        if sets:
            made = _by_keypoints(request, sets, given, slide, nuclei, he_mpp=he_mpp, pixel_size=pixel_size)
        else:
            made = _by_matrix(request, given, slide, nuclei, he_mpp=he_mpp, pixel_size=pixel_size)
        report, frame, pairs, kept, refinement = made
        report["source"] = _source(request, slide, he_mpp=he_mpp, pixel_size=pixel_size)
        usable = report["verdict"] != "reject" and report.get("matrix_alone", report)["verdict"] != "reject"
        if usable:
            found = check_matrix(np.array(report["matrix_px"]), MATRIX).matrix
            np.savetxt(folder / MATRIX, found, delimiter=",", fmt="%.17g")
        text = json.dumps(report, indent=2, allow_nan=False) + "\n"
        (folder / REPORT).write_text(text, encoding="utf-8")
        pictures = []
        if pairs:
            picture = folder / PICTURE
            title = _title(report)
            residual_map(frame, pairs, picture, kept=kept, title=title, verdict=report["verdict"])
            pictures.append(picture)
        if nuclei is not None and slide is not None and request.bundle is not None:
            places = choose_places(nuclei, () if refinement is None else refinement.windows)
            pictures += draw_overlays(slide, request.bundle, nuclei, frame, places, folder)
        name = request.bundle.resolve().name if request.bundle is not None else "registration"
        write_page(report, pictures, folder / PAGE, title=f"Registration of {name}")
    return report


Made = tuple[dict[str, Any], Frame, list[PairSet], list[np.ndarray], Refinement | None]


def _by_keypoints(
    request: RegisterRequest,
    sets: list[Any],
    given: Alignment | None,
    slide: Slide | None,
    nuclei: NucleiImage | None,
    *,
    he_mpp: float,
    pixel_size: float,
) -> Made:
    pairs = pairs_um(sets, he_mpp=he_mpp, pixel_size=pixel_size)
    registration = combine(pairs, scale=request.scale)
    refinement = None
    if slide is not None and nuclei is not None:
        refinement = refine(
            slide, nuclei, registration, keypoints=(registration, pairs), scale=request.scale or None
        )
        if refinement.accepted:
            registration = refined_keypoints(refinement, registration, pairs)
    size = None if slide is None else (slide.width, slide.height)
    report = registration_report(
        registration,
        sets,
        he_mpp=he_mpp,
        pixel_size=pixel_size,
        matrix=None if given is None else given.matrix,
        size_px=size,
    )
    report["method"] = "keypoints"
    if registration.correction is not None:
        alone = judge(
            registration,
            pairs,
            size_um=None if size is None else [side * he_mpp for side in size],
            matrix_only=True,
        )
        report["matrix_alone"] = {"verdict": alone.verdict, "reasons": list(alone.reasons)}
    if refinement is not None:
        report["refinement"] = describe_refinement(refinement)
        if refinement.accepted:
            report["method"] = "keypoints, refined against the image"
        elif refinement.against is not None:
            report["reasons"].insert(0, refinement.against)
            report["verdict"] = "reject"
        elif refinement.before_um is None and len(refinement.windows) >= LEAST_WINDOWS:
            report["reasons"].append(f"the image does not confirm the keypoints: {refinement.reason}")
            if report["verdict"] == "good":
                report["verdict"] = "check"
    return report, registration, pairs, registration.kept, refinement


def _by_matrix(
    request: RegisterRequest,
    given: Alignment | None,
    slide: Slide | None,
    nuclei: NucleiImage | None,
    *,
    he_mpp: float,
    pixel_size: float,
) -> Made:
    if given is None or slide is None or nuclei is None:  # _check_options has seen to that
        raise RegisterError(PICKING)
    start = Affine(matrix_um(given.matrix, he_mpp=he_mpp, pixel_size=pixel_size))
    refinement = refine(slide, nuclei, start, scale=request.scale or None)
    if not request.refine:
        refinement = refinement.without()
    report = image_report(refinement, given.matrix, he_mpp=he_mpp, pixel_size=pixel_size)
    report["method"] = "matrix, refined against the image" if refinement.accepted else "matrix"
    report["refinement"] = describe_refinement(refinement)
    made = refinement.registration if refinement.accepted else None
    frame: Frame = start if made is None else made
    found = pair_sets(refinement.windows)
    return report, frame, found, [np.ones(len(s.he_um), dtype=bool) for s in found], refinement


def _check_options(request: RegisterRequest) -> None:
    if not request.keypoints and request.matrix is None:
        raise RegisterError(
            "nothing to register with: give keypoint files, or --matrix with --bundle and --he to start at "
            f"the vendor's matrix. {PICKING}"
        )
    if not request.keypoints and (request.bundle is None or request.he is None):
        raise RegisterError(
            "a matrix alone is checked against the images: give --bundle and --he with --matrix, or give "
            f"keypoint files. {PICKING}"
        )
    if (request.bundle is None) == (request.pixel_size is None):
        raise RegisterError("give the size of the morphology's pixels by one of --bundle and --pixel-size")
    for value, option in ((request.he_mpp, "--he-mpp"), (request.pixel_size, "--pixel-size")):
        if value is not None and not 0 < value < float("inf"):
            raise RegisterError(f"{option} is {value}; expected a positive number of um per pixel")
    if request.he is None and request.he_mpp is None:
        raise RegisterError("the H&E's resolution is unknown; give --he IMAGE or --he-mpp")


def _pixel_size(request: RegisterRequest) -> float:
    if request.bundle is not None:
        return read_experiment(request.bundle / "experiment.xenium").pixel_size
    return float(request.pixel_size or 0)


def _open_he(he: Path, request: RegisterRequest, given: Alignment | None, pixel_size: float) -> Slide:
    """The H&E with its resolution: as given, as it states, or as the matrix means."""
    slide = open_slide(he, mpp=request.he_mpp)
    if slide.mpp is not None:
        return slide
    slide.close()
    if given is None:
        raise RegisterError(f"{he} does not state its resolution; give it with --he-mpp")
    return open_slide(he, mpp=given.scale * pixel_size)


def _source(
    request: RegisterRequest, slide: Slide | None, *, he_mpp: float, pixel_size: float
) -> dict[str, Any]:
    """What tells the files apart that the registration was made of."""
    source: dict[str, Any] = {
        "keypoints": describe_files(list(request.keypoints)),
        FINGERPRINT: fingerprint(request),
    }
    if slide is not None and request.he is not None:
        source["he"] = describe_he(request.he, width=slide.width, height=slide.height, mpp=he_mpp)
    if request.bundle is not None:
        source["bundle"] = describe_bundle(request.bundle, pixel_size=pixel_size)
    if request.matrix is not None:
        source["matrix"] = describe_files([request.matrix])[0]
    return source


def _title(report: dict[str, Any]) -> str:
    error = report["held_out_um"]
    return f"{report['verdict']}: residual {report['residual_um']:.2f} µm, regions left out " + (
        "not tested" if error is None else f"{error:.2f} µm"
    )
