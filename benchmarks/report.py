"""What every benchmark prints and writes: a table, its goal, one line with its figure, one JSON file.

Profile `full` writes `results/NAME.json`. Profile `ci` writes `runs/NAME-ci.json`, which git does not keep;
its committed reference is `results/NAME-ci.json` and changes only when it is accepted.
"""

import json
import os
import platform
import re
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.results_files import RESULTS, RUNS

__all__ = ["RESULTS", "RUNS", "Report", "device_slug", "machine"]


@dataclass
class Report:
    """The outcome of one benchmark.

    Args:
        name: the benchmark's name.
        profile: `ci` or `full`.
        columns: headings of the table.
        rows: the table.
        goal: the goal in words, with its number.
        figure: the one line that says what came out.
        passed: whether the goal of this profile was met.
        details: everything else worth keeping.
        seeds: of what was drawn at random.
        data: what it ran on, and its fingerprint; see `benchmarks.fingerprints`.
        code: commit and hash of the sources; see there.
        device: what it was measured on.
        seconds: what the whole of it took.
    """

    name: str
    profile: str
    columns: list[str]
    rows: list[list[str]]
    goal: str
    figure: str
    passed: bool
    details: dict[str, Any] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=list)
    data: dict[str, str] = field(default_factory=dict)
    code: dict[str, Any] = field(default_factory=dict)
    device: str = ""
    seconds: float | None = None

    @property
    def file(self) -> str:
        """Name of its file."""
        return f"{self.name}.json" if self.profile == "full" else f"{self.name}-{self.profile}.json"

    def content(self) -> dict[str, Any]:
        """What the file holds."""
        found = machine()
        self.device = self.device or found["device"]
        return asdict(self) | {"machine": found, "date": datetime.now(UTC).date().isoformat()}

    def write(self, *, accept: bool = False) -> Path:
        """Writes the file into `results`, or into `runs` for the small profile unless it is accepted.

        Args:
            accept: whether the small profile's outcome becomes the reference.
        """
        folder = RESULTS if self.profile == "full" or accept else RUNS
        folder.mkdir(exist_ok=True)
        path = folder / self.file
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.content(), indent=2) + "\n")
        temporary.replace(path)
        return path

    def show(self) -> None:
        """Prints table, goal and figure."""
        console = Console(width=140)
        table = Table(*self.columns, title=f"{self.name} ({self.profile})")
        for row in self.rows:
            table.add_row(*row)
        console.print(table)
        console.print(f"goal: {self.goal}", highlight=False)
        console.print(f"{self.name}: {self.figure} ({'met' if self.passed else 'MISSED'})", highlight=False)


def device_slug() -> str:
    """What a GPU's results have behind their name; empty on a CPU."""
    import torch

    return "-" + re.sub(r"\W+", "-", torch.cuda.get_device_name()) if torch.cuda.is_available() else ""


def machine() -> dict[str, Any]:
    """The device and versions that the figures belong to, without the machine's name."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU ({platform.machine()})"
    versions = {name: version(name) for name in ("past-core", "torch", "timm", "lightning")}
    return {
        "device": device,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": versions,
    }
