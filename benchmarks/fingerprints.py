"""Which data and which code a result belongs to."""

import hashlib
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SIMULATOR = ROOT / "packages" / "past-core" / "src" / "past_core" / "synthetic"
LARGEST = 10_000
"""Files of a data folder that are looked at."""


def code() -> dict[str, Any]:
    """The commit, whether anything differs from it, and a hash of the sources of benchmarks and packages.

    Without git the hash alone tells.
    """
    commit, changed = _git("rev-parse", "HEAD"), None
    if commit:
        changed = bool(_git("status", "--porcelain", "--", "benchmarks/**.py", "packages", "recipes"))
    roots = (ROOT / "benchmarks", ROOT / "packages", ROOT / "recipes")
    return {"commit": commit or None, "changed": changed, "sources": _sources(roots, (".py", ".yaml"))}


def data(path: Path | None) -> dict[str, str]:
    """What was run on: a folder's files by name, size and both ends, or the simulator's sources.

    Args:
        path: what `--data` gave; None for the embedded default.
    """
    from past_core.slides.identity import source_key

    if path is None:
        return {"what": "embedded default", "fingerprint": _sources((SIMULATOR,), (".py", ".tsv", ".txt"))}
    if not path.exists():  # a name such as `tcga`, which the task resolves
        return {"what": path.name, "fingerprint": ""}
    files = [path]
    if path.is_dir() and not source_key(path):
        files = sorted(each for each in path.iterdir() if not each.name.startswith("."))[:LARGEST]
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\0{source_key(file)}\0".encode())
    return {"what": path.name, "fingerprint": digest.hexdigest()[:16]}


def _sources(roots: tuple[Path, ...], endings: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for root in roots:
        for path in sorted(root.rglob("*")):
            if path.suffix in endings and path.is_file():
                digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
