"""`past export`: a trained model to share, or a slide's cells for QuPath or Xenium Explorer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from past_core.errors import PastError


class ExportOptionError(PastError, ValueError):
    """Options of `past export` that do not go together, or not with its source."""


HELP_PANELS = {
    "A trained model": ("license", "demo", "revision"),
    "A slide's cells": ("qupath", "explorer", "groups", "genes", "log1p", "every_cell"),
}
EXAMPLES = {
    "past export runs/pretrain -o my-model": "a folder to share",
    "past export P1.zarr --qupath -o cells.geojson": "cells to drag onto the H&E in QuPath 0.4 or later",
    "past export P1.zarr --explorer -o explorer": "cell groups and alignment for Xenium Explorer",
}


def export(
    run: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A run folder (its checkpoints/best.ckpt, else last.ckpt), a .ckpt, or another checkpoint; "
            "with --qupath or --explorer a slide store (.zarr).",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="A folder named after the model, or X.safetensors; --qupath: X.geojson or X.geojson.gz; "
            "--explorer: a folder.",
        ),
    ],
    *,
    license: Annotated[  # noqa: A002
        str | None,
        typer.Option(help="Licence of the weights for the model card, such as apache-2.0 or cc-by-nc-4.0."),
    ] = None,
    demo: Annotated[
        bool, typer.Option("--demo", help="Mark it as trained on synthetic tissue; outputs are stamped so.")
    ] = False,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit, where SOURCE is a repository of the hub.")
    ] = None,
    qupath: Annotated[
        bool, typer.Option("--qupath", help="A slide's cells as QuPath's GeoJSON, with measurements.")
    ] = False,
    explorer: Annotated[
        bool, typer.Option("--explorer", help="Cell groups and H&E alignment for Xenium Explorer.")
    ] = False,
    groups: Annotated[
        str | None,
        typer.Option(help="Slide: column of the table of cells that groups them. [default: quality control]"),
    ] = None,
    genes: Annotated[
        str | None, typer.Option(help="--qupath: genes to write, ESR1,ERBB2,... (symbols or Ensembl ids).")
    ] = None,
    log1p: Annotated[
        bool, typer.Option("--log1p", help="--qupath: ln(1 + counts per 10,000) instead of raw counts.")
    ] = False,
    every_cell: Annotated[
        bool, typer.Option("--all", help="Slide: also the cells that failed quality control.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")] = False,
) -> None:
    """Writes a trained model to share, or cells for other programs.

    A model's folder gets model.safetensors (weights and gene means, without trainer state), config.json,
    vocabulary.json and README.md, the model card; the Hugging Face hub takes it as it is
    (`hf upload OWNER/NAME FOLDER`). A slide's cells go to QuPath (--qupath) or Xenium Explorer (--explorer).
    """
    from past_core.commands.claim import claim

    given = {"--license": license, "--demo": demo, "--revision": revision}
    of_slides = {"--groups": groups, "--genes": genes, "--log1p": log1p, "--all": every_cell}
    if qupath and explorer:
        raise ExportOptionError("--qupath and --explorer write different files; run one after the other")
    if qupath or explorer:
        flag = "--qupath" if qupath else "--explorer"
        _refuse(given, f"with {flag}, only with a model")
        if explorer:
            _refuse({"--genes": genes, "--log1p": log1p}, "with --explorer, only with --qupath")
        if log1p and genes is None:
            raise ExportOptionError("--log1p is about the genes of --genes; name them")
        claim(output)
        _export_slide(
            run,
            output,
            qupath=qupath,
            groups=groups,
            genes=genes,
            log1p=log1p,
            every_cell=every_cell,
            overwrite=overwrite,
        )
        return
    _refuse(of_slides, "without --qupath or --explorer")
    _refuse_store(run)
    from past_core.checkpoint import export_checkpoint, locate

    claim(output)
    located = locate(run, revision=revision)
    if located.note:
        typer.echo(f"Exporting {located.note}")
    path = export_checkpoint(located, output, demo=demo, license=license, overwrite=overwrite)
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        typer.echo(f"{file}: {_size(file.stat().st_size)}")


def _export_slide(
    source: str,
    output: Path,
    *,
    qupath: bool,
    groups: str | None,
    genes: str | None,
    log1p: bool,
    every_cell: bool,
    overwrite: bool,
) -> None:
    from past_core.ingest.store import SlideStore

    store = SlideStore(source)
    if not qupath:
        from past_core.interop.explorer import write_explorer

        notes = write_explorer(store, output, groups=groups, every_cell=every_cell, overwrite=overwrite)
        typer.echo("\n".join([f"{output}:", *notes]))
        return
    from past_core.interop.qupath import write_qupath

    wanted = [name for name in (part.strip() for part in (genes or "").split(",")) if name]
    if genes is not None and not wanted:
        raise ExportOptionError(f"--genes is {genes!r}, expected names such as ESR1,ERBB2")
    written = write_qupath(
        store, output, groups=groups, genes=wanted, log1p=log1p, every_cell=every_cell, overwrite=overwrite
    )
    left = store.n_cells - written
    typer.echo(
        f"{output}: {written:,} cells, {_size(output.stat().st_size)}"
        + (
            f"; {left:,} left out ({'no outline' if every_cell else 'failed quality control or no outline'})"
            if left
            else ""
        )
    )


def _refuse(options: Mapping[str, object], where: str) -> None:
    for option, value in options.items():
        if value:
            raise ExportOptionError(f"{option} does not go {where}")


def _refuse_store(source: str) -> None:
    """Points out what a slide store needs; models have names of many forms, which are looked up later."""
    from past_core.ingest.layout import is_store

    if Path(source).is_dir() and is_store(source):
        raise ExportOptionError(
            f"{source} is a slide store; say what for: --qupath (GeoJSON) or --explorer (Xenium Explorer)"
        )


def _size(size: int) -> str:
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size / 2**10:.1f} KiB"
