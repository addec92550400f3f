"""`past catalogue`: public Xenium slides with H&E, as a sheet for `past ingest`."""

from pathlib import Path
from typing import Annotated

import typer

COMPLETIONS = {
    "species": ("human", "mouse"),
}
EXAMPLES = {
    "past catalogue --cancer breast": "prints the breast cancers",
    "past catalogue --cancer any --root downloads -o sheet.csv": "a sheet for past ingest",
    "past catalogue --hest HEST_v1_1_0.csv --species human": "HEST-1k's Xenium entries",
}


def catalogue(
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Sheet (.csv, .tsv) to write for `past ingest`.")
    ] = None,
    root: Annotated[
        str, typer.Option(help="Folder where the downloads will lie. [default: the sheet's own]")
    ] = "",
    hest: Annotated[
        Path | None,
        typer.Option(help="HEST_v1_1_0.csv: list HEST-1k's Xenium entries instead of the vendor's."),
    ] = None,
    organ: Annotated[str | None, typer.Option(help="Only this organ, such as breast.")] = None,
    cancer: Annotated[
        str | None, typer.Option(help="Only this cancer type, any (all cancers), or none (no cancer).")
    ] = None,
    species: Annotated[str | None, typer.Option(help="Only human or mouse.")] = None,
) -> None:
    """Lists public Xenium slides with H&E, as a sheet for ingest.

    Organ, cancer, panel, licence and where to get them. Nothing is downloaded. With -o it writes the sheet
    for `past ingest SHEET.csv -o FOLDER --missing skip`, which takes what has been downloaded so far:

    * the vendor's slides: into ROOT/SLIDE the unpacked output bundle (the page's "Xenium Output Bundle"), and
      under their own names the H&E image and its alignment (...he_image.ome.tif, ...he_imagealignment.csv)
    * HEST's: ROOT/st/SLIDE.h5ad and ROOT/wsis/SLIDE.tif, as its repository has them

    HEST's metadata is HEST_v1_1_0.csv of the data set MahmoodLab/hest on huggingface.co (CC BY-NC-SA 4.0).
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from past_core.ingest.catalogue import hest_entries, select, vendor_entries, write_sheet

    entries = vendor_entries() if hest is None else hest_entries(hest)
    entries = select(entries, organ=organ, cancer=cancer, species=species)
    table = Table()
    for name in ("slide", "organ", "cancer", "species", "patient", "panel", "features", "licence"):
        table.add_column(name, overflow="fold", justify="right" if name == "features" else "left")
    for entry in entries:
        features = "" if entry.features is None else f"{entry.features:,}"
        texts = (entry.id, entry.organ, entry.cancer, entry.species, entry.patient, entry.panel, features)
        table.add_row(*(Text(text) for text in (*texts, entry.licence)))
    Console().print(table)
    typer.echo(f"{len(entries)} slides of {len({entry.patient for entry in entries})} patients")
    if output is None:
        typer.echo("Where to get each is in the sheet: past catalogue -o SHEET.csv")
        return
    write_sheet(entries, output, root)
    typer.echo(f"Next: download from the column `source`, then past ingest {output} -o FOLDER --missing skip")
