"""What `past survival` is given as a matrix, and what it shows and draws of the outcome."""

import ast
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from past_core.errors import PastError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

    from past_surv.evaluation.plan import Matrix
    from past_surv.evaluation.report import MatrixReport

DEMO = "demo"
"""As a cohort: the embedded synthetic one, with bags of the encoder of that name."""
MOST_PANELS = 8
"""Systems a picture of curves has side by side; more go into further pictures."""


class MatrixError(PastError, ValueError):
    """Arguments of `past survival` that cannot be used."""


def matrix_of(
    tables: Sequence[Path],
    *,
    joined: Sequence[str],
    systems: str | None,
    encoders: Sequence[str],
    splits: Path | None,
    folds: int,
    seeds: int,
    groups: Path | None,
    vectors: Path | None,
    options: Sequence[str],
) -> "Matrix":
    """The matrix that the arguments describe.

    Raises:
        MatrixError: no cohort, or an argument that is not written as NAME=VALUE.
        PastError: files that are not there, unknown systems.
    """
    from past_surv.evaluation.building import needs_of
    from past_surv.evaluation.plan import Matrix
    from past_surv.evaluation.sources import cohort_source
    from past_surv.systems.registry import SYSTEMS, entry

    made: dict[str, Any] = {"splits": splits, "folds": folds}
    sources, folders = [], {}
    for table in tables:
        if str(table) == DEMO and not table.is_file():  # `past demo demo` makes a folder of that name
            cohort, own_groups, bags = _demo(without_bags=bool(encoders))
            sources.append(cohort_source([cohort], name=DEMO, **made))
            groups, folders = groups or own_groups, bags
        else:
            sources.append(cohort_source([table], **made))
    for text in joined:
        name, files = _named(text, "--cohort NAME=a.csv,b.csv")
        sources.append(cohort_source([part for part in files.split(",") if part], name=name, **made))
    if not sources:
        raise MatrixError("no cohort; give tables as arguments, --cohort NAME=a.csv,b.csv, or demo")
    for text in encoders:
        name, folder = _named(text, "--encoders NAME=FOLDER")
        if name in folders:
            raise MatrixError(f"two encoders are called {name!r}; name one otherwise")
        folders[name] = Path(folder).resolve()
    if systems is None:
        needs = {name: needs_of(name) for name in SYSTEMS}
        names = [
            name
            for name, need in needs.items()
            if (folders or not need.bags)
            and (vectors or "vectors" not in need.files)
            and (groups or not need.grouped)
        ]
    else:
        names = [part.strip() for part in systems.split(",") if part.strip()]
        if not names:
            raise MatrixError(f"--systems {systems!r} names nothing; there are {', '.join(SYSTEMS)}")
        for name in names:
            entry(name)
    _check_training(names)
    return Matrix(
        cohorts=sources,
        systems=names,
        encoders=folders,
        groups=None if groups is None else groups.resolve(),
        vectors=None if vectors is None else vectors.resolve(),
        seeds=seeds,
        options=_options(options, names),
    )


def _demo(*, without_bags: bool) -> tuple[Path, Path, dict[str, Path]]:
    """Table, groups of genes and bags of the embedded synthetic cohort, made once into the cache."""
    from past_surv.data.default import default_bags, default_survival_data

    made = default_survival_data()
    bags = {} if without_bags else {DEMO: default_bags(DEMO).folder}
    return made.source.table, made.source.signatures, bags


def _options(texts: Sequence[str], systems: Sequence[str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for text in texts:
        name, value = _named(text, "--option SYSTEM.NAME=VALUE")
        system, point, option = name.partition(".")
        if not (point and option):
            raise MatrixError(f"--option {text!r}; expected SYSTEM.NAME=VALUE, such as snn.epochs=5")
        if system not in systems:
            raise MatrixError(f"--option {text!r}: {system!r} is not run; there are {', '.join(systems)}")
        from past_surv.systems.registry import entry

        known = entry(system).options
        if option not in known:
            raise MatrixError(f"--option {text!r}: {system} has {', '.join(known) or 'no options'}")
        try:
            found.setdefault(system, {})[option] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found.setdefault(system, {})[option] = value  # a word, as in mcat.fusion=concat
    return found


def _check_training(names: Sequence[str]) -> None:
    """Refuses networks on slides, before any work, where what trains them is not installed."""
    from past_surv.systems.registry import SYSTEMS

    networks = [name for name in names if SYSTEMS[name].by_encoder]
    if networks and importlib.util.find_spec("lightning") is None:
        others = ",".join(name for name, entry in SYSTEMS.items() if not entry.by_encoder)
        raise MatrixError(
            f"{', '.join(networks)} train with Lightning, which is not installed: "
            f"pip install 'past-surv[train]', or choose --systems {others}"
        )


def _named(text: str, form: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (equals and name and value):
        raise MatrixError(f"{text!r}; expected {form}")
    return name, value


def tables_of(report: "MatrixReport") -> "list[Table]":
    """A table a cohort, and one of ranks where there are several cohorts."""
    import pandas as pd

    from past_surv.evaluation.markdown import bounds, number, p_number

    tables = []
    for cohort, own in report.summary.groupby("cohort", sort=False):
        table = _plain(
            report.cohorts[cohort], "system", "C", "±", "95 %", "Uno", "AUC", "IBS", "log-rank\np", "rank"
        )
        for row in own.itertuples():
            rank = "" if pd.isna(row.harrell_rank) else f"{row.harrell_rank:.0f}"
            table.add_row(
                row.label, number(row.harrell), number(row.harrell_sd),
                bounds(row.harrell_low, row.harrell_high), number(row.uno_tau), number(row.auc),
                "" if pd.isna(row.ibs) else number(row.ibs), p_number(row.logrank_p), rank,
            )  # fmt: skip
        tables.append(table)
    if len(report.cohorts) > 1:
        table = _plain("over the cohorts", "system", "cohorts", "mean C", "mean rank", "first places")
        for row in report.places.itertuples():
            table.add_row(
                row.label, f"{row.cohorts} of {row.of}", number(row.harrell),
                number(row.harrell_mean_rank, 1), str(row.harrell_firsts),
            )  # fmt: skip
        tables.append(table)
    return tables


def draw(report: "MatrixReport", folder: Path) -> list[str]:
    """Draws curves, bars, differences and ranks; gives the files' names."""
    from past_surv.evaluation.comparisons import label
    from past_surv.evaluation.kaplan import SPLITS
    from past_surv.figures.curves import curve_grid
    from past_surv.figures.forest import difference_forest, score_bars
    from past_surv.figures.table import rank_table

    made: list[str] = []
    cohorts = list(report.cohorts)
    entries = list(dict.fromkeys((split.encoder, split.system) for split in report.splits))
    columns = {f"{encoder}/{system}": label((encoder, system)) for encoder, system in entries}
    for kind in SPLITS:
        splits = [split for split in report.splits if split.split == kind]
        for start in range(0, len(columns), MOST_PANELS):
            shown = list(columns)[start : start + MOST_PANELS]
            part = f"-{start // MOST_PANELS + 1}" if len(columns) > MOST_PANELS else ""
            figure = curve_grid(
                splits, rows=cohorts, columns=shown, labels=columns,
                heading=f"out-of-fold risk, high against low by {SPLITS[kind].split(',')[0]}",
            )  # fmt: skip
            made.append(_save(figure, folder / f"kaplan-meier-{kind.replace(' ', '-')}{part}.png"))
    made += [
        _save(score_bars(report.scores, report.summary, metric=metric), folder / f"bars-{metric}.png")
        for metric in ("harrell", "uno_tau")
    ]
    rows = report.comparisons
    if rows.loc[rows["metric"] == "harrell", "difference"].notna().any():
        made.append(_save(difference_forest(rows), folder / "differences.png"))
    made.append(_save(rank_table(report.summary, report.places), folder / "ranks.png"))
    return made


def _save(figure: "Figure", path: Path) -> str:
    from past_core.atomic import replacing

    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=160)
    return path.name


def _plain(title: str, *columns: str) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(
        title=title, box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False,
        title_justify="left", title_style="bold",
    )  # fmt: skip
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=bool(number))
    return table
