"""Kaplan-Meier curves and log-rank tests against published figures and the formulas."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2, norm

from past_surv.metrics.concordance import SurvivalDataError
from past_surv.metrics.curves import high_risk, kaplan_meier, log_rank


def test_published_risks_give_the_published_p(shared_data: Path) -> None:
    golden = shared_data / "tcga" / "golden"
    risks = pd.read_csv(golden / "luad_risks.csv.gz")
    for row in pd.read_csv(golden / "luad_logrank.csv").itertuples():
        own = risks[risks["method"] == row.method]
        event, time = (own["censorship"] == 0).to_numpy(), own["time"].to_numpy()
        pooled = log_rank(event, time, high_risk(own["risk"]))
        assert pooled.p == pytest.approx(row.logrank_p_pooled_median, rel=1e-9)
        assert pooled.statistic == pytest.approx(row.logrank_stat_pooled, rel=1e-9)
        within = own.groupby("fold")["risk"].transform(high_risk).astype(bool).to_numpy()
        assert log_rank(event, time, within).p == pytest.approx(row.logrank_p_foldmedian, rel=1e-9)


def test_the_formulas() -> None:
    time = np.array([2.0, 3.0, 3.0, 5.0, 8.0, 8.0, 13.0])
    event = np.array([True, True, False, True, False, True, False])
    curve = kaplan_meier(event, time)
    assert curve.time.tolist() == [2, 3, 5, 8, 13]
    assert curve.at_risk.tolist() == [7, 6, 4, 3, 1]
    died = np.array([1, 1, 1, 1, 0])
    survival = np.cumprod(1 - died / curve.at_risk)
    np.testing.assert_allclose(curve.survival, survival, rtol=1e-14)
    # Kalbfleisch and Prentice's log-log band.
    variance = np.cumsum(died / (curve.at_risk * (curve.at_risk - died).clip(min=1)))
    reach = norm.ppf(0.975) * np.sqrt(variance) / np.log(survival)
    np.testing.assert_allclose(curve.low, survival ** np.exp(-reach), rtol=1e-9)
    np.testing.assert_allclose(curve.high, survival ** np.exp(reach), rtol=1e-9)
    assert (curve.patients, curve.events, curve.median) == (7, 4, 8.0)
    assert kaplan_meier(np.zeros(3, bool), time[:3]).median is None

    group = np.array([0, 1, 0, 1, 0, 1, 1])
    observed = expected = variance = 0.0
    for moment in (2.0, 3.0, 5.0, 8.0):
        at_risk, ones = time >= moment, (time >= moment) & (group == 1)
        n, n1, d = at_risk.sum(), ones.sum(), (event & (time == moment)).sum()
        observed += (event & (time == moment) & (group == 1)).sum()
        expected += d * n1 / n
        variance += d * (n1 / n) * (1 - n1 / n) * (n - d) / (n - 1)
    statistic = (observed - expected) ** 2 / variance
    found = log_rank(event, time, group)
    assert found.statistic == pytest.approx(statistic, rel=1e-12)
    assert found.p == pytest.approx(chi2.sf(statistic, 1), rel=1e-12)


def test_who_lies_at_the_median_is_at_high_risk() -> None:
    assert high_risk([1.0, 2.0, 3.0]).tolist() == [False, True, True]


def test_groups_and_patients_are_needed() -> None:
    with pytest.raises(SurvivalDataError, match="one group"):
        log_rank(np.array([True, False]), np.array([1.0, 2.0]), np.array([1, 1]))
    with pytest.raises(SurvivalDataError, match="no patients"):
        kaplan_meier(np.zeros(0, bool), np.zeros(0))
