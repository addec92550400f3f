"""Runs benchmarks one after the other, holds the small profile to its bands and says what everything took."""

import importlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import fingerprints
from benchmarks.bands import Finding, compare
from benchmarks.report import RESULTS, Report
from benchmarks.task import Task


def run_tasks(
    names: Sequence[str], tasks: Sequence[Task], *, profile: str, data: Path | None, accept: bool
) -> int:
    """Runs, shows and writes; in the small profile also compares with the committed outcome.

    Args:
        names: modules of `benchmarks/tasks`, with dashes.
        tasks: all declarations.
        profile: `ci` or `full`.
        data: what to run on instead of the default.
        accept: whether outcomes of the small profile become the reference.

    Returns:
        1 when a goal is missed or a figure is outside its band, else 0.
    """
    missed, seconds, findings = [], {}, []
    code = fingerprints.code()
    for name in names:
        start = time.perf_counter()
        module = importlib.import_module(f"benchmarks.tasks.{name.replace('-', '_')}")
        report = module.run(profile, data)
        report.seconds = seconds[name] = round(time.perf_counter() - start, 1)
        report.code, report.data = code, report.data or fingerprints.data(data)
        task = declared(report, tasks)
        report.seeds = report.seeds or list(report.details.get("seeds") or (task.seeds if task else ()))
        report.show()
        if not report.passed:
            missed.append(name)
        if accept and not report.passed:
            print(f"{name}: not accepted, for its goal is missed", file=sys.stderr)
        report.write(accept=accept and report.passed)
        if profile == "ci" and not accept:
            findings += _hold(report, task)
        if profile == "full":
            print(f"{name}: `python -m benchmarks --render` puts it on the leaderboard")
    print("seconds: " + ", ".join(f"{name} {taken:.0f}" for name, taken in seconds.items()))
    print(f"total: {sum(seconds.values()) / 60:.1f} minutes")
    outside = [finding for finding in findings if not finding.inside]
    if outside:
        print("outside the committed band:", *map(str, outside), sep="\n  ", file=sys.stderr)
        print(
            "if that is meant: python -m benchmarks NAME --profile ci --accept, and commit the result",
            file=sys.stderr,
        )
    if missed:
        print(f"missed: {', '.join(missed)}", file=sys.stderr)
    return int(bool(missed or outside))


def declared(report: Report, tasks: Sequence[Task]) -> Task | None:
    """The declaration of a report, whose name may end with the device."""
    own = [task for task in tasks if report.name == task.name or report.name.startswith(f"{task.name}-")]
    return max(own, key=lambda task: len(task.name), default=None)


def _hold(report: Report, task: Task | None, folder: Path = RESULTS) -> list[Finding]:
    """Compares a run of the small profile with the committed one, and says so."""
    reference = folder / report.file
    if task is None or not task.tracked:
        print(f"{report.name}: tracks no figure: not compared")
        return []
    if not reference.is_file():
        print(
            f"{report.name}: no {reference.name} in {folder.name}: not compared; "
            f"make it with: python -m benchmarks {task.module} --profile ci --accept"
        )
        return []
    known = json.loads(reference.read_text(encoding="utf-8"))
    found = json.loads(json.dumps(report.content()))  # as a file would hold it
    findings = compare(report.name, found, known, task.tracked)
    for finding in findings:
        print(finding)
    if known.get("data") and found["data"] != known["data"]:
        print(f"{report.name}: the data are not those of the reference: {found['data']} and {known['data']}")
    return findings
