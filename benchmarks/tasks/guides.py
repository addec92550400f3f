"""Does every command of the guides work, in the order of the page, and how long does a guide take?

Profile `full` runs the bash blocks of each page in an empty folder, with the programs of this environment, an
empty home and the user's cache of synthetic data. It stops a page at its first command that fails, and names
page, line and command. What cannot be run on one machine without weights or a cluster is listed with its
reason. Profile `ci` only checks that each command is one that the programs know: its verb, its options, what
it must be given, and the recipe's keys.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.guide_checks import problems
from benchmarks.guide_pages import Command
from benchmarks.guide_places import PAGES
from benchmarks.guide_runs import PageRun, run_page
from benchmarks.report import Report
from benchmarks.task import Metric, Plot, Task

TASK = Task(
    title="The guides' commands",
    group="other",
    data="what the guides make themselves: synthetic slides, the demo encoder and generator",
    split="every bash block of the page, in order, in an empty folder",
    system="guide",
    systems=(
        "README.md",
        "docs/bring-your-own-slide.md",
        "docs/cluster.md",
        "docs/guides/probe-your-encoder.md",
        "docs/guides/stain-a-slide.md",
        "docs/guides/score-a-cohort.md",
        "docs/guides/survival-from-scratch.md",
        "docs/guides/add-an-encoder.md",
    ),
    metrics=(
        Metric("run", unit="commands that were run and went well"),
        Metric("not run", "lower", unit="commands that cannot run here, each with its reason"),
        Metric("seconds", "lower", unit="of the whole page; what was in the cache is not made again"),
    ),
    plot=Plot("seconds"),
    note="Pages that speak of the reader's own files are run on stand-ins of the same names, and trainings "
    "on the embedded data are cut short; `details` of the result lists both, and what was not run.",
)

COLUMNS = ["guide", "commands", "run", "not run", "seconds"]


def run(profile: str, data: Path | None = None) -> Report:
    """Runs or checks.

    Args:
        profile: `full` runs; `ci` checks.
        data: not used: the guides bring their own.
    """
    return _checked() if profile == "ci" else _run()


def _checked() -> Report:
    found: dict[str, list[Command]] = {page.path: page.commands() for page in PAGES}
    wrong = [problem for commands in found.values() for command in commands for problem in problems(command)]
    for problem in wrong:
        print(problem, file=sys.stderr)
    known = sum(map(len, found.values()))
    return Report(
        name="guides",
        profile="ci",
        columns=COLUMNS,
        rows=[
            [path, str(len(commands)), "-", str(sum(c.why_not is not None for c in commands)), "-"]
            for path, commands in found.items()
        ],
        goal="every command has a verb, options and keys that the programs know",
        figure=f"{known - len(wrong)} of {known} commands are known"
        + (f"; {'; '.join(wrong)}" if wrong else ""),
        passed=not wrong,
        details={"wrong": wrong, "not_run": _reasons(found)},
    )


def _run() -> Report:
    runs: list[PageRun] = []
    for page in PAGES:
        with tempfile.TemporaryDirectory(prefix="guide-") as folder:
            runs.append(run_page(page, Path(folder)))
        made = runs[-1]
        print(f"{page.path}: {len(made.ran)} commands in {made.seconds:.0f} s", flush=True)
        if made.failed is not None:
            print(f"failed: {made.failed.place}\n{made.output}", file=sys.stderr, flush=True)
    failed = [made.failed.place for made in runs if made.failed is not None]
    seconds = sum(made.seconds for made in runs)
    total = sum(len(made.ran) for made in runs)
    figure = f"{total} commands of {len(runs)} pages in {seconds / 60:.1f} minutes"
    return Report(
        name="guides",
        profile="full",
        columns=COLUMNS,
        rows=[_row(made) for made in runs],
        goal="every command ends with status 0",
        figure=figure + (f"; failed: {'; '.join(failed)}" if failed else ", all well"),
        passed=not failed,
        details={
            "failed": failed,
            "pages": {made.page: _details(made) for made in runs},
            "stand_ins": {page.path: page.instead for page in PAGES if page.instead},
        },
    )


def _row(made: PageRun) -> list[str]:
    of = len(made.ran) + len(made.not_run) + (made.failed is not None)
    failed = f" (line {made.failed.line} failed)" if made.failed is not None else ""
    return [made.page, str(of), f"{len(made.ran)}{failed}", str(len(made.not_run)), f"{made.seconds:.0f}"]


def _details(made: PageRun) -> dict[str, Any]:
    return {
        "commands": [
            {"line": command.line, "command": command.text, "seconds": round(seconds, 1)}
            | ({"appended": command.options} if command.options else {})
            for command, seconds in made.ran
        ],
        "not_run": _reasons({made.page: made.not_run})[made.page],
    }


def _reasons(found: dict[str, list[Command]]) -> dict[str, list[dict[str, Any]]]:
    return {
        path: [
            {"line": command.line, "command": command.text.splitlines()[0], "why": command.why_not}
            for command in commands
            if command.why_not is not None
        ]
        for path, commands in found.items()
    }
