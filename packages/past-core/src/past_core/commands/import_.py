"""`past import`: the authors' released checkpoint becomes one of ours."""

from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = {
    "past import checkpoint-context300.pth -o published.safetensors": (
        "for past embed, past info and past_core.load_model"
    ),
}


def import_(
    checkpoint: Annotated[Path, typer.Argument(help="The released .pth, with or without graph branch.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="X.safetensors.")],
    *,
    vocabulary: Annotated[
        Path | None,
        typer.Option(help="nicheformer_vocab_20310.csv; without it genes and means are fetched once."),
    ] = None,
    mpp: Annotated[float, typer.Option(help="µm per pixel of the patches for its image encoder.")] = 0.25,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")] = False,
) -> None:
    """Converts the authors' released checkpoint into one of ours.

    Strictly, and without executing anything in it.
    """
    from past_core.commands.claim import claim
    from past_core.published import import_published

    claim(output)
    made = import_published(checkpoint, output, vocabulary=vocabulary, mpp=mpp, overwrite=overwrite)
    parameters = sum(parameter.numel() for parameter in made.model.parameters())
    typer.echo(
        f"{output}: {made.info['training']['imported']}, {parameters:,} parameters, "
        f"{output.stat().st_size / 2**20:,.1f} MiB"
    )
