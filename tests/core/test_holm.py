"""Holm's correction."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from past_core.holm import holm


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_between_the_p_and_bonferroni(p: list[float]) -> None:
    p = np.array(p)
    corrected = holm(p)
    assert (corrected >= p).all()
    assert (corrected <= np.minimum(p * len(p), 1) + 1e-12).all()
    order = np.argsort(p)
    assert (np.diff(corrected[order]) >= 0).all()


def test_holm_by_hand() -> None:
    assert holm(np.array([0.04, 0.01, np.nan, 0.03])) == pytest.approx(
        [0.06, 0.03, np.nan, 0.06], nan_ok=True
    )


def test_holm_equals_statsmodels() -> None:
    random = np.random.default_rng(0)
    for n in (1, 2, 7, 20):
        p = random.uniform(0, 0.3, n) ** 2
        np.testing.assert_allclose(holm(p), multipletests(p, method="holm")[1])
