"""`past agreement`: how well two scores of the same cases agree."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from past_core.errors import PastError


class CutoffError(PastError, ValueError):
    """Cut-offs that are no numbers."""


class ScaleChoice(StrEnum):
    """What the numbers are."""

    auto = "auto"
    hscore = "hscore"
    percent = "percent"
    other = "other"


HELP_PANELS = {
    "Statistics": ("cutoffs", "scale", "confidence", "resamples", "seed"),
}
EXAMPLES = {
    "past agreement scores.csv --x pathologist --y predicted --id slide --cluster patient -o agreement": (
        "a row a slide, several slides a patient"
    ),
}


def agreement(
    table: Annotated[Path, typer.Argument(help="CSV or TSV with a header and a row for each case.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for agreement.json and the pictures.")
    ],
    *,
    x: Annotated[
        str | None,
        typer.Option(help="Column of the reference, such as the pathologist's score. [default: expert]"),
    ] = None,
    y: Annotated[
        str | None, typer.Option(help="Column of what is compared with it. [default: predicted]")
    ] = None,
    id_: Annotated[
        str | None, typer.Option("--id", help="Column that names the rows, each once (within its group).")
    ] = None,
    group: Annotated[
        str | None, typer.Option(help="Column that parts the rows, such as the stain; each is reported too.")
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(help="Column of the patient, where one has several rows: intervals are by bootstrap."),
    ] = None,
    cutoffs: Annotated[
        str | None,
        typer.Option(help="Cut-offs of the categories for kappa, as in 50,100,200. [default: the scale's]"),
    ] = None,
    scale: Annotated[
        ScaleChoice,
        typer.Option(
            help="Which categories: hscore (0-50, 51-100, 101-200, 201-300), percent (positive from 1 %), "
            "other (none); auto goes by names and values, and says which."
        ),
    ] = ScaleChoice.auto,
    confidence: Annotated[float, typer.Option(help="Of the intervals.", min=0.5, max=0.999)] = 0.95,
    resamples: Annotated[int, typer.Option(help="Draws of the bootstrap.", min=100)] = 1000,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
) -> None:
    """Compares two scores of the same cases, with intervals.

    Pearson's r, Spearman's rho, Lin's concordance, ICC(2,1), bias with limits of agreement, and weighted
    kappa of categories. Rows with a missing value are left out and named.
    """
    from past_vihc.agreement.read import read_pairs

    numbers = None if cutoffs is None else _numbers(cutoffs)
    pairs = read_pairs(table, x=x, y=y, id_column=id_, group=group, cluster=cluster)
    from rich.console import Console

    from past_core.commands.claim import claim
    from past_vihc.agreement.report import agreement_report, report_table, write_report

    claim(output)
    report = agreement_report(
        pairs,
        cutoffs=numbers,
        scale=scale.value,
        confidence=confidence,
        resamples=resamples,
        seed=seed,
    )
    files = write_report(report, output)
    console = Console()
    for part in report.groups:
        console.print(report_table(report, part))
    for note in report.notes:
        typer.echo(note)
    if pairs.missing:
        typer.secho(f"left out for a missing value: {len(pairs.missing)}", err=True, fg="yellow")
        for row in pairs.missing[:20]:
            typer.secho(f"  {row}", err=True, fg="yellow")
        if len(pairs.missing) > 20:
            typer.secho("  and more; agreement.json lists all", err=True, fg="yellow")
    typer.echo(f"wrote {', '.join(str(path) for path in files)}")


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise CutoffError(
            f"--cutoffs {text!r}; expected numbers with commas between, as in 50,100,200"
        ) from None
