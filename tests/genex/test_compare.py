"""Paired comparisons and summaries against plain recomputation from the cells themselves."""

import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from past_genex.metrics.compare import (
    CompareError,
    bootstrap_mean_r,
    compare_systems,
    wilcoxon,
)
from past_genex.metrics.pairs import PairMoments
from past_genex.metrics.resample import draw_units, weighted_r
from past_genex.metrics.summary import SummaryError, summarise


class Cohort:
    """Cells of patients, with systems of known skill."""

    def __init__(
        self, patients: int, *, regions: int = 3, cells: int = 60, genes: int = 12, seed: int = 0
    ) -> None:
        rng = np.random.default_rng(seed)
        rows, self.truth, self.noise = [], [], []
        for patient in range(patients):
            for region in range(regions):
                rows.append((f"f{patient}", f"P{patient}", f"T{patient % 3}", f"S{patient}", region))
                self.truth.append(rng.normal(3, 1, (cells, genes)))
                self.noise.append(rng.normal(0, 1, (cells, genes)))
        self.units = pd.DataFrame(rows, columns=["fold", "patient", "cancer_type", "slide", "region"])

    def system(self, skill: float) -> PairMoments:
        return PairMoments.stack(
            [PairMoments.of(skill * t + e, t) for t, e in zip(self.truth, self.noise, strict=True)]
        )

    def r_of(self, skill: float, units: list[int]) -> np.ndarray:
        t, e = (np.concatenate([part[u] for u in units]) for part in (self.truth, self.noise))
        return np.array([stats.pearsonr(skill * a + b, a).statistic for a, b in zip(t.T, e.T, strict=True)])


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 1e3]), st.integers(1, 6))
@settings(max_examples=40)
def test_weighted_r_is_that_of_merged_units(seed: int, level: float, units: int) -> None:
    rng = np.random.default_rng(seed)
    parts = []
    for _ in range(units):
        t = rng.normal(level, 1, (rng.integers(2, 20), 7)) + rng.normal(0, 3)
        p = 0.5 * t + rng.normal(level, 1, t.shape)
        t[:, 0] = np.nan if rng.random() < 0.5 else t[:, 0]
        t[:, 1], p[:, 2] = 0.1, 1 / 3
        t[:, 3] = float(len(parts))  # constant within a unit, not over units
        parts.append(PairMoments.of(p, t))
    pairs = PairMoments.stack(parts)
    weights = np.vstack([np.ones(units), rng.integers(0, 3, (20, units)), np.zeros(units)]).astype(float)
    expected = np.stack([pairs.merged(weights=w).r for w in weights])
    np.testing.assert_allclose(weighted_r(pairs, weights), expected, atol=1e-9)


def test_patients_are_drawn_where_there_are_six() -> None:
    """The interval is that of drawing patients' own mean r, recomputed here from the cells."""
    cohort = Cohort(8)
    found = bootstrap_mean_r(cohort.system(0.5), cohort.units, resamples=4000)
    own = np.array([cohort.r_of(0.5, [3 * k, 3 * k + 1, 3 * k + 2]).mean() for k in range(8)])
    assert (found.resampled, found.patients) == ("patients", 8)
    assert found.estimate == pytest.approx(own.mean(), abs=1e-10)
    draws = own[np.random.default_rng(99).integers(0, 8, (40_000, 8))].mean(axis=1)
    np.testing.assert_allclose([found.low, found.high], np.quantile(draws, [0.025, 0.975]), atol=0.003)
    again = bootstrap_mean_r(cohort.system(0.5), cohort.units, resamples=4000)
    assert again == found, "the same seed, the same interval"
    assert bootstrap_mean_r(cohort.system(0.5), cohort.units, resamples=4000, seed=1) != found


def test_regions_are_drawn_where_there_are_fewer() -> None:
    cohort = Cohort(3, regions=6, genes=6)
    found = bootstrap_mean_r(cohort.system(0.5), cohort.units, resamples=1500)
    assert found.resampled == "regions within patients"
    rng, draws = np.random.default_rng(5), []
    for _ in range(100):
        chosen = [[6 * k + int(u) for u in rng.integers(0, 6, 6)] for k in range(3)]
        draws.append(np.mean([cohort.r_of(0.5, units).mean() for units in chosen]))
    low, high = np.quantile(draws, [0.025, 0.975])
    assert found.low < found.estimate < found.high
    assert found.high - found.low == pytest.approx(high - low, rel=0.35)
    single = cohort.units.iloc[::6].reset_index(drop=True)
    with pytest.raises(CompareError, match="one region a slide"):
        bootstrap_mean_r(cohort.system(0.5)[::6], single)


def intra_like(cohort: Cohort) -> pd.DataFrame:
    """Units of which each is the only region of its slide in its fold."""
    fold = cohort.units["patient"] + " " + (cohort.units["region"] + 1).astype(str)
    return cohort.units.assign(fold=fold)


@pytest.mark.parametrize("statistic", ["slide", "pooled"])
def test_regions_are_drawn_over_the_folds_of_a_slide(statistic: str) -> None:
    """With a region a fold, the interval is that of drawing the regions' own mean r."""
    cohort = Cohort(3, regions=5)
    units = intra_like(cohort)
    found = bootstrap_mean_r(cohort.system(0.5), units, statistic=statistic, resamples=2000)
    own = np.array([cohort.r_of(0.5, [u]).mean() for u in range(15)]).reshape(3, 5)
    assert found.resampled == "regions within patients"
    assert found.estimate == pytest.approx(own.mean(), abs=1e-10)
    chosen = np.random.default_rng(9).integers(0, 5, (20_000, 3, 5))
    draws = np.take_along_axis(own[None], chosen, 2).mean(axis=(1, 2))
    assert found.low < found.estimate < found.high
    np.testing.assert_allclose([found.low, found.high], np.quantile(draws, [0.025, 0.975]), atol=0.004)


def test_a_fold_that_is_not_drawn_drops_out() -> None:
    """Two folds of a slide, of which one is not drawn: the other alone is the slide."""
    cohort = Cohort(1, regions=2)
    weights, _ = draw_units(cohort.units, resamples=40)
    assert {tuple(w) for w in weights} == {(1, 1), (2, 0), (0, 2)}
    found = bootstrap_mean_r(cohort.system(0.5), intra_like(cohort), resamples=400)
    own = sorted(cohort.r_of(0.5, [u]).mean() for u in range(2))
    np.testing.assert_allclose([found.low, found.high], own, atol=1e-10)


def test_genes_of_few_patients_count_as_often_as_they_are_drawn() -> None:
    """Badly predicted genes of one patient each: they must not drop out of the draws, and lift the mean."""
    cohort = Cohort(8, regions=1, cells=200, genes=24)
    pairs = cohort.system(0.6)
    rng = np.random.default_rng(2)
    flat = PairMoments.stack([PairMoments.of(rng.normal(size=t.shape), t) for t in cohort.truth])
    fields = ("n", "mean_p", "mean_t", "pp", "tt", "pt")
    mixed = {f: getattr(pairs, f).copy() for f in fields}
    for gene in range(16):  # measured in one patient, and not predicted
        for f in fields:
            mixed[f][:, gene] = 0
            mixed[f][gene % 8, gene] = getattr(flat, f)[gene % 8, gene]
    found = bootstrap_mean_r(PairMoments(**mixed), cohort.units, resamples=1000)
    width = found.high - found.low
    assert abs((found.low + found.high) / 2 - found.estimate) < 0.2 * width


def test_systems_are_compared_where_folds_hold_one_region() -> None:
    cohort = Cohort(2, regions=4)
    systems = {"good": cohort.system(0.8), "none": cohort.system(0.0)}
    row = compare_systems(systems, intra_like(cohort), statistic="pooled", resamples=300).table.iloc[0]
    assert 0 < row["low"] < row["difference"] < row["high"]


@pytest.mark.parametrize("statistic", ["slide", "pooled"])
@pytest.mark.parametrize("patients", [4, 7])
def test_no_skill_is_zero_within_the_interval(statistic: str, patients: int) -> None:
    covered = np.zeros(2, int)
    for seed in range(20):
        cohort = Cohort(patients, seed=seed, cells=40)
        system = cohort.system(0.0)
        for kind, units in enumerate((cohort.units, intra_like(cohort))):
            found = bootstrap_mean_r(system, units, statistic=statistic, resamples=200)
            covered[kind] += found.low <= 0 <= found.high
    # Few units: percentile intervals are narrow; one that ignored the spread would cover hardly ever.
    assert covered.min() >= 13
    cohort = Cohort(patients)
    assert bootstrap_mean_r(cohort.system(0.4), cohort.units, statistic=statistic).low > 0.2


def test_a_slide_tested_in_several_folds_counts_once() -> None:
    cohort = Cohort(6, regions=2)
    units = cohort.units.copy()
    units.loc[units["patient"] == "P0", "fold"] = ["a", "b"]
    found = bootstrap_mean_r(cohort.system(0.5), units, resamples=10)
    first = np.mean([cohort.r_of(0.5, [0]), cohort.r_of(0.5, [1])], axis=0).mean()
    others = [cohort.r_of(0.5, [2 * k, 2 * k + 1]).mean() for k in range(1, 6)]
    assert found.estimate == pytest.approx(np.mean([first, *others]), abs=1e-10)


def test_systems_are_compared_in_pairs() -> None:
    cohort = Cohort(7)
    systems = {"good": cohort.system(0.8), "fair": cohort.system(0.4), "copy": cohort.system(0.4)}
    found = compare_systems(systems, cohort.units)
    table = found.table.set_index(["first", "second"])
    row = table.loc[("good", "fair")]
    good, fair = (
        np.stack([cohort.r_of(s, [3 * k, 3 * k + 1, 3 * k + 2]) for k in range(7)]) for s in (0.8, 0.4)
    )
    assert row["difference"] == pytest.approx((good - fair).mean(), abs=1e-10)
    assert 0 < row["low"] < row["difference"] < row["high"]
    assert row["p_genes"] == pytest.approx(stats.wilcoxon(good.mean(axis=0), fair.mean(axis=0)).pvalue)
    assert row["p_slides"] == pytest.approx(stats.wilcoxon(good.mean(axis=1), fair.mean(axis=1)).pvalue)
    assert (row["n_genes"], row["n_slides"]) == (12, 7)
    same = table.loc[("fair", "copy")]
    assert same[["difference", "low", "high"]].tolist() == [0, 0, 0]
    assert same["p_genes"] == same["p_slides"] == 1.0
    # Holm by its definition: the smallest of three p three times, then twice, then once, never falling.
    p = np.sort(found.table["p_genes"].to_numpy())
    expected = np.minimum(1, np.maximum.accumulate(p * [3, 2, 1]))
    np.testing.assert_allclose(np.sort(found.table["p_genes_holm"].to_numpy()), expected)
    patients = found.patients.query("first == 'good' and second == 'fair'")
    np.testing.assert_allclose(patients["difference"], (good - fair).mean(axis=1), atol=1e-10)
    assert patients["patient"].tolist() == [f"P{k}" for k in range(7)]


def test_only_genes_that_both_predict_are_compared() -> None:
    cohort = Cohort(6)
    full, partial = cohort.system(0.8), cohort.system(0.8)
    n = partial.n.copy()
    n[:, :6] = 0
    without = PairMoments(
        n, *(np.where(n > 0, getattr(partial, f), 0) for f in ("mean_p", "mean_t", "pp", "tt", "pt"))
    )
    row = compare_systems({"full": full, "partial": without}, cohort.units, resamples=50).table.iloc[0]
    assert row["difference"] == 0
    fewer = PairMoments(full.n - 1, full.mean_p, full.mean_t, full.pp, full.tt, full.pt)
    with pytest.raises(CompareError, match="different numbers of cells"):
        compare_systems({"full": full, "fewer": fewer}, cohort.units)


def test_zero_differences_and_missing_values_are_dropped() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 20))
    a[3], a[4:6] = np.nan, b[4:6]
    kept = [k for k in range(20) if k not in (3, 4, 5)]
    p, n = wilcoxon(a, b)
    assert (p, n) == (pytest.approx(stats.wilcoxon(a[kept], b[kept]).pvalue), 17)


def test_a_thousand_draws_of_a_large_cohort_take_seconds() -> None:
    cohort = Cohort(5, regions=20, cells=5, genes=400)
    pairs = cohort.system(0.5)
    start = time.perf_counter()
    found = bootstrap_mean_r(pairs, cohort.units, resamples=1000)
    assert time.perf_counter() - start < 10
    assert found.low < found.estimate < found.high


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: bootstrap_mean_r(c.system(1), c.units.iloc[1:]), "18 units|17 units"),
        (lambda c: bootstrap_mean_r(c.system(1), c.units, statistic="cell"), "slide or pooled"),
        (lambda c: bootstrap_mean_r(c.system(1), c.units, resamples=0), "0 resamples"),
        (lambda c: bootstrap_mean_r(c.system(1), c.units, confidence=2.0), "between 0 and 1"),
        (lambda c: bootstrap_mean_r(c.system(1)[:, :0], c.units), "no gene can be scored"),
        (lambda c: compare_systems({"one": c.system(1)}, c.units), "at least two"),
        (lambda c: compare_systems({"a": c.system(1), "b": c.system(1)[:, 1:]}, c.units), "same units"),
    ],
)
def test_what_cannot_be_compared_is_refused(call, message: str) -> None:
    with pytest.raises(CompareError, match=message):
        call(Cohort(6))


def test_the_summary_is_by_type_then_over_types() -> None:
    cohort = Cohort(6, regions=2)
    for k in range(12):
        cohort.truth[k][:, 0] = np.nan
        cohort.truth[k][:, 1] = 2.0
    found = summarise(cohort.system(0.6), cohort.units)
    pooled, slide = [], []
    for kind in range(3):
        cells = [u for u in range(12) if (u // 2) % 3 == kind]
        keep = slice(2, None)
        pooled.append(_r(cohort, cells)[keep].mean())
        slide.append(np.mean([_r(cohort, cells[:2])[keep].mean(), _r(cohort, cells[2:])[keep].mean()]))
    np.testing.assert_allclose(found.types["r_pooled"], pooled)
    np.testing.assert_allclose(found.types["r_slide"], slide)
    assert found.mean["r_pooled"] == pytest.approx(np.mean(pooled))
    assert found.sd["r_slide"] == pytest.approx(np.std(slide, ddof=1))
    assert (found.types[["genes", "constant", "unmeasured", "flat"]] == [10, 1, 1, 0]).all().all()
    assert (found.types[["patients", "slides", "cells"]] == [2, 2, 240]).all().all()
    apart = summarise(cohort.system(0.6), cohort.units, across_folds=False)
    np.testing.assert_allclose(apart.types["r_pooled"], slide)  # here one fold is one slide
    with pytest.raises(SummaryError, match="11 units"):
        summarise(cohort.system(0.6), cohort.units.iloc[1:])


def _r(cohort: Cohort, units: list[int]) -> np.ndarray:
    t, e = (np.concatenate([part[u] for u in units]) for part in (cohort.truth, cohort.noise))
    with np.errstate(invalid="ignore"):
        return np.array([np.corrcoef(0.6 * a + b, a)[0, 1] for a, b in zip(t.T, e.T, strict=True)])
