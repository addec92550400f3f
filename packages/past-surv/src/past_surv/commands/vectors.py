"""`past vectors`: one vector a patient, the extra group of PAST-multi."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class SourceChoice(StrEnum):
    """Where the vectors come from."""

    expression = "expression"
    joint = "joint"
    bulk = "bulk"


class ScaleChoice(StrEnum):
    """Of the table's RNA."""

    log2p1 = "log2p1"
    log1p = "log1p"
    linear = "linear"
    zscore = "zscore"


class SpaceChoice(StrEnum):
    """Which vectors of the cell encoder."""

    features = "features"
    joint = "joint"


HELP_PANELS = {
    "Source expression": ("predictions", "cells", "least", "seed"),
    "Source joint": ("bags", "slides", "mpp", "jobs"),
    "Source bulk": ("scale", "ids"),
}
EXAMPLES = {
    "past vectors cohort.csv --predictions predicted/ -o vectors.parquet": "of predicted expression",
    "past vectors cohort.csv --source joint --bags bags/joint -o vectors.parquet": "of the slides' patches",
    "past vectors cohort.csv --source bulk -o vectors.parquet": "of the table's RNA",
}


def vectors(
    cohort: Annotated[Path, typer.Argument(help="Cohort table, a row a slide, as MCAT has it.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="VECTORS.parquet")],
    *,
    source: Annotated[
        SourceChoice,
        typer.Option(
            help="expression: predicted from the slides, through the cell encoder; joint: the slides' "
            "patches projected into the space shared with cells; bulk: the table's RNA through the cell "
            "encoder."
        ),
    ] = SourceChoice.expression,
    predictions: Annotated[
        Path | None,
        typer.Option(
            help="For expression: folder of SLIDE.zarr by `past predict`, or a CSV with prediction and slide "
            "(or case_id)."
        ),
    ] = None,
    bags: Annotated[
        Path | None, typer.Option(help="For joint: folder of bags by `past bags --space joint`.")
    ] = None,
    slides: Annotated[
        Path | None,
        typer.Option(
            help="For joint, instead: slides as `past bags` takes them; their bags are kept beside the "
            "output."
        ),
    ] = None,
    encoder: Annotated[
        str, typer.Option("--encoder", "-e", help="A checkpoint of PAST, or its name.")
    ] = "demo",
    space: Annotated[
        SpaceChoice, typer.Option(help="The cell encoder's own features, or the space of images and cells.")
    ] = SpaceChoice.features,
    scale: Annotated[
        ScaleChoice,
        typer.Option(
            help="For bulk: of the RNA, log2(1 + x), log(1 + x), x itself, or z-scores of patients."
        ),
    ] = ScaleChoice.log2p1,
    ids: Annotated[
        Path | None,
        typer.Option(help="For bulk: CSV with symbol and id (Ensembl); human genes are known without."),
    ] = None,
    cells: Annotated[
        int, typer.Option(help="For expression: most cells of a patient; 0 takes all.", min=0)
    ] = 2000,
    least: Annotated[
        float, typer.Option(help="For expression: predicted counts below are none.", min=0)
    ] = 0.5,
    seed: Annotated[int, typer.Option(help="Of the draw of cells.", min=0)] = 0,
    mpp: Annotated[
        float | None, typer.Option(help="With --slides: µm per pixel of slides that do not state it.")
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", help="With --slides: processes at a time.", min=1)] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a table that is there.")] = False,
) -> None:
    """Makes one PAST vector a patient, for past survival --vectors.

    It is one more group of its system past-multi. Patients without an input are left out and named; the
    table says where it comes from.
    """
    from past_core.commands.claim import claim
    from past_surv.data.cohort import read_cohort
    from past_surv.data.vector_files import MANIFEST, SUFFIX, VectorError, write_vectors

    if output.suffix != SUFFIX:
        raise VectorError(f"{output}: vectors are written as {SUFFIX}; give the output that suffix")
    claim(output)
    if output.exists() and not overwrite:
        raise VectorError(f"{output} exists already; choose another name or pass --overwrite")
    if source is SourceChoice.expression and predictions is None:
        raise VectorError(
            "--source expression needs --predictions: what `past predict` wrote for the slides; or choose "
            "--source joint with --slides, or --source bulk"
        )
    if source is SourceChoice.joint and (bags is None) == (slides is None):
        raise VectorError("--source joint needs either --bags or --slides")
    table = read_cohort(cohort)
    known = None if ids is None else read_ids(ids)
    if source is SourceChoice.joint and slides is not None:
        bags = output.with_name(f"{output.stem}-bags")
        _embed(slides, bags, encoder, mpp=mpp, jobs=jobs, device=device)

    from past_core.commands.progress import progress_bar
    from past_surv.data.vectors import patient_vectors

    with progress_bar() as bar:
        task = bar.add_task("patients", total=len(table))
        made = patient_vectors(
            source.value,
            table,
            predictions=predictions,
            bags=bags,
            encoder=encoder,
            space=space.value,
            scale=scale.value,
            ids=known,
            cells=cells or None,
            least=least,
            seed=seed,
            device=device,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    write_vectors(made, output)
    facts = made.attrs[MANIFEST]
    if facts["demo"]:
        typer.secho(
            "The demo encoder was trained on synthetic tissue: for trying out only.", err=True, fg="yellow"
        )
    pooled = list(facts["pooled"].values())
    typer.echo(
        f"{output}: {len(made)} of {len(table)} patients, {facts['dim']} wide, source {facts['source']}, by "
        f"{facts['encoder']} ({facts['space']}), means of {min(pooled):,} to {max(pooled):,}"
    )
    if facts["absent"]:
        more = len(facts["absent"]) - 8
        typer.echo(
            f"without a vector: {', '.join(facts['absent'][:8])}{f' and {more} more' if more > 0 else ''}"
        )


def read_ids(path: Path) -> dict[str, str]:
    """Ensembl ids by symbol from a CSV with the columns `symbol` and `id`.

    Raises:
        VectorNotFoundError: no such file.
        VectorError: other columns, or a symbol with two ids.
    """
    from past_core.foreign.errors import ForeignError
    from past_core.foreign.tables import read_csv
    from past_surv.data.vector_files import VectorError, VectorNotFoundError

    if not path.is_file():
        raise VectorNotFoundError(f"{path}: no such table of genes; expected a CSV with symbol and id")
    try:
        table = read_csv(path, dtype=str)
    except (ForeignError, OSError) as error:
        raise VectorError(f"{path}: not a readable CSV ({error})") from error
    if not {"symbol", "id"} <= set(table):
        raise VectorError(f"{path}: columns {', '.join(map(str, table))}; expected symbol and id")
    table = table.dropna(subset=["symbol", "id"]).drop_duplicates(["symbol", "id"])
    twice = table["symbol"][table["symbol"].duplicated()]
    if len(twice):
        raise VectorError(f"{path}: symbol {twice.iloc[0]} has two ids; expected one")
    return dict(zip(table["symbol"], table["id"], strict=True))


def _embed(slides: Path, folder: Path, encoder: str, *, mpp: float | None, jobs: int, device: str) -> None:
    """Bags of the slides in the joint space; complete ones are kept.

    Raises:
        VectorError: slides that failed.
    """
    from past_core.commands.progress import progress_bar
    from past_surv.data.bag_making import BagSettings
    from past_surv.data.bag_runs import EncoderSource, list_slides, make_bags
    from past_surv.data.vector_files import VectorError

    listed = list_slides([slides], folder)
    source = EncoderSource(name=encoder, space="joint", device=device)
    failed = []
    with progress_bar() as bar:
        task = bar.add_task("slides", total=len(listed))
        for outcome in make_bags(listed, source, BagSettings(), mpp=mpp, processes=min(jobs, len(listed))):
            bar.advance(task)
            if outcome.status == "failed":
                failed.append(f"{outcome.job.slide.name}: {outcome.message}")
    if failed:
        raise VectorError(
            f"{len(failed)} of {len(listed)} slides failed, the first {failed[0]}; the other bags are kept "
            f"in {folder}, and a rerun goes on from there. To leave these out, pass --bags {folder}"
        )
