"""leaderboard.html: one static page, style and script inside, pictures beside it, nothing from elsewhere."""

import base64
import hashlib
from html import escape
from pathlib import Path

from benchmarks.leaderboard.content import REPORTED_LABEL, Board, Column, Grid, Leaderboard, Reported
from benchmarks.leaderboard.plots import svg
from benchmarks.pictures.catalogue import FOLDER, Picture
from benchmarks.results_files import number

HERE = Path(__file__).parent


def html(board: Leaderboard, pictures: list[Picture]) -> str:
    """The whole page.

    The content policy admits this style and this script by their hashes, and pictures beside the page.

    Args:
        board: what it says.
        pictures: those that exist.
    """
    style, script = ((HERE / f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    policy = (
        f"default-src 'none'; img-src 'self' file: data:; style-src '{_hash(style)}'; "
        f"script-src '{_hash(script)}'; base-uri 'none'; form-action 'none'"
    )
    sections = []
    for group, boards in board.grouped():
        sections.append(f'<h2 id="{_anchor(group)}">{escape(group)}</h2>')
        sections += [_section(each, pictures) for each in boards]
    links = "\n".join(f'<a href="#{_anchor(g)}">{escape(g)}</a>' for g, _ in board.grouped())
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>PAST leaderboard</title>
<style>{style}</style>
</head>
<body>
<header>
<button class="theme" type="button">Light or dark</button>
<h1>PAST leaderboard</h1>
<p>Every figure in a table named “measured” was measured by this software, on the data, split and device
that stand beside it. Figures that papers report stand in boxes of their own: they are of other data and never
comparable with those measured here. Synthetic data say whether a method works and how fast, not
how good it is on tissue.</p>
<p class="small">↑ higher is better, ↓ lower is better, → 0 should be zero. Press a heading to sort. Made by
<code>python -m benchmarks --render</code> from <code>benchmarks/results</code>.</p>
</header>
<nav aria-label="Sections"><a href="#tasks">tasks</a>
{links}</nav>
<main>
<h2 id="tasks">Tasks</h2>
{_overview(board)}
{chr(10).join(sections)}
</main>
<footer>Static page; it loads nothing from elsewhere.</footer>
<script>{script}</script>
</body>
</html>
"""


def _overview(board: Leaderboard) -> str:
    headings = "".join(_heading(Column(text)) for text in ("task", "outcome", "goal", "device", "date"))
    rows = []
    for each in board.boards:
        link = f'<a href="#{_anchor(each.anchor)}">{escape(each.task.title)}</a>'
        if not each.results:
            text = f"not measured; run <code>{escape(each.task.run_command())}</code>"
            rows.append(f'<tr class="missing"><td>{link}</td><td>{text}</td><td></td><td></td><td></td></tr>')
        for result in each.results:
            state = "met" if result.passed else "missed"
            cells = f'<td>{link}</td><td>{escape(result.figure)}</td><td class="{state}">{state}</td>'
            where = f'<td>{escape(result.machine)}</td><td class="date">{escape(result.date)}</td>'
            rows.append(f"<tr>{cells}{where}</tr>")
    return _table(headings, rows, "All tasks")


def _section(board: Board, pictures: list[Picture]) -> str:
    parts = [f'<section id="{_anchor(board.anchor)}">', f"<h3>{escape(board.task.title)}</h3>"]
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{_code(text)}</dd>" for name, text in board.facts())
    parts.append(f"<dl>{facts}</dl>")
    if not board.results:
        parts.append(f"<p>Not measured; run <code>{escape(board.task.run_command())}</code>.</p>")
    for grid in board.tables:
        parts += ["<h4>Measured</h4>", _grid(grid, f"{board.task.title}, measured")]
    parts += [svg(dots) for dots in board.plots]
    if board.absent:
        headings = "".join(_heading(Column(t)) for t in ("system", "why", "how to get it", "then"))
        rows = [
            f"<tr><td>{escape(a.name)}</td><td>{_code(a.why)}</td><td>{_code(a.get)}</td>"
            f"<td><code>{escape(a.run)}</code></td></tr>"
            for a in board.absent
        ]
        parts += ["<h4>Not measured, and why</h4>", _table(headings, rows, "Systems that are not measured")]
    parts += [_reported(each) for each in board.reported]
    parts += [_picture(picture) for picture in pictures if picture.name in board.task.pictures]
    return "\n".join([*parts, "</section>"])


def _reported(reported: Reported) -> str:
    grid = reported.grid
    source = f'<p class="small">{escape(reported.source)}. Data: {escape(reported.data)}</p>'
    label = f"<h4>{escape(REPORTED_LABEL)}</h4><p>{escape(grid.caption)}</p>"
    return f'<div class="reported">{label}{_grid(grid, grid.caption + ", reported")}{source}</div>'


def _picture(picture: Picture) -> str:
    image = f'<img src="{FOLDER}/{picture.file}" alt="{escape(picture.title)}" loading="lazy">'
    return f"<figure>{image}<figcaption>{escape(picture.caption)}</figcaption></figure>"


def _grid(grid: Grid, label: str) -> str:
    headings = "".join(_heading(column) for column in grid.columns)
    rows = []
    for place, row in enumerate(grid.rows):
        kind = ' class="missing"' if place in grid.missing else ""
        rows.append(f"<tr{kind}>{''.join(_cell(cell) for cell in row)}</tr>")
    return _table(headings, rows, label)


def _table(headings: str, rows: list[str], label: str) -> str:
    body = "\n".join(rows)
    return (
        f'<div class="scroll"><table aria-label="{escape(label)}"><thead><tr>{headings}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>"
    )


def _heading(column: Column) -> str:
    better = f' data-better="{escape(column.better)}"' if column.better else ""
    title = f' title="{escape(column.unit)}"' if column.unit else ""
    return f'<th scope="col"{better}{title}><button type="button">{escape(column.heading)}</button></th>'


def _cell(text: str) -> str:
    """A cell that begins with a number, or with `x` and one, sorts and stands as a number."""
    value = number(text) if text[:1] in "0123456789+-.\N{MINUS SIGN}x" else None
    if value is None or (text.startswith("x") and not text.startswith("x ")):
        return f"<td>{escape(text)}</td>"
    return f'<td class="n" data-value="{value!r}">{escape(text)}</td>'


def _code(text: str) -> str:
    """Escapes, and sets what stands in backticks as code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if n % 2 else part for n, part in enumerate(parts))


def _anchor(name: str) -> str:
    return escape(name.replace(" ", "-"))


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
