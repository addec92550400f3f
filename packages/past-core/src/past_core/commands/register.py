"""`past register`: the H&E's alignment from keypoints, with a report that says whether to trust it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from past_core.errors import PastError

if TYPE_CHECKING:
    from past_core.registration.combine import PairSet, Registration

MATRIX, REPORT, PICTURE = "alignment.csv", "report.json", "residuals.png"


class RegisterError(PastError, ValueError):
    """Options of `past register` that do not go together, or a registration that must not be used."""


class RegisterExistsError(PastError, FileExistsError):
    """The output folder is in use."""


def register(
    keypoints: Annotated[
        list[Path],
        typer.Argument(help="Keypoint files (keypoints.csv): one a region, or with a column `region`."),
    ],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to make.")],
    bundle: Annotated[
        Path | None, typer.Option(help="Xenium bundle, for the size of its morphology pixels.")
    ] = None,
    pixel_size: Annotated[
        float | None, typer.Option(help="um per morphology pixel, without --bundle (Xenium: 0.2125).")
    ] = None,
    he: Annotated[
        Path | None, typer.Option(help="The H&E image, for its resolution and how much of it is spanned.")
    ] = None,
    he_mpp: Annotated[
        float | None, typer.Option(help="um per pixel of the H&E, where --he does not say.")
    ] = None,
    matrix: Annotated[
        Path | None, typer.Option(help="An alignment matrix to compare with, such as the vendor's.")
    ] = None,
    scale: Annotated[
        bool, typer.Option("--scale", help="Fit the scale too: the H&E's resolution is not trusted.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier registration in the folder.")
    ] = False,
) -> None:
    """Registers an H&E to its Xenium morphology from points picked in several regions.

    Writes alignment.csv (for `past ingest --alignment`), report.json and residuals.png. A registration that
    must not be used is reported without alignment.csv, and the command fails.
    """
    import numpy as np

    from past_core.atomic import replacing
    from past_core.ingest.xenium_alignment import check_matrix, read_alignment
    from past_core.registration.combine import combine
    from past_core.registration.keypoints import read_keypoints
    from past_core.registration.report import pairs_um, registration_report

    _check_folder(output, overwrite=overwrite)
    sets = read_keypoints(keypoints)
    given = None if matrix is None else read_alignment(matrix).matrix
    pixel_size = _pixel_size(bundle, pixel_size)
    he_mpp, size = _he(he, he_mpp)
    pairs = pairs_um(sets, he_mpp=he_mpp, pixel_size=pixel_size)
    registration = combine(pairs, scale=scale)
    report = registration_report(
        registration,
        sets,
        he_mpp=he_mpp,
        pixel_size=pixel_size,
        matrix=given,
        size_px=size,
        matrix_only=True,
    )
    with replacing(output) as folder:
        folder.mkdir()
        if report["verdict"] != "reject":
            found = check_matrix(np.array(report["matrix_px"]), output / MATRIX).matrix
            np.savetxt(folder / MATRIX, found, delimiter=",", fmt="%.17g")
        (folder / REPORT).write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        _draw(registration, pairs, report, folder / PICTURE)
    _say(report, output)


def _check_folder(output: Path, *, overwrite: bool) -> None:
    """Refuses an output folder before any work is done."""
    if output.exists() and output.resolve() == Path.cwd():
        raise RegisterExistsError(f"{output} is the working directory; name a folder in it")
    if output.exists() and not output.is_dir():
        raise RegisterExistsError(f"{output} is a file; name a folder")
    present = {path.name for path in output.iterdir()} if output.is_dir() else set()
    if present - {MATRIX, REPORT, PICTURE}:
        raise RegisterExistsError(f"{output} holds something else than a registration; name another folder")
    if present and not overwrite:
        raise RegisterExistsError(f"{output} is not empty; pass --overwrite to replace it")


def _pixel_size(bundle: Path | None, pixel_size: float | None) -> float:
    if (bundle is None) == (pixel_size is None):
        raise RegisterError("give the size of the morphology's pixels by one of --bundle and --pixel-size")
    if bundle is not None:
        from past_core.ingest.xenium_tables import read_experiment

        return read_experiment(bundle / "experiment.xenium").pixel_size
    return _positive(pixel_size, "--pixel-size")


def _he(he: Path | None, he_mpp: float | None) -> tuple[float, tuple[int, int] | None]:
    """µm per pixel, and width and height where the image is given."""
    if he_mpp is not None:
        _positive(he_mpp, "--he-mpp")
    if he is None:
        if he_mpp is None:
            raise RegisterError("the H&E's resolution is unknown; give --he IMAGE or --he-mpp")
        return he_mpp, None
    from past_core.slides import open_slide

    with open_slide(he, mpp=he_mpp) as slide:
        if slide.mpp is None:
            raise RegisterError(f"{he} does not state its resolution; give it with --he-mpp")
        return slide.mpp, (slide.width, slide.height)


def _positive(value: float, option: str) -> float:
    if not 0 < value < float("inf"):
        raise RegisterError(f"{option} is {value}; expected a positive number of um per pixel")
    return value


def _draw(registration: "Registration", pairs: "list[PairSet]", report: dict[str, Any], path: Path) -> None:
    from past_core.registration.report import residual_map

    error = report["held_out_um"]
    title = f"{report['verdict']}: residual {report['residual_um']:.2f} µm, regions left out " + (
        "not tested" if error is None else f"{error:.2f} µm"
    )
    residual_map(registration, pairs, path, title=title, verdict=report["verdict"])


def _say(report: dict[str, Any], output: Path) -> None:
    error = report["held_out_um"]
    typer.echo(
        f"{report['verdict']}: {report['pairs']} pairs in {len(report['regions'])} regions, "
        f"{report['wrong_pairs']} wrong; residual {report['residual_um']:.2f} µm"
        + ("" if error is None else f", {error:.2f} µm on regions left out")
        + f"; rotation {report['rotation_deg']:.3f}°, {report['chosen']}"
    )
    for region in report["regions"]:
        for pair in region["pairs"]:
            if not pair["kept"]:
                where = f"{pair['place']} (region {region['region']})"
                typer.echo(f"  left out: {where}, {pair['residual_um']:.1f} µm off")
    for reason in report["reasons"]:
        typer.echo(f"  {reason}")
    if report["correction"] is not None:
        typer.echo(f"  alignment.csv holds the rigid part; the local correction is in {output / REPORT}")
    if report["verdict"] == "reject":
        raise RegisterError(f"do not use this registration; see {output / REPORT} and {PICTURE} beside it")
    typer.echo(f"Next: past ingest BUNDLE --he IMAGE --alignment {output / MATRIX} -o SLIDE.zarr")
