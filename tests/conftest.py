"""Fixtures that every test room shares."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data, from `PAST_SHARED_DATA` or beside the checkout; skips where it is absent."""
    path = Path(os.environ.get("PAST_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"real data not found at {path}; set PAST_SHARED_DATA")
    return path
