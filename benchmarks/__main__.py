"""Runs one benchmark or all of them, lists them, or makes the leaderboard from what was measured."""

import argparse
import logging
import sys
from pathlib import Path

from benchmarks.task import read_tasks


def main(arguments: list[str] | None = None) -> int:
    """Does what the command line says; 1 when a goal is missed or a tracked figure is outside its band."""
    tasks = read_tasks()
    names = sorted({task.module for task in tasks})
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", nargs="?", choices=names, help="one benchmark; all without")
    parser.add_argument("--profile", choices=["ci", "full"], default="full", help="small, or as reported")
    parser.add_argument("--data", type=Path, default=None, help="slide stores to use instead of the default")
    parser.add_argument(
        "--accept",
        action="store_true",
        help="with --profile ci: keep the outcome as the reference of its bands",
    )
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        "--list", action="store_true", help="say what each task runs, and what is absent; run nothing"
    )
    instead.add_argument(
        "--render",
        action="store_true",
        help="make LEADERBOARD.md and leaderboard.html from results; run nothing",
    )
    instead.add_argument(
        "--pictures", action="store_true", help="make the leaderboard's pictures; run no benchmark"
    )
    asked = parser.parse_args(arguments)
    if asked.accept and asked.profile != "ci":
        parser.error("--accept goes with --profile ci; full results are kept as they are")
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")

    if asked.list:
        from benchmarks.systems import show_systems

        show_systems([task for task in tasks if asked.name in (None, task.module)])
        return 0
    if asked.render:
        from benchmarks.leaderboard import render

        for path in render():
            print(path)
        return 0
    if asked.pictures:
        from benchmarks.pictures import make_pictures

        for path in make_pictures():
            print(path)
        return 0
    from benchmarks.running import run_tasks

    chosen = [asked.name] if asked.name else names
    return run_tasks(chosen, tasks, profile=asked.profile, data=asked.data, accept=asked.accept)


if __name__ == "__main__":
    sys.exit(main())
