"""A verb's output is its own until it ends."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from pathlib import Path

_HELD: ContextVar[ExitStack | None] = ContextVar("held", default=None)


@contextmanager
def claims() -> Iterator[None]:
    """While the block runs, what verbs claim is held; `past` runs every verb in one."""
    with ExitStack() as stack:
        token = _HELD.set(stack)
        try:
            yield
        finally:
            _HELD.reset(token)


def claim(output: Path) -> None:
    """Holds an output until the running verb ends; see `past_core.locks.claimed`.

    Called before the verb looks whether the output is there: the second of two runs is then refused, or finds
    what the first has made. A verb that is called as a function, outside `past`, holds nothing.

    Raises:
        OutputBusyError: another run is making it.
        OutputWriteError: its folder cannot be written.
        RemoteError: a URL.
    """
    from past_core.locks import claimed

    stack = _HELD.get()
    if stack is not None:
        stack.enter_context(claimed(output))
