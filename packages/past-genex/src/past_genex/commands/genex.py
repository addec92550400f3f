"""`past genex`: evaluates encoders and other systems on slides."""

from pathlib import Path
from typing import Annotated

import typer

HELP_PANELS = {
    "What is compared": ("encoders", "systems", "settings", "protocol", "epochs"),
    "Genes": ("target", "genes", "maps", "ceiling"),
}
COMPLETIONS = {
    "systems": ("stnet", "mean", "neighbours", "ridge:", "retrieval:", "untrained:", "shuffled:"),
    "settings": ("intra", "inter", "cross", "cross-figure", "patients", "random"),
    "protocol": ("past", "hest"),
    "target": ("median", "10k", "none"),
}
EXAMPLES = {
    "past genex A.zarr B.zarr C.zarr D.zarr --encoders uni,past.ckpt -o results": (
        "compares encoders on your slides"
    ),
    "past genex --settings intra -o results": "on eight synthetic patients, held-out regions alone",
}


def genex(
    slides: Annotated[
        list[Path] | None,
        typer.Argument(help="Slide stores made by `past ingest`; without, the embedded synthetic cohort."),
    ] = None,
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for results, tables, pictures.")],
    encoders: Annotated[
        str, typer.Option(help="Encoders by name or path, with commas between: demo,uni,conch,timm:NAME,...")
    ] = "demo",
    systems: Annotated[
        str | None,
        typer.Option(
            help="Systems by name, with commas between: stnet, mean, neighbours, ridge:E, retrieval:E, "
            "untrained:E, shuffled:E. [default: ridge of every encoder; untrained, shuffled and "
            "retrieval of the first; mean and neighbours]"
        ),
    ] = None,
    settings: Annotated[
        str,
        typer.Option(
            help="With commas between: intra (held-out regions), inter (held-out patients of a cancer type), "
            "cross (held-out cancer types, of those with two patients or more, as in the paper's methods), "
            "cross-figure (all cancer types, as in its figure), patients (held-out patients, whatever the "
            "type), random (leaks, to show what that adds)."
        ),
    ] = "intra,inter,cross",
    protocol: Annotated[
        str, typer.Option(help="past, or hest: HEST-Bench's own regression of the encoders.")
    ] = "past",
    target: Annotated[
        str,
        typer.Option(
            "--normalisation",
            help="median or 10k: what counts are normalised to before log1p; none: raw counts.",
        ),
    ] = "median",
    genes: Annotated[
        Path | None, typer.Option(help="File with one gene (id or symbol) a line. [default: all]")
    ] = None,
    maps: Annotated[
        int,
        typer.Option(help="Genes for Spearman and Moran's I, markers and variable ones in turn.", min=0),
    ] = 24,
    ceiling: Annotated[
        str,
        typer.Option(
            help="Genes for the noise ceiling, the r that count noise allows: a number of genes spread from "
            "rare to frequent, or all. One gene takes about 30 ms a slide; 0 for none."
        ),
    ] = "64",
    resamples: Annotated[int, typer.Option(help="Draws of the bootstrap intervals.", min=1)] = 500,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    batch_size: Annotated[int, typer.Option(help="Patches at a time.", min=1)] = 64,
    epochs: Annotated[int, typer.Option(help="Of ST-Net, which trains anew in every fold.", min=1)] = 10,
    seed: Annotated[int, typer.Option(help="Of whatever is drawn at random.", min=0)] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace earlier results.")] = False,
) -> None:
    """Evaluates how well encoders predict expression, without leaks.

    Every encoder and system on the same splits, which are checked for leaks, with intervals and tests.
    Encoders whose weights are not on this machine are listed with the steps to get them; the rest goes on.
    """
    from past_core.commands.claim import claim
    from past_genex.commands.inputs import InputError, check_folder, open_slides, read_genes

    claim(output)
    check_folder(output, overwrite=overwrite)
    if protocol not in ("past", "hest"):
        raise InputError(f"protocol {protocol!r}; expected past or hest")
    named, ceiling_genes = _names(encoders, "encoders"), _number_or_all(ceiling)
    from rich.console import Console

    from past_core.atomic import replacing
    from past_genex.data.targets import Target
    from past_genex.evaluation.hest_study import run_hest
    from past_genex.evaluation.study import Study, run_study
    from past_genex.systems.base import Surroundings
    from past_genex.systems.registry import check_name

    wanted = _default_systems(named) if systems is None else _names(systems, "systems")
    for name in wanted:
        check_name(name)
    opened = open_slides(slides)
    chosen = read_genes(genes, opened)
    surroundings = Surroundings(
        Target.named(target),
        device=device,
        batch_size=batch_size,
        seed=seed,
        options={"stnet": {"epochs": epochs}},
    )
    console, status = Console(), Console(stderr=True).status("reads slides")
    with replacing(output) as folder, status:
        folder.mkdir()
        if protocol == "hest":
            outcome = run_hest(opened, named, surroundings, folder, genes=chosen, report=status.update)
        else:
            study = Study(
                opened, wanted, named, _names(settings, "settings"), surroundings, chosen, maps,
                ceiling_genes, resamples,
            )  # fmt: skip
            outcome = run_study(study, folder, report=status.update)
    for table in outcome.tables:
        console.print(table, "")
    for line in outcome.notes:
        console.print(line, style="yellow", markup=False, highlight=False)
    console.print(f"{output}: {', '.join(outcome.files)}", markup=False, highlight=False)


def _default_systems(encoders: list[str]) -> list[str]:
    first = encoders[0]
    return [
        *(f"ridge:{name}" for name in encoders),
        f"untrained:{first}",
        f"retrieval:{first}",
        "mean",
        "neighbours",
        f"shuffled:{first}",
    ]


def _names(text: str, what: str) -> list[str]:
    from past_genex.commands.inputs import InputError

    names = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not names:
        raise InputError(f"--{what} names nothing; give at least one, with commas between several")
    return names


def _number_or_all(text: str) -> int | None:
    from past_genex.commands.inputs import InputError

    if text == "all":
        return None
    if not text.isdecimal():
        raise InputError(f"--ceiling {text!r}; expected a number of genes, or all")
    return int(text)
