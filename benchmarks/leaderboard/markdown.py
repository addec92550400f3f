"""LEADERBOARD.md."""

from benchmarks.leaderboard.content import REPORTED_LABEL, Board, Grid, Leaderboard
from benchmarks.pictures.catalogue import FOLDER, Picture

INTRO = """\
# Leaderboard

Made by `python -m benchmarks --render` from [benchmarks/results](benchmarks/results); do not edit.
The same with plots and sortable tables is [leaderboard.html](leaderboard.html).

Every figure in a table named "measured" was measured by this software, on the data, split and device that
stand beside it. Figures that papers report stand in tables of their own, from
[benchmarks/reported.json](benchmarks/reported.json): they are of other data and never comparable with those
measured here. Synthetic data say whether a method works and how fast, not how good it is on tissue.
↑ higher is better, ↓ lower is better, → 0 should be zero.
"""


def markdown(board: Leaderboard, pictures: list[Picture]) -> str:
    """The whole file.

    Args:
        board: what it says.
        pictures: those that exist.
    """
    lines = [INTRO, "## Tasks", "", *_overview(board)]
    for group, boards in board.grouped():
        lines += ["", f"## {group[0].upper()}{group[1:]}"]
        for each in boards:
            lines += ["", *_section(each, pictures)]
    return "\n".join(lines).rstrip() + "\n"


def _overview(board: Leaderboard) -> list[str]:
    rows = []
    for each in board.boards:
        link = f"[{escape(each.task.title)}](#{heading_anchor(each.task.title)})"
        if not each.results:
            rows.append((link, f"not measured; run `{each.task.run_command()}`", "", "", ""))
        for result in each.results:
            state = "met" if result.passed else "missed"
            rows.append((link, escape(result.figure), state, escape(result.machine), result.date))
    return _pipes(("task", "outcome", "goal", "device", "date"), rows)


def _section(board: Board, pictures: list[Picture]) -> list[str]:
    lines = [f"### {escape(board.task.title)}", ""]
    lines += [f"- {name}: {escape(text)}" for name, text in board.facts()]
    if not board.results:
        lines += ["", f"Not measured; run `{board.task.run_command()}`."]
    for grid in board.tables:
        lines += ["", "Measured:", "", *_grid(grid)]
    if board.absent:
        lines += ["", "Not measured, and why:", ""]
        rows = [(escape(a.name), escape(a.why), escape(a.get), f"`{a.run}`") for a in board.absent]
        lines += _pipes(("system", "why", "how to get it", "then"), rows)
    for each in board.reported:
        lines += ["", f"**{REPORTED_LABEL}.** {escape(each.grid.caption)}. {escape(each.source)}. "]
        lines[-1] += f"Data: {escape(each.data)}"
        lines += ["", *_grid(each.grid)]
    for picture in pictures:
        if picture.name in board.task.pictures:
            lines += [
                "",
                f"![{escape(picture.title)}]({FOLDER}/{picture.file})",
                f"*{escape(picture.caption)}*",
            ]
    return lines


def _grid(grid: Grid) -> list[str]:
    rows = [tuple(escape(cell) for cell in row) for row in grid.rows]
    return _pipes(tuple(escape(column.heading) for column in grid.columns), rows)


def _pipes(headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    lines = ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def escape(text: str) -> str:
    """Text that Markdown would take for markup, made plain; code in backticks stays."""
    parts = text.replace("\n", " ").split("`")
    for number in range(0, len(parts), 2):
        for mark in ("\\", "|", "*", "_", "<", ">", "[", "]"):
            entity = {"<": "&lt;", ">": "&gt;"}.get(mark, f"\\{mark}")
            parts[number] = parts[number].replace(mark, entity)
    for number in range(1, len(parts), 2):
        parts[number] = parts[number].replace("|", "\\|")
    return "`".join(parts)


def heading_anchor(title: str) -> str:
    """The anchor that GitHub gives a heading."""
    kept = "".join(c for c in title.lower() if c.isalnum() or c in " -_")
    return kept.replace(" ", "-")
