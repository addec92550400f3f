"""The commands of the guides: read from their Markdown, and what stands in for what a reader brings.

A ```` ```bash ```` block is a list of commands that work in the order of the page. One that cannot run on any
machine has an HTML comment on the line before its fence, `<!-- not run: REASON -->`. Pages that speak of the
reader's own files (the front page, and two guides) name files that `prepare` makes first; single commands of
theirs are skipped or shortened below.
"""

import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from past_core.errors import PastError

ROOT = Path(__file__).resolve().parents[1]
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[A-Za-z]*)(?P<rest>.*)$")
MARK = re.compile(r"^\s*<!-- not run: (?P<reason>.+?) -->\s*$")


class GuideError(PastError, ValueError):
    """A page whose blocks cannot be read."""


@dataclass(frozen=True)
class Command:
    """One command of a page.

    Attributes:
        page: path from the root of the repository.
        line: where it begins in the file.
        text: as it stands there, with its continued lines.
        why_not: why it is not run; None where it is.
        options: what is appended when it is run here; "" for nothing.
    """

    page: str
    line: int
    text: str
    why_not: str | None = None
    options: str = ""

    @property
    def place(self) -> str:
        """Page, line and first line of the text."""
        return f"{self.page}, line {self.line}: {self.text.splitlines()[0].strip()}"


@dataclass(frozen=True)
class Page:
    """A page whose commands are run.

    Attributes:
        path: from the root of the repository.
        prepare: bash that makes the reader's own files in the empty folder; not timed.
        skip: why commands that match a pattern are not run, by pattern.
        shorten: options that are appended to commands that match, by pattern.
        instead: words of the commands that stand for what is not here, and what is run in their place.
        before: bash that is run before commands that match, by pattern, such as what removes an output that
            another command on the page writes too.
    """

    path: str
    prepare: str = ""
    skip: dict[str, str] = field(default_factory=dict)
    shorten: dict[str, str] = field(default_factory=dict)
    instead: dict[str, str] = field(default_factory=dict)
    before: dict[str, str] = field(default_factory=dict)

    def commands(self, root: Path = ROOT) -> list[Command]:
        """The page's commands in order; see `read_commands`."""
        text = (root / self.path).read_text(encoding="utf-8")
        return [self._treated(command) for command in read_commands(text, self.path)]

    def _treated(self, command: Command) -> Command:
        why = command.why_not or _first(self.skip, command.text) or None
        options = "" if why else _first(self.shorten, command.text)
        return Command(command.page, command.line, command.text, why, options)

    def before_of(self, command: Command) -> str:
        """What is run before it; "" for nothing."""
        return _first(self.before, command.text)

    def as_run(self, command: Command) -> str:
        """What is handed to bash."""
        text = command.text
        for word, other in self.instead.items():
            text = re.sub(rf"(?<![\w./-]){re.escape(word)}(?![\w./-])", other, text)
        if not command.options:
            return text
        code, hash_, comment = text.partition("  #")
        return f"{code.rstrip()} {command.options}{hash_}{comment}"


def _first(table: dict[str, str], text: str) -> str:
    """The value of the first pattern that is found in the text; "" where none is."""
    return next((value for pattern, value in table.items() if re.search(pattern, text)), "")


def read_commands(text: str, page: str) -> list[Command]:
    """The commands of a page's bash blocks.

    Args:
        text: Markdown.
        page: how it is called in errors.

    Raises:
        GuideError: a block without an end, a command that bash does not accept, or a mark without a block.
    """
    found: list[Command] = []
    lines = text.splitlines()
    number, mark, marked_at = 0, None, 0
    while number < len(lines):
        marked = MARK.match(lines[number])
        fence = FENCE.match(lines[number])
        if marked:
            mark, marked_at = marked["reason"], number + 1
        elif fence:
            end = next(
                (n for n in range(number + 1, len(lines)) if lines[n].strip() == "```"),
                None,
            )
            if end is None:
                raise GuideError(f"{page}, line {number + 1}: the block has no end; close it with ```")
            if fence["language"] == "bash":
                found += _split(lines[number + 1 : end], page, number + 2, mark)
                mark = None
            number = end
        elif lines[number].strip() and mark is not None:
            raise GuideError(f"{page}, line {marked_at}: `not run` stands before no bash block")
        number += 1
    return found


def _split(lines: list[str], page: str, first: int, why_not: str | None) -> list[Command]:
    """Commands of a block: lines are joined until bash finds them complete."""
    commands: list[Command] = []
    held: list[str] = []
    for number, line in enumerate(lines, start=first):
        if not held and (not line.strip() or line.lstrip().startswith("#")):
            continue
        held.append(line)
        text = "\n".join(held)
        if not line.endswith("\\") and is_complete(text):
            commands.append(Command(page, number - len(held) + 1, text, why_not))
            held = []
    if held:
        line = first + len(lines) - len(held)
        raise GuideError(f"{page}, line {line}: bash does not find the command complete: {held[0]!r}")
    return commands


def is_complete(text: str) -> bool:
    """Whether bash reads it as whole commands; an open here-document is a warning of its."""
    done = subprocess.run(["bash", "-n", "-c", text], capture_output=True, text=True, check=False)
    return done.returncode == 0 and not done.stderr
