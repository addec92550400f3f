"""The simulator's cohort in small, made once for all test processes."""

import os
from pathlib import Path
from typing import Any

import pytest

from past_surv.data.default import SurvivalData, default_survival_data

SMALL: dict[str, Any] = {"patients": 10, "size_um": 112}


def cache_of(factory: pytest.TempPathFactory) -> Path:
    """A cache that the processes of one test run share."""
    base = factory.getbasetemp()
    return (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "small-cohort"


def small_cohort(factory: pytest.TempPathFactory) -> SurvivalData:
    """Ten patients with sections of 112 µm, that is four tiles a slide."""
    return default_survival_data(**SMALL, cache=cache_of(factory))
