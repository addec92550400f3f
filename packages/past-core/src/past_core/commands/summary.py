"""`past summary`: slides, patients, cells and genes per cancer of a set of stores."""

from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = {
    "past summary stores/": "prints the table of all stores in a folder",
    "past summary A.zarr B.zarr -o table.md": "writes it too",
}


def summary(
    stores: Annotated[
        list[str],
        typer.Argument(help="Slide stores (paths or URLs), or folders of them.", show_default=False),
    ],
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write too: .csv or .md.")
    ] = None,
) -> None:
    """Counts slides, patients, cells and genes by cancer type.

    A row a cancer, as in the paper's Extended Data Table 1; mouse stands apart. Cells are all cells and those
    that pass quality control; genes are those of any of the slides, and how many a slide has; transcripts are
    those of all cells.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from past_core.ingest.summary import (
        COLUMNS,
        find_stores,
        shown,
        summarise,
        summary_text,
        write_summary,
    )

    if output is not None:
        summary_text([], output.suffix.lower())  # refuses a suffix before the stores are read
    groups = summarise(find_stores(stores))
    table = Table()
    for number, name in enumerate(COLUMNS):
        table.add_column(name, justify="left" if number < 2 else "right")
    for group in groups:
        table.add_row(
            *(Text(shown(value)) for value in group.row()),
            style="bold" if group.cancer == "all" else "",
            end_section=group.cancer == "all",
        )
    Console().print(table)
    if output is not None:
        typer.echo(write_summary(groups, output))
