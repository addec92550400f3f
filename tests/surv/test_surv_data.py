"""Cohort tables, folds and groups; what is learned is learned from the training fold alone."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from past_surv.data.cohort import Cohort, CohortError, CohortNotFoundError, read_cohort
from past_surv.data.groups import group_columns, read_groups
from past_surv.data.learned import LearnedError, Scaling, TimeIntervals
from past_surv.data.splits import Fold, SurvivalSplitError, check_folds, read_folds, site_folds
from past_surv.systems.base import rank_sum
from past_surv.systems.cox import ClinicalCox, CoxError, GeneCoxnet
from past_surv.systems.snn import GeneSNN


def table(n: int = 60, seed: int = 0) -> pd.DataFrame:
    stream = np.random.default_rng(seed)
    age = stream.integers(30, 80, n)
    genes = stream.normal(size=(n, 4))
    time = stream.exponential(40 * np.exp(-0.04 * (age - 55) - genes[:, 0])) + 0.1
    return pd.DataFrame(
        {
            "case_id": [f"C{i:03}" for i in range(n)],
            "slide_id": [f"C{i:03}-DX1.svs" for i in range(n)],
            "survival_months": time.round(3),
            "censorship": (stream.random(n) < 0.4).astype(int),
            "age": age,
            "is_female": stream.integers(0, 2, n),
            "site": stream.integers(0, 12, n).astype(str),
            **{f"G{k}_rnaseq": genes[:, k] for k in range(3)},
            "G0_mut": stream.integers(0, 2, n),
        }
    )


def written(tmp_path: Path, frame: pd.DataFrame) -> Path:
    path = tmp_path / "tcga_made_all_clean.csv"
    frame.to_csv(path, index=False)
    return path


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    return read_cohort(written(tmp_path, table()))


def test_the_real_tables(shared_data: Path) -> None:
    folder = shared_data / "tcga"
    cohort = read_cohort(folder / "tcga_skcm_all_clean.csv.zip")
    assert cohort.describe() == "skcm: 230 patients, 89 events, 268 slides, 1,602 rnaseq, 738 mut (no cnv)"
    groups = group_columns(cohort, read_groups(folder / "signatures.csv"))
    assert [len(group.columns) for group in groups] == [87, 335, 544, 453, 171, 448]
    folds = read_folds(folder / "splits" / "tcga_skcm", cohort)
    assert [int(cohort.event[fold.test].sum()) for fold in folds] == [19, 18, 17, 17, 18]
    assert sum(len(fold.test) for fold in folds) == len(cohort)


def test_slides_of_a_case_are_joined(tmp_path: Path) -> None:
    frame = table()
    second = frame.iloc[[4]].assign(slide_id="C004-DX2.svs")
    cohort = read_cohort(written(tmp_path, pd.concat([frame, second])))
    assert len(cohort) == 60
    assert cohort.slides["C004"] == ("C004-DX1.svs", "C004-DX2.svs")
    assert cohort.name == "made"


def spoiled(column: str, value: object, row: int = 3) -> pd.DataFrame:
    frame = table().astype({column: object})
    frame.loc[row, column] = value
    return frame


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (table().drop(columns="case_id"), "no column case_id"),
        (table().drop(columns="survival_months"), "survival_months or time"),
        (spoiled("survival_months", -2.0), "line 5: case C003 has a time of -2"),
        (spoiled("survival_months", ""), "line 5: case C003 has a time of nan"),
        (spoiled("censorship", 2), "line 5: censorship is 2"),
        (table().assign(censorship=1), "all 60 patients are censored"),
        (spoiled("slide_id", "C000-DX1.svs"), "C000-DX1.svs belongs to 2 cases"),
        (spoiled("case_id", "C000"), "rows of case C000 disagree on time"),
        (spoiled("G1_rnaseq", "high"), "G1_rnaseq of case C003 is 'high'"),
        (spoiled("G1_rnaseq", np.inf), "G1_rnaseq of case C003 is infinite"),
        (spoiled("case_id", None), "line 5: the case_id is empty"),
    ],
)
def test_tables_that_cannot_be_used_are_named(tmp_path: Path, frame: pd.DataFrame, said: str) -> None:
    with pytest.raises(CohortError, match=said):
        read_cohort(written(tmp_path, frame))


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(CohortNotFoundError, match="no such cohort table"):
        read_cohort(tmp_path / "none.csv")


def test_folds_that_leak_or_do_not_fit_are_refused(tmp_path: Path, cohort: Cohort) -> None:
    rows = np.arange(60)
    with pytest.raises(SurvivalSplitError, match="both trained on and scored"):
        check_folds([Fold(name="0", train=rows[:50], test=rows[45:])], cohort)
    one = Fold(name="0", train=rows[:50], test=rows[59:])
    with pytest.raises(SurvivalSplitError, match="C059 is scored in more than one fold"):
        check_folds([one, one], cohort)
    lived = rows[~cohort.event][:2]
    with pytest.raises(SurvivalSplitError, match="2 scored cases, none of whom died"):
        check_folds([Fold(name="0", train=rows[cohort.event], test=lived)], cohort)
    pd.DataFrame({"train": ["C001", "C777"], "val": ["C002", None]}).to_csv(tmp_path / "splits_0.csv")
    with pytest.raises(CohortError, match="C777"):
        read_folds(tmp_path, cohort)
    with pytest.raises(SurvivalSplitError, match=r"no splits_0\.csv"):
        read_folds(tmp_path / "nowhere", cohort)


@given(seed=st.integers(0, 1000))
def test_no_site_is_on_both_sides(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    cohort = read_cohort(written(tmp_path_factory.mktemp("t"), table(seed=seed % 7)))
    folds = site_folds(cohort, folds=4, seed=seed)
    site = cohort.clinical["site"].to_numpy()
    assert np.array_equal(np.sort(np.concatenate([fold.test for fold in folds])), np.arange(60))
    assert not any(set(site[fold.train]) & set(site[fold.test]) for fold in folds)


def test_groups_name_what_they_lack(tmp_path: Path, cohort: Cohort) -> None:
    path = tmp_path / "groups.csv"
    path.write_text("a,b,c\nG0,G2,X\nG1,Y,\n")
    a, b = group_columns(cohort, read_groups(path))
    assert a.columns == ("G0_mut", "G0_rnaseq", "G1_rnaseq")
    assert (b.columns, b.absent) == (("G2_rnaseq",), ("Y",))
    with pytest.raises(CohortError, match="none of 1 groups has a gene"):
        group_columns(cohort, {"c": ["X"]})
    path.write_text("a,b\nG0,\n")
    with pytest.raises(CohortError, match="'b' has no genes"):
        read_groups(path)


@given(seed=st.integers(0, 1000), intervals=st.integers(2, 6))
def test_intervals_hold_equal_numbers_of_deaths(seed: int, intervals: int) -> None:
    stream = np.random.default_rng(seed)
    time, event = stream.exponential(20, 90), stream.random(90) < 0.6
    learned = TimeIntervals.of(time, event, intervals=intervals)
    held = np.bincount(learned.of_times(time[event]), minlength=intervals)
    assert len(learned) == intervals
    assert held.max() - held.min() <= 1
    assert learned.of_times([0.0, 1e9]).tolist() == [0, intervals - 1]


def test_what_cannot_be_learned() -> None:
    with pytest.raises(LearnedError, match="do not make 4 intervals"):
        TimeIntervals.of(np.array([3.0, 3.0, 5.0]), np.array([1, 1, 0]))
    with pytest.raises(LearnedError, match="column x has no value"):
        Scaling.of(pd.DataFrame({"x": [np.nan, np.nan]}))


def test_scaling_is_the_training_folds() -> None:
    train = pd.DataFrame({"x": [1.0, 3.0, np.nan], "constant": [2.0, 2.0, 2.0]})
    scaled = Scaling.of(train)(pd.DataFrame({"constant": [2.0, 5.0], "x": [5.0, np.nan], "more": [1, 2]}))
    assert scaled.to_dict("list") == {"x": [3.0, 0.0], "constant": [0.0, 3.0]}


SYSTEMS = (
    ClinicalCox(),
    GeneCoxnet(["G0_rnaseq", "G1_rnaseq", "G2_rnaseq", "G0_mut"], strengths=8),
    GeneSNN(["G0_rnaseq", "G1_rnaseq", "G2_rnaseq", "G0_mut"], epochs=2, intervals=3),
)


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.name)
def test_nothing_is_learned_from_who_is_scored(tmp_path: Path, cohort: Cohort, system: object) -> None:
    fold = Fold(name="0", train=np.arange(45), test=np.arange(45, 60))
    expected = system.risk(cohort, fold)
    changed = table()
    changed.loc[45:, "survival_months"] *= 7
    changed.loc[45:, "censorship"] = 1 - changed.loc[45:, "censorship"]
    np.testing.assert_array_equal(system.risk(read_cohort(written(tmp_path, changed)), fold), expected)
    # Others among the scored rows change nothing for one who stays.
    changed.loc[46:, ["age", "G0_rnaseq", "G1_rnaseq"]] *= 3
    again = system.risk(read_cohort(written(tmp_path, changed)), fold)
    assert again[0] == pytest.approx(expected[0], abs=1e-6)
    assert not np.allclose(again[1:], expected[1:])


def test_columns_that_are_not_there(cohort: Cohort) -> None:
    fold = Fold(name="0", train=np.arange(45), test=np.arange(45, 60))
    with pytest.raises(CoxError, match="no clinical column 'stage'"):
        ClinicalCox(["stage"]).risk(cohort, fold)


def test_rank_sum() -> None:
    assert rank_sum(np.array([0.1, 9.0, 0.3]), np.array([5.0, 7.0, 1.0])).tolist() == [1.5, 3.0, 1.5]
