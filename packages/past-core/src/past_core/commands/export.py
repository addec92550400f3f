"""`past export`: what is shared of a training, as a folder with a model card or as one file."""

from pathlib import Path
from typing import Annotated

import typer


def export(
    run: Annotated[
        str,
        typer.Argument(
            help="A run folder (its checkpoints/best.ckpt, else last.ckpt), a .ckpt, or any other checkpoint."
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="A folder named after the model, or X.safetensors.")
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
        str | None, typer.Option(help="Branch, tag or commit, where RUN is a repository of the hub.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")] = False,
) -> None:
    """Exports a trained model: its weights without trainer state, and what loading them needs.

    A folder gets model.safetensors (weights and gene means), config.json, vocabulary.json and README.md, the
    model card; the Hugging Face hub takes it as it is (`hf upload OWNER/NAME FOLDER`).
    """
    from past_core.checkpoint import export_checkpoint, locate

    located = locate(run, revision=revision)
    if located.note:
        typer.echo(f"Exporting {located.note}")
    path = export_checkpoint(located, output, demo=demo, license=license, overwrite=overwrite)
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        typer.echo(f"{file}: {_size(file.stat().st_size)}")


def _size(size: int) -> str:
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size / 2**10:.1f} KiB"
