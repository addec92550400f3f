"""The work folder beside an output: finished strips, kept until the output is complete.

`.OUTPUT.work/` holds `work.json` (all that determines the pixels) and a file a strip: raw blocks `(3, h, w)`
as they come from blending, row by row, each byte XORed with the background, so that background is zero and
takes no room on disk. A strip has its name only once it is whole and on disk. Nothing else needs to be
recorded: a strip is there, or is made again.
"""

import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from past_core.atomic import sweep, writer
from past_core.errors import PastError
from past_core.locks import try_lock

logger = logging.getLogger(__name__)

KEY_FILE, LOCK_FILE, FINAL_LOCK = "work.json", "lock", "final.lock"
ATTEMPTS, PAUSE = 20, 0.1
"""How often, and seconds apart, bands that start together look whether one of them has begun."""


class WorkError(PastError, OSError):
    """A work folder that cannot be used, or another run that uses it."""


class StripWriter:
    """Writes blocks of pixels into one strip's file.

    Args:
        file: an empty file, open for writing.
        top: the strip's first row in the image.
        shape: its `(height, width)`.
        background: grey value that is stored as nothing.
    """

    def __init__(self, file: IO[bytes], top: int, shape: tuple[int, int], background: int) -> None:
        self.file, self.top, self.width, self.background = file, top, shape[1], background
        file.truncate(3 * shape[0] * shape[1])

    def write(self, y: int, x: int, block: np.ndarray) -> None:
        """Takes a block, `(3, h, w)` uint8 at row `y`, column `x` of the image.

        Blocks side by side have one height; those of a block's height, to its left, and those above lie
        before it in the file.
        """
        rest = np.ascontiguousarray(block ^ np.uint8(self.background)).data.cast("B")
        offset = _offset(y - self.top, x, block.shape[1], self.width)
        while rest:  # a nearly full disk takes a part, then refuses
            done = os.pwrite(self.file.fileno(), rest, offset)
            rest, offset = rest[done:], offset + done


def _offset(y: int, x: int, height: int, width: int) -> int:
    """Where a block of a strip begins in its file."""
    return 3 * (y * width + height * x)


class StripImage:
    """An image in strips on disk, sliced like an array of shape (3, H, W).

    Args:
        paths: of the strips, from top to bottom.
        edges: first row of each strip, and the image's height.
        rows: first row of each row of blocks, and the image's height; among them are all `edges`.
        columns: first column of each block in a row, and the image's width.
        background: as in `StripWriter`.
    """

    dtype = np.dtype(np.uint8)

    def __init__(
        self,
        paths: Sequence[Path],
        edges: Sequence[int],
        rows: Sequence[int],
        columns: Sequence[int],
        background: int,
    ) -> None:
        self.paths, self.background = list(paths), background
        self.edges, self.rows, self.columns = (np.asarray(v, np.int64) for v in (edges, rows, columns))
        self.shape = (3, int(self.rows[-1]), int(self.columns[-1]))

    def __getitem__(self, window: tuple[slice, slice, slice]) -> np.ndarray:
        """Reads `[:, y0:y1, x0:x1]`."""
        y0, y1, _ = window[1].indices(self.shape[1])
        x0, x1, _ = window[2].indices(self.shape[2])
        out = np.empty((3, max(y1 - y0, 0), max(x1 - x0, 0)), np.uint8)
        if not out.size:
            return out
        opened, stored = -1, np.zeros(0, np.uint8)
        for top, bottom in _parts(self.rows, y0, y1):
            strip = int(np.searchsorted(self.edges, top, side="right")) - 1
            if strip != opened:
                # Mapped for the moment only: what stays mapped counts as this process's memory.
                opened, stored = strip, np.memmap(self.paths[strip], np.uint8, "r")
            low, high = max(y0, top), min(y1, bottom)
            for left, right in _parts(self.columns, x0, x1):
                start = _offset(top - int(self.edges[strip]), left, bottom - top, self.shape[2])
                shape = (3, bottom - top, right - left)
                block = stored[start : start + shape[0] * shape[1] * shape[2]].reshape(shape)
                a, b = max(x0, left), min(x1, right)
                out[:, low - y0 : high - y0, a - x0 : b - x0] = block[
                    :, low - top : high - top, a - left : b - left
                ]
        out ^= np.uint8(self.background)
        return out


def _parts(edges: np.ndarray, start: int, stop: int) -> list[tuple[int, int]]:
    """The intervals between `edges` that [start, stop) touches."""
    first, last = np.searchsorted(edges, [start, stop - 1], side="right") - 1
    return [(int(edges[k]), int(edges[k + 1])) for k in range(int(first), int(last) + 1)]


class WorkFolder:
    """Finished strips of one output.

    Args:
        output: the file or folder that is made.
        key: all that determines its pixels, plain JSON values.
        edges: first row of each strip, and the image's height.
        rows: as in `StripImage`.
        columns: likewise.
        background: grey value.
    """

    def __init__(
        self,
        output: Path,
        key: Mapping[str, Any],
        *,
        edges: Sequence[int],
        rows: Sequence[int],
        columns: Sequence[int],
        background: int,
    ) -> None:
        self.output, self.edges, self.background = output, list(edges), background
        self.rows, self.columns, self.width = list(rows), list(columns), columns[-1]
        self.path = output.with_name(f".{output.name}.work")
        self.key = json.loads(json.dumps(dict(key), sort_keys=True))

    @contextmanager
    def open(self, *, shared: bool) -> Iterator["WorkFolder"]:
        """Makes the folder, or takes up that of an earlier run with the same key.

        What a run with another key left is removed, with a warning. The folder stays when the block ends.

        Args:
            shared: other processes work on other bands at the same time.

        Raises:
            WorkError: another run holds it, or it cannot be written.
        """
        try:
            with ExitStack() as stack:
                self.path.mkdir(parents=True, exist_ok=True)
                for attempt in range(ATTEMPTS):
                    if not self._same():
                        self._begin(patient=shared and attempt + 1 < ATTEMPTS)
                    lock = stack.enter_context(ExitStack())
                    lock.enter_context(_locked(self.path / LOCK_FILE, shared=shared, busy=self._busy()))
                    if self._same():
                        break
                    lock.close()  # another run began between the two looks
                    time.sleep(PAUSE)
                else:
                    raise WorkError(self._busy())
                sweep(self.path, ".strip.", ".part")
                yield self
        except PastError:
            raise
        except OSError as error:
            raise WorkError(
                f"{self.path}: cannot be written ({error}); strips that are finished are kept, and the same "
                "command goes on from them"
            ) from error

    def _begin(self, *, patient: bool) -> None:
        """Empties the folder and writes the key, alone; a patient band lets another one that is at it."""
        try:
            with _locked(self.path / LOCK_FILE, shared=False, busy=self._busy()):
                if not self._same():
                    self._restart()
        except WorkError:
            if not patient:
                raise
            time.sleep(PAUSE)

    def _busy(self) -> str:
        return (
            f"{self.output}: another run is making this output; wait for it, choose another name, or share "
            "the work with --bands K/N in every process"
        )

    def _same(self) -> bool:
        try:
            found = json.loads((self.path / KEY_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return found == self.key

    def _restart(self) -> None:
        old = [path for path in self.path.iterdir() if path.name != LOCK_FILE]
        if old:
            logger.warning(
                "%s: an earlier run was interrupted that had another slide, model or settings; its %d "
                "finished strips are not used",
                self.output,
                sum(path.name.startswith("strip-") for path in old),
            )
        for path in old:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        temporary = self.path / f".key.{writer()}.part"
        temporary.write_text(json.dumps(self.key, sort_keys=True, indent=1), encoding="utf-8")
        temporary.replace(self.path / KEY_FILE)

    def strip(self, number: int) -> Path:
        """Where a strip is, once it is finished."""
        return self.path / f"strip-{number:06d}.raw"

    def done(self) -> np.ndarray:
        """`(strips,)` bool: which are finished, in whole."""
        found = np.zeros(len(self.edges) - 1, bool)
        for number, (top, bottom) in enumerate(zip(self.edges, self.edges[1:], strict=False)):
            path = self.strip(number)
            found[number] = path.is_file() and path.stat().st_size == 3 * (bottom - top) * self.width
        return found

    @contextmanager
    def writing(self, number: int) -> Iterator[StripWriter]:
        """A strip that takes its name when the block ends well."""
        top, bottom = self.edges[number], self.edges[number + 1]
        temporary = self.path / f".strip.{writer()}.part"
        try:
            with temporary.open("w+b") as file:
                yield StripWriter(file, top, (bottom - top, self.width), self.background)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.strip(number))
        finally:
            temporary.unlink(missing_ok=True)

    def image(self) -> StripImage:
        """All strips as one image."""
        paths = [self.strip(number) for number in range(len(self.edges) - 1)]
        return StripImage(paths, self.edges, self.rows, self.columns, self.background)

    @contextmanager
    def finishing(self) -> Iterator[bool]:
        """Whether this process is the one to write the output; the folder goes when the block ends well."""
        try:
            lock = _locked(self.path / FINAL_LOCK, shared=False, busy="")
            lock.__enter__()
        except (WorkError, FileNotFoundError):
            yield False
            return
        try:
            mine = self.path.is_dir() and self._same() and bool(self.done().all())
            yield mine
            if mine:
                shutil.rmtree(self.path, ignore_errors=True)
        finally:
            lock.__exit__(None, None, None)


@contextmanager
def _locked(path: Path, *, shared: bool, busy: str) -> Iterator[None]:
    """Holds a lock that the operating system drops with the process."""
    with path.open("a+b") as file:
        if not try_lock(file.fileno(), shared=shared):
            raise WorkError(busy)
        yield
