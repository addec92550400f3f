"""`past probe`: fits a probe on slides in closed form."""

from pathlib import Path
from typing import Annotated

import typer

COMPLETIONS = {
    "setting": ("patients", "inter", "cross", "intra"),
}
EXAMPLES = {
    "past probe A.zarr B.zarr C.zarr -e uni -o PROBE.safetensors": ("fits all genes; held-out r of each"),
    "past probe -o PROBE.safetensors": "the same on eight synthetic patients",
}


def probe(
    slides: Annotated[
        list[Path] | None,
        typer.Argument(help="Slide stores made by `past ingest`; without, the embedded synthetic cohort."),
    ] = None,
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="PROBE.safetensors")],
    encoder: Annotated[
        str,
        typer.Option(
            "--encoder", "-e", help="An encoder's name (past encoders lists them), or a checkpoint."
        ),
    ] = "demo",
    setting: Annotated[
        str | None,
        typer.Option(
            help="Held out to say how well each gene is predicted: patients, inter (patients of a cancer "
            "type), cross (cancer types) or intra (regions). [default: patients, of a single one intra]"
        ),
    ] = None,
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
    weights: Annotated[Path | None, typer.Option(help="Weights of an encoder given by name.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    batch_size: Annotated[int, typer.Option(help="Patches at a time.", min=1)] = 64,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a probe that is there.")] = False,
) -> None:
    """Fits a linear map from an encoder's vectors to gene expression.

    The paper's probe: closed form (ridge), on all cells of the given slides. Written with it: for every gene
    the r on held-out patients (regions, with a single one) and its interval, which `past predict` passes on
    with every prediction.
    """
    from past_core.commands.claim import claim
    from past_genex.commands.inputs import check_file, open_slides, read_genes

    claim(output)
    check_file(output, ".safetensors", overwrite=overwrite)
    from rich.console import Console

    from past_core.encoders import load_image_encoder
    from past_genex.data.targets import Target
    from past_genex.evaluation.fitting import fit_probe
    from past_genex.probe.files import save_probe
    from past_genex.systems.base import Surroundings

    opened = open_slides(slides)
    surroundings = Surroundings(Target.named(target), device=device, batch_size=batch_size)
    frozen = load_image_encoder(encoder, weights=weights)
    if frozen.demo:
        typer.secho(
            "The demo encoder was trained on synthetic tissue: for trying out only.", err=True, fg="yellow"
        )
    with Console(stderr=True).status(f"fits a probe on {len(opened)} slides"):
        made = fit_probe(opened, frozen, surroundings, genes=read_genes(genes, opened), setting=setting)
    save_probe(made, output)
    card = made.card()
    median = "-" if card["median_r"] is None else f"{card['median_r']:.3f}"
    typer.echo(
        f"{output}: {len(made.genes)} genes from {made.dim} features of {made.encoder}, "
        f"{made.cells} cells of {len(made.patients)} patients"
    )
    typer.echo(
        f"held out ({made.trust_table.setting}): median r {median}, {card['genes_trusted']} genes with "
        f"r at least {card['threshold']:g}; {card['scale']}; {card['use']}"
    )
    typer.echo(f"Next: past predict SLIDE --probe {output} -o PRED.zarr")
