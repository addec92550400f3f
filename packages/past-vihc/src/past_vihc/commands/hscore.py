"""`past hscore`: the H-score of an IHC slide, real or virtual."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from past_core.formats import IMAGES

if TYPE_CHECKING:
    from past_vihc.hscore.result import SlideScore


HELP_PANELS = {
    "Nuclei": ("he", "adjacent", "segmenter", "labels", "regions"),
    "Thresholds": ("preset", "thresholds"),
    "Colours": ("white", "stains", "mpp", "tile"),
}
COMPLETIONS = {
    "preset": ("ihc4bc-er", "ihc4bc-pr", "ihc4bc-ki67", "qupath"),
}
EXAMPLES = {
    "past hscore er.ome.tif --he SLIDE.svs --marker er --preset ihc4bc-er -o scores": (
        "nuclei found on the H&E"
    ),
    "past hscore ihc.png --mpp 0.25 --marker ki67 --thresholds 0.06,0.26,0.46 -o scores": (
        "thresholds of your own"
    ),
}


def hscore(
    ihc: Annotated[Path, typer.Argument(help=f"The IHC: {IMAGES}.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write; whole or not at all.")],
    marker: Annotated[str, typer.Option(help="er, pr or ki67.")],
    *,
    he: Annotated[Path | None, typer.Option(help="The H&E of the same field, to find the nuclei on.")] = None,
    adjacent: Annotated[
        bool,
        typer.Option("--adjacent", help="H&E and IHC are different sections: only count nuclei on the H&E."),
    ] = False,
    preset: Annotated[
        str | None, typer.Option(help="Published thresholds: ihc4bc-er, ihc4bc-pr, ihc4bc-ki67, qupath.")
    ] = None,
    thresholds: Annotated[
        str | None, typer.Option(help="Three numbers, as in 0.06,0.26,0.46, or a file of past calibrate.")
    ] = None,
    segmenter: Annotated[str, typer.Option(help="auto, stardist or watershed.")] = "auto",
    labels: Annotated[
        Path | None,
        typer.Option(help="Nuclei as a label image (TIFF, PNG, .npy) or GeoJSON, instead of a segmenter."),
    ] = None,
    regions: Annotated[
        Path | None, typer.Option(help="GeoJSON of polygons to score on their own too (QuPath exports it).")
    ] = None,
    white: Annotated[
        str, typer.Option(help="Value of bare glass: 255 as in QuPath, 243, 243,241,244 or auto.")
    ] = "255",
    stains: Annotated[
        str, typer.Option(help="Stain vectors: a set's name, auto, macenko, or a JSON of vectors.")
    ] = "qupath-hdab",
    mpp: Annotated[float | None, typer.Option(help="µm per pixel of images that do not state it.")] = None,
    tile: Annotated[
        int, typer.Option(help="Side of a tile in pixels; changes nothing but memory.", min=64)
    ] = 1024,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier score.")] = False,
) -> None:
    """Scores the nuclei of an IHC slide: H-score and percentages.

    And Allred, and what they depend on. Thresholds must be named: scores differ up to threefold between
    published ones. Writes `nuclei.csv`, `nuclei.geojson` (for QuPath), `score.json`, `overlay.png`, and
    `regions.csv` where regions are given. Research use only.
    """
    from past_vihc.hscore.presets import ThresholdError, thresholds_named
    from past_vihc.markers import nuclear_marker

    nuclear_marker(marker)
    if preset is not None and thresholds is not None:
        raise ThresholdError("--preset and --thresholds are both given; expected one of them")
    chosen = thresholds_named(preset if thresholds is None else thresholds)

    from past_core.commands.claim import claim
    from past_core.commands.progress import progress_bar
    from past_core.slides import open_slide
    from past_vihc.hscore.output import check_folder, write_score
    from past_vihc.hscore.pipeline import score_slide
    from past_vihc.hscore.regions import read_regions

    claim(output)
    check_folder(output, overwrite=overwrite)
    areas = [] if regions is None else read_regions(regions)
    with open_slide(ihc, mpp=mpp) as slide, progress_bar() as bar:
        task = bar.add_task(slide.name, total=None)
        other = None if he is None else open_slide(he, mpp=mpp)
        try:
            result = score_slide(
                slide,
                other,
                marker=marker,
                thresholds=chosen,
                segmenter=segmenter,
                labels=labels,
                adjacent=adjacent,
                tile=tile,
                white=white,
                stains=stains,
                regions=areas,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
        finally:
            if other is not None:
                other.close()
        write_score(output, slide, result, overwrite=overwrite)
    _print(result, output)


def _print(result: "SlideScore", output: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from past_vihc.hscore.result import NOTICE

    score, ci, record = result.score, result.interval, result.record
    used = record["thresholds"]
    table = Table(title=f"{record['ihc']}: {record['marker'].upper()}", show_header=False)
    table.add_row("thresholds", f"{used['name']}: {used['weak']:g}, {used['moderate']:g}, {used['strong']:g}")
    table.add_row("nuclei", f"{score.n:,} by {record['segmenter']} on the {record['nuclei_on']}")
    if score.h is None or score.percent is None or score.allred is None:
        table.add_row("H-score", f"undefined: {score.why_undefined}")
    else:
        interval = "" if ci is None else f" (95 % CI {ci.low:.0f} to {ci.high:.0f})"
        table.add_row("H-score", f"{score.h:.1f}{interval}")
        table.add_row("positive", f"{score.percent_positive:.1f} %")
        names = ("negative", "1+", "2+", "3+")
        shares = ", ".join(f"{name} {v:.1f} %" for name, v in zip(names, score.percent, strict=True))
        table.add_row("classes", shares)
        allred = score.allred
        table.add_row("Allred", f"{allred.total} ({allred.proportion} + {allred.intensity})")
        low, high = result.sensitivity["h"].min(), result.sensitivity["h"].max()
        table.add_row("other thresholds", f"{low:.0f} to {high:.0f}, see score.json")
    table.add_row("pixel H-score", "undefined" if result.pixels.h is None else f"{result.pixels.h:.1f}")
    for row in result.regions.itertuples():
        table.add_row(
            str(row.region), "undefined" if row.h_score is None else f"{row.h_score:.1f} ({row.nuclei})"
        )
    console = Console()
    console.print(table)
    for text in result.flags.values():
        console.print(f"Note: {text}", style="yellow", markup=False)
    console.print(f"{output}: written. {NOTICE}", markup=False)
