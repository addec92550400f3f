"""`past info`: what is in a slide store, a slide, or a checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from past_core.errors import PastError

CHECKPOINTS = (".ckpt", ".safetensors", ".pt", ".pth")
FIGURES = (
    "val/enrichment@10",
    "val/recall@10/image_to_cell",
    "val/recall@10/cell_to_image",
    "val/chance@10",
    "val/gallery",
)
"""Of the recorded metrics those that are printed."""


class InfoError(PastError, ValueError):
    """The path is neither a slide store nor a checkpoint."""


class InfoNotFoundError(PastError, FileNotFoundError):
    """There is nothing at the path."""


EXAMPLES = {
    "past info P1.zarr --overlay cells.png": "a store, and a picture of its cells over the H&E",
    "past info runs/pretrain": "the best checkpoint of a run",
}


def info(
    path: Annotated[
        str,
        typer.Argument(
            help="Slide store (.zarr), slide (SVS, NDPI, TIFF, ...), checkpoint (.ckpt, .safetensors), "
            "run or export folder, demo, or a repository of the hub (OWNER/NAME)."
        ),
    ],
    *,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of a repository of the hub.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    overlay: Annotated[
        Path | None, typer.Option(help="Slide store: write a picture (PNG) of its cells over its H&E.")
    ] = None,
) -> None:
    """Describes a store, slide, run, export or checkpoint."""
    from rich.console import Console

    if _is_checkpoint(path):
        from past_core.checkpoint import describe_checkpoint

        if overlay is not None:
            raise InfoError(f"--overlay draws the cells of a slide store; {path} is a checkpoint")
        description = describe_checkpoint(path, revision=revision)
        table = _table(path, _checkpoint_rows(description))
    elif _is_bare_slide(path):
        if overlay is not None:
            raise InfoError(f"--overlay draws the cells of a slide store; {path} has no cells")
        description = _describe_slide(path)
        table = _table(path, _slide_rows(description))
    else:
        from past_core.ingest.describe import describe_store, store_table
        from past_core.ingest.store import SlideStore

        store = SlideStore(path)
        description = describe_store(store)
        table = store_table(description)
    if json:
        typer.echo(_dump(description))
    else:
        Console().print(table)
    if overlay is not None:
        from past_core.ingest.overlay import write_overlay

        typer.echo(f"wrote {write_overlay(store, overlay)}")


def _is_checkpoint(name: str) -> bool:
    """Whether a name is to be read as a checkpoint; a folder that is none is refused as a slide store.

    Raises:
        InfoNotFoundError: nothing there, and no name of a checkpoint.
    """
    path = Path(name)
    if "://" in name:
        return False  # slide stores only
    if path.is_dir():
        return (path / "config.json").is_file() or _is_run(path)
    if path.exists():
        return path.suffix.lower() in CHECKPOINTS
    from past_core.hub import parse_hub_id

    if name != "demo" and parse_hub_id(name) is None:
        raise InfoNotFoundError(f"nothing at {path}; expected a slide store or a checkpoint")
    return True


def _is_bare_slide(name: str) -> bool:
    """Whether a name is an image without cells: a file, or a zarr folder that is no slide store."""
    from past_core.ingest.layout import is_store
    from past_core.slides.opening import read_attributes

    path = Path(name)
    if "://" in name or not path.exists():
        return False
    return path.is_file() or (not is_store(path) and bool(read_attributes(path)) and path.suffix == ".zarr")


def _describe_slide(name: str) -> dict[str, Any]:
    from past_core.slides import open_slide

    with open_slide(name) as slide:
        local = isinstance(slide.path, Path) and slide.path.is_file()
        return {
            "kind": "slide",
            "path": str(slide.path),
            "bytes": Path(str(slide.path)).stat().st_size if local else None,
            "read by": type(slide).__name__,
            "vendor": getattr(slide, "vendor", None),
            "width": slide.width,
            "height": slide.height,
            "mpp": slide.mpp,
            "levels": [[level.height, level.width] for level in slide.levels],
        }


def _slide_rows(description: dict[str, Any]) -> dict[str, Any]:
    mpp, width, height = (description[key] for key in ("mpp", "width", "height"))
    size = f"{width:,} x {height:,} px"
    if mpp:
        size += f", {width * mpp / 1000:.2f} x {height * mpp / 1000:.2f} mm"
    levels = ", ".join(f"{columns} x {rows}" for rows, columns in description["levels"])
    return {
        "Kind": "slide without cells" + (f" ({description['vendor']})" if description["vendor"] else ""),
        "Size": size,
        "Resolution": f"{mpp:.4g} um per pixel"
        if mpp
        else "not stated: give --mpp to the verbs that need it",
        "Levels": f"{len(description['levels'])}: {levels}",
    }


def _is_run(path: Path) -> bool:
    from past_core.checkpoint import is_run

    return is_run(path)


def _dump(description: dict[str, Any]) -> str:
    import json

    return json.dumps(description, indent=2, default=str)


def _table(name: str, rows: Mapping[str, Any]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(Path(name).name), show_header=False, title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in rows.items():
        table.add_row(key, Text(str(value)))
    return table


def _checkpoint_rows(description: dict[str, Any]) -> dict[str, Any]:
    """What fits a terminal; `--json` prints everything."""
    model, vocabulary = description["model"], description["vocabulary"]
    # What has a row of its own below, and the two parts' sizes.
    shown = {"model", "vocabulary", "training", "parameters", "demo", "kind", "format", "container"}
    shown |= {key for key in description if key.endswith(" parameters")}
    sizes = {part: f"{description[f'{part} encoder parameters']:,} parameters" for part in ("image", "cell")}
    rows = {key.capitalize(): _plain(value) for key, value in description.items() if key not in shown}
    rows["Container"] = f"{description['container']}, format {description['format']}"
    if description["demo"]:
        rows["Demo"] = "trained on synthetic tissue: for trying out only"
    rows["Parameters"] = f"{description['parameters']:,}"
    for part, size in sizes.items():
        rows[f"{part.capitalize()} encoder"] = f"{size}; {_plain(model.get(part))}"
    rows["Joint space"] = _plain({key: value for key, value in model.items() if key not in sizes})
    genes, seen = vocabulary["genes"], vocabulary["with mean"]
    rows["Vocabulary"] = f"{genes:,} genes ({seen:,} with a mean), {vocabulary['fingerprint']}"
    return rows | _training_rows(description)


def _training_rows(description: dict[str, Any]) -> dict[str, Any]:
    from past_core.checkpoint.record import read_record

    record = read_record(description)
    if not record["train"]:
        return {"Trained on": f"{', '.join(record['slides']) or 'not recorded'} (hashes not recorded)"}
    metrics = record["metrics"]
    figures = [name for name in FIGURES if name in metrics]
    found = ", ".join(f"{name} {metrics[name]:.4g}" for name in figures)
    return {
        "Trained on": "\n".join(map(_slide_line, record["train"])),
        "Held out": "\n".join(map(_slide_line, record["validation"])) or "nothing",
        "Step": f"{record['step']:,} (epoch {record['epoch']})" if record["step"] is not None else "-",
        "Metrics": f"{found} (step {record['validated_at']})" if figures else "none recorded",
        "Settings": _plain(record["settings"]),
    }


def _slide_line(slide: Mapping[str, Any]) -> str:
    patient, manifest = slide.get("patient"), slide["manifest"][:12]
    return f"{slide.get('name')} (patient {patient}): {slide['cells']:,} cells, manifest {manifest}"


def _plain(value: Any) -> str:
    """Nested settings in one line, without what is not set."""
    if not isinstance(value, Mapping):
        return str(value)
    parts = ((key, f"({_plain(item)})" if isinstance(item, Mapping) else item) for key, item in value.items())
    return ", ".join(f"{key} {item}" for key, item in parts if item not in (None, "()"))
