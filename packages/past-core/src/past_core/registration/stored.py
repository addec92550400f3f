"""A registration as `past register` left it: its report read back, and held against other files."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from past_core.errors import PastError
from past_core.registration.local import BlendedRigid, Correction, ThinPlate

REPORT = "report.json"
MAX_BYTES = 2**26
SAME_MPP = 1e-3
"""Relative difference up to which two resolutions are one."""
VERDICTS = ("good", "check", "reject")


class StoredError(PastError, ValueError):
    """A report that is none, is damaged, must not be used, or belongs to other files."""


class StoredNotFoundError(PastError, FileNotFoundError):
    """There is no report at that path."""


@dataclass(frozen=True)
class Stored:
    """What a report says.

    Attributes:
        path: of the report.
        matrix: (3, 3) H&E pixels to morphology pixels.
        correction: displacement in morphology µm after it, or None.
        verdict: good, check or reject.
        reasons: of the verdict.
        pixel_size: µm of a morphology pixel.
        he_mpp: µm of an H&E pixel.
        source: what the registration was made of.
        record: method, errors and correction, for a store's manifest.
    """

    path: Path
    matrix: np.ndarray
    correction: Correction | None
    verdict: str
    reasons: tuple[str, ...]
    pixel_size: float
    he_mpp: float
    source: dict[str, Any]
    record: dict[str, Any]


def describe_he(path: Path, *, width: int, height: int, mpp: float) -> dict[str, Any]:
    """What tells one H&E from another, without reading all of it."""
    from past_core.slides.identity import source_key

    return {"name": path.name, "key": source_key(path), "width": width, "height": height, "mpp": mpp}


def describe_bundle(bundle: Path, *, pixel_size: float) -> dict[str, Any]:
    """What tells one bundle from another: the hash of its manifest, which names run and region."""
    from past_core.ingest.hashing import sha256

    return {
        "name": bundle.name,
        "experiment_sha256": sha256(bundle / "experiment.xenium"),
        "pixel_size": pixel_size,
    }


def describe_files(paths: list[Path]) -> list[dict[str, str]]:
    """Names and hashes of small files."""
    from past_core.ingest.hashing import sha256

    return [{"name": path.name, "sha256": sha256(path)} for path in paths]


def read_stored(path: Path | str) -> Stored:
    """Reads a registration.

    Args:
        path: the folder that `past register` made, or the report in it.

    Raises:
        StoredNotFoundError: No report there.
        StoredError: It is no report of a registration, or a part of it is missing or damaged.
    """
    path = Path(path)
    report_path = path / REPORT if path.is_dir() else path
    if not report_path.is_file():
        raise StoredNotFoundError(
            f"{report_path} not found: expected the folder that `past register` made, or its {REPORT}"
        )
    if report_path.stat().st_size > MAX_BYTES:
        raise StoredError(
            f"{report_path} has {report_path.stat().st_size:,} bytes; no registration is as long"
        )
    try:
        report = json.loads(report_path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise StoredError(f"{report_path} is no JSON ({error}); run `past register` again") from error
    if not isinstance(report, dict) or report.get("kind") != "registration":
        raise StoredError(f"{report_path} is no report of `past register`; give the folder that it made")
    return _stored(report_path, report)


def refuse_unusable(stored: Stored) -> None:
    """Raises StoredError for a registration of verdict `reject`."""
    if stored.verdict == "reject":
        raise StoredError(
            f"{stored.path}: the registration's verdict is reject ({'; '.join(stored.reasons)}); read the "
            "report, and register again"
        )


def same_he(stored: Stored, path: Path, *, width: int, height: int, mpp: float | None) -> None:
    """Checks that a registration was made for this H&E.

    Raises:
        StoredError: Its size in pixels or bytes, or its resolution, is another.
    """
    made = stored.source.get("he")
    if isinstance(made, dict):
        found = describe_he(path, width=width, height=height, mpp=mpp or stored.he_mpp)
        for key, what in (("width", "pixels wide"), ("height", "pixels high"), ("key", "by its content")):
            if made.get(key) and found[key] and made[key] != found[key]:
                raise StoredError(
                    f"{stored.path} was made for another H&E: {made.get('name')} was {made[key]} {what}, "
                    f"{path} is {found[key]}; register this image"
                )
    if mpp is not None and abs(mpp / stored.he_mpp - 1) > SAME_MPP:
        raise StoredError(
            f"{stored.path} was made for an H&E of {stored.he_mpp:.6g} µm per pixel, {path} has {mpp:.6g}; "
            f"register this image, or pass --mpp {stored.he_mpp:.6g} if that is the right resolution"
        )


def same_bundle(stored: Stored, bundle: Path, *, pixel_size: float) -> None:
    """Checks that a registration was made for this bundle.

    Raises:
        StoredError: Its manifest or its pixel size is another.
    """
    if abs(pixel_size / stored.pixel_size - 1) > 1e-6:
        raise StoredError(
            f"{stored.path} was made for morphology pixels of {stored.pixel_size:g} µm, {bundle} has "
            f"{pixel_size:g}; register this bundle"
        )
    made = stored.source.get("bundle")
    if isinstance(made, dict) and made.get("experiment_sha256"):
        found = describe_bundle(bundle, pixel_size=pixel_size)
        if found["experiment_sha256"] != made["experiment_sha256"]:
            raise StoredError(
                f"{stored.path} was made for another bundle, {made.get('name')}: experiment.xenium of "
                f"{bundle} has other content; register this bundle"
            )


def correction_from(description: dict[str, Any] | None) -> Correction | None:
    """The correction that `describe` put into plain types.

    Raises:
        StoredError: An unknown kind, or values that do not fit.
    """
    if description is None:
        return None
    try:
        kind = description["kind"]
        if kind == "thin-plate":
            plate = ThinPlate(
                _numbers(description["nodes_um"], 2),
                _numbers(description["displacement_um"], 2),
                _numbers(description["smoothing"]),
            )
            made: Correction = plate
            parts = (plate.nodes, plate.displacement, plate.smoothing)
        elif kind == "blended-rigid":
            made = rigid = BlendedRigid(
                _numbers(description["centres_um"], 2),
                _numbers(description["shifts_um"], 2),
                _numbers(description["angles_rad"]),
                float(description["width_um"]),
            )
            parts = (rigid.centres, rigid.shifts, rigid.angles)
            if not 0 < made.width < np.inf:
                raise ValueError(f"width_um is {made.width}")
        else:
            raise ValueError(f"kind is {kind!r}")
        if len({len(part) for part in parts}) != 1:
            raise ValueError(f"its parts have {[len(part) for part in parts]} rows")
        made(parts[0][:1])  # nodes on one line determine no spline
    except (KeyError, TypeError, ValueError, np.linalg.LinAlgError) as error:
        raise StoredError(f"the local correction is damaged: {error!r}; run `past register` again") from error
    return made


def _stored(path: Path, report: dict[str, Any]) -> Stored:
    try:
        matrix = _numbers(report["matrix_px"], 3)
        if matrix.shape != (3, 3):
            raise ValueError(f"matrix_px has shape {matrix.shape}")
        pixel_size, he_mpp = float(report["pixel_size"]), float(report["he_mpp"])
        if not (0 < pixel_size < np.inf and 0 < he_mpp < np.inf):
            raise ValueError(f"pixel_size is {pixel_size}, he_mpp {he_mpp}")
        verdict = report["verdict"]
        if verdict not in VERDICTS:
            raise ValueError(f"verdict is {verdict!r}")
        reasons = tuple(str(reason) for reason in report.get("reasons") or ())
        source = report.get("source") or {}
        if not isinstance(source, dict):
            raise ValueError("source is no object")
        correction = correction_from(report.get("correction"))
    except StoredError as error:
        raise StoredError(f"{path}: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise StoredError(f"{path} is damaged ({error!r}); run `past register` again") from error
    record = {
        "verdict": verdict,
        "reasons": list(reasons),
        "chosen": report.get("chosen"),
        "held_out_um": report.get("held_out_um"),
        "residual_um": report.get("residual_um"),
        "correction": report.get("correction"),
        "refinement_accepted": (report.get("refinement") or {}).get("accepted"),
        "method": report.get("method", "keypoints"),
    }
    return Stored(path, matrix, correction, verdict, reasons, pixel_size, he_mpp, source, record)


def _numbers(values: Any, columns: int | None = None) -> np.ndarray:
    """(n,) or, with `columns`, (n, columns) finite float64."""
    array = np.asarray(values, dtype=np.float64)
    shape = (len(array),) if columns is None else (len(array), columns)
    if array.shape != shape or not np.isfinite(array).all():
        raise ValueError(f"an array of shape {array.shape}, or with values that are not finite")
    return array
