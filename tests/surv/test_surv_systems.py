"""Systems that train a network: what they read, what they never read, and what they say."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from made_surv_training import DIM, GROUPS, OTHERS, cohort_table, read_made, write_bags

from past_surv.data.bags import BagFolder
from past_surv.data.cohort import Cohort
from past_surv.data.splits import Fold
from past_surv.systems.base import FoldPrediction, SystemInputError, gene_columns, rank_sum
from past_surv.systems.combined import CombinedError, CombinedSystem
from past_surv.systems.cox import ClinicalCox, GeneCoxnet
from past_surv.systems.mcat import McatSystem
from past_surv.systems.mil import MilSystem
from past_surv.systems.registry import SYSTEMS, MissingInputError, UnknownSystemError, make_system
from past_surv.systems.snn import GeneSNN
from past_surv.systems.trained import Training, TrainingError, inner_folds

FOLD = Fold(name="0", train=np.arange(45), test=np.arange(45, 60))
SHORT = {"epochs": 2, "width": 16, "batch_size": 9, "accumulate": 9, "learning_rate": 2e-3}
TRAINED = ("mil", "mcat", "past-multi")


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> BagFolder:
    return write_bags(tmp_path_factory.mktemp("bags"), cohort_table())


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return read_made(tmp_path_factory.mktemp("cohort"), cohort_table())


def vectors(n: int = 60) -> pd.DataFrame:
    values = np.random.default_rng(5).normal(size=(n, 3))
    return pd.DataFrame(values, index=pd.Index([f"C{i:03}" for i in range(n)], name="case_id"))


def made(name: str, bags: BagFolder, **options: Any) -> Any:
    return make_system(name, groups=GROUPS, bags=bags, vectors=vectors(), **options)


@pytest.mark.parametrize("name", TRAINED)
def test_nothing_is_learned_from_who_is_scored(
    name: str, cohort: Cohort, bags: BagFolder, tmp_path: Path
) -> None:
    system = made(name, bags, **SHORT)
    expected = system.predict(cohort, FOLD, seed=2)
    changed = cohort_table()
    changed.loc[45:, "survival_months"] *= 7
    changed.loc[45:, "censorship"] = 1 - changed.loc[45:, "censorship"]
    changed.loc[46:, OTHERS] = changed.loc[46:, OTHERS] * 3 + 1
    again = system.predict(read_made(tmp_path, changed), FOLD, seed=2)
    assert np.array_equal(again.edges, expected.edges)
    # One at a time is not quite in a batch: the padding of the others changes how sums round.
    assert again.risk[0] == pytest.approx(expected.risk[0], abs=1e-6)
    if name == "mil":  # which reads no genes
        np.testing.assert_allclose(again.risk, expected.risk, atol=1e-6)
    else:
        assert not np.allclose(again.risk[1:], expected.risk[1:], atol=1e-6)


def test_nested_selection_never_sees_the_scored_fold(cohort: Cohort, bags: BagFolder, tmp_path: Path) -> None:
    system = made("mcat", bags, **(SHORT | {"epochs": 4, "selection": "nested"}))
    expected = system.predict(cohort, FOLD, seed=2)
    scores = expected.info["inner_c"]
    assert len(scores) == 4
    assert expected.info["epochs"] == int(np.argmax(scores)) + 1
    changed = cohort_table()
    changed.loc[45:, "survival_months"] = changed.loc[45:, "survival_months"].to_numpy()[::-1]
    changed.loc[45:, "censorship"] = 1 - changed.loc[45:, "censorship"]
    again = system.predict(read_made(tmp_path, changed), FOLD, seed=2)
    assert again.info == expected.info
    assert np.array_equal(again.risk, expected.risk)
    # What it chose is what so many epochs give.
    fixed = made("mcat", bags, **(SHORT | {"epochs": expected.info["epochs"]}))
    np.testing.assert_array_equal(fixed.predict(cohort, FOLD, seed=2).risk, expected.risk)


def test_inner_folds_divide_the_training_rows_by_site(cohort: Cohort) -> None:
    folds = inner_folds(cohort, FOLD, folds=3, seed=0)
    held = np.concatenate([fold.test for fold in folds])
    assert np.array_equal(np.sort(held), FOLD.train)
    site = cohort.clinical["site"].to_numpy()
    for fold in folds:
        assert np.array_equal(np.union1d(fold.train, fold.test), FOLD.train)
        assert not set(site[fold.train]) & set(site[fold.test])
    few = Fold(
        name="x",
        train=np.append(np.flatnonzero(~cohort.event), np.flatnonzero(cohort.event)[:2]),
        test=FOLD.test,
    )
    with pytest.raises(TrainingError, match="2 deaths in the training fold do not make 3"):
        inner_folds(cohort, few, folds=3, seed=0)


def test_the_order_of_the_table_does_not_matter(cohort: Cohort, bags: BagFolder, tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(60)
    shuffled = read_made(tmp_path, cohort_table().iloc[order])
    place = np.argsort(order)
    fold = Fold(name="0", train=place[FOLD.train], test=place[FOLD.test])
    assert (shuffled.cases[fold.test] == cohort.cases[FOLD.test]).all()
    system = made("past-multi", bags, **SHORT)
    np.testing.assert_allclose(
        system.risk(shuffled, fold, seed=1), system.risk(cohort, FOLD, seed=1), atol=1e-6
    )


def test_the_seed_decides_and_nothing_else_is_drawn_from(cohort: Cohort, bags: BagFolder) -> None:
    system = made("mil", bags, **SHORT, max_patches=3)
    torch.manual_seed(11)
    state = torch.get_rng_state()
    first = system.risk(cohort, FOLD, seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    assert np.array_equal(system.risk(cohort, FOLD, seed=4), first)
    assert not np.allclose(system.risk(cohort, FOLD, seed=5), first)


@pytest.mark.parametrize("loss", ["nll", "cox"])
def test_the_slides_hazard_is_learned(cohort: Cohort, bags: BagFolder, loss: str) -> None:
    system = MilSystem(
        bags, width=16, epochs=12, batch_size=15, accumulate=15, risk_set=45, learning_rate=1e-2, loss=loss
    )
    found = system.predict(cohort, FOLD, seed=0)
    image = cohort_table()["image"].to_numpy()[FOLD.test]
    assert np.corrcoef(found.risk, image)[0, 1] > 0.8
    assert (found.survival is None) == (loss == "cox")  # a partial likelihood knows no time


def test_what_is_said_of_a_training(cohort: Cohort, bags: BagFolder) -> None:
    found = made("past-multi", bags, **SHORT).predict(cohort, FOLD)
    assert found.survival.shape == (15, 4)
    np.testing.assert_allclose(found.risk, -found.survival.sum(axis=1), atol=1e-5)
    info = found.info
    assert (info["patch_dim"], info["group_sizes"], info["steps"]) == (DIM, [3, 2, 3], 10)
    assert info["edges"] == found.edges[1:-1].tolist()
    assert np.isfinite(info["train_loss"])
    assert (info["absent"], info["not_predicted"]) == ([], [])


def test_who_lacks_a_slide(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = cohort_table()
    bags = write_bags(tmp_path / "bags", table.drop(index=[5, 47, 48]))
    cohort = read_made(tmp_path, table)
    found = MilSystem(bags, **SHORT).predict(cohort, FOLD)
    assert np.flatnonzero(np.isnan(found.risk)).tolist() == [2, 3]
    assert np.isnan(found.survival[2:4]).all()
    assert found.info["not_predicted"] == ["C047", "C048"]
    assert "C005: no bag of slide S005.svs" in found.info["absent"]
    assert "attention MIL says nothing of 2 scored patients" in caplog.text
    both = McatSystem(GROUPS, bags, **SHORT).predict(cohort, FOLD)
    assert np.isfinite(both.risk).all()  # the genes speak
    joined = CombinedSystem([ClinicalCox(), MilSystem(bags, **SHORT)]).predict(cohort, FOLD)
    assert np.isfinite(joined.risk).all()


def test_past_multi_needs_no_genes(cohort: Cohort, bags: BagFolder) -> None:
    found = McatSystem(None, bags, vectors().iloc[:55], **SHORT).predict(cohort, FOLD)
    assert found.info["group_sizes"] == [3]
    assert np.isfinite(found.risk).all()
    assert len(found.info["absent"]) == 5


SKSURV = [
    (ClinicalCox(), {"hazard_ratio"}),
    (GeneCoxnet(strengths=8), {"genes", "genes_kept", "strength"}),
    (GeneSNN(epochs=2, intervals=3), {"genes", "parameters", "epochs"}),
]


@pytest.mark.parametrize(("system", "said"), SKSURV, ids=lambda value: getattr(value, "name", ""))
def test_curves_fall_and_go_with_the_risk(system: Any, said: set[str], cohort: Cohort) -> None:
    found = system.predict(cohort, FOLD)
    assert set(found.info) == said
    assert np.array_equal(found.risk, system.risk(cohort, FOLD))
    n, k = found.survival.shape
    assert (n, k + 1) == (15, len(found.edges))
    assert found.edges[[0, -1]].tolist() == [-np.inf, np.inf]
    assert (np.diff(found.edges) > 0).all()
    assert (np.diff(found.survival, axis=1) <= 1e-12).all()
    assert ((found.survival >= 0) & (found.survival <= 1)).all()
    middle = found.survival[:, k // 2]
    assert np.corrcoef(found.risk, middle)[0, 1] < -0.5


def test_coxs_curve_is_breslows(cohort: Cohort) -> None:
    """At a ratio of 1 the curve is the baseline: S(t) = exp(-sum of deaths over the risk set's ratios)."""
    found = ClinicalCox().predict(cohort, FOLD)
    train = ClinicalCox().predict(cohort, Fold(name="0", train=FOLD.train, test=FOLD.train))
    ratio, time, event = np.exp(train.risk), cohort.time[FOLD.train], cohort.event[FOLD.train]
    at = found.edges[len(found.edges) // 2]
    died = [i for i in np.flatnonzero(event) if time[i] <= at]
    cumulative = sum(1 / ratio[time >= time[i]].sum() for i in died)
    expected = np.exp(-cumulative * np.exp(found.risk))
    np.testing.assert_allclose(found.survival[:, len(found.edges) // 2 - 1], expected, rtol=1e-9)


def test_ranks_where_one_part_says_nothing() -> None:
    a, b = np.array([5.0, 1.0, 3.0, np.nan]), np.array([np.nan, 2.0, 4.0, np.nan])
    joined = rank_sum(a, b)
    # Among three of four, ranks 1, 2, 3 are 1.25, 2.5, 3.75; among two, 5/3 and 10/3.
    np.testing.assert_allclose(joined[:3], [3.75, (1.25 + 5 / 3) / 2, (2.5 + 10 / 3) / 2])
    assert np.isnan(joined[3])
    with pytest.raises(CombinedError, match="1 systems"):
        CombinedSystem([ClinicalCox()])


def test_clinical_and_omics_is_the_sum_of_its_ranks(cohort: Cohort) -> None:
    system = make_system("clinical+omics", groups=GROUPS, epochs=2)
    parts = [ClinicalCox().risk(cohort, FOLD), GeneSNN(groups=GROUPS, epochs=2).risk(cohort, FOLD)]
    np.testing.assert_array_equal(system.risk(cohort, FOLD), rank_sum(*parts))
    assert set(system.predict(cohort, FOLD).info) == {"joined", "Cox on age and sex", "SNN on genes"}


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_goes_by_its_name(name: str, cohort: Cohort, bags: BagFolder) -> None:
    known = SYSTEMS[name]
    options = {k: v for k, v in SHORT.items() if k in known.options}
    found = make_system(name, groups=GROUPS, columns=None, bags=bags, vectors=vectors(), **options)
    result = found.predict(cohort, FOLD)
    assert isinstance(result, FoldPrediction)
    assert np.isfinite(result.risk).all()
    assert known.by_encoder == ("bags" in known.needs)


def test_names_options_and_inputs_that_there_are_not(cohort: Cohort, bags: BagFolder) -> None:
    with pytest.raises(
        UnknownSystemError, match=r"no system 'mcaat' \(did you mean mcat\?\); expected one of cox"
    ):
        make_system("mcaat")
    with pytest.raises(UnknownSystemError, match="snn has no option 'fusion'; its options: epochs"):
        make_system("snn", fusion="bilinear")
    with pytest.raises(
        UnknownSystemError, match="cox-age-sex has no option 'epochs'; its options: it has none"
    ):
        make_system("cox-age-sex", epochs=3)
    with pytest.raises(MissingInputError, match="mcat needs a folder of patches; make it with `past bags"):
        make_system("mcat", groups=GROUPS)
    with pytest.raises(MissingInputError, match="past-multi needs a table of one vector a patient"):
        make_system("past-multi", groups=GROUPS, bags=bags)
    with pytest.raises(TrainingError, match="selection 'best'"):
        make_system("mil", bags=bags, selection="best")
    with pytest.raises(TrainingError, match="epochs 0"):
        Training(epochs=0)


def test_columns_of_genes(cohort: Cohort) -> None:
    assert gene_columns(cohort) == OTHERS
    assert gene_columns(cohort, groups=GROUPS) == OTHERS  # G2 is in both, once
    assert gene_columns(cohort, ["G1_rnaseq"]) == ["G1_rnaseq"]
    with pytest.raises(SystemInputError, match="no column 'X_cnv'; it has 4 columns"):
        gene_columns(cohort, ["G1_rnaseq", "X_cnv"])
    bare = Cohort(
        name="bare",
        outcome=cohort.outcome,
        slides=cohort.slides,
        clinical=cohort.clinical,
        omics=cohort.omics[[]],
    )
    with pytest.raises(SystemInputError, match="bare: no columns of genes"):
        make_system("coxnet", groups=GROUPS).risk(bare, FOLD)
