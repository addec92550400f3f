"""Comparisons, ranks and risk splits: pairs stay pairs, published p-values return, noise gives no order."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from past_surv.data.cohort import Cohort
from past_surv.evaluation.cells import NO_ENCODER, Cell, CellResult
from past_surv.evaluation.comparisons import ALL, ComparisonError, compare, label
from past_surv.evaluation.kaplan import curve_table, kaplan_table, risk_splits
from past_surv.evaluation.predictions import predictions_of
from past_surv.evaluation.resampling import bootstraps
from past_surv.evaluation.scores import POOLED, score_table
from past_surv.evaluation.sources import cohort_source, load
from past_surv.evaluation.summary import places, summarise, warnings_of
from past_surv.metrics.concordance import harrell_c, uno_c


def made_cohort(folder: Path, name: str = "made", n: int = 150, seed: int = 0) -> Path:
    stream = np.random.default_rng(seed)
    truth = stream.normal(size=n)
    time = stream.exponential(30 * np.exp(-truth)) + 0.1
    table = pd.DataFrame(
        {
            "case_id": [f"{name}{i:03}" for i in range(n)],
            "survival_months": time.round(3),
            "censorship": (stream.random(n) < 0.4).astype(int),
            "age": (60 + 8 * truth + 4 * stream.normal(size=n)).round(1),
            "is_female": stream.integers(0, 2, n),
            "G_rnaseq": truth,
        }
    )
    path = folder / f"{name}.csv"
    table.to_csv(path, index=False)
    return path


def results_of(
    folder: Path, noise: dict[str, float], *, name: str = "made", n: int = 150
) -> list[CellResult]:
    """Cells whose risk is the truth with noise, by system."""
    source = cohort_source([made_cohort(folder, name, n)], folds=3)
    cohort, folds = load(source)
    results = []
    for number, (system, level) in enumerate(noise.items()):
        stream = np.random.default_rng(100 + number)
        for fold in range(3):
            truth = cohort.omics["G_rnaseq"].to_numpy()[folds[fold].test]
            results.append(
                CellResult(
                    cell=Cell(cohort=source, encoder=NO_ENCODER, system=system, fold=fold, seed=0),
                    cases=cohort.cases[folds[fold].test].to_numpy(dtype=str),
                    risk=truth + level * stream.normal(size=len(truth)),
                    survival=None,
                    edges=None,
                    info={"parameters": 7},
                    seconds=0.0,
                )
            )
    return results


def test_scores_are_those_of_each_fold(tmp_path: Path) -> None:
    results = results_of(tmp_path, {"good": 0.5})
    scores = score_table(results)
    cohort, folds = load(results[0].cell.cohort)
    for result in results:
        fold = folds[result.cell.fold]
        own = scores[scores["fold"] == fold.name].set_index("metric")
        arrays = cohort.event[fold.test], cohort.time[fold.test], result.risk
        train = {"train_event": cohort.event[fold.train], "train_time": cohort.time[fold.train]}
        tau = np.quantile(cohort.time[fold.train][cohort.event[fold.train]], 0.8)
        assert own.loc["harrell", "value"] == harrell_c(*arrays).value
        assert own.loc["uno_tau", "value"] == uno_c(*arrays, **train, tau=tau).value
        assert own.loc["ipcw1_tau", "value"] == uno_c(*arrays, **train, tau=tau, exponent=1).value
        assert own.loc["uno_tau", ["tau", "exponent", "censoring"]].tolist() == [tau, 2.0, "training fold"]
        assert own.loc["uno_tau", "largest_weight"] >= 1
        assert "no survival curves" in own.loc["ibs", "problem"]
    pooled = scores[scores["fold"] == POOLED].set_index("metric")
    assert pooled.loc["harrell", "patients"] == 150
    assert pooled.loc["uno_tau", "censoring"] == "all patients"
    assert "ibs" not in pooled.index


def test_a_better_system_is_found_and_equal_ones_are_not_ordered(tmp_path: Path) -> None:
    results = results_of(tmp_path, {"good": 0.2, "bad": 3.0, "same": 0.25})
    table = compare(bootstraps(results, resamples=300))
    harrell = table[table["metric"] == "harrell"].set_index(["first", "second"])
    won = harrell.loc[("good", "bad")]
    assert won["difference"] > 0
    assert won["low"] > 0
    assert won["p_holm"] < 0.05
    assert won["resolved"]
    assert won["warning"] is None
    equal = harrell.loc[("good", "same")]
    assert not equal["resolved"]
    assert f"{equal['events']} deaths resolve differences of about" in equal["warning"]
    # The value is the tables': the mean over folds.
    scores = score_table(results)
    own = scores[(scores["system"] == "good") & (scores["metric"] == "harrell") & (scores["fold"] != POOLED)]
    assert won["value_first"] == pytest.approx(own["value"].astype(float).mean(), abs=1e-12)
    (line,) = warnings_of(table)
    assert line.startswith("made: 1 of 3 differences in harrell")


def test_pairs_are_drawn_together(tmp_path: Path) -> None:
    """A change that keeps the order changes no draw; draws ignore what else is run."""
    results = results_of(tmp_path, {"a": 0.5})
    twin = [
        CellResult(**{**vars(r), "cell": Cell(**{**vars(r.cell), "system": "b"}), "risk": 5 + np.exp(r.risk)})
        for r in results
    ]
    drawn = bootstraps([*results, *twin], resamples=100)["made"]
    first, second = (drawn.draws((NO_ENCODER, name), "harrell") for name in "ab")
    np.testing.assert_allclose(first, second, atol=1e-12)
    alone = bootstraps(results, resamples=100)["made"].draws((NO_ENCODER, "a"), "harrell")
    np.testing.assert_array_equal(alone, first)
    row = compare({"made": drawn}).iloc[0]
    assert (row["difference"], row["p"], row["resolved"]) == (0.0, 1.0, False)


def test_patients_without_a_risk_are_left_out_of_both(tmp_path: Path) -> None:
    results = results_of(tmp_path, {"a": 0.5, "b": 0.5})
    for result in results[3:]:
        result.risk[:4] = np.nan
    drawn = bootstraps(results, resamples=50)["made"]
    assert drawn.events((NO_ENCODER, "a"))[0] == 150
    patients, _ = drawn.events((NO_ENCODER, "a"), (NO_ENCODER, "b"))
    assert patients == 138
    cohort, folds = load(results[0].cell.cohort)
    expected = np.mean(
        [
            harrell_c(cohort.event[fold.test[4:]], cohort.time[fold.test[4:]], result.risk[4:]).value
            for fold, result in zip(folds, results[:3], strict=True)
        ]
    )
    found = drawn.draws((NO_ENCODER, "a"), "harrell", beside=(NO_ENCODER, "b"))
    assert found[0] == pytest.approx(expected, abs=1e-12)
    scores = score_table(results)
    assert scores.loc[scores["system"] == "b", "unpredicted"].max() == 12


def test_the_reference(tmp_path: Path) -> None:
    drawn = bootstraps(results_of(tmp_path, {"a": 0.5, "b": 0.5, "c": 0.5}), resamples=20)
    table = compare(drawn, reference="b")
    assert set(zip(table["first"], table["second"], strict=True)) == {("b", "a"), ("b", "c")}
    with pytest.raises(ComparisonError, match="no 'd' to compare with; there are a, b, c"):
        compare(drawn, reference="d")
    assert label(("uni", "mcat")) == "mcat (uni)"


def test_ranks_and_first_places(tmp_path: Path) -> None:
    results = results_of(tmp_path, {"a": 0.2, "b": 2.0}) + results_of(
        tmp_path, {"a": 4.0, "b": 0.2}, name="other"
    )
    scores = score_table(results)
    drawn = bootstraps(results, resamples=50)
    splits = risk_splits(predictions_of(results))
    summary = summarise(scores, drawn, splits, results)
    ranks = summary.set_index(["cohort", "label"])["harrell_rank"].to_dict()
    assert ranks == {("made", "a"): 1, ("made", "b"): 2, ("other", "a"): 2, ("other", "b"): 1}
    over = places(summary).set_index("label")
    assert over["harrell_firsts"].tolist() == [1, 1]
    assert over["harrell_mean_rank"].tolist() == [1.5, 1.5]
    row = summary.iloc[0]
    assert row["harrell_low"] < row["harrell"] < row["harrell_high"]
    assert (row["patients"], row["folds"], row["seeds"], row["parameters"]) == (150, 3, 1, 7)
    overall = compare(drawn)
    both = overall[overall["metric"] == "harrell"].set_index("cohort")["difference"]
    assert both[ALL] == pytest.approx((both["made"] + both["other"]) / 2)


def test_a_missing_fold_is_not_compared(tmp_path: Path) -> None:
    results = results_of(tmp_path, {"a": 0.5, "b": 0.5})[:-1]
    table = compare(bootstraps(results, resamples=20))
    assert table.empty
    scores = score_table(results)
    assert POOLED not in set(scores.loc[scores["system"] == "b", "fold"])


def test_published_risks_give_the_published_p(shared_data: Path) -> None:
    golden = shared_data / "tcga" / "golden"
    risks = pd.read_csv(golden / "luad_risks.csv.gz")
    predictions = pd.DataFrame(
        {
            "cohort": "luad",
            "case_id": [f"{f}-{i}" for i, f in enumerate(risks.groupby("method").cumcount())],
            "encoder": NO_ENCODER,
            "system": risks["method"],
            "seed": 0,
            "fold": risks["fold"].astype(str),
            "risk": risks["risk"],
            "time": risks["time"],
            "event": 1 - risks["censorship"],
        }
    )
    splits = {(s.system, s.split): s for s in risk_splits(predictions)}
    for row in pd.read_csv(golden / "luad_logrank.csv").itertuples():
        assert splits[row.method, "pooled"].test.p == pytest.approx(row.logrank_p_pooled_median, rel=1e-9)
        assert splits[row.method, "per fold"].test.p == pytest.approx(row.logrank_p_foldmedian, rel=1e-9)


def test_numbers_of_the_curves(tmp_path: Path) -> None:
    predictions = predictions_of(results_of(tmp_path, {"a": 0.3}))
    splits = risk_splits(predictions)
    table = kaplan_table(splits)
    assert table.groupby("split")["patients"].sum().tolist() == [150, 150]
    pooled = table[table["split"] == "pooled"].set_index("group")
    assert pooled.loc["high", "median"] < pooled.loc["low", "median"]
    assert pooled["p"].iloc[0] < 1e-6
    steps = curve_table(splits)
    assert ((steps["low"] <= steps["survival"]) & (steps["survival"] <= steps["high"]))[
        steps["low"].notna()
    ].all()


def test_one_risk_for_all_has_no_groups(tmp_path: Path) -> None:
    predictions = predictions_of(results_of(tmp_path, {"a": 0.3})).assign(risk=1.0)
    for split in risk_splits(predictions):
        assert split.test is None
        assert "same risk" in split.problem
        assert list(split.curves) == ["high"]


def test_the_order_of_patients_says_nothing(tmp_path: Path) -> None:
    predictions = predictions_of(results_of(tmp_path, {"a": 0.3, "b": 1.0}))
    shuffled = predictions.sample(frac=1, random_state=0)
    before = {(s.system, s.split): s.test.p for s in risk_splits(predictions)}
    after = {(s.system, s.split): s.test.p for s in risk_splits(shuffled)}
    assert before.keys() == after.keys()
    assert all(after[key] == pytest.approx(p, rel=1e-12) for key, p in before.items())


def test_a_cohort_is_read_once(tmp_path: Path) -> None:
    source = cohort_source([made_cohort(tmp_path)], folds=3)
    assert isinstance(load(source)[0], Cohort)
    assert load(source)[0] is load(cohort_source([made_cohort(tmp_path)], folds=3))[0]
