"""StarDist's tests run in an environment of their own, which has TensorFlow; elsewhere they are skipped.

    uv run --isolated --package past-vihc --extra stardist --with pytest --with pytest-xdist \
        --with hypothesis pytest -m stardist tests/stardist
"""

import importlib.util
from pathlib import Path

import pytest

HERE = Path(__file__).parent
MISSING = [name for name in ("stardist", "tensorflow") if importlib.util.find_spec(name) is None]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "stardist: needs StarDist and TensorFlow")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not MISSING:
        return
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(
                pytest.mark.skip(reason=f"{' and '.join(MISSING)} not installed (extra stardist)")
            )
