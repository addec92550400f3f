"""`past gdc`: a manifest of patients' slides for the GDC's client."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from past_core.errors import PastError


class DiagnosticChoice(StrEnum):
    """Which slides."""

    every_diagnostic = "DX"
    first_diagnostic = "DX1"
    everything = "all"


class GdcOptionError(PastError, ValueError):
    """Options of `past gdc` that do not go together."""


EXAMPLES = {
    "past gdc luad.csv --files listing.json -o manifest.txt": "from a listing that is here",
    "past gdc luad.csv --fetch --diagnostic DX1 -o manifest.txt": (
        "asks the GDC; each patient's first diagnostic slide"
    ),
}


def gdc(
    cohort: Annotated[
        Path, typer.Argument(help="A cohort's table (column case_id), or a text with one case id a line.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The manifest, such as manifest.txt.")],
    *,
    files: Annotated[
        Path | None,
        typer.Option(help="A listing of files as the GDC's API answers (JSON or TSV), or a manifest."),
    ] = None,
    fetch: Annotated[bool, typer.Option("--fetch", help="Ask the GDC's API for the listing.")] = False,
    diagnostic: Annotated[
        DiagnosticChoice,
        typer.Option(help="DX: all diagnostic slides; DX1: each patient's first; all: frozen ones too."),
    ] = DiagnosticChoice.every_diagnostic,
    api: Annotated[
        str | None, typer.Option(help="Address of the API's files endpoint. [default: the GDC's own]")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a manifest that exists.")] = False,
) -> None:
    """Lists a cohort's slides for the GDC's download client.

    Without the network it filters a listing that was downloaded before (--files); --fetch asks the GDC. Then
    `gdc-client download -m MANIFEST` downloads the slides, and `past bags FOLDER` embeds them.
    """
    if (files is None) == (not fetch):
        raise GdcOptionError("give a listing with --files, or --fetch to ask the GDC for one")
    if api is not None and not fetch:
        raise GdcOptionError("--api is the address that --fetch asks")
    from past_surv.data.gdc import GdcError, choose_files, read_cases, read_listing, write_manifest
    from past_surv.data.gdc_api import API, fetch_files

    if output.exists() and not overwrite:
        raise GdcError(f"{output} exists already; choose another name or pass --overwrite")
    cases = read_cases(cohort)
    listed = read_listing(files) if files is not None else fetch_files(cases, api=api or API)
    chosen, without = choose_files(listed, cases, diagnostic=diagnostic.value)
    write_manifest(output, chosen, overwrite=overwrite)
    size = sum(file.size for file in chosen) / 1e9
    typer.echo(
        f"{output}: {len(chosen):,} slides of {len(cases) - len(without):,} cases, {size:,.1f} GB; "
        f"gdc-client download -m {output}"
    )
    if without:
        more = f" and {len(without) - 10} more" if len(without) > 10 else ""
        typer.secho(
            f"{len(without)} cases have no such slide: {', '.join(without[:10])}{more}", err=True, fg="yellow"
        )
