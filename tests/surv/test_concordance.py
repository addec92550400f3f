"""Concordance against published figures, scikit-survival, and the pairs counted one by one."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sksurv.metrics import concordance_index_censored, concordance_index_ipcw
from sksurv.nonparametric import CensoringDistributionEstimator
from sksurv.util import Surv

from past_surv.metrics.bootstrap import interval, multiplicities, resampled_c
from past_surv.metrics.concordance import (
    SurvivalDataError,
    censoring_survival,
    harrell_c,
    pairs_of,
    uno_c,
)


@pytest.fixture(scope="module")
def golden(shared_data: Path) -> Path:
    return shared_data / "tcga" / "golden"


def cohort(n: int, seed: int, ties: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    stream = np.random.default_rng(seed)
    time = stream.exponential(20, n) + 0.5
    time = np.ceil(time) if ties else time
    risk = stream.normal(size=n)
    return stream.random(n) < 0.5, time, np.round(risk, 1) if ties else risk


def events_of(table: pd.DataFrame) -> np.ndarray:
    return (table["censorship"] == 0).to_numpy()


def test_published_risks_give_the_published_figures(golden: Path) -> None:
    risks = pd.read_csv(golden / "luad_risks.csv.gz")
    figures = pd.read_csv(golden / "luad_cindex.csv")
    assert len(figures) == 55
    for row in figures.itertuples():
        own = risks[risks["method"] == row.method]
        scored, train = own[own["fold"] == row.fold], own[own["fold"] != row.fold]
        arrays = events_of(scored), scored["time"].to_numpy(), scored["risk"].to_numpy()
        harrell = harrell_c(*arrays)
        assert harrell.value == pytest.approx(row.harrell, abs=1e-12)
        assert (harrell.concordant, harrell.discordant, harrell.tied) == (
            row.concordant,
            row.discordant,
            row.tied_risk,
        )
        weights = {"train_event": events_of(train), "train_time": train["time"].to_numpy()}
        uno = uno_c(*arrays, **weights)
        assert uno.value == pytest.approx(row.uno_no_tau, abs=1e-12)
        assert uno_c(*arrays, **weights, tau=row.tau).value == pytest.approx(row.uno_tau, abs=1e-12)


def test_the_variants_of_uno(golden: Path) -> None:
    risks = pd.read_csv(golden / "luad_risks.csv.gz")
    own = risks[risks["method"] == "MCATsm_nll_surv_a0.0_5foldcv_gc32_concat"]
    for row in pd.read_csv(golden / "luad_uno_variants.csv").itertuples():
        scored, train = own[own["fold"] == row.fold], own[own["fold"] != row.fold]
        arrays = events_of(scored), scored["time"].to_numpy(), scored["risk"].to_numpy()
        weights = {"train_event": events_of(train), "train_time": train["time"].to_numpy()}
        squared, printed = uno_c(*arrays, **weights), uno_c(*arrays, **weights, exponent=1)
        assert squared.value == pytest.approx(row.mine_G2, abs=1e-12)
        assert squared.largest_weight == pytest.approx(row.maxw, rel=1e-12)
        assert printed.value == pytest.approx(row.paper_G1, abs=1e-12)
        assert (squared.exponent, squared.tau, squared.censoring) == (2.0, None, "training fold")
        everybody = {"train_event": events_of(own), "train_time": own["time"].to_numpy()}
        assert uno_c(*arrays, **everybody).value == pytest.approx(row.trainval_leak, abs=1e-12)


@given(seed=st.integers(0, 10_000), n=st.integers(12, 60), tau=st.sampled_from([None, 15.0, 30.0]))
def test_scikit_survival_agrees(seed: int, n: int, tau: float | None) -> None:
    event, time, risk = cohort(n, seed)
    event[0] = True
    time[0] = 0.5
    train_event, train_time, _ = cohort(80, seed + 1)
    train_event[:2], train_time[:2] = (False, True), 500.0
    theirs = concordance_index_ipcw(
        Surv.from_arrays(train_event, train_time), Surv.from_arrays(event, time), risk, tau=tau
    )
    ours = uno_c(event, time, risk, train_event=train_event, train_time=train_time, tau=tau)
    assert ours.value == pytest.approx(theirs[0], abs=1e-12)
    own = pairs_of(event, time, risk)
    *_, concordant, _, tied, _ = (None, *concordance_index_censored(event, time, risk))
    assert int((own.comparable & (own.order == 1)).sum()) == concordant
    assert int((own.comparable & (own.order == 0.5)).sum()) == tied
    later = np.unique(time[time <= train_time.max()])
    estimator = CensoringDistributionEstimator().fit(Surv.from_arrays(train_event, train_time))
    np.testing.assert_allclose(
        censoring_survival(train_event, train_time, later), estimator.predict_proba(later), atol=1e-14
    )


@given(seed=st.integers(0, 10_000))
def test_only_the_order_of_risks_counts(seed: int) -> None:
    event, time, risk = cohort(40, seed, ties=False)
    event[:2] = True
    value = harrell_c(event, time, risk).value
    assert harrell_c(event, time, np.exp(2 * risk) + 5).value == pytest.approx(value, abs=1e-12)
    assert harrell_c(event, time, -risk).value == pytest.approx(1 - value, abs=1e-12)
    order = np.random.default_rng(seed).permutation(40)
    assert harrell_c(event[order], time[order], risk[order]).value == pytest.approx(value, abs=1e-12)


def test_undefined_is_said_and_never_nought() -> None:
    time, risk = np.array([3.0, 5.0, 9.0]), np.array([1.0, 2.0, 3.0])
    censored = harrell_c(np.zeros(3, bool), time, risk)
    assert censored.value is None
    assert "no pair" in censored.problem
    event = np.array([True, True, True])
    late = uno_c(event, time, risk, train_event=np.array([True, False]), train_time=np.array([2.0, 4.0]))
    assert late.value is None
    assert "a death at 5" in late.problem
    early = {"train_event": np.array([True, False]), "train_time": np.array([2.0, 4.0])}
    assert uno_c(event, time, risk, **early, tau=4.0).value is not None
    assert uno_c(event, time, risk, **early, tau=1.0).problem.startswith("no pair")


@pytest.mark.parametrize(
    ("event", "time", "risk", "said"),
    [
        ([1, 0], [1.0, -2.0], [0.0, 1.0], "-2"),
        ([1, 0], [1.0, np.nan], [0.0, 1.0], "time are not finite"),
        ([1, 0], [1.0, 2.0], [np.inf, 1.0], "risk are not finite"),
        ([1, 2], [1.0, 2.0], [0.0, 1.0], "0 or 1"),
        ([1, 0, 1], [1.0, 2.0], [0.0, 1.0], "one of each"),
    ],
)
def test_what_cannot_be_scored_is_named(event: list, time: list, risk: list, said: str) -> None:
    with pytest.raises(SurvivalDataError, match=said):
        harrell_c(np.array(event), np.array(time), np.array(risk))


def test_resamples_are_those_of_a_loop() -> None:
    event, time, risk = cohort(50, 3)
    counts = multiplicities(50, 30, seed=1)
    assert (counts.sum(axis=1) == 50).all()
    both = resampled_c(event, time, np.stack([risk, -risk]), counts)
    for row, count in enumerate(counts.astype(int)):
        drawn = np.repeat(np.arange(50), count)
        # A patient and its copy have one time: neither outlives the other.
        expected = concordance_index_censored(event[drawn], time[drawn], risk[drawn])[0]
        assert both[0, row] == pytest.approx(expected, abs=1e-12)
    assert both[0] + both[1] == pytest.approx(np.ones(30))
    found = interval(0.5, np.append(both[0], np.nan))
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(both[0], [2.5, 97.5])))
    assert (found.resamples, found.undefined) == (31, 1)
