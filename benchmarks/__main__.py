"""Runs one benchmark, or all of them."""

import argparse
import importlib
import logging
import pkgutil
import sys
from pathlib import Path

from benchmarks import tasks


def main() -> int:
    """Runs the benchmarks named on the command line; 1 when a goal of the profile is missed."""
    names = sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(tasks.__path__))
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", nargs="?", choices=names, help="one benchmark; all without")
    parser.add_argument("--profile", choices=["ci", "full"], default="full", help="small, or as reported")
    parser.add_argument("--data", type=Path, default=None, help="slide stores to use instead of the default")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")

    missed = []
    for name in [arguments.name] if arguments.name else names:
        module = importlib.import_module(f"benchmarks.tasks.{name.replace('-', '_')}")
        report = module.run(arguments.profile, arguments.data)
        report.show()
        report.write()
        if not report.passed:
            missed.append(name)
    if missed:
        print(f"missed: {', '.join(missed)}", file=sys.stderr)
    return bool(missed)


if __name__ == "__main__":
    sys.exit(main())
