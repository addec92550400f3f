"""Blocks of pixels in memory: read ahead by threads, kept while they are needed or there is room."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, Protocol, TypeVar

Key = tuple[int, int]


class Sized(Protocol):
    """Has a number of bytes."""

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""


Block = TypeVar("Block", bound=Sized)


class BlockCache(Generic[Block]):
    """Reads blocks once while they fit.

    Loaders say which blocks they will need (`hold`) and when they are done with one (`release`). Blocks that
    nobody holds stay until the memory is wanted, the least recently used going first.

    Args:
        read: reads a block.
        memory: bytes of blocks that are kept without being held.
        threads: threads that read ahead.
    """

    def __init__(self, read: Callable[[Key], Block], *, memory: int, threads: int = 2) -> None:
        self._read, self._memory = read, memory
        self._blocks: OrderedDict[Key, Future[Block]] = OrderedDict()
        self._held: dict[Key, int] = {}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="past-tiles")

    def hold(self, keys: Iterable[Key]) -> None:
        """Starts reading blocks, and keeps each until it was released as often as it was held."""
        with self._lock:
            for key in keys:
                self._held[key] = self._held.get(key, 0) + 1
                self._want(key)

    def release(self, keys: Iterable[Key]) -> None:
        """Lets blocks go."""
        with self._lock:
            for key in keys:
                self._held[key] -= 1
                if not self._held[key]:
                    del self._held[key]
                    waiting = self._blocks.get(key)
                    if waiting is not None and waiting.cancel():
                        del self._blocks[key]
            self._make_room()

    def get(self, key: Key) -> Block:
        """A block, read now where it is not there.

        Raises:
            whatever reading it raises.
        """
        with self._lock:
            future = self._want(key)
        try:
            block = future.result()
        except BaseException:
            with self._lock:
                if self._blocks.get(key) is future:
                    del self._blocks[key]  # asked again, it is read again
            raise
        with self._lock:
            self._make_room()
        return block

    @property
    def nbytes(self) -> int:
        """Bytes of the blocks in memory."""
        with self._lock:
            return sum(map(_size, self._blocks.values()))

    def _want(self, key: Key) -> Future[Block]:
        if key not in self._blocks:
            self._blocks[key] = self._pool.submit(self._read, key)
        self._blocks.move_to_end(key)
        return self._blocks[key]

    def _make_room(self) -> None:
        loose = [(key, _size(future)) for key, future in self._blocks.items() if key not in self._held]
        total = sum(size for _, size in loose)
        for key, size in loose:
            if total <= self._memory:
                break
            del self._blocks[key]
            total -= size


def _size(future: Future[Block]) -> int:
    done = future.done() and not future.cancelled() and future.exception() is None
    return future.result().nbytes if done else 0
