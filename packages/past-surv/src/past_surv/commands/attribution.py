"""`past attribution`: which genes raise or lower the risk that a survival network gives its patients."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import numpy as np

    from past_surv.data.cohort import Cohort

HELP_PANELS = {
    "Patients": ("case", "splits", "max_patches", "steps"),
}
EXAMPLES = {
    "past attribution luad.csv -m model.safetensors --bags bags/uni -o genes": "every patient of a cohort",
}


def attribution(
    cohort: Annotated[Path, typer.Argument(help="Cohort table, with the columns that the network reads.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")],
    *,
    model: Annotated[
        Path, typer.Option("--model", "-m", help="model.safetensors of `lightning fit -c recipes/surv.yaml`.")
    ],
    bags: Annotated[Path | None, typer.Option(help="Folder of bags of the slides; MCAT needs it.")] = None,
    vectors: Annotated[
        Path | None, typer.Option(help="File of `past vectors`, for a network of PAST-multi.")
    ] = None,
    case: Annotated[list[str] | None, typer.Option(help="case_id; these patients alone. Repeatable.")] = None,
    splits: Annotated[
        Path | None,
        typer.Option(help="Folder of splits: those patients alone whom the network's fold scores."),
    ] = None,
    max_patches: Annotated[
        int | None, typer.Option(help="Most patches of a patient, spread evenly. [default: all]", min=1)
    ] = None,
    steps: Annotated[
        int, typer.Option(help="Points of the path; doubled where the sum misses the risk.", min=2)
    ] = 32,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a folder that is there.")] = False,
) -> None:
    """Says which genes raise or lower each patient's predicted risk.

    By integrated gradients, the slides held as they are. Written are patients.csv, attributions.csv (every
    gene of every patient), genes.csv and groups.csv (the cohort), and attribution.png. A patient's
    attributions sum to its risk less that of the average.
    """
    from past_core.atomic import replacing
    from past_core.commands.claim import claim
    from past_core.commands.progress import progress_bar
    from past_core.encoders.loading import resolve_device
    from past_surv.data.bags import BagFolder
    from past_surv.data.cohort import read_cohort
    from past_surv.data.vector_files import read_vectors
    from past_surv.evaluation.gene_attribution import AttributionError, attribute_cohort
    from past_surv.figures.attribution import attribution_bars
    from past_surv.models.files import load_survival

    claim(output)
    if output.exists() and not overwrite:
        raise AttributionError(f"{output} exists already; choose another folder or pass --overwrite")
    if output.exists() and not (output / "genes.csv").is_file():
        raise AttributionError(f"{output} is no folder of `past attribution`, and is not replaced")
    if case and splits is not None:
        raise AttributionError("give either --case or --splits, not both")
    loaded, table = load_survival(model), read_cohort(cohort)
    rows = _rows(table, case, splits, str(loaded.manifest["fold"]))
    with progress_bar() as bar:
        task = bar.add_task("patients", total=len(rows))
        found = attribute_cohort(
            loaded,
            table,
            rows,
            bags=None if bags is None else BagFolder(bags),
            vectors=None if vectors is None else read_vectors(vectors),
            max_patches=max_patches,
            steps=steps,
            device=resolve_device(device),
            progress=lambda done, of: bar.update(task, completed=done, total=of),
        )
    heading = (
        f"{table.name}: {len(found.patients)} patients, {loaded.manifest['kind']} of "
        f"{loaded.manifest['cohort']}, fold {loaded.manifest['fold']}"
    )
    with replacing(output) as temporary:
        temporary.mkdir()
        found.write(temporary)
        attribution_bars(found.genes, heading=heading).savefig(temporary / "attribution.png", dpi=130)
    for names, what in (
        (found.without, "have no value of any group and are left out"),
        (found.slideless, "have no bag; their genes are attributed without slides"),
        (found.inexact, "do not sum to their risk within 0.1 %, see gap in patients.csv"),
    ):
        if names:
            typer.secho(
                f"{len(names)} of {len(rows)} patients {what}: {', '.join(names[:5])}", err=True, fg="yellow"
            )
    typer.echo(heading)
    for row in found.groups.itertuples():
        typer.echo(f"{row.group}: {100 * row.share:.1f} % of the mean |attribution|, {row.genes} genes")
    for row in found.genes.head(8).itertuples():
        typer.echo(f"  {row.gene} ({row.group}): {row.mean_abs:.3g}, direction {row.direction:+.2f}")


def _rows(table: "Cohort", case: list[str] | None, splits: Path | None, fold: str) -> "np.ndarray":
    """Row numbers of the patients who are asked for.

    Raises:
        AttributionError: the splits have no fold of the network's name.
    """
    import numpy as np

    from past_surv.data.splits import read_folds
    from past_surv.evaluation.gene_attribution import AttributionError

    if case:
        return table.rows(list(dict.fromkeys(case)))
    if splits is None:
        return np.arange(len(table))
    folds = {made.name: made for made in read_folds(splits, table)}
    if fold not in folds:
        raise AttributionError(f"{splits}: the network is of fold {fold}; there are {', '.join(folds)}")
    return folds[fold].test
