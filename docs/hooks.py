"""Pages of the site that are made: the front page, CONTRIBUTING, and one for every public module."""

import ast
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("past-core", "past-genex", "past-vihc", "past-surv")
COPIED = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md"}
OUTSIDE = (
    r"\[([^\]]+)\]\((?!https?:|#|mailto:)"
    r"((?:\.\./){{{up},}}|(?=packages/|benchmarks/|recipes/|LEADERBOARD|VERSION))([^)]+)\)"
)
"""A link out of the folder of the pages; `up` is how many folders up that is from the page."""


def on_config(config: Any) -> Any:
    """Adds the reference to the navigation."""
    pages = {
        package: [{_title(module): f"reference/{module}.md"} for module in modules(package)]
        for package in PACKAGES
    }
    config.nav.append({"Reference": [{package: listed} for package, listed in pages.items()]})
    return config


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages."""
    for name, source in COPIED.items():
        text = (
            (ROOT / source)
            .read_text(encoding="utf-8")
            .replace("](docs/", "](")
            .replace('src="docs/', 'src="')
        )
        files.append(File.generated(config, name, content=text))
    for package in PACKAGES:
        for module in modules(package):
            files.append(
                File.generated(config, f"reference/{module}.md", content=f"# {module}\n\n::: {module}\n")
            )
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Links to files that are not part of the site become their names."""
    up = page.file.src_uri.count("/") + 1
    return re.sub(OUTSIDE.format(up=up), r"\1 (`\3`)", markdown)


def modules(package: str) -> list[str]:
    """Public modules of a package that define something public, by name."""
    source = ROOT / "packages" / package / "src"
    found = []
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if any(part.startswith("_") for part in parts) or "assets" in parts:
            continue
        if _defines(path):
            found.append(".".join(parts))
    return found


def _defines(path: Path) -> bool:
    """Whether a module has a public class or function of its own."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return any(isinstance(node, kinds) and not node.name.startswith("_") for node in body)


def _title(module: str) -> str:
    return module.partition(".")[2] or module
