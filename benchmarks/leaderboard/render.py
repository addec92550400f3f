"""Writes both forms of the leaderboard."""

from pathlib import Path

from benchmarks.leaderboard.content import REPORTED, Leaderboard, leaderboard
from benchmarks.leaderboard.html import html
from benchmarks.leaderboard.markdown import markdown
from benchmarks.pictures.catalogue import present
from benchmarks.results_files import RESULTS, read_results
from benchmarks.task import TASKS, read_tasks

ROOT = Path(__file__).resolve().parents[2]


def committed(tasks: Path = TASKS, results: Path = RESULTS, reported: Path = REPORTED) -> Leaderboard:
    """The leaderboard of the files that are there."""
    return leaderboard(read_tasks(tasks), read_results(results), reported)


def render(root: Path = ROOT, board: Leaderboard | None = None) -> list[Path]:
    """Writes LEADERBOARD.md and leaderboard.html, the same for the same files.

    Args:
        root: where to.
        board: what they say; by default what the committed files say.

    Returns:
        What was written.
    """
    board = board or committed()
    pictures = present()
    written = []
    for name, text in (
        ("LEADERBOARD.md", markdown(board, pictures)),
        ("leaderboard.html", html(board, pictures)),
    ):
        temporary = root / f"{name}.tmp"
        temporary.write_text(text, encoding="utf-8")
        written.append(temporary.replace(root / name))
    return written
