"""One slide from its files to its store: what `past ingest` does for every source, sheet row and worker."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from past_core.errors import PastError
from past_core.ingest.pyramid import Progress

if TYPE_CHECKING:
    from past_core.ingest.quality import QualityOptions
    from past_core.ingest.write import SlideData

SOURCES = {
    "BUNDLE": {"he", "alignment", "keypoints", "registration", "mpp", "organism"},
    "--hest": {"he", "mpp", "swap_xy", "assay", "organism"},
    "--spatialdata": {"mpp", "assay", "organism", "image", "shapes", "table", "coordinate_system"},
}
"""The options that each source takes, beside those of every source."""


class IngestError(PastError, ValueError):
    """Sources or options that do not go together."""


@dataclass(frozen=True, kw_only=True)
class IngestRequest:
    """One slide to ingest; plain values, so that it can be sent to another process.

    Attributes:
        output: The store to make.
        source: A key of `SOURCES`.
        path: What is read.
        options: Of that source, by name; only those that were given.
        name: The slide's name; by default the output's.
        patient: The patient.
        cancer_type: The cancer type.
        annotations: Table of reference annotations to add.
        quality: Tests of quality control; None for the source's default: `QualityOptions.xenium()` of a
            BUNDLE, else the tests that are never off.
        quality_report: Report of quality control to write, .html or .png.
        target_mpp: µm per pixel that the slide is resampled to; None keeps its own.
        k: Neighbours of each cell.
        max_outside: Share of cells that may lie outside the image; None for the source's default.
        overwrite: Replace a store that is there.
    """

    output: Path
    source: str
    path: Path
    options: dict[str, Any] = field(default_factory=dict)
    name: str | None = None
    patient: str | None = None
    cancer_type: str | None = None
    annotations: Path | None = None
    quality: "QualityOptions | None" = None
    quality_report: Path | None = None
    target_mpp: float | None = None
    k: int = 8
    max_outside: float | None = None
    overwrite: bool = False


Given = TypeVar("Given", Path, str)


def one_source(given: Mapping[str, Given | None]) -> tuple[str, Given]:
    """The source that was given, and what was given for it.

    Raises:
        IngestError: None, or several.
    """
    named = [(source, path) for source, path in given.items() if path is not None]
    if len(named) != 1:
        found = ", ".join(source for source, _ in named) or "none"
        raise IngestError(f"expected exactly one source of {', '.join(given)}; found {found}")
    return named[0]


def options_of(source: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, if they go with the source.

    Raises:
        IngestError: One does not, or the H&E lacks.
    """
    taken = SOURCES[source]
    for option, value in options.items():
        if value is not None and option not in taken:
            where = " or ".join(other for other, names in SOURCES.items() if option in names)
            raise IngestError(f"--{option.replace('_', '-')} does not go with {source}, only with {where}")
    if "he" in taken and options.get("he") is None:
        raise IngestError(f"{source} needs its H&E: give --he IMAGE")
    if options.get("keypoints") and options.get("registration") is not None:
        raise IngestError("give keypoints or the registration that was made of them, not both")
    return {option: value for option, value in options.items() if option in taken and value is not None}


def ingest_slide(request: IngestRequest, *, progress: Progress | None = None) -> Path:
    """Reads a slide and writes its store: whole, or not at all.

    With `keypoints` among the options, the slide is registered first (see `past_core.ingest.keypoints`).

    Args:
        request: What to ingest.
        progress: Called with image tiles written and tiles in all.

    Returns:
        The store.

    Raises:
        PastError: Of the reader or the writer; what was found, where, and what to do.
    """
    from past_core.ingest.keypoints import with_registration
    from past_core.ingest.quality.report import check_report, write_report
    from past_core.ingest.write import check_output, write_store
    from past_core.locks import claimed

    with claimed(request.output):
        check_output(request.output, overwrite=request.overwrite)
        if request.quality_report is not None:
            check_report(request.quality_report)
        request = with_registration(request)
        data = read_slide(request)
        limit: dict[str, Any] = {} if request.max_outside is None else {"max_outside": request.max_outside}
        store = write_store(
            data,
            request.output,
            overwrite=request.overwrite,
            k=request.k,
            quality=quality_of(request),
            consume=True,
            progress=progress,
            **limit,
        )
        if request.quality_report is not None:
            write_report(store, request.quality_report)
    return store


def quality_of(request: IngestRequest) -> "QualityOptions | None":
    """The quality control that a request asks for; None for the tests that are never off alone."""
    if request.quality is None and request.source == "BUNDLE":
        from past_core.ingest.quality import QualityOptions

        return QualityOptions.xenium()
    return request.quality


def read_slide(request: IngestRequest) -> "SlideData":
    """Reads a request's source, with everything that is known about the slide.

    Keypoints must have become a registration (`past_core.ingest.keypoints.with_registration`).
    """
    options, path = dict(request.options), request.path
    if request.source == "BUNDLE":
        from past_core.ingest.xenium import read_bundle

        if request.max_outside is not None:
            options["max_outside"] = request.max_outside
        data = read_bundle(path, options.pop("he"), **options)
    elif request.source == "--hest":
        from past_core.ingest.hest import read_hest

        data = read_hest(path, options.pop("he"), **options)
    else:
        from past_core.ingest.spatialdata import read_spatialdata

        data = read_spatialdata(path, **options)
    if data.organism == "mouse":
        from past_core.ingest.orthologs import to_vocabulary

        data.table.var, orthologs = to_vocabulary(data.table.var)
        data.report = {**data.report, "orthologs": orthologs}
    data.name = request.name or request.output.stem
    data.patient = request.patient
    data.cancer_type = request.cancer_type
    if request.annotations is not None:
        from past_core.ingest.annotations import add_annotations

        add_annotations(data, request.annotations)
    if request.target_mpp is not None:
        from past_core.ingest.target import to_resolution

        data = to_resolution(data, request.target_mpp)
    return data
