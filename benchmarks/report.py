"""What every benchmark prints and writes: a table, its goal, one line with its figure, one JSON file."""

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

RESULTS = Path(__file__).parent / "results"


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
    """

    name: str
    profile: str
    columns: list[str]
    rows: list[list[str]]
    goal: str
    figure: str
    passed: bool
    details: dict[str, Any] = field(default_factory=dict)

    def write(self) -> Path:
        """Writes `results/NAME.json`, or `results/NAME-ci.json` for the small profile."""
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / (
            f"{self.name}.json" if self.profile == "full" else f"{self.name}-{self.profile}.json"
        )
        content = asdict(self) | {"machine": machine(), "date": datetime.now(UTC).date().isoformat()}
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(content, indent=2) + "\n")
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
