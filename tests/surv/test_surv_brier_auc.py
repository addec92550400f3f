"""Brier score and AUC against their formulas, against scikit-survival, and where they are undefined."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sksurv.metrics import brier_score, cumulative_dynamic_auc
from sksurv.util import Surv

from past_surv.metrics.auc import dynamic_auc
from past_surv.metrics.brier import integrated_brier, survival_at
from past_surv.metrics.concordance import SurvivalDataError, censoring_survival
from past_surv.metrics.horizon import cut_off, score_times


def patients(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Events, times and a risk that says something."""
    stream = np.random.default_rng(seed)
    risk = stream.normal(size=n)
    time = stream.exponential(20 * np.exp(-0.8 * risk)) + 0.5
    censored = stream.exponential(40, n) + 0.5
    event = time <= censored
    event[0] = True
    return event, np.minimum(time, censored).round(2), risk


def test_survival_between_the_edges() -> None:
    survival = np.array([[0.9, 0.5, 0.2], [1.0, 1.0, 0.0]])
    edges = np.array([-np.inf, 10.0, 30.0, np.inf])
    found = survival_at(survival, edges, np.array([0.0, 5.0, 10.0, 20.0, 30.0]))
    # The hazard is constant within an interval: half of it is the root.
    np.testing.assert_allclose(found[0], [1, 0.9**0.5, 0.9, (0.9 * 0.5) ** 0.5, 0.5], rtol=1e-12)
    np.testing.assert_allclose(found[1], 1)


def test_survival_of_nought_stays_nought() -> None:
    survival, edges = np.array([[0.0, 0.0, 0.0]]), np.array([-np.inf, 10.0, 30.0, np.inf])
    found = survival_at(survival, edges, np.array([0.0, 10.0, 20.0]))[0]
    assert found[0] == 1
    assert found[1:] == pytest.approx([0, 0], abs=1e-300)


@pytest.mark.parametrize(
    ("survival", "edges", "times", "said"),
    [
        ([[0.9, 0.5]], [0, 10, 20, 30], [5], "expected"),
        ([[0.9]], [0, 10], [5], "2 or more intervals"),
        ([[0.5, 0.9]], [0, 10, 20], [5], "rises"),
        ([[1.5, 0.9]], [0, 10, 20], [5], "between 0 and 1"),
        ([[np.nan, 0.9]], [0, 10, 20], [5], "between 0 and 1"),
        ([[0.9, 0.5]], [0, 10, 20], [11], "no end"),
        ([[0.9, 0.5, 0.1]], [0, 20, 10, 30], [5], "ascend"),
    ],
)
def test_curves_that_are_none(survival: list, edges: list, times: list, said: str) -> None:
    with pytest.raises(SurvivalDataError, match=said):
        survival_at(np.array(survival, float), np.array(edges, float), np.array(times, float))


def by_hand(event, time, survival, times, train_event, train_time) -> np.ndarray:
    """Graf's formula, patient by patient."""
    scores = []
    for k, moment in enumerate(times):
        total = 0.0
        for i in range(len(time)):
            if time[i] <= moment and event[i]:
                seen = censoring_survival(train_event, train_time, time[i : i + 1])[0]
                total += survival[i, k] ** 2 / seen
            elif time[i] > moment:
                total += (1 - survival[i, k]) ** 2 / censoring_survival(
                    train_event, train_time, times[k : k + 1]
                )[0]
        scores.append(total / len(time))
    return np.array(scores)


@given(seed=st.integers(0, 10_000))
def test_the_brier_score_is_graf_s(seed: int) -> None:
    event, time, risk = patients(40, seed)
    train_event, train_time, _ = patients(80, seed + 1)
    times = score_times(event, time, train_time=train_time)
    survival = np.exp(-0.05 * np.exp(0.8 * risk)[:, None] * times[None])
    found = integrated_brier(event, time, survival, times, train_event=train_event, train_time=train_time)
    if len(times) < 2:
        assert found.value is None
        assert "expected 2 or more" in found.problem
        return
    expected = by_hand(event, time, survival, times, train_event, train_time)
    np.testing.assert_allclose(found.scores, expected, rtol=1e-10)
    assert found.value == pytest.approx(np.trapezoid(expected, times) / (times[-1] - times[0]), rel=1e-12)
    # Everybody's prediction being the reference, the score is the reference.
    assert found.reference > 0


def test_follow_up_is_cut_without_changing_a_score() -> None:
    event, time, risk = patients(120, 3)
    train_event, train_time, _ = patients(300, 4)
    keep = time < train_time.max()  # scikit-survival refuses the others
    event, time, risk = event[keep], time[keep], risk[keep]
    times = score_times(event, time, train_time=train_time)
    assert len(times) > 5
    survival = np.exp(-0.05 * np.exp(0.8 * risk)[:, None] * times[None])
    train, test = Surv.from_arrays(train_event, train_time), Surv.from_arrays(event, time)
    weights = {"train_event": train_event, "train_time": train_time}
    ours = integrated_brier(event, time, survival, times, **weights)
    np.testing.assert_allclose(ours.scores, brier_score(train, test, survival, times)[1], rtol=1e-12)
    auc = dynamic_auc(event, time, risk, times, **weights)
    np.testing.assert_allclose(auc.scores, cumulative_dynamic_auc(train, test, risk, times)[0], rtol=1e-12)
    cut = cut_off(event, time, times[-1])
    assert cut[1].max() == np.nextafter(times[-1], np.inf)
    assert not cut[0][time > times[-1]].any()


def test_patients_beyond_the_training_folds_are_scored() -> None:
    event, time, risk = patients(60, 5)
    train_event, train_time, _ = patients(100, 6)
    time[3], event[3] = train_time.max() + 50, True
    times = score_times(event, time, train_time=train_time)
    weights = {"train_event": train_event, "train_time": train_time}
    assert 0.5 < dynamic_auc(event, time, risk, times, **weights).value < 1
    survival = np.exp(-0.05 * np.exp(0.8 * risk)[:, None] * times[None])
    good = integrated_brier(event, time, survival, times, **weights)
    assert 0 < good.value < good.reference
    wrong = np.exp(-0.05 * np.exp(-0.8 * risk)[:, None] * times[None])
    assert integrated_brier(event, time, wrong, times, **weights).value > good.reference


@given(seed=st.integers(0, 10_000))
def test_auc_of_the_reversed_risk(seed: int) -> None:
    event, time, risk = patients(50, seed)
    train_event, train_time, _ = patients(80, seed + 1)
    times = score_times(event, time, train_time=train_time)
    weights = {"train_event": train_event, "train_time": train_time}
    auc = dynamic_auc(event, time, risk, times, **weights)
    reverse = dynamic_auc(event, time, -risk, times, **weights)
    np.testing.assert_allclose(auc.scores + reverse.scores, 1, atol=1e-9)
    assert auc.value == pytest.approx(1 - reverse.value, abs=1e-9)


def test_undefined_is_said_and_never_nought() -> None:
    time = np.array([3.0, 5.0, 9.0, 11.0])
    train = {"train_event": np.ones(4, bool), "train_time": time}
    nobody = np.zeros(4, bool)
    assert len(score_times(nobody, time, train_time=time)) == 0
    for problem in (
        dynamic_auc(nobody, time, time, np.zeros(0), **train),
        dynamic_auc(nobody, time, time, np.array([4.0]), **train),
        integrated_brier(nobody, time, np.zeros((4, 1)), np.array([4.0]), **train),
    ):
        assert problem.value is None
        assert problem.problem
    with pytest.raises(SurvivalDataError, match="ascend"):
        dynamic_auc(nobody, time, time, np.array([5.0, 4.0]), **train)
    with pytest.raises(SurvivalDataError, match=r"4 patients, 2 times"):
        integrated_brier(nobody, time, np.zeros((4, 1)), np.array([4.0, 5.0]), **train)
    with pytest.raises(SurvivalDataError, match="expected 1 or more"):
        score_times(nobody, time, train_time=time, count=0)
