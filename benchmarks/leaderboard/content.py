"""What the leaderboard says, before it is Markdown or HTML.

Measured figures come from result files alone and stand in `Board.tables`. Figures of papers come from
`reported.json` alone and stand in `Board.reported`. No table holds both.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.results_files import Result, interval, number, results_of
from benchmarks.systems import Absent, absent
from benchmarks.task import GROUPS, Metric, Plot, Task

REPORTED = Path(__file__).resolve().parents[1] / "reported.json"
ARROWS = {"higher": "↑", "lower": "↓", "zero": "→ 0"}
NOT_MEASURED = "not measured"
REPORTED_LABEL = "Reported by papers, on other data: never comparable with the measured table"


class ReportedError(ValueError):
    """A file of reported figures that is not as it should be."""


@dataclass(frozen=True)
class Column:
    """A heading: its text, which way is better, and its unit."""

    text: str
    better: str = ""
    unit: str = ""

    @property
    def heading(self) -> str:
        """The text with its arrow."""
        return f"{self.text} {ARROWS[self.better]}" if self.better in ARROWS else self.text


@dataclass(frozen=True)
class Grid:
    """A table of text.

    Args:
        columns: headings.
        rows: cells; as many in each as columns.
        missing: numbers of the rows of systems that were not measured.
        caption: what stands above it.
    """

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    missing: frozenset[int] = frozenset()
    caption: str = ""


@dataclass(frozen=True)
class Reported:
    """Figures of one source.

    Args:
        grid: the figures.
        source: who reported them.
        data: on what.
    """

    grid: Grid
    source: str
    data: str


@dataclass(frozen=True)
class Dot:
    """One row of a plot."""

    label: str
    group: str
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Dots:
    """One plot of dots and intervals."""

    title: str
    plot: Plot
    dots: tuple[Dot, ...]


@dataclass(frozen=True)
class Board:
    """One task.

    Args:
        task: its declaration.
        results: what was measured, by device.
        tables: measured figures.
        plots: pictures of these.
        absent: systems of the paper without a measured row.
        reported: figures of papers.
    """

    task: Task
    results: tuple[Result, ...]
    tables: tuple[Grid, ...]
    plots: tuple[Dots, ...] = ()
    absent: tuple[Absent, ...] = ()
    reported: tuple[Reported, ...] = ()

    @property
    def anchor(self) -> str:
        """Its name inside the page."""
        return self.task.name

    def facts(self) -> list[tuple[str, str]]:
        """What must be known to read the table: name and text."""
        units = "; ".join(f"{m.column}: {m.unit}" for m in self.task.metrics if m.unit)
        found = [
            ("Question", self.task.question),
            ("Data", self.task.data),
            ("Held out, or compared with", self.task.split),
            ("Figures", units),
            ("Note", self.task.note),
        ]
        for result in self.results:
            state = "met" if result.passed else "missed"
            where = f" ({result.machine}, {result.date or 'no date'})"
            found += [("Goal", f"{result.goal}: {state}{where}"), ("Outcome", result.figure)]
            found.append(("Result", origin(result)))
        found.append(("Measure", f"`{self.task.run_command()}`"))
        return [(name, text) for name, text in found if text]


@dataclass(frozen=True)
class Leaderboard:
    """All tasks, by group."""

    boards: tuple[Board, ...]
    groups: tuple[str, ...] = field(default=GROUPS)

    def grouped(self) -> list[tuple[str, list[Board]]]:
        """The groups that have tasks, in order."""
        found = [(group, [b for b in self.boards if b.task.group == group]) for group in self.groups]
        return [(group, boards) for group, boards in found if boards]


def origin(result: Result) -> str:
    """File, seeds, data and code of a result, as far as it records them."""
    content = result.content
    parts = [f"benchmarks/results/{result.path.name}"]
    if content.get("seeds"):
        parts.append("seeds " + ", ".join(str(seed) for seed in content["seeds"]))
    if (content.get("data") or {}).get("fingerprint"):
        parts.append(f"data {content['data']['fingerprint']}")
    code = content.get("code") or {}
    if code.get("sources"):
        commit = f"commit {str(code['commit'])[:10]}, " if code.get("commit") else ""
        parts.append(f"code {commit}sources {code['sources']}")
    return "; ".join(parts)


def leaderboard(tasks: Sequence[Task], results: Sequence[Result], reported: Path = REPORTED) -> Leaderboard:
    """Puts everything together.

    A result whose task is not declared any more gets a board of its own.

    Args:
        tasks: the declarations.
        results: what was measured.
        reported: figures of papers.

    Raises:
        ReportedError: that file.
    """
    papers = read_reported(reported)
    results = list(results)
    boards, used = [], set()
    for task in tasks:
        own = results_of(task.name, results)
        used |= {result.path for result in own}
        boards.append(_board(task, own, papers.get(task.name, [])))
    for result in results:
        if result.path not in used:
            bare: dict[str, Any] = {"group": "other", "data": "", "split": "", "systems": (), "metrics": ()}
            task = Task(title=result.name, name=result.name, module=result.name, **bare)
            boards.append(_board(task, [result], []))
    return Leaderboard(tuple(boards))


def read_reported(path: Path) -> dict[str, list[Reported]]:
    """Figures of papers by task.

    Raises:
        ReportedError: not the expected form.
    """
    found: dict[str, list[Reported]] = {}
    try:
        for table in json.loads(path.read_text(encoding="utf-8"))["tables"]:
            columns = tuple(Column(str(text)) for text in table["columns"])
            rows = tuple(tuple(str(cell) for cell in row) for row in table["rows"])
            if not table["source"] or any(len(row) != len(columns) for row in rows):
                raise ReportedError(f"{path}: table {table['title']!r} lacks its source, or cells")
            grid = Grid(columns, rows, caption=str(table["title"]))
            for name in table["tasks"]:
                found.setdefault(name, []).append(Reported(grid, str(table["source"]), str(table["data"])))
    except (OSError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, ReportedError):
            raise
        raise ReportedError(f"{path}: {type(error).__name__}: {error}; expected tables of papers") from error
    return found


def _board(task: Task, results: list[Result], papers: list[Reported]) -> Board:
    missing = [wanted for wanted in task.wanted if not _measured(task, results, wanted.label or wanted.name)]
    tables = _tables(task, results, [wanted.name for wanted in missing])
    plots = [plot for result in results if (plot := _dots(task, result)) is not None]
    gone = tuple(absent(wanted) for wanted in missing)
    return Board(task, tuple(results), tuple(tables), tuple(plots), gone, tuple(papers))


def _measured(task: Task, results: list[Result], label: str) -> bool:
    return any(
        label in row[result.columns.index(task.system)]
        for result in results
        if task.system in result.columns
        for row in result.rows
    )


def _tables(task: Task, results: list[Result], missing: list[str]) -> list[Grid]:
    """One table for all devices whose reports have the same columns; with the device where it matters."""
    by_columns: dict[tuple[str, ...], list[Result]] = {}
    for result in results:
        by_columns.setdefault(result.columns, []).append(result)
    several = len(results) > 1 or any(not result.on_cpu for result in results)
    metrics = {metric.column: metric for metric in task.metrics}
    grids = []
    for number_, (columns, own) in enumerate(by_columns.items()):
        headings = [_column(text, metrics.get(text)) for text in columns]
        rows = [(*row, *([result.machine] if several else [])) for result in own for row in result.rows]
        if several:
            headings.append(Column("device"))
        start = len(rows)
        if number_ == 0:
            rows += [_missing_row(task, name, headings) for name in missing]
        grids.append(Grid(tuple(headings), tuple(rows), frozenset(range(start, len(rows)))))
    if not grids and missing:
        rows = tuple((name, NOT_MEASURED) for name in missing)
        headings = [Column(task.system), Column("measured")]
        grids.append(Grid(tuple(headings), rows, frozenset(range(len(rows)))))
    return grids


def _column(text: str, metric: Metric | None) -> Column:
    return Column(text) if metric is None else Column(text, metric.better, metric.unit)


def _missing_row(task: Task, name: str, columns: Sequence[Column]) -> tuple[str, ...]:
    texts = [column.text for column in columns]
    system = texts.index(task.system) if task.system in texts else 0
    figure = next((i for i, column in enumerate(columns) if column.better), min(1, len(columns) - 1))
    cells = [""] * len(columns)
    cells[figure], cells[system] = NOT_MEASURED, name
    return tuple(cells)


def _dots(task: Task, result: Result) -> Dots | None:
    plot = task.plot
    if plot is None or plot.column not in result.columns:
        return None
    column = result.columns.index(plot.column)
    metric = next((m for m in task.metrics if m.column == plot.column), Metric(plot.column))
    spread = result.columns.index(metric.interval) if metric.interval in result.columns else None
    system = result.columns.index(task.system) if task.system in result.columns else 0
    by = result.columns.index(task.by) if task.by in result.columns else None
    dots = []
    for row in result.rows:
        value = number(row[column])
        if value is None or (plot.log and value <= 0) or (plot.where and row[0] not in plot.where):
            continue
        low, high = (interval(row[spread]) if spread is not None else None) or (None, None)
        dots.append(Dot(row[system], "" if by is None else row[by], value, low, high))
    if len(dots) < 2:
        return None
    heading = _column(plot.column, metric).heading
    unit = f", {metric.unit}" if metric.unit else ""
    device = "" if result.on_cpu else f" ({result.device})"
    return Dots(f"{heading}{unit}{device}", plot, tuple(dots))
