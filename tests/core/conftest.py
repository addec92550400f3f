"""Fixtures of this room."""

import sys
from collections.abc import Callable

import pytest

from past_core.cli import past_main


@pytest.fixture
def past(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple]:
    """Runs `past ARGS...` in this process; returns (exit status, stdout, stderr)."""

    def run(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["past", *map(str, args)])
        monkeypatch.setenv("COLUMNS", "200")
        status = 0
        try:
            past_main()
        except SystemExit as stop:
            status = stop.code or 0
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run
