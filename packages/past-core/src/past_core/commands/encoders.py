"""`past encoders`: which image encoders there are, and how to get their weights."""

from typing import Annotated

import typer

EXAMPLES = {
    "past encoders": "the table",
    "past encoders --json": "the same for a program",
}


def encoders(
    *, json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False
) -> None:
    """Lists image encoders by name, and how to get their weights.

    With their input, vectors and licence. Beside these, `timm:NAME` is any model of timm and
    `hf-hub:OWNER/NAME` any timm model of the Hugging Face hub.
    """
    from dataclasses import asdict

    from past_core.encoders import list_encoders

    summaries = list_encoders()
    if json:
        from json import dumps

        typer.echo(dumps([asdict(summary) for summary in summaries], indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "dim", "px", "µm/px", "licence of the weights", "weights")
    for summary in summaries:
        table.add_row(
            summary.name,
            str(summary.dim),
            str(summary.patch_size),
            f"{summary.mpp:g}",
            summary.licence,
            "here" if summary.weights else "absent",
        )
    console = Console()
    console.print(table)
    for summary in summaries:
        if summary.weights is None:
            console.print(f"{summary.name}: {summary.how_to_get}", markup=False, highlight=False)
