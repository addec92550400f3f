"""One writer an output, and what a full or closed disk makes of a write."""

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from made_faults import read_only, small_disk
from past_core.atomic import OutputWriteError, refusal, replacing
from past_core.embed.partial import PartialError, partial_vectors
from past_core.locks import OutputBusyError, claimed
from past_core.remote import RemoteError

HOLD = """
import sys, time
from past_core.locks import claimed
with claimed(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def hold(path: Path) -> subprocess.Popen:
    """Another process that holds an output until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_another_run_is_refused_and_named(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "x.h5ad"
    process = hold(path)
    with pytest.raises(OutputBusyError, match=rf"x\.h5ad: another run \(process {process.pid} on \w+\)"):
        claimed(path).__enter__()
    with claimed(path.with_name("y.h5ad")):  # another output
        pass
    process.communicate("")
    assert list(tmp_path.iterdir()) == []  # neither the lock nor the folders made for it
    with claimed(path):
        assert [each.name for each in path.parent.iterdir()] == [".x.h5ad.lock"]
        with pytest.raises(OutputBusyError):
            claimed(path.parent / "." / ".." / "b" / "x.h5ad").__enter__()  # this process's own
        path.touch()
    assert [each.name for each in path.parent.iterdir()] == ["x.h5ad"]


def test_a_killed_runs_lock_holds_nobody_up(tmp_path: Path) -> None:
    path = tmp_path / "x.h5ad"
    process = hold(path)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert [each.name for each in tmp_path.iterdir()] == [".x.h5ad.lock"]
    with claimed(path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_of_many_one_at_a_time(tmp_path: Path) -> None:
    """Locks that come and go, with their files: never are there two holders."""
    inside, most, won = [], [0], [0]

    def work() -> None:
        for _ in range(150):
            try:
                with claimed(tmp_path / "x"):
                    inside.append(1)
                    most[0], won[0] = max(most[0], len(inside)), won[0] + 1
                    inside.pop()
            except OutputBusyError:
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    assert won[0] >= 150 / 4
    assert list(tmp_path.iterdir()) == []


def test_a_forked_child_keeps_no_lock(tmp_path: Path) -> None:
    with claimed(tmp_path / "x"):
        child = os.fork()
        if not child:
            signal.pause()
            os._exit(0)
    try:
        with claimed(tmp_path / "x"):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_places_that_are_no_output(tmp_path: Path) -> None:
    with pytest.raises(RemoteError):
        claimed("s3://bucket/x.zarr").__enter__()
    with claimed("/"):
        pass
    (tmp_path / "file").touch()
    for write in (claimed, replacing):
        with pytest.raises(OutputWriteError, match=r"x cannot be written \((File exists|Not a dir)"):
            write(tmp_path / "file" / "x").__enter__()


def write_h5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["a"] = np.arange(50_000)


def write_folder(path: Path) -> None:
    path.mkdir()
    for number in range(30):
        (path / str(number)).write_bytes(b"0" * 9000)


WRITERS: dict[str, Callable[[Path], None]] = {
    "x.bin": lambda path: path.write_bytes(b"0" * 200_000),
    "x.h5": write_h5,
    "x": write_folder,
}


def test_a_small_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", 2**16) as disk:
        for name, write in WRITERS.items():
            with pytest.raises(OutputWriteError) as refused, replacing(disk / name) as temporary:
                write(temporary)
            assert f"{disk / name}: there is no room for it (writing broke off after" in str(refused.value)
            assert f"Make room in {disk} and give the same command again" in str(refused.value)
            assert list(disk.iterdir()) == []
        (disk / "x.bin").write_text("old")
        with pytest.raises(OutputWriteError), replacing(disk / "x.bin") as temporary:
            WRITERS["x.bin"](temporary)
        assert (disk / "x.bin").read_text() == "old"
        read_only(disk)
        for write in (claimed, replacing):
            with (
                pytest.raises(OutputWriteError, match=r"Read-only file system.*Choose another output"),
                write(disk / "x.bin") as temporary,
            ):
                temporary.write_text("new")
        assert (disk / "x.bin").read_text() == "old"


def test_vectors_on_a_full_disk_stay_whole(tmp_path: Path) -> None:
    """What was kept is taken up, although half a record was refused."""
    truth = np.random.default_rng(0).normal(size=(64, 100)).astype(np.float32)

    def keep(output: Path) -> None:
        with partial_vectors(output, {}, 64, 100) as vectors:
            for start in range(0, 64, 8):
                vectors.add(np.arange(start, start + 8), truth[start : start + 8])
                vectors.flush()

    with small_disk(tmp_path / "small", 2**14) as disk:
        with pytest.raises(PartialError, match=r"No space left.*whole\. Make room"):
            keep(disk / "e.h5ad")
        with partial_vectors(disk / "e.h5ad", {}, 64, 100) as vectors:
            kept = int(vectors.done.sum())
            assert kept % 8 == 0
            assert 0 < kept < 64
            np.testing.assert_array_equal(vectors.values[:kept], truth[:kept])


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EDQUOT, "Disk quota exceeded", "/elsewhere/a"), "no room"),
        (RuntimeError("Can't write data (errno = 28, error message = 'No space left on device')"), "no room"),
        (ValueError("INTERNAL: Error writing: No space left on device [source]"), "no room"),
        (PermissionError(errno.EACCES, "Permission denied", "/out/.x.host-1-0a.part"), "cannot be written"),
        (PermissionError(errno.EACCES, "Permission denied", "/out/input.svs"), None),
        (PermissionError(errno.EACCES, "Permission denied", "/elsewhere/a"), None),
        (FileNotFoundError(errno.ENOENT, "No such file", "/out/x"), None),
        (OutputBusyError("/out/x: No space left on device"), None),
        (ValueError("tensors of 2800 and 28 values"), None),
    ],
)
def test_what_is_the_disks_fault(error: Exception, said: str | None) -> None:
    found = refusal(error, Path("/out/x"))
    assert (found is None) if said is None else (said in str(found))
