"""Runs a page's commands in order in an empty folder, and times each.

    uv run python -m benchmarks.guide_runs docs/guides/stain-a-slide.md

runs one page and shows what its commands print.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.guide_pages import ROOT, Command, Page
from past_core.errors import PastError
from past_core.synthetic.cache import cache_folder

COPIED = ("recipes", "examples")
"""Folders of the clone that the commands read; copies, so that none can write into the clone."""
LOG, OUTPUT = ".commands", ".output"
TAIL = 3000
"""Characters of a failed command's output that are shown."""


class PrepareError(PastError, RuntimeError):
    """The files that stand for the reader's own could not be made."""


@dataclass(frozen=True)
class PageRun:
    """What became of a page.

    Attributes:
        page: its path.
        ran: commands that were run, with their seconds.
        not_run: commands that were not, each with its reason.
        failed: the command that failed, None where all went well.
        output: the end of what the failed command printed.
        seconds: of all commands, without what was prepared.
    """

    page: str
    ran: list[tuple[Command, float]]
    not_run: list[Command]
    failed: Command | None
    output: str
    seconds: float


def run_page(page: Page, folder: Path, *, limit: float = 1800.0, root: Path = ROOT) -> PageRun:
    """Runs a page.

    Args:
        page: the page.
        folder: an empty folder; nothing else is written but the cache and what programs keep in TMPDIR.
        limit: most seconds of the whole.
        root: of the repository.

    Raises:
        GuideError: the page cannot be read.
        PrepareError: what the page needs could not be made.
    """
    commands = page.commands(root)
    wanted = [command for command in commands if command.why_not is None]
    not_run = [command for command in commands if command.why_not is not None]
    for name in COPIED:
        if (root / name).is_dir():
            shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    if page.prepare:
        made = _bash("set -eo pipefail\n" + page.prepare, folder, limit)
        if made[0]:
            raise PrepareError(f"{page.path}: what stands for the reader's files failed:\n{made[1][-TAIL:]}")
    if not wanted:
        return PageRun(page.path, [], not_run, None, "", 0.0)
    start = time.time()
    status, output = _bash(_script(page, wanted), folder, limit)
    end = time.time()
    begun = [float(line) for line in (folder / LOG).read_text(encoding="utf-8").split()]
    ends = [*begun[1:], end]
    seconds = [stop - begin for begin, stop in zip(begun, ends, strict=True)]
    ran = list(zip(wanted[: len(begun)], seconds, strict=True))
    failed = ran.pop()[0] if status else None
    return PageRun(page.path, ran, not_run, failed, output[-TAIL:] if failed else "", end - start)


def environment(folder: Path) -> dict[str, str]:
    """What the commands see: this Python's programs, an empty home and the user's cache."""
    scripts = Path(sys.executable).parent
    home = folder / ".home"
    home.mkdir(exist_ok=True)
    kept = {name: os.environ[name] for name in ("OMP_NUM_THREADS", "LD_LIBRARY_PATH") if name in os.environ}
    return kept | {
        "PATH": os.pathsep.join([str(scripts), "/usr/local/bin", "/usr/bin", "/bin"]),
        "HOME": str(home),
        "TMPDIR": os.environ.get("TMPDIR", "/tmp"),
        "PAST_CACHE": str(cache_folder()),
        "HF_HUB_OFFLINE": "1",
        "MPLBACKEND": "Agg",
        "LANG": "C.UTF-8",
        "COLUMNS": "110",
    }


def _script(page: Page, commands: list[Command]) -> str:
    """One script, so that `cd` and variables carry over; a line in the log when each command begins."""
    lines = ["set -eo pipefail", 'uv() { [ "$1" = run ] && shift && "$@"; }', ": > " + LOG, f"LOG=$PWD/{LOG}"]
    for command in commands:
        before = [page.before_of(command)] if page.before_of(command) else []
        lines += [*before, 'date +%s.%N >> "$LOG"', page.as_run(command)]
    return "\n".join(lines) + "\n"


def _bash(script: str, folder: Path, limit: float) -> tuple[int, str]:
    """Status and output; past the limit everything that it started is ended, with status 124."""
    with (folder / OUTPUT).open("w+", encoding="utf-8", errors="replace") as output:
        process = subprocess.Popen(
            ["bash", "-c", script],
            cwd=folder,
            env=environment(folder),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            status = 124
        finally:  # also when interrupted: the commands are of a session of their own
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        output.seek(0)
        said = output.read()
    return status, said + (f"\n(ended after {limit:g} s)" if status == 124 else "")


def main(paths: list[str]) -> int:
    """Runs pages and shows what their commands print; 1 when one fails."""
    from benchmarks.guide_places import PAGES

    failed = 0
    for path in paths:
        page = next((page for page in PAGES if page.path == path), Page(path))
        with tempfile.TemporaryDirectory(prefix="guide-") as folder:
            made = run_page(page, Path(folder))
            print((Path(folder) / OUTPUT).read_text(encoding="utf-8"))
        for command, seconds in made.ran:
            print(f"{seconds:6.1f} s  {command.place}")
        for command in made.not_run:
            print(f"not run   {command.place} ({command.why_not})")
        if made.failed is not None:
            print(f"failed    {made.failed.place}")
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
