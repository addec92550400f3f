"""`past survival`: encoders × cohorts × systems × folds × seeds, scored out of fold and compared."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

HELP_PANELS = {
    "Models": ("systems", "encoders", "groups", "vectors", "option"),
    "Folds": ("splits", "folds", "seeds"),
    "Comparison": ("reference", "resamples", "tau_quantile"),
}
COMPLETIONS = {
    "systems": ("cox-age-sex", "coxnet", "snn", "clinical+omics", "mil", "mcat", "past-multi"),
    "encoders": (),
}
EXAMPLES = {
    "past survival demo -o survival": "the embedded synthetic cohort",
    "past survival luad.csv --encoders uni=bags/uni --groups signatures.csv -o survival": (
        "your cohort and bags"
    ),
    "past survival --list": "what systems there are",
}


def survival(
    cohorts: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Cohort tables, a row a slide, as MCAT has them (CSV, .gz, .zip); or demo, the synthetic "
            "cohort.",
            metavar="COHORT",
        ),
    ] = None,
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder; a rerun keeps what is done.")
    ] = None,
    cohort: Annotated[
        list[str] | None,
        typer.Option(help="NAME=a.csv,b.csv: several tables as one cohort, such as COADREAD. Repeatable."),
    ] = None,
    systems: Annotated[
        str | None,
        typer.Option(
            help="With commas between, see --list. [default: cox-age-sex, those on genes where the cohorts "
            "have some, and with --encoders those on slides]"
        ),
    ] = None,
    encoders: Annotated[
        list[str] | None,
        typer.Option(help="NAME=FOLDER of bags made by `past bags` (or CLAM, TRIDENT). Repeatable."),
    ] = None,
    splits: Annotated[
        Path | None,
        typer.Option(
            help="Folder of splits_0.csv, ... with columns train and val; or with one such folder a cohort. "
            "Without, folds are made in which no site is on both sides."
        ),
    ] = None,
    folds: Annotated[int, typer.Option(help="Folds that are made without --splits.", min=2)] = 5,
    seeds: Annotated[int, typer.Option(help="Seeds of each system that draws at random.", min=1)] = 1,
    jobs: Annotated[int, typer.Option("--jobs", "-j", help="Processes at a time.", min=1)] = 1,
    groups: Annotated[
        Path | None, typer.Option(help="CSV with a column of gene symbols a group (MCAT's signatures.csv).")
    ] = None,
    vectors: Annotated[
        Path | None, typer.Option(help="One vector a patient, from `past vectors`, for PAST-multi.")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(help="SYSTEM.NAME=VALUE, such as mcat.epochs=5. Repeatable."),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(help="Compare all with this one, as `mcat (uni)` or `snn`. [default: all pairs]"),
    ] = None,
    resamples: Annotated[int, typer.Option(help="Draws of the bootstrap over patients.", min=10)] = 1000,
    tau_quantile: Annotated[
        float,
        typer.Option(help="tau: this quantile of the training patients' times of death.", min=0.1, max=1),
    ] = 0.8,
    list_systems: Annotated[
        bool, typer.Option("--list", help="Say what systems there are, and what each reads; run nothing.")
    ] = False,
) -> None:
    """Trains, scores and compares survival models out of fold.

    Every encoder and system on every fold of every cohort. Each cell of the matrix is a file of its own, so
    that a run that was killed goes on where it was. A cell that fails is named at the end (exit status 1) and
    does not stop the rest. Nothing is chosen on the fold that is scored. Age and sex stand in every table.
    """
    from rich.console import Console

    console = Console()
    if list_systems:
        _list(console)
        return
    if output is None:
        raise typer.BadParameter("a folder to write is needed", param_hint="--output / -o")
    from past_core.commands.claim import claim
    from past_surv.commands.matrix import matrix_of
    from past_surv.evaluation.plan import plan_of
    from past_surv.evaluation.run import run_cells

    matrix = matrix_of(
        cohorts or [], joined=cohort or [], systems=systems, encoders=encoders or [], splits=splits,
        folds=folds, seeds=seeds, groups=groups, vectors=vectors, options=option or [],
    )  # fmt: skip
    plan = plan_of(matrix)
    claim(output)
    errors = Console(stderr=True)
    with errors.status("looks for what is done") as status:
        run = run_cells(
            plan.cells,
            output,
            jobs=jobs,
            progress=lambda cell, done, of: status.update(f"{done} of {of}: {cell}"),
        )
        for cell, why in run.failed:
            errors.print(f"failed: {cell}: {why}", style="red", markup=False, highlight=False)
        if run.results:
            status.update("scores and compares")
            from past_surv.commands.matrix import draw, tables_of
            from past_surv.evaluation.report import report_of, write_report

            report = report_of(
                run, plan.notes, reference=reference, resamples=resamples, tau_quantile=tau_quantile
            )
            files = write_report(report, output)
            status.update("draws")
            files += draw(report, output)
    if run.results:
        for table in tables_of(report):
            console.print(table, "")
        for note in report.notes:
            console.print(note, style="yellow", markup=False, highlight=False)
        console.print(f"{output}: {', '.join(files)}", markup=False, highlight=False)
    done = f"{run.computed} of {len(plan.cells)} cells computed, {run.kept} kept, {len(run.failed)} failed"
    console.print(done, markup=False, highlight=False)
    if run.failed:
        raise typer.Exit(1)


def _list(console: "Console") -> None:
    from past_surv.systems.registry import SYSTEMS

    for name, known in SYSTEMS.items():
        options = f"; options: {', '.join(known.options)}" if known.options else ""
        line = f"{name}: {known.about} (reads {', '.join(known.needs)}{options})"
        console.print(line, markup=False, highlight=False)
