"""`past qc`: the report of a store's quality control, and its flags made anew."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from past_core.commands.verbs import QUALITY
from past_core.errors import PastError

if TYPE_CHECKING:
    from past_core.ingest.quality import Assessment


class QualityCommandError(PastError, ValueError):
    """Arguments that do not go together."""


COMPLETIONS = {"change": QUALITY}
EXAMPLES = {
    "past qc P1.zarr -o report.html": "counts of each reason, a map, every tested number",
    "past qc P1.zarr --set min_counts=20 --set focus=on": "what would fail",
    "past qc P1.zarr --set min_counts=20 --write -o report.html": "flags, reasons and neighbours replaced",
}


def qc(
    store: Annotated[str | None, typer.Argument(help="Slide store (.zarr) or its URL.")] = None,
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Report to write, .html or .png.")
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Flag anew: xenium, minimal, or KEY=VALUE, changes to the store's own options."
        ),
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="With --set: put the new flags into the store.")
    ] = False,
    keys: Annotated[bool, typer.Option("--keys", help="List the keys and their defaults.")] = False,
) -> None:
    """Reports a store's quality control, or flags its cells anew.

    Flags and reasons are counted, drawn and explained; no cell is deleted.
    """
    if keys:
        _keys()
        return
    if store is None:
        raise QualityCommandError("name a slide store: past qc SLIDE.zarr -o report.html")
    if write and not change:
        raise QualityCommandError("--write needs new options: --set xenium, or --set KEY=VALUE")
    if output is not None and change and not write:
        raise QualityCommandError(
            "the report shows what the store holds: give --write with --set, or leave -o"
        )
    from past_core.ingest.quality import parse_quality
    from past_core.ingest.quality.from_store import options_of
    from past_core.ingest.quality.reflag import assess_store, write_flags
    from past_core.ingest.quality.report import check_report, write_report
    from past_core.ingest.store import SlideStore

    if output is not None:
        check_report(output)
    opened = SlideStore(store)
    if change:
        found = assess_store(opened, parse_quality(change, base=options_of(opened)))
        _changes(opened.passed.sum(), found)
        if write:
            opened = SlideStore(write_flags(opened, found))
            typer.echo(f"wrote the flags of {opened.path}")
    else:
        _reasons(opened.manifest["qc"])
    if output is not None:
        typer.echo(f"wrote {write_report(opened, output)}")


def _changes(before: int, found: "Assessment") -> None:
    report = found.report(found.flags())
    _reasons(report)
    typer.echo(f"{before:,} passed before")


def _reasons(report: dict) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("reason", "cells", title=f"{report['passed']:,} of {report['cells']:,} cells pass")
    for reason, cells in report["reasons"].items():
        table.add_row(reason, f"{cells:,}")
    for reason, why in (report.get("skipped") or {}).items():
        table.add_row(f"{reason}: could not run", why)
    Console().print(table)


def _keys() -> None:
    import dataclasses

    from rich.console import Console
    from rich.table import Table

    from past_core.ingest.quality import QualityOptions

    table = Table("key", "unit", "minimal", "xenium")
    minimal, xenium = QualityOptions.minimal(), QualityOptions.xenium()
    for item in dataclasses.fields(QualityOptions):
        shown = [_shown(getattr(options, item.name)) for options in (minimal, xenium)]
        table.add_row(item.name, item.metadata["help"], *shown)
    Console().print(table)


def _shown(value: object) -> str:
    if value is None or value is False:
        return "off"
    return "on" if value is True else f"{value:g}"
