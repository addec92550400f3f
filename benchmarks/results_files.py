"""Reads what benchmarks wrote, also files of older versions that lack newer fields."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
RUNS = Path(__file__).parent / "runs"
"""What the small profile came to last; not kept by git."""
NUMBER = re.compile(r"[-+\N{MINUS SIGN}]?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


class ResultError(ValueError):
    """A file that is no benchmark's result."""


@dataclass(frozen=True)
class Result:
    """One benchmark's outcome, as a file keeps it.

    Args:
        path: the file.
        name: of the report.
        profile: `ci` or `full`.
        columns: headings.
        rows: the table, as printed.
        goal: in words.
        figure: the line that says what came out.
        passed: whether the goal was met.
        device: what it was measured on.
        cores: of the machine; None where unknown.
        date: when, ISO 8601.
        content: the whole file.
    """

    path: Path
    name: str
    profile: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    goal: str
    figure: str
    passed: bool
    device: str
    cores: int | None
    date: str
    content: dict[str, Any] = field(repr=False)

    @property
    def on_cpu(self) -> bool:
        """Whether no accelerator took part."""
        return self.device.startswith("CPU") or not self.device

    @property
    def machine(self) -> str:
        """Device and cores in words."""
        cores = f", {self.cores} cores" if self.cores else ""
        return f"{self.device or 'device not recorded'}{cores}"


def read_result(path: Path) -> Result:
    """Reads one file; unknown fields are kept in `content`, missing ones of newer versions are empty.

    Raises:
        ResultError: not JSON, or without name and table.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        columns = tuple(str(each) for each in content["columns"])
        rows = tuple(tuple(str(cell) for cell in row) for row in content["rows"])
        name = str(content["name"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ResultError(
            f"{path}: {type(error).__name__}: {error}; expected a result with name, columns and rows"
        ) from error
    wide = next((number for number, row in enumerate(rows) if len(row) != len(columns)), None)
    if wide is not None:
        raise ResultError(f"{path}: row {wide} has {len(rows[wide])} cells for {len(columns)} columns")
    machine = content.get("machine") or {}
    return Result(
        path=path,
        name=name,
        profile=str(content.get("profile", "full")),
        columns=columns,
        rows=rows,
        goal=str(content.get("goal", "")),
        figure=str(content.get("figure", "")),
        passed=bool(content.get("passed", False)),
        device=str(content.get("device") or machine.get("device", "")),
        cores=machine.get("cores"),
        date=str(content.get("date", "")),
        content=content,
    )


def read_results(folder: Path = RESULTS, *, profile: str = "full") -> list[Result]:
    """Every result of a profile, in the order of the files' names."""
    found = [read_result(path) for path in sorted(folder.glob("*.json"))]
    return [result for result in found if result.profile == profile]


def results_of(name: str, results: list[Result]) -> list[Result]:
    """The results of one task on every device: CPU first, then by device."""
    own = [result for result in results if result.name in (name, f"{name}{slug(result)}")]
    return sorted(own, key=lambda result: (not result.on_cpu, result.device))


def slug(result: Result) -> str:
    """What an accelerator's results have behind their name; empty on a CPU."""
    return "" if result.on_cpu else "-" + re.sub(r"\W+", "-", result.device)


def number(cell: object) -> float | None:
    """The first number of a cell as printed: 23.6 of `x 23.6`, 0.612 of `61.2%`; None where there is none."""
    if isinstance(cell, bool) or cell is None:
        return None if cell is None else float(cell)
    if isinstance(cell, int | float):
        return float(cell)
    found = NUMBER.search(str(cell))
    if found is None:
        return None
    value = float(found.group().replace(",", "").replace("\N{MINUS SIGN}", "-"))
    return value / 100 if str(cell)[found.end() :].lstrip().startswith("%") else value


def interval(cell: str) -> tuple[float, float] | None:
    """Both ends of `0.280 to 0.300`; None where the cell has none."""
    ends = cell.split(" to ")
    if len(ends) != 2:
        return None
    low, high = (number(end) for end in ends)
    return None if low is None or high is None else (low, high)
