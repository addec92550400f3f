"""Adds the versions of a requirements.lock to a pyproject.toml as constraints of uv's resolver."""

import json
import re
import sys
from pathlib import Path

lock, project = map(Path, sys.argv[1:])
lines = lock.read_text().splitlines()
pins = [line.rstrip(" \\") for line in lines if re.match(r"[A-Za-z0-9._-]+==", line)]
text = project.read_text()
table = "[tool.uv]\n"
if text.count(table) != 1 or not pins:
    sys.exit(f"{project} has no single {table.strip()} table, or {lock} no versions")
project.write_text(text.replace(table, f"{table}constraint-dependencies = {json.dumps(pins, indent=2)}\n"))
