"""`past register`: the H&E's alignment from keypoints, with a report that says whether to trust it."""

from pathlib import Path
from typing import Annotated, Any

import typer

HELP_PANELS = {
    "The images": ("bundle", "pixel_size", "he", "he_mpp"),
}
EXAMPLES = {
    "past register R1.csv R2.csv R3.csv --bundle B --he HE.tif -o OUT": "keypoints picked in three regions",
    "past register --bundle B --he HE.tif --matrix M.csv -o OUT": (
        "checks the vendor's matrix, and refines it"
    ),
}


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
        float | None, typer.Option(help="µm per morphology pixel, without --bundle (Xenium: 0.2125).")
    ] = None,
    he: Annotated[
        Path | None, typer.Option(help="The H&E image: its resolution, and its haematoxylin to refine with.")
    ] = None,
    he_mpp: Annotated[
        float | None, typer.Option(help="µm per pixel of the H&E, where --he does not say.")
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
    """Aligns an H&E to its Xenium slide, and judges the result.

    From keypoints picked in several regions, the vendor's matrix, or both. With --bundle and --he the nuclei
    of the bundle are looked for in the haematoxylin of the H&E; what that finds is taken where it lowers the
    error on what it has not seen. Writes alignment.csv (the vendor's form), report.json (for `past ingest
    --registration`), report.html, residuals.png and overlays. A registration that must not be used is
    reported without alignment.csv, and the command fails.
    """
    from past_core.commands.claim import claim
    from past_core.registration.folder import register_into
    from past_core.registration.run import RegisterRequest

    claim(output)
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
    _say(register_into(request, output, overwrite=overwrite), output)


def _say(report: dict[str, Any], output: Path) -> None:
    from past_core.registration.folder import MATRIX, PAGE
    from past_core.registration.run import RegisterError
    from past_core.registration.stored import REPORT

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
