"""The commands of the guides: read, checked and run as a reader would."""

from pathlib import Path

import pytest

from benchmarks.guide_checks import invocations, problems
from benchmarks.guide_pages import Command, GuideError, Page, read_commands
from benchmarks.guide_places import PAGES
from benchmarks.guide_runs import PrepareError, run_page
from benchmarks.tasks import guides

ROOT = Path(__file__).resolve().parents[1]

TEXT = """
# A guide

```bash
echo one   # says so
# a comment alone
for x in a b; do
  echo $x
done
cat <<'END' > made.txt
echo not a command
END
echo two \\
  three
```

```
echo output
```

<!-- not run: needs a cluster -->
```bash
sbatch job
```
"""


def page(tmp_path: Path, text: str, **options: object) -> Page:
    (tmp_path / "root").mkdir(exist_ok=True)
    (tmp_path / "root/page.md").write_text(text)
    (tmp_path / "work").mkdir()
    return Page("page.md", **options)


def test_a_page_is_read_command_by_command() -> None:
    found = read_commands(TEXT, "page.md")
    assert [(c.line, c.text.splitlines()[0], c.why_not) for c in found] == [
        (5, "echo one   # says so", None),
        (7, "for x in a b; do", None),
        (10, "cat <<'END' > made.txt", None),
        (13, "echo two \\", None),
        (23, "sbatch job", "needs a cluster"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```bash\necho 'open\n```", "line 2: bash does not find the command complete"),
        ("```bash\necho a", "line 1: the block has no end"),
        ("<!-- not run: why -->\ntext\n", "line 1: `not run` stands before no bash block"),
    ],
)
def test_a_page_that_cannot_be_read_is_named(text: str, message: str) -> None:
    with pytest.raises(GuideError, match=message):
        read_commands(text, "page.md")


def test_a_page_runs_in_order_and_keeps_its_folder(tmp_path: Path) -> None:
    made = run_page(page(tmp_path, TEXT), tmp_path / "work", root=tmp_path / "root")
    assert made.failed is None
    assert [command.line for command, _ in made.ran] == [5, 7, 10, 13]
    assert all(0 <= seconds <= made.seconds for _, seconds in made.ran)
    assert [command.why_not for command in made.not_run] == ["needs a cluster"]
    assert (tmp_path / "work/made.txt").read_text() == "echo not a command\n"


def test_the_first_failure_is_named_and_ends_the_page(tmp_path: Path) -> None:
    text = "```bash\ntrue\necho why >&2; false\ntouch after\n```\n"
    made = run_page(page(tmp_path, text), tmp_path / "work", root=tmp_path / "root")
    assert made.failed is not None
    assert made.failed.place == "page.md, line 3: echo why >&2; false"
    assert "why" in made.output
    assert len(made.ran) == 1
    assert not (tmp_path / "work/after").exists()


def test_stand_ins_options_and_skips(tmp_path: Path) -> None:
    text = "```bash\nuv run echo FILE OTHERFILE > a.txt   # says FILE\nview FILE\n```\n"
    options = {
        "prepare": "touch there",
        "instead": {"FILE": "there"},
        "shorten": {"echo": "-n short"},
        "skip": {"^view": "serves"},
        "before": {"echo": "echo before > b.txt"},
    }
    made = run_page(page(tmp_path, text, **options), tmp_path / "work", root=tmp_path / "root")
    assert made.failed is None
    assert (tmp_path / "work/a.txt").read_text() == "there OTHERFILE -n short\n"
    assert (tmp_path / "work/b.txt").is_file()
    assert [command.why_not for command in made.not_run] == ["serves"]


def test_what_takes_too_long_is_ended_and_a_bad_preparation_is_said(tmp_path: Path) -> None:
    slow = page(tmp_path, "```bash\ntrue\nsleep 60\n```\n")
    made = run_page(slow, tmp_path / "work", limit=0.5, root=tmp_path / "root")
    assert made.failed is not None
    assert made.failed.text == "sleep 60"
    assert made.seconds < 10
    with pytest.raises(PrepareError, match=r"page\.md: (?s:.*)not there"):
        run_page(Page("page.md", prepare="echo not there; false"), tmp_path / "work", root=tmp_path / "root")


def test_the_commands_see_neither_the_users_home_nor_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OWN_SECRET", "there")
    text = '```bash\n[ -z "$OWN_SECRET" ] && [ "$(ls -A ~)" = "" ]\n```\n'
    assert run_page(page(tmp_path, text), tmp_path / "work", root=tmp_path / "root").failed is None


def test_programs_are_found_in_loops_pipes_and_behind_runners() -> None:
    text = "for s in a b; do\n  A=1 uv run past info $s > x.txt | wc\ndone; past qc b -o c && "
    text += "torchrun --nnodes 2 --no-python lightning fit -c r &"
    assert [words[:2] for words in invocations(text)] == [
        ["for", "s"],
        ["past", "info"],
        ["wc"],
        ["past", "qc"],
        ["lightning", "fit"],
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("past stain S.svs -o a.ome.tif --model demo", None),
        ("past stains S.svs", "past has no verb 'stains'"),
        ("past stain S.svs -o a.ome.tif --modle demo", "No such option"),
        ("past stain S.svs -o a.ome.tif", "past stain lacks --model"),
        ("past info a.zarr b.zarr", "is too much"),
        ("lightning fit -c recipes/surv.yaml --data.fold 1 --trainer.max_steps 2", None),
        ("lightning fit -c recipes/surv.yaml --data.folding 1", "--data.folding is no key of the recipe"),
        ("lightning fit -c recipes/surv.yaml --trainer.epochs 1", "--trainer.epochs is no key"),
        ("lightning fit -c recipes/none.yaml", "there is no recipes/none.yaml"),
        ("lightning train -c recipes/surv.yaml", "lightning has no command"),
    ],
)
def test_a_command_that_the_programs_do_not_know_is_found(text: str, problem: str | None) -> None:
    found = problems(Command("page.md", 3, text))
    if problem is None:
        assert found == []
    else:
        (said,) = found
        assert said.startswith(f"page.md, line 3: {text}: ")
        assert problem in said


def test_every_page_is_known_to_the_leaderboard_and_the_site() -> None:
    assert tuple(page.path for page in PAGES) == guides.TASK.systems
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for path in sorted((ROOT / "docs/guides").glob("*.md")):
        assert f"docs/guides/{path.name}" in guides.TASK.systems
        assert f"guides/{path.name}" in nav
