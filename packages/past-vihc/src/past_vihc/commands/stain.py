"""`past stain`: a virtual stain of whole slides."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from past_core.errors import PastError
from past_core.formats import IMAGES

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from past_vihc.wsi.stainer import Progress as StainProgress


class PrecisionChoice(StrEnum):
    """In which type the networks work."""

    float32 = "32"
    bf16 = "bf16"
    fp16 = "fp16"


class LayoutChoice(StrEnum):
    """Where a TIFF holds its smaller levels."""

    ome = "ome"
    generic = "generic"


class CompressionChoice(StrEnum):
    """Of a TIFF's tiles."""

    jpeg = "jpeg"
    deflate = "deflate"


class StainOptionError(PastError, ValueError):
    """Options of `past stain` that do not go together."""


HELP_PANELS = {
    "What is written": ("zarr", "layout", "compression", "quality", "tissue_mask", "background"),
    "Many slides": ("sheet", "workers", "scheduler"),
    "Running": ("encoder", "overlap", "bands", "batch_size", "device", "precision"),
}
COMPLETIONS = {
    "stain": ("er", "pr", "ki67"),
}
EXAMPLES = {
    "past stain SLIDE.svs -o er.ome.tif --model GENERATOR.safetensors": "a pyramidal OME-TIFF for QuPath",
    "past stain SLIDE.svs -o er.ome.tif --model demo": "by the model that ships, for trying out only",
    "past stain --sheet SHEET.csv -o stained/ --model GENERATOR.safetensors --jobs 2": "many slides",
}


def stain(
    slide: Annotated[
        Path | None,
        typer.Argument(help=f"An H&E slide: {IMAGES}, or a slide store."),
    ] = None,
    *,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="X.ome.tif (QuPath), X.tif (OpenSlide) or X.ome.zarr; with --sheet, the outputs' folder.",
        ),
    ],
    model: Annotated[str, typer.Option("--model", "-m", help="A generator's .safetensors file, or demo.")],
    stain: Annotated[
        str | None, typer.Option(help="Which stain, such as er, where the model makes several.")
    ] = None,
    mpp: Annotated[float | None, typer.Option(help="µm per pixel of a slide that does not state it.")] = None,
    overlap: Annotated[
        float, typer.Option(help="Least share of a window that its neighbour shares, 0.25 to 0.5.")
    ] = 0.25,
    batch_size: Annotated[int, typer.Option(help="Windows at a time.", min=1)] = 16,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    precision: Annotated[
        PrecisionChoice, typer.Option(help="bf16 and fp16 are faster on accelerators, and less exact.")
    ] = PrecisionChoice.float32,
    bands: Annotated[
        str,
        typer.Option(
            help="K/N: make the K-th of N shares of the slide. Start N processes, on as many devices as you "
            "like; the one that ends last writes the output."
        ),
    ] = "1/1",
    zarr: Annotated[Path | None, typer.Option(help="Write an OME-Zarr besides the TIFF.")] = None,
    layout: Annotated[
        LayoutChoice | None,
        typer.Option(help="Of a TIFF. [default: ome for .ome.tif, generic (for OpenSlide) for .tif]"),
    ] = None,
    compression: Annotated[
        CompressionChoice, typer.Option(help="Of a TIFF; deflate keeps every pixel and is larger.")
    ] = CompressionChoice.jpeg,
    quality: Annotated[int, typer.Option(help="Of JPEG.", min=1, max=100)] = 95,
    tissue_mask: Annotated[
        bool, typer.Option("--tissue-mask/--no-tissue-mask", help="Stain tissue only, or everything.")
    ] = True,
    background: Annotated[int, typer.Option(help="Grey value of what is not stained.", min=0, max=255)] = 255,
    encoder: Annotated[
        str | None,
        typer.Option(
            "--encoder",
            "-e",
            help="The model's encoder, where it is not found by the name that the model records.",
        ),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(help="Many slides: a CSV with the column path, optionally name, mpp and output."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--jobs", "-j", help="Of a sheet: slides at the same time (by Dask, on this machine).", min=1
        ),
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option("--dask", help="Of a sheet: run on this Dask cluster (HOST:PORT).")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.")] = False,
) -> None:
    """Stains an H&E slide virtually (IHC). Research use only.

    Never in place of a stained section. The slide is stained at the model's resolution in overlapping windows
    that fade into one another, in memory that does not grow with the slide. Finished parts wait in a hidden
    folder beside the output (up to four bytes a pixel): a run that was interrupted goes on from there when
    the same command is given again, and ends with the same bytes.
    """
    if (slide is None) == (sheet is None):
        raise StainOptionError("give a slide, or --sheet SHEET.csv with many")
    if sheet is None and (workers is not None or scheduler is not None):
        raise StainOptionError("--jobs and --dask are for a sheet; one slide is shared by --bands")
    if workers is not None and scheduler is not None:
        raise StainOptionError("--jobs starts processes here, --dask uses others; give one of them")
    if sheet is not None and (bands != "1/1" or zarr is not None):
        raise StainOptionError("--bands and --zarr are for one slide, not for a sheet")
    band = _band(bands)
    from past_core.slides import open_slide

    # What is wrong with the input is said before the seconds that the imports below take.
    if slide is not None:
        with open_slide(slide, mpp=mpp) as opened:
            opened.require_mpp()

    from past_vihc.wsi.output import plan_outputs
    from past_vihc.wsi.settings import StainSettings
    from past_vihc.wsi.stainer import stain_slide

    tiff: dict[str, Any] = {
        "layout": None if layout is None else layout.value,
        "compression": compression.value,
        "quality": quality,
    }
    settings = StainSettings(
        stain=stain,
        overlap=overlap,
        batch_size=batch_size,
        tissue_only=tissue_mask,
        background=background,
    )
    if sheet is not None:
        job = {
            "model": model if model == "demo" else str(Path(model).resolve()),
            "device": device,
            "precision": precision.value,
            "encoder": encoder,
            "settings": settings,
            "mpp": mpp,
            "tiff": tiff,
            "overwrite": overwrite,
        }
        _many(sheet, output, job, workers, scheduler)
        return
    assert slide is not None  # one of the two was given
    outputs = plan_outputs(output, zarr=zarr, overwrite=overwrite, **tiff)
    from past_core.commands.progress import progress_bar
    from past_vihc.wsi.loading import load_stainer, model_name

    loaded, frozen = load_stainer(model, device=device, precision=precision.value, encoder=encoder)
    name = loaded.stains[loaded.stain_index(stain)]
    if loaded.demo:
        _say_demo()
    with progress_bar() as bar:
        made = stain_slide(
            slide,
            outputs,
            loaded,
            frozen,
            name=model_name(model),
            settings=settings,
            mpp=mpp,
            band=band,
            progress=_follow(bar),
        )
    resumed = f" ({made.resumed} of {made.strips} strips were there already)" if made.resumed else ""
    if made.complete:
        for path in outputs.paths:
            typer.echo(f"{path}: virtual {name}{resumed}")
    elif made.done < made.strips:
        typer.echo(
            f"{output}: band {bands} is finished, {made.done} of {made.strips} strips are there{resumed}; "
            "the process that finishes the last one writes the output"
        )
    else:
        typer.echo(f"{output}: band {bands} is finished{resumed}; another process is writing the output")


def _many(sheet: Path, folder: Path, options: dict, workers: int | None, scheduler: str | None) -> None:
    from past_core.commands.progress import progress_bar
    from past_core.embed.sheet import Outcome, read_sheet
    from past_vihc.wsi.loading import load_stainer
    from past_vihc.wsi.output import SUFFIXES
    from past_vihc.wsi.sheet import SheetJob, stain_rows, stain_rows_on_dask

    job = SheetJob(**options)
    suffix = ".tif" if job.tiff["layout"] == "generic" else ".ome.tif"
    rows = read_sheet(sheet, folder, suffix=suffix, suffixes=SUFFIXES)
    # A model that cannot be used is said once, not for every row.
    loaded, _ = load_stainer(job.model, device="cpu", encoder=job.encoder)
    loaded.stain_index(job.settings.stain)
    if loaded.demo:
        _say_demo()
    with progress_bar() as bar:
        slides = bar.add_task("slides", total=len(rows))

        def report(outcome: Outcome) -> None:
            bar.advance(slides)
            if outcome.status == "failed":
                text = f"Error: row {outcome.row.line}: {outcome.message}"
                bar.console.print(text, style="red", markup=False)
            else:
                done = "complete, skipped" if outcome.status == "skipped" else "stained"
                bar.console.print(f"{outcome.row.output}: {done}", markup=False)

        if workers is None and scheduler is None:
            outcomes = stain_rows(rows, job, progress=_follow(bar), report=report)
        else:
            outcomes = stain_rows_on_dask(rows, job, workers=workers, scheduler=scheduler, report=report)
    count = {status: sum(o.status == status for o in outcomes) for status in ("done", "skipped", "failed")}
    typer.echo(", ".join(f"{number} {status}" for status, number in count.items()))
    if count["failed"]:
        raise typer.Exit(1)


def _say_demo() -> None:
    typer.secho(
        "The demo generator was trained on synthetic tissue: for trying out only.", err=True, fg="yellow"
    )


def _band(text: str) -> tuple[int, int]:
    """K/N as two numbers."""
    part, slash, whole = text.partition("/")
    if not (slash and part.strip().isdecimal() and whole.strip().isdecimal()):
        raise StainOptionError(f"--bands {text!r}; expected K/N, such as 1/4")
    found = int(part), int(whole)
    if not 1 <= found[0] <= found[1]:
        raise StainOptionError(f"--bands {text!r}; expected K/N with K from 1 to N")
    return found


def _follow(bar: "Progress") -> "StainProgress":
    """Shows one line at a time: first the windows, then the tiles that are written."""
    task: TaskID | None = None
    shown = ""

    def follow(what: str, new: int, total: int) -> None:
        nonlocal task, shown
        if task is None or what != shown:
            if task is not None:
                bar.remove_task(task)
            task, shown = bar.add_task(what, total=total), what
        bar.update(task, advance=new, total=total)
        if bar.tasks[bar.task_ids.index(task)].finished:
            bar.remove_task(task)
            task, shown = None, ""

    return follow
