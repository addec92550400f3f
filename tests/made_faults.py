"""Verbs run as processes of their own, each with one fault: killed, refused by the disk, robbed of its input.

A server imports the libraries once and forks a process a run, so that a run costs its own work alone. Faults
count events: every time that Python opens, makes, renames or removes something at or below a watched path.
What libraries in C do between two events is reached by kills at random times, by a small disk and by a limit
on the size of files.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

MOMENTS = int(os.environ.get("PAST_FAULTS", "0"))
"""How many moments of each kind the tests try; 0 leaves it to each, which then tries a handful."""

SERVER = """
import errno, json, os, resource, shutil, signal, sys, threading, time
for name in json.loads(sys.argv[1]):
    __import__(name)
import torch
torch.set_num_threads(1)
from past_core.cli import lightning_main, past_main

def watch(folders, at, action, log):
    folders = tuple(os.path.abspath(folder) for folder in folders)
    kinds = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.symlink"}
    seen = [0]
    own = threading.local()

    def hook(event, arguments):
        if event not in kinds or getattr(own, "inside", False):
            return
        path = arguments[0]
        if not isinstance(path, (str, bytes, os.PathLike)):
            return
        path = os.path.abspath(os.fsdecode(path))
        if not path.startswith(folders):
            return
        flags = arguments[2] if event == "open" and isinstance(arguments[2], int) else 0
        writes = event != "open" or bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if action.get("writes") and not writes:
            return
        seen[0] += 1
        own.inside = True
        try:
            os.write(log, b"x")
            if seen[0] >= at if action.get("lasts") else seen[0] == at:
                act(action, path)
        finally:
            own.inside = False

    sys.addaudithook(hook)

def act(action, path):
    kind = action["kind"]
    if kind == "kill":
        os.killpg(os.getpid(), signal.SIGKILL)
    elif kind == "refuse":
        code = getattr(errno, action["error"])
        raise OSError(code, os.strerror(code), path)
    elif kind == "remove":
        for each in action["paths"]:
            shutil.rmtree(each) if os.path.isdir(each) else os.unlink(each)
    elif kind == "truncate":
        for each in action["paths"]:
            files = [os.path.join(root, name) for root, _, names in os.walk(each) for name in names]
            for name in files or [each]:
                os.truncate(name, os.path.getsize(name) // 2)

def start(run):
    log = os.open(run["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    child = os.fork()
    if child:
        os.close(log)
        return child
    os.setsid()
    for number in (1, 2):
        os.dup2(os.open(run["text"], os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", closefd=False)
    os.environ["COLUMNS"] = "10000"
    if run.get("largest") is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (run["largest"], resource.RLIM_INFINITY))
    status = 70
    try:
        watch(run["watch"], run.get("at", 0), run.get("action", {"kind": "count"}), log)
        lightning = run["arguments"][0] == "lightning"
        sys.argv = run["arguments"] if lightning else ["past", *run["arguments"]]
        lightning_main() if lightning else past_main()
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(bool(stop.code))
    except BaseException:
        import traceback
        traceback.print_exc()
    finally:
        if run.get("learn"):
            with open(run["learn"], "w") as file:
                json.dump(sorted(sys.modules), file)
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(status)

def learn(path):
    # tensorstore and grpc start threads, which a fork would leave behind.
    for name in json.load(open(path)):
        if name not in sys.modules and not name.startswith(("tensorstore", "grpc", "__")):
            try:
                __import__(name)
            except BaseException:
                pass

for line in sys.stdin:
    runs = json.loads(line)
    began = time.monotonic()
    running = {start(run): (number, run.get("after")) for number, run in enumerate(runs)}
    ended = [None] * len(runs)
    while running:
        child, status, usage = os.wait4(-1, os.WNOHANG)
        if child in running:
            ended[running.pop(child)[0]] = os.waitstatus_to_exitcode(status), time.monotonic() - began
            continue
        for child, (number, after) in list(running.items()):
            if after is not None and time.monotonic() - began >= after:
                os.killpg(child, signal.SIGKILL)
                running[child] = number, None
        time.sleep(0.001)
    for run in runs:
        if run.get("learn") and os.path.exists(run["learn"]):
            learn(run["learn"])
    print(json.dumps(ended), flush=True)
"""


@dataclass(frozen=True)
class Ended:
    """How a run ended: its exit status (negative of a signal), seconds, events, and what it said."""

    status: int
    seconds: float
    events: int
    text: str

    @property
    def error(self) -> str:
        """The line of its error; fails where it ended in a traceback, or said nothing."""
        assert "Traceback (most recent call last)" not in self.text, self.text[-4000:]
        assert self.status == 1, (self.status, self.text[-2000:])
        lines = [line for line in self.text.splitlines() if "Error" in line or "failed" in line]
        assert lines, self.text[-2000:]
        return lines[0]


class Verbs:
    """Runs `past` with faults. Use `serving`."""

    def __init__(self, server: subprocess.Popen, folder: Path) -> None:
        self.server, self.folder = server, folder

    def __call__(self, *arguments: object, **fault: Any) -> Ended:
        """Runs one verb.

        Args:
            arguments: of `past`; or `lightning` and its own.
            fault: `after` seconds it is killed; `at` the n-th event of the paths `watch` the `action` befalls
                it; `largest` bytes of a file; `learn`, a file for the modules that it needed, which the
                server then imports for those that follow.
        """
        return self.together([arguments], **fault)[0]

    def together(self, runs: Sequence[Sequence[object]], **fault: Any) -> list[Ended]:
        """Runs several at the same time, each with the same fault."""
        lines = []
        for number, arguments in enumerate(runs):
            files = {"log": str(self.folder / f"log{number}"), "text": str(self.folder / f"text{number}")}
            Path(files["text"]).write_text("")
            run = {"arguments": [str(each) for each in arguments], "watch": [], **files, **fault}
            lines.append(run | {"watch": [str(each) for each in run["watch"]]})
        self.server.stdin.write(json.dumps(lines) + "\n")
        self.server.stdin.flush()
        answer = self.server.stdout.readline()
        assert answer, f"the server ended with {self.server.wait()}"
        return [
            Ended(*ended, Path(line["log"]).stat().st_size, Path(line["text"]).read_text())
            for ended, line in zip(json.loads(answer), lines, strict=True)
        ]


@contextmanager
def serving(folder: Path, *modules: str) -> Iterator[Verbs]:
    """A server that imports `modules` once.

    Args:
        folder: for its notes; made.
        modules: what the verbs would import.
    """
    folder.mkdir(parents=True)
    with (folder / "server").open("w") as said:
        server = subprocess.Popen(
            [sys.executable, "-c", SERVER, json.dumps(modules)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    try:
        yield Verbs(server, folder)
    finally:
        server.stdin.close()
        server.wait(60)
        server.stdout.close()


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A file system of so many bytes in memory, where this user may mount one; else the test is skipped."""
    folder.mkdir(parents=True)
    mount = shutil.which("mount")
    done = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], capture_output=True
    )
    if not done or done.returncode:
        pytest.skip("no right to mount a small disk here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def read_only(folder: Path) -> None:
    """Makes a small disk one that cannot be written to."""
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)


@dataclass(frozen=True)
class Case:
    """A verb under test.

    Attributes:
        name: of the verb.
        arguments: of `past`, given the folder that outputs go into and that of inputs.
        content: all values of a whole output in a folder by name, None where there is no output; raises for
            half a one.
        inputs: what it reads, in a folder of its own that is copied where it suffers.
        names: what lies in the folder of outputs after a run that ended well.
        again: how a rerun on a whole output ends: refused (1), or by keeping it (0).
    """

    name: str
    arguments: Callable[[Path, Path], list[object]]
    content: Callable[[Path], dict[str, Any] | None]
    inputs: Path
    names: frozenset[str]
    again: int = 1


def same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Asserts that two contents are equal to the bit."""
    assert set(found) == set(expected)
    for name, value in expected.items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(found[name], value, err_msg=name)
        else:
            assert found[name] == value, name


def names(folder: Path) -> set[str]:
    """What lies in a folder."""
    return {each.name for each in folder.iterdir()}


def moments(number: int, seed: int) -> np.ndarray:
    """Shares of a run: one in each of so many equal parts of it."""
    number = MOMENTS or number
    return (np.arange(number) + np.random.default_rng(seed).random(number)) / number


class Trial:
    """A case with its undisturbed run, and the faults that it is put through."""

    def __init__(self, verbs: Verbs, case: Case, folder: Path) -> None:
        self.verbs, self.case, self.folder = verbs, case, folder
        self.number = 0
        out = self.fresh()
        learned = str(folder / "modules.json")
        first = verbs(*case.arguments(out, case.inputs), watch=[out, case.inputs], learn=learned)
        assert first.status == 0, first.text[-3000:]
        assert names(out) == case.names
        self.expected = case.content(out)
        assert self.expected
        self.whole, self.tally = out, {}
        second = self.fresh()  # files are in memory now; a verb that is quicker the second time is timed so
        self.run = verbs(*case.arguments(second, case.inputs), watch=[second, case.inputs])
        same(case.content(second), self.expected)
        shutil.rmtree(second)

    def fresh(self) -> Path:
        """A folder for outputs that is not there yet."""
        self.number += 1
        path = self.folder / f"out{self.number}"
        path.mkdir(parents=True)
        return path

    def _start(self, out: Path, inputs: Path | None = None, **fault: Any) -> Ended:
        inputs = self.case.inputs if inputs is None else inputs
        return self.verbs(*self.case.arguments(out, inputs), **({"watch": [out, inputs]} | fault))

    def _count(self, what: str) -> None:
        self.tally[what] = self.tally.get(what, 0) + 1

    def _absent_or_whole(self, out: Path) -> bool:
        found = self.case.content(out)
        if found is not None:
            same(found, self.expected)
        return found is not None

    def finishes(self, out: Path, fault: str) -> None:
        """The same command, undisturbed, ends with the output and nothing beside it."""
        whole = self.case.content(out) is not None
        done = self._start(out)
        assert done.status == (self.case.again if whole else 0), (fault, done.text[-3000:])
        same(self.case.content(out), self.expected)
        if whole and self.case.again:  # refused: what the dead run left beside it goes with the next write
            left = {name for name in names(out) if not name.startswith(".")}
            assert left == self.case.names, (fault, left)
        else:
            assert names(out) == self.case.names, fault

    def kills(self, number: int, *, seed: int = 0, chain: bool = False) -> None:
        """SIGKILL at random times and at random events, alternately; a chain goes on from what each left."""
        out = self.fresh()
        for index, share in enumerate(moments(number, seed)):
            if index % 2:
                fault = {"at": 1 + int(share * self.run.events), "action": {"kind": "kill"}}
            else:
                fault = {"after": share * self.run.seconds * 1.02}
            self._start(out, **fault)
            self._count("kills")
            if self._absent_or_whole(out):
                self._count("whole after a kill")
                self.finishes(out, str(fault))
                shutil.rmtree(out)
                out.mkdir()
            elif not chain:
                self.finishes(out, str(fault))
                shutil.rmtree(out)
                out.mkdir()
        self.finishes(out, "the last kill")
        shutil.rmtree(out)

    def refusals(self, number: int, error: str = "ENOSPC", *, seed: int = 1) -> set[str]:
        """The disk refuses from the n-th event that writes on: a named error, then a run that finishes."""
        said: set[str] = set()
        if not (number or MOMENTS):
            return said
        out = self.fresh()
        writes = self._start(out, watch=[out], action={"kind": "count", "writes": True}).events
        shutil.rmtree(out)
        for share in moments(number, seed):
            out.mkdir()
            action = {"kind": "refuse", "error": error, "writes": True, "lasts": True}
            ended = self._start(out, watch=[out], at=1 + int(share * writes), action=action)
            self._count(error)
            if ended.status:
                said.add(ended.error)
            self._absent_or_whole(out)
            self.finishes(out, f"{error} at {share:.3f}")
            shutil.rmtree(out)
        return said

    def full_disks(self, number: int, *, seed: int = 2) -> set[str]:
        """A disk too small, by less and less: a named error, room in plenty after it, a run that finishes."""
        size = sum(each.stat().st_size for each in self.whole.rglob("*") if each.is_file())
        said = set()
        for share in moments(number, seed):
            room = max(4096, int(share * size) // 4096 * 4096)
            with small_disk(self.folder / "small", room) as out:
                ended = self._start(out)
                self._count("full disks")
                if ended.status:
                    said.add(ended.error)
                assert self._absent_or_whole(out) == (ended.status == 0)
                subprocess.run(["mount", "-o", f"remount,size={20 * size + 2**24}", str(out)], check=True)
                self.finishes(out, f"{room} of {size} bytes")
            (self.folder / "small").rmdir()
        return said

    def no_right(self) -> str:
        """A folder that cannot be written to: said by a named error before any work."""
        with small_disk(self.folder / "locked", 2**24) as out:
            read_only(out)
            ended = self._start(out)
            self._count("read-only outputs")
            assert names(out) == set()
        (self.folder / "locked").rmdir()
        return ended.error

    def robbed(self, number: int, kind: str, *paths: str, seed: int = 3) -> set[str]:
        """Inputs removed or truncated at random moments: a named error, or the output whole.

        An output that came of it is that of the inputs as they were; where the run failed, none is there.
        """
        said = set()
        for share in moments(number, seed):
            inputs, out = self.folder / "robbed", self.fresh()
            shutil.copytree(self.case.inputs, inputs)
            action = {"kind": kind, "paths": [str(inputs / path) for path in paths]}
            ended = self._start(out, inputs, at=1 + int(share * self.run.events), action=action)
            self._count(f"inputs {kind}d")
            if ended.status:
                said.add(ended.error)
                assert self.case.content(out) is None, share
            else:
                same(self.case.content(out), self.expected)
            shutil.rmtree(inputs)
            self.finishes(out, f"{kind} at {share:.3f}")
            shutil.rmtree(out)
        return said

    def two(self, *, together: int = 2) -> set[str]:
        """Two processes at once: the output is whole; who did not make it says so."""
        out = self.fresh()
        runs = [self.case.arguments(out, self.case.inputs)] * together
        ended = self.verbs.together(runs)
        self._count("pairs")
        if self.case.again:  # a verb of many outputs may share them: then each run lacks what the other has
            assert any(each.status == 0 for each in ended), [each.text[-2000:] for each in ended]
        said = {each.error for each in ended if each.status}
        for error in said:  # the other came while the one was at it, or when it had just ended
            assert "another run" in error or "exists" in error or "already" in error, error
        same(self.case.content(out), self.expected)
        self.finishes(out, "two at once")
        shutil.rmtree(out)
        return said
