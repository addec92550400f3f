"""The leaderboard: what it says of made results, and that the committed one is current."""

import dataclasses
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from benchmarks.leaderboard.content import REPORTED, ReportedError, leaderboard, read_reported
from benchmarks.leaderboard.html import html
from benchmarks.leaderboard.markdown import escape, markdown
from benchmarks.leaderboard.plots import svg
from benchmarks.leaderboard.render import committed, render
from benchmarks.pictures.catalogue import CATALOGUE, FOLDER, present
from benchmarks.results_files import RESULTS, ResultError, interval, number, read_result, read_results
from benchmarks.task import DeclarationError, Metric, Plot, Task, Wanted, read_module, read_tasks
from made_browser import CHROMIUM, Browser

ROOT = Path(__file__).resolve().parents[1]


class Page(HTMLParser):
    """Tags in order, and whether every one that opens is closed."""

    VOID = ("meta", "img", "link", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "td":
            self.cells.append(data)


def result(folder: Path, name: str = "made", device: str = "CPU (x86_64)", **changes: object) -> Path:
    content = {
        "name": name,
        "profile": "full",
        "columns": ["setting", "system", "r", "95 % CI"],
        "rows": [["intra", "ours", "0.290", "0.280 to 0.300"], ["intra", "mean", "0.000", "-0.010 to 0.010"]],
        "goal": "r above 0.2",
        "figure": "r 0.290",
        "passed": True,
        "details": {},
        "machine": {"device": device, "cores": 2},
        "date": "2026-11-24",
    } | changes
    path = folder / f"{name}.json"
    path.write_text(json.dumps(content))
    return path


def task(**changes: object) -> Task:
    made = Task(
        title="A <task> & more",
        group="expression",
        data="made | up",
        split="none",
        systems=("ours",),
        metrics=(Metric("r", unit="Pearson's r", interval="95 % CI"),),
        by="setting",
        plot=Plot("r", mark=0.0),
        wanted=(Wanted("ST-Net", label="stnet", why="too slow", get="wait", run="past genex -o out"),),
        name="made",
        module="made",
    )
    return dataclasses.replace(made, **changes)


def papers(folder: Path, columns: tuple[str, ...] = ("system", "their r"), **changes: object) -> Path:
    table = {"tasks": ["made"], "title": "Theirs", "source": "Somebody 2024", "data": "other data"}
    table |= {"columns": list(columns), "rows": [["PAST", "0.9999"]]} | changes
    path = folder / "reported.json"
    path.write_text(json.dumps({"tables": [table]}))
    return path


def test_a_table_has_its_rows_its_arrow_and_the_systems_that_are_missing(tmp_path: Path) -> None:
    board = leaderboard([task()], [read_result(result(tmp_path))], papers(tmp_path)).boards[0]
    (grid,) = board.tables
    assert [column.heading for column in grid.columns] == ["setting", "system", "r ↑", "95 % CI"]
    assert grid.rows[:2] == read_result(tmp_path / "made.json").rows
    assert grid.rows[2] == ("", "ST-Net", "not measured", "")
    assert grid.missing == {2}
    assert [(a.why, a.run) for a in board.absent] == [("too slow", "past genex -o out")]


def test_a_measured_system_is_not_said_to_be_missing(tmp_path: Path) -> None:
    rows = [["intra", "stnet", "0.1", ""]]
    board = leaderboard([task()], [read_result(result(tmp_path, rows=rows))], papers(tmp_path)).boards[0]
    assert board.absent == ()
    assert board.tables[0].missing == frozenset()


def test_reported_and_measured_never_share_a_table(tmp_path: Path) -> None:
    whole = leaderboard([task()], [read_result(result(tmp_path))], papers(tmp_path))
    board = whole.boards[0]
    assert all("0.9999" not in cell for grid in board.tables for row in grid.rows for cell in row)
    assert all("0.290" not in cell for each in board.reported for row in each.grid.rows for cell in row)
    text = markdown(whole, [])
    measured, theirs = text.index("0.290 | 0.280"), text.index("0.9999")
    assert measured < text.index("never comparable with the measured table") < theirs
    page = html(whole, [])
    box = re.search(r'<div class="reported">.*?</table></div>', page, re.S)
    assert box
    assert "0.9999" in box.group()
    assert "0.290" not in box.group()
    assert page.count(">0.9999<") == 1


def test_no_committed_table_mixes_measured_and_reported() -> None:
    by_task = read_reported(REPORTED)
    names = {each.name for each in read_tasks()}
    assert set(by_task) <= names
    measured = {id(row) for b in committed().boards for grid in b.tables for row in grid.rows}
    reported = {id(row) for b in committed().boards for each in b.reported for row in each.grid.rows}
    assert measured
    assert reported
    assert not measured & reported
    assert all(each.source for tables in by_task.values() for each in tables)


def test_devices_are_rows_of_their_own(tmp_path: Path) -> None:
    result(tmp_path)
    result(tmp_path, "made-NVIDIA-H200", "NVIDIA H200", rows=[["intra", "ours", "0.5", ""]])
    board = leaderboard([task()], read_results(tmp_path), papers(tmp_path.parent)).boards[0]
    (grid,) = board.tables
    assert grid.columns[-1].text == "device"
    assert [row[-1] for row in grid.rows[:3]] == ["CPU (x86_64), 2 cores"] * 2 + ["NVIDIA H200, 2 cores"]


def test_a_result_of_another_task_with_a_longer_name_is_not_taken(tmp_path: Path) -> None:
    result(tmp_path), result(tmp_path, "made-speed")
    boards = leaderboard([task()], read_results(tmp_path), papers(tmp_path.parent)).boards
    assert [(b.task.name, len(b.results)) for b in boards] == [("made", 1), ("made-speed", 1)]


def test_a_task_without_a_result_says_what_to_run(tmp_path: Path) -> None:
    whole = leaderboard([task()], [], papers(tmp_path))
    for text in (markdown(whole, []), html(whole, [])):
        assert "not measured; run" in text
        assert "python -m benchmarks made" in text
        assert "ST-Net" in text


def test_markup_in_results_stays_text(tmp_path: Path) -> None:
    evil = '<script>alert("x")</script>|`'
    found = result(tmp_path, rows=[["intra", evil, "0.1", "0 to 1"], ["a", "b", "0.2", ""]], figure=evil)
    whole = leaderboard([task()], [read_result(found)], papers(tmp_path, title=evil))
    page = html(whole, [])
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    Page(page)
    text = markdown(whole, [])
    assert "<script>" not in text
    for line in text.splitlines():
        if line.startswith("| intra"):
            assert len(re.findall(r"(?<!\\)\|", line)) == 5


def test_unknown_fields_and_fields_of_newer_versions_do_no_harm(tmp_path: Path) -> None:
    old = read_result(result(tmp_path, machine={}, date="", profile="full"))
    assert (old.device, old.cores, old.machine) == ("", None, "device not recorded")
    code = {"commit": "0123456789abcdef", "changed": False, "sources": "beef"}
    new = result(tmp_path, seeds=[0, 1], data={"what": "x", "fingerprint": "f00d"}, code=code, novel={"a": 1})
    board = leaderboard([task()], [read_result(new)], papers(tmp_path)).boards[0]
    origin = dict(board.facts())["Result"]
    assert all(part in origin for part in ("made.json", "seeds 0, 1", "f00d", "0123456789", "beef"))


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("{", "JSONDecodeError"),
        ("[]", "TypeError"),
        ('{"name": "a"}', "KeyError"),
        ('{"name": "a", "columns": ["x", "y"], "rows": [["1", "2"], ["1"]]}', "row 1 has 1 cells for 2"),
    ],
)
def test_a_file_that_is_no_result_is_refused_by_name(tmp_path: Path, content: str, match: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(content)
    with pytest.raises(ResultError, match=match) as caught:
        read_result(path)
    assert "bad.json" in str(caught.value)


@pytest.mark.parametrize("changes", [{"source": ""}, {"rows": [["PAST"]]}, {"rows": 3}])
def test_reported_figures_without_source_or_cells_are_refused(tmp_path: Path, changes: dict) -> None:
    with pytest.raises(ReportedError, match=r"reported\.json"):
        read_reported(papers(tmp_path, **changes))


@pytest.mark.parametrize(
    ("cell", "value"),
    [("x 23.6", 23.6), ("341,212,673", 341212673), ("61.2%", 0.612), ("-0.006", -0.006), ("1e-05", 1e-5),
     ("156 of 3232", 156), ("-", None), ("", None), ("none", None), (True, 1.0), (None, None),
     ("−0.5", -0.5)],
)  # fmt: skip
def test_numbers_of_cells(cell: object, value: float | None) -> None:
    assert number(cell) == (None if value is None else pytest.approx(value))


def test_intervals_of_cells() -> None:
    assert interval("-0.006 to 0.014") == (-0.006, 0.014)
    assert interval("0.5") is None
    assert interval("a to b") is None


def test_every_committed_result_renders() -> None:
    found = read_results(RESULTS) + read_results(RESULTS, profile="ci")
    assert {r.path for r in found} == set(RESULTS.glob("*.json"))
    shown = {r.path for board in committed().boards for r in board.results}
    assert shown == {r.path for r in found if r.profile == "full"}


def test_the_committed_leaderboard_is_current(tmp_path: Path) -> None:
    for path in render(tmp_path):
        message = f"{path.name} is stale: run `python -m benchmarks --render` and commit it"
        assert path.read_text() == (ROOT / path.name).read_text(), message


def test_the_page_parses_asks_for_nothing_elsewhere_and_sorts() -> None:
    text = (ROOT / "leaderboard.html").read_text()
    page = Page(text)
    sources = [a for _, attrs in page.tags for name in ("src", "href", "srcset") if (a := attrs.get(name))]
    assert sources
    for source in sources:
        assert source.startswith("#") or (ROOT / source).is_file(), source
    assert "url(" not in text
    assert "@import" not in text
    assert "fetch(" not in text
    kinds = [tag for tag, _ in page.tags]
    assert "iframe" not in kinds
    assert kinds.count("script") == kinds.count("style") == 1
    policy = next(a["content"] for t, a in page.tags if t == "meta" and "content" in a and "http-equiv" in a)
    assert policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert all("style" not in a and not any(name.startswith("on") for name in a) for _, a in page.tags)
    assert kinds.count("th") == len(re.findall(r"<th [^>]*><button", text))
    assert "aria-sort" in text
    assert "prefers-color-scheme" in text
    inside = {a["id"] for _, a in page.tags if a.get("id")}
    assert {s[1:] for s in sources if s.startswith("#")} <= inside


def test_every_system_that_a_task_names_is_a_row_of_its_result() -> None:
    """A declaration that drifted from what the benchmark runs is found here."""
    for board in committed().boards:
        for found in board.results:
            if not board.task.systems or not found.on_cpu:
                continue
            cells = [row[found.columns.index(board.task.system)] for row in found.rows]
            missing = [name for name in board.task.systems if not any(name in cell for cell in cells)]
            assert not missing, f"{board.task.name}: {missing} are not in {cells}"
        for metric in board.task.metrics:
            columns = [column for found in board.results for column in found.columns]
            if columns:
                assert metric.column in columns, f"{board.task.name}: no column {metric.column!r}"


def test_declarations_are_read_without_imports_and_refused_with_the_place(tmp_path: Path) -> None:
    path = tmp_path / "my_task.py"
    path.write_text('"""Does it?\n\nMore."""\nimport nothing_like_this\nX = 1\n')
    (bare,) = read_module(path)
    assert (bare.name, bare.group, bare.question) == ("my-task", "other", "Does it?")
    declared = 'TASK = Task(title="T", group="speed", data="", split="", systems=(), metrics=())\n'
    path.write_text('"""Does it?"""\nimport nothing_like_this\n' + declared)
    assert read_module(path)[0].title == "T"
    path.write_text(declared.replace('"T"', "OTHER"))
    with pytest.raises(DeclarationError, match=r"my_task\.py, line 1.*OTHER.*literals"):
        read_module(path)
    path.write_text(declared.replace('"speed"', '"sped"'))
    with pytest.raises(DeclarationError, match="'sped'; expected one of"):
        read_module(path)


def test_escape_keeps_code_and_breaks_markup() -> None:
    assert escape("a_b `c_d|` <e>") == "a\\_b `c_d\\|` &lt;e&gt;"


def test_plots_place_values_in_order(tmp_path: Path) -> None:
    board = leaderboard([task()], [read_result(result(tmp_path))], papers(tmp_path)).boards[0]
    drawn = svg(board.plots[0])
    places = [float(x) for x in re.findall(r'circle class="dot" cx="([\d.]+)"', drawn)]
    spans = re.findall(r'class="span" x1="([\d.]+)" y1="\d+" x2="([\d.]+)"', drawn)
    assert len(places) == 2
    assert places[0] > places[1]
    assert all(float(low) < x < float(high) for x, (low, high) in zip(places, spans, strict=True))


def test_pictures_are_small_and_belong_to_tasks() -> None:
    named = {name for each in read_tasks() for name in each.pictures}
    named.add("overview")  # the front page's
    assert named == {picture.name for picture in CATALOGUE}
    sizes = [(ROOT / FOLDER / picture.file).stat().st_size for picture in present()]
    assert len(sizes) == len(CATALOGUE)
    assert max(sizes) < 300_000
    assert sum(sizes) < 1_500_000


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    started = Browser(tmp_path_factory.mktemp("chromium"))
    yield started
    started.close()


def test_chromium_draws_the_page_without_an_error(browser: Browser) -> None:
    page = (ROOT / "leaderboard.html").as_uri()
    browser.visit(page)
    assert browser.noted == []
    assert [url for url in browser.requested if not url.startswith(("data:", "about:"))] == [page]
    assert browser.run("document.title") == "PAST leaderboard"
    assert browser.run("document.querySelectorAll('svg').length") > 3
    pictures = "Array.from(document.images)"
    assert browser.run(f"{pictures}.length") == (ROOT / "leaderboard.html").read_text().count("<img ") > 3
    browser.run(f"{pictures}.forEach(picture => {{ picture.loading = 'eager'; }})")  # those further down, too
    browser.until(f"{pictures}.every(picture => picture.complete && picture.naturalWidth > 0)")
    # Nothing is cut off: what is too wide scrolls in its own frame.
    assert browser.run("document.documentElement.scrollWidth <= innerWidth")


ROWS = """(number => {
    const table = document.querySelectorAll("table")[number];
    return Array.from(table.tBodies[0].rows, row => ({
        missing: row.classList.contains("missing"),
        cells: Array.from(row.cells, cell => cell.dataset.value ?? cell.textContent.trim()),
    }));
})"""


def test_a_click_on_a_heading_sorts_its_table(browser: Browser) -> None:
    browser.visit((ROOT / "leaderboard.html").as_uri())
    tables = browser.run(
        "Array.from(document.querySelectorAll('table'), table => Array.from(table.tHead?.rows[0].cells ?? [],"
        " cell => [!!cell.querySelector('button'), cell.dataset.better ?? '']))"
    )
    pressed = 0
    for place, headings in enumerate(tables):
        for column, (button, better) in enumerate(headings):
            if not button:
                continue
            before = browser.run(f"{ROWS}({place})")
            first = "descending" if better == "higher" else "ascending"
            for order in (first, {"ascending": "descending", "descending": "ascending"}[first]):
                cell = f"document.querySelectorAll('table')[{place}].tHead.rows[0].cells[{column}]"
                box = browser.run(
                    f"(cell => {{ cell.scrollIntoView({{block: 'center', inline: 'center'}});"
                    " const box = cell.querySelector('button').getBoundingClientRect();"
                    f" return [box.x + box.width / 2, box.y + box.height / 2]; }})({cell})"
                )
                browser.click(*box)
                assert browser.run(f"{cell}.getAttribute('aria-sort')") == order
                after = browser.run(f"{ROWS}({place})")
                assert sorted(map(str, after)) == sorted(map(str, before))
                missing = [row["missing"] for row in after]
                assert missing == sorted(missing)
                values = [row["cells"][column] for row in after if not row["missing"]]
                numbers = [value for value in map(number_of, values) if value is not None]
                if len(numbers) == len([value for value in values if value not in ("", "-")]):
                    assert numbers == sorted(numbers, reverse=order == "descending"), (place, column)
            pressed += 1
    assert pressed > 50


def number_of(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None
