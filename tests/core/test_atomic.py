"""Outputs written whole or not at all, and what killed writers leave."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from past_core import atomic
from past_core.atomic import replacing, sweep, writer

HOST = writer().split("-")[0]


@pytest.fixture(scope="module")
def dead() -> int:
    """The number of a process that has ended."""
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True)
    return int(done.stdout)


def leave(path: Path, *, days: float = 0) -> Path:
    path.mkdir()
    (path / "zarr.json").write_text("{}")
    then = time.time() - days * atomic.DAY
    os.utime(path, (then, then))
    return path


def test_a_fault_keeps_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def half() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half()
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "old"


@pytest.mark.parametrize("folder", [False, True])
def test_what_a_killed_writer_left_is_removed(tmp_path: Path, folder: bool) -> None:
    path = tmp_path / "a.zarr"
    code = f"""
import os, signal, sys
from pathlib import Path
from past_core.atomic import replacing
with replacing(Path({str(path)!r})) as temporary:
    temporary.mkdir() if {folder} else temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert len(list(tmp_path.iterdir())) == 1
    assert not path.exists()
    with replacing(path) as temporary:
        temporary.mkdir()
    assert [file.name for file in tmp_path.iterdir()] == ["a.zarr"]


def test_only_what_is_abandoned_is_removed(tmp_path: Path, dead: int) -> None:
    def name(host: str, pid: int, output: str = "s.zarr", end: str = ".partial") -> Path:
        return tmp_path / f".{output}.{host}{pid}-0123abcd{end}"

    mine = f"{HOST}-"
    gone = {
        leave(name(mine, dead)),
        leave(name("elsewhere-", 1), days=1.1),
        leave(name("", dead), days=2),  # as earlier versions named them
    }
    kept = {
        leave(name(mine, os.getppid())),  # runs
        leave(name(mine, os.getpid()), days=3),  # another thread's
        leave(name("elsewhere-", dead), days=0.9),  # of another machine nothing is known but its age
        leave(name(mine, dead, output="other.zarr")),
        leave(name(mine, dead, end=".old")),
        leave(tmp_path / ".s.zarr.mine.partial", days=9),
        leave(tmp_path / "s.zarr", days=9),
    }
    assert set(sweep(tmp_path, ".s.zarr.", ".partial")) == gone
    assert set(tmp_path.iterdir()) == kept


def test_folders_are_swapped_in_one_step(tmp_path: Path) -> None:
    new, old = tmp_path / "new", tmp_path / "old"
    for folder in (new, old):
        folder.mkdir()
        (folder / "name").write_text(folder.name)
    if not atomic.exchange(new, old):
        pytest.skip("this system cannot swap two folders in one step")
    assert (old / "name").read_text() == "new"
    assert (new / "name").read_text() == "old"
    assert not atomic.exchange(new, tmp_path / "none")
    assert (new / "name").read_text() == "old"


@pytest.mark.parametrize("swaps", [True, False])
def test_a_folder_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swaps: bool) -> None:
    path = tmp_path / "a.zarr"
    path.mkdir()
    (path / "old").touch()
    if not swaps:
        monkeypatch.setattr(atomic, "exchange", lambda new, old: False)
    with replacing(path) as temporary:
        temporary.mkdir()
        (temporary / "new").touch()
        assert (path / "old").exists()
    assert [file.name for file in path.iterdir()] == ["new"]
    assert [file.name for file in tmp_path.iterdir()] == ["a.zarr"]
