"""`past info`: what is in a slide store or a checkpoint."""

from pathlib import Path
from typing import Annotated, Any

import typer

from past_core.errors import PastError

CHECKPOINTS = (".ckpt", ".safetensors", ".pt", ".pth")


class InfoError(PastError, ValueError):
    """The path is neither a slide store nor a checkpoint."""


class InfoNotFoundError(PastError, FileNotFoundError):
    """There is nothing at the path."""


def info(
    path: Annotated[Path, typer.Argument(help="Slide store (.zarr) or checkpoint (.ckpt, .safetensors).")],
    *,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    overlay: Annotated[
        Path | None, typer.Option(help="Slide store: write a picture (PNG) of its cells over its H&E.")
    ] = None,
) -> None:
    """Describes a slide store or a checkpoint."""
    from rich.console import Console

    if not path.exists():
        raise InfoNotFoundError(f"nothing at {path}; expected a slide store or a checkpoint")
    console = Console()
    if path.is_dir():
        from past_core.ingest.describe import describe_store, store_table
        from past_core.ingest.store import SlideStore

        description = describe_store(SlideStore(path))
        table = store_table(description)
    elif path.suffix.lower() in CHECKPOINTS:
        from past_core.checkpoint import describe_checkpoint

        description = describe_checkpoint(path)
        table = _checkpoint_table(path, description)
    else:
        raise InfoError(
            f"{path} is neither a slide store (a .zarr folder) nor a checkpoint ({', '.join(CHECKPOINTS)})"
        )
    if json:
        typer.echo(_dump(description))
    else:
        console.print(table)
    if overlay is not None:
        from past_core.ingest.overlay import write_overlay

        if not path.is_dir():
            raise InfoError(f"--overlay draws the cells of a slide store; {path} is a checkpoint")
        typer.echo(f"wrote {write_overlay(SlideStore(path), overlay)}")


def _dump(description: dict[str, Any]) -> str:
    import json

    return json.dumps(description, indent=2, default=str)


def _checkpoint_table(path: Path, description: dict[str, Any]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(path.name), show_header=False, title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in _flat(description):
        table.add_row(key, Text(value))
    return table


def _flat(description: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows = []
    for key, value in description.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{key}.")
        else:
            whole = isinstance(value, int) and not isinstance(value, bool)
            rows.append((f"{prefix}{key}", f"{value:,}" if whole else str(value)))
    return rows
