"""`past register`: the H&E's alignment from keypoints, with a report that says whether to trust it."""

from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any

import typer

from past_core.errors import PastError

MATRIX, REPORT, PICTURE, PAGE = "alignment.csv", "report.json", "residuals.png", "report.html"
OVERLAYS = "overlay-*.png"


class RegisterExistsError(PastError, FileExistsError):
    """The output folder is in use."""


def register(
    keypoints: Annotated[
        list[Path] | None,
        typer.Argument(help="Keypoint files (keypoints.csv): one a region, or with a column `region`."),
    ] = None,
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to make.")],
    bundle: Annotated[
        Path | None, typer.Option(help="Xenium bundle: its pixels' size, and its nuclei to refine with.")
    ] = None,
    pixel_size: Annotated[
        float | None, typer.Option(help="um per morphology pixel, without --bundle (Xenium: 0.2125).")
    ] = None,
    he: Annotated[
        Path | None, typer.Option(help="The H&E image: its resolution, and its haematoxylin to refine with.")
    ] = None,
    he_mpp: Annotated[
        float | None, typer.Option(help="um per pixel of the H&E, where --he does not say.")
    ] = None,
    matrix: Annotated[
        Path | None,
        typer.Option(
            help="An alignment matrix, such as the vendor's: the start without keypoints, else to compare."
        ),
    ] = None,
    scale: Annotated[
        bool, typer.Option("--scale", help="Fit the scale too: the H&E's resolution is not trusted.")
    ] = False,
    refine: Annotated[
        bool,
        typer.Option(
            "--refine/--no-refine", help="Refine against the image where that lowers the held-out error."
        ),
    ] = True,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier registration in the folder.")
    ] = False,
) -> None:
    """Registers an H&E to its Xenium morphology from keypoints, the image, or the vendor's matrix.

    * `past register R1.csv R2.csv ... --bundle B --he HE -o OUT`: keypoints picked in several regions
    * `past register --bundle B --he HE --matrix M.csv -o OUT`: checks the vendor's matrix, and refines it

    With --bundle and --he the nuclei of the bundle are looked for in the haematoxylin of the H&E; what that
    finds is taken where it lowers the error on what it has not seen. Writes alignment.csv (the vendor's
    form), report.json (for `past ingest --registration`), report.html, residuals.png and overlays. A
    registration that must not be used is reported without alignment.csv, and the command fails.
    """
    from past_core.atomic import replacing
    from past_core.registration.run import RegisterRequest
    from past_core.registration.run import register as run

    _check_folder(output, overwrite=overwrite)
    request = RegisterRequest(
        keypoints=tuple(keypoints or ()),
        bundle=bundle,
        he=he,
        he_mpp=he_mpp,
        pixel_size=pixel_size,
        matrix=matrix,
        scale=scale,
        refine=refine,
    )
    with replacing(output) as folder:
        folder.mkdir()
        report = run(request, folder)
    _say(report, output)


def _check_folder(output: Path, *, overwrite: bool) -> None:
    """Refuses an output folder before any work is done."""
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


def _say(report: dict[str, Any], output: Path) -> None:
    from past_core.registration.run import RegisterError

    error, residual = report["held_out_um"], report["residual_um"]
    of_windows = report["method"].startswith("matrix")
    what = f"{len(report['regions'])} {'windows' if of_windows else 'regions'}"
    typer.echo(
        f"{report['verdict']}: {report['pairs']} pairs in {what}, {report['wrong_pairs']} wrong"
        + ("" if residual is None else f"; residual {residual:.2f} µm")
        + ("" if error is None else f", {error:.2f} µm on {'windows' if of_windows else 'regions'} left out")
        + f"; rotation {report['rotation_deg']:.3f}°, {report['chosen']}"
    )
    refinement = report.get("refinement")
    if refinement is not None:
        state = "accepted" if refinement["accepted"] else "not accepted"
        typer.echo(f"  refinement against the image {state}: {refinement['reason']}")
    for region in report["regions"]:
        for pair in region["pairs"]:
            if not pair["kept"]:
                where = f"{pair['place']} (region {region['region']})"
                typer.echo(f"  left out: {where}, {pair['residual_um']:.1f} µm off")
    for reason in report["reasons"]:
        typer.echo(f"  {reason}")
    if report["verdict"] == "reject":
        raise RegisterError(f"do not use this registration; see {output / PAGE}, and {REPORT} beside it")
    if report["correction"] is not None:
        alone = report.get("matrix_alone", report)
        without = "is not written: " + "; ".join(alone["reasons"]) if alone["verdict"] == "reject" else ""
        typer.echo(
            f"  {MATRIX} {without or 'holds the rigid part alone'}; {REPORT} has the local correction too"
        )
    typer.echo(f"Look at {output / PAGE}")
    typer.echo(f"Next: past ingest BUNDLE --he IMAGE --registration {output} -o SLIDE.zarr")
