"""`past export`: one file to share from a training checkpoint."""

from pathlib import Path
from typing import Annotated

import typer


def export(
    checkpoint: Annotated[Path, typer.Argument(help="A .ckpt that `lightning fit` wrote.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="X.safetensors.")],
    *,
    demo: Annotated[
        bool, typer.Option("--demo", help="Mark it as trained on synthetic tissue; outputs are stamped so.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")] = False,
) -> None:
    """Exports the networks, vocabulary and gene means of a checkpoint to one safetensors file."""
    from past_core.checkpoint import export_checkpoint

    path = export_checkpoint(checkpoint, output, demo=demo, overwrite=overwrite)
    typer.echo(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")
