"""Fails where a floor of a pyproject.toml is not the version installed: nothing below that one is tried."""

import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

untried = set()
for path in map(Path, sys.argv[1:]):
    project = tomllib.loads(path.read_text())["project"]
    lists = [project["dependencies"], *project.get("optional-dependencies", {}).values()]
    for requirement in (Requirement(line) for lines in lists for line in lines):
        floors = [Version(part.version) for part in requirement.specifier if part.operator == ">="]
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            sys.stdout.write(f"{path}: {requirement} is not installed here, so not tried\n")
            continue
        if floors and max(floors) != Version(installed):
            untried.add(f"{path}: {requirement} allows less than {installed}, the lowest that installs here")
if untried:
    sys.exit("\n".join(sorted(untried)))
