"""Holds what profile `ci` came to against the committed outcome of the same profile."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.results_files import number
from benchmarks.task import Tracked


@dataclass(frozen=True)
class Finding:
    """One tracked figure.

    Args:
        task: whose.
        title: which.
        found: what the run gave; None where it gave none.
        reference: what is committed; None where nothing is.
        low: lower end of the band; None where there is none.
        high: upper end.
    """

    task: str
    title: str
    found: float | None
    reference: float | None
    low: float | None = None
    high: float | None = None

    @property
    def compared(self) -> bool:
        """Whether there was something to compare with."""
        return self.reference is not None

    @property
    def inside(self) -> bool:
        """Whether it is in its band; what is not compared is."""
        if not self.compared:
            return True
        if self.found is None or not math.isfinite(self.found):
            return False
        return (self.low is None or self.found >= self.low) and (self.high is None or self.found <= self.high)

    def __str__(self) -> str:
        """One line: which, what was found, the band and the reference."""
        found = "no such figure" if self.found is None else f"{self.found:.6g}"
        if not self.compared:
            return f"{self.task}: {self.title}: found {found}; not compared, the reference has no such figure"
        low = "-inf" if self.low is None else f"{self.low:.6g}"
        high = "inf" if self.high is None else f"{self.high:.6g}"
        state = "inside" if self.inside else "OUTSIDE"
        band = f"{state} {low} to {high} (reference {self.reference:.6g})"
        return f"{self.task}: {self.title}: found {found}, {band}"


def compare(
    task: str, run: Mapping[str, Any], reference: Mapping[str, Any], tracked: Sequence[Tracked]
) -> list[Finding]:
    """Every tracked figure of a run beside its band around the reference's.

    Args:
        task: its name, for messages.
        run: the report, as written.
        reference: the committed report.
        tracked: what is watched, and how far it may go.
    """
    findings = []
    for each in tracked:
        found, known = at(run, each.path), at(reference, each.path)
        if known is None or not math.isfinite(known):
            findings.append(Finding(task, each.title, found, None))
            continue
        unit = abs(known) if each.relative else 1.0
        low = None if each.down is None else known - each.down * unit
        high = None if each.up is None else known + each.up * unit
        findings.append(Finding(task, each.title, found, known, low, high))
    return findings


def at(report: Mapping[str, Any], path: Sequence[str | int]) -> float | None:
    """The figure at a path (see `Tracked`); None where there is none.

    True and False are 1 and 0; a cell as printed is its first number.
    """
    if path and path[0] == "rows":
        return number(_cell(report, [str(key) for key in path[1:]]))
    value: Any = report
    for key in path:
        value = _item(value, key)
        if value is None:
            return None
    return number(value) if isinstance(value, str | int | float) else None


def _cell(report: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    *leading, column = keys
    columns = list(report.get("columns", ()))
    if column not in columns:
        return None
    for row in report.get("rows", ()):
        if list(row[: len(leading)]) == leading:
            return str(row[columns.index(column)])
    return None


def _item(value: Any, key: str | int) -> Any:
    if isinstance(value, Mapping):
        return value.get(key)
    if not isinstance(value, list):
        return None
    if isinstance(key, int):
        return value[key] if -len(value) <= key < len(value) else None
    name, _, wanted = key.partition("=")
    return next((item for item in value if isinstance(item, Mapping) and str(item.get(name)) == wanted), None)
