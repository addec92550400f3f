"""Fixtures that every test room shares."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from made_faults import Verbs

# One thread for each of pytest's processes: two that share cores wait for each other in every parallel loop.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The machines are shared and slow at times: a deadline would fail at random.
settings.register_profile("past", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("past")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data, from `PAST_SHARED_DATA` or beside the checkout; skips where it is absent."""
    path = Path(os.environ.get("PAST_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"real data not found at {path}; set PAST_SHARED_DATA")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a module's own."""
    return tmp_path_factory.mktemp("folder")


@pytest.fixture(scope="module")
def verbs(request: pytest.FixtureRequest, folder: Path) -> Iterator["Verbs"]:
    """Runs `past` with faults, with a cache of its own and what the module names in `MODULES` imported."""
    from made_faults import serving

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PAST_CACHE", str(folder / "cache"))
        with serving(folder / "server", *request.module.MODULES) as server:
            yield server


@pytest.fixture(scope="session")
def tiny_slides(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Path]:
    """Slide stores of three synthetic patients of about 200 cells, made once for all test processes."""
    from past_core.synthetic import default

    def make_here(missing: Sequence, root: Path) -> None:
        """Without processes of its own, of which each would import all that this one has imported."""
        for config, path in missing:
            default.make_slide(config, path)

    base = tmp_path_factory.getbasetemp()
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(default, "_make_all", make_here)
        return default.default_slides(patients=3, size_um=160.0, cache=shared / "tiny-slides")
