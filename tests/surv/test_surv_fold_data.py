"""One fold's data: learned on the training rows alone, missing parts masked and listed, patients drawn."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from past_surv.data.bag_writing import write_bag
from past_surv.data.bags import BagFolder
from past_surv.data.batches import BatchError, SurvivalBatch, collate
from past_surv.data.cohort import Cohort, read_cohort
from past_surv.data.fold_data import VECTORS, FoldData, FoldDataError
from past_surv.data.groups import read_groups
from past_surv.data.patients import Draw, PatientError, PatientSampler
from past_surv.data.splits import Fold, read_folds
from past_surv.models.mcat import MCAT

GROUPS = {"first": ["G0", "G1"], "second": ["G2"], "third": ["G1", "G3", "X"]}
FOLD = Fold(name="0", train=np.arange(30), test=np.arange(30, 40))
SIZES = (3, 1, 2)


def made_cohort(n: int = 40, seed: int = 0) -> Cohort:
    stream = np.random.default_rng(seed)
    cases = pd.Index([f"C{i:02}" for i in range(n)], name="case_id")
    omics = {f"G{k}_rnaseq": stream.normal(3, 2, n) for k in range(4)} | {"G0_mut": stream.integers(0, 2, n)}
    return Cohort(
        name="made",
        outcome=pd.DataFrame(
            {"time": stream.exponential(20, n) + 0.1, "event": stream.random(n) < 0.6}, cases
        ),
        # The first five have two slides each.
        slides={case: tuple(f"{case}-DX{k}.svs" for k in range(1 + (i < 5))) for i, case in enumerate(cases)},
        clinical=pd.DataFrame(index=cases),
        omics=pd.DataFrame(omics, cases, dtype=float),
    )


def made_bags(folder: Path, cohort: Cohort, dim: int = 4, seed: int = 0) -> BagFolder:
    stream = np.random.default_rng(seed)
    for slide in (slide for slides in cohort.slides.values() for slide in slides):
        count = int(stream.integers(1, 12))
        features = stream.normal(size=(count, dim)).astype(np.float16)
        write_bag(folder / f"{slide.removesuffix('.svs')}.h5", features, stream.random((count, 2)), {})
    return BagFolder(folder)


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return made_cohort()


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory, cohort: Cohort) -> BagFolder:
    return made_bags(tmp_path_factory.mktemp("bags"), cohort)


def vectors_of(cohort: Cohort, dim: int = 3) -> pd.DataFrame:
    values = np.random.default_rng(5).normal(2, 3, (len(cohort), dim))
    return pd.DataFrame(values, cohort.cases, [f"v{k}" for k in range(dim)])


def changed(cohort: Cohort, **columns: object) -> Cohort:
    """A cohort with other omics: NAME=(rows, value)."""
    omics = cohort.omics.copy()
    for name, (rows, value) in columns.items():
        omics.loc[omics.index[rows], name] = value
    return replace(cohort, omics=omics)


def test_a_fold_with_everything(cohort: Cohort, bags: BagFolder) -> None:
    data = FoldData.of(cohort, FOLD, GROUPS, bags=bags, vectors=vectors_of(cohort))
    assert data.group_names == ("first", "second", "third", VECTORS)
    assert (data.group_sizes, data.patch_dim, len(data.scalings)) == ((*SIZES, 3), 4, 4)
    assert data.groups[2].absent == ("X",)
    assert (data.absent, len(data.left_out), data.missing.any()) == ([], 0, False)
    for values in data.omics:
        np.testing.assert_allclose(values[FOLD.train].mean(axis=0), 0, atol=1e-5)
        np.testing.assert_allclose(values[FOLD.train].std(axis=0), 1, atol=1e-5)
    assert "30 to learn from" in data.describe()
    patient = data.patients(FOLD.train)[2]
    slides = [bags.find(f"C02-DX{k}.svs").features() for k in (0, 1)]
    np.testing.assert_array_equal(patient.patches, np.concatenate(slides))
    assert patient.interval == np.searchsorted(data.intervals.edges, cohort.time[2], side="right") - 1
    assert (patient.row, patient.no_slide, patient.censored) == (2, False, not cohort.event[2])


@pytest.mark.parametrize("seed", range(5))
def test_what_is_learned_does_not_see_who_is_scored(cohort: Cohort, bags: BagFolder, seed: int) -> None:
    stream = np.random.default_rng(seed)
    outcome, omics, vectors = cohort.outcome.copy(), cohort.omics.copy(), vectors_of(cohort)
    test = cohort.cases[FOLD.test]
    outcome.loc[test, "time"] *= stream.uniform(0.01, 50, len(test))
    outcome.loc[test[1:], "event"] = ~outcome.loc[test[1:], "event"].to_numpy()
    outcome.loc[test[0], "event"] = True
    omics.loc[test] = stream.normal(100, 40, (len(test), omics.shape[1]))
    omics.loc[test[:3], "G2_rnaseq"] = np.nan
    vectors.loc[test] = stream.normal(-9, 40, (len(test), 3))
    other = replace(cohort, outcome=outcome, omics=omics)
    one = FoldData.of(cohort, FOLD, GROUPS, bags=bags, vectors=vectors_of(cohort))
    two = FoldData.of(other, FOLD, GROUPS, bags=bags, vectors=vectors)
    np.testing.assert_array_equal(one.intervals.edges, two.intervals.edges)
    assert [g.columns for g in one.groups] == [g.columns for g in two.groups]
    for left, right in zip(one.scalings, two.scalings, strict=True):
        pd.testing.assert_series_equal(left.mean, right.mean)
        pd.testing.assert_series_equal(left.deviation, right.deviation)
    for a, b in zip(one.patients(one.train_rows), two.patients(two.train_rows), strict=True):
        for left, right in zip(a.omics, b.omics, strict=True):
            np.testing.assert_array_equal(left, right)
        assert (a.interval, a.censored) == (b.interval, b.censored)
    draws = [list(PatientSampler(d.classes(d.train_rows), seed=3)) for d in (one, two)]
    assert draws[0] == draws[1]
    # ... and the scored rows did change.
    assert not np.allclose(one.omics[0][FOLD.test], two.omics[0][FOLD.test])


def test_missing_parts_are_masked_and_listed(tmp_path: Path, cohort: Cohort) -> None:
    folder = made_bags(tmp_path, cohort)
    for slide in ("C00-DX0", "C07-DX0", "C31-DX0"):
        (tmp_path / f"{slide}.h5").unlink()
    slides = {**cohort.slides, "C08": ()}
    lacking = changed(
        replace(cohort, slides=slides),
        G2_rnaseq=([3, 31], np.nan),
        G0_rnaseq=([4, 31], np.nan),
        G1_rnaseq=([31], np.nan),
        G3_rnaseq=([31], np.nan),
        G0_mut=([31], np.nan),
    )
    vectors = vectors_of(cohort).drop(index=["C05", "C31"])
    data = FoldData.of(lacking, FOLD, GROUPS, bags=BagFolder(folder.folder), vectors=vectors)
    assert data.absent[:4] == [
        ("C00", "no bag of slide C00-DX0.svs"),
        ("C07", "no bag of slide C07-DX0.svs"),
        ("C08", "no slide in the table"),
        ("C31", "no bag of slide C31-DX0.svs"),
    ]
    assert [what for case, what in data.absent[4:] if case != "C31"] == [
        "no value of second",
        f"no value of {VECTORS}",
    ]
    assert data.left_out.tolist() == [31]
    assert data.test_rows.tolist() == [30, *range(32, 40)]
    assert "1 left out, with neither slide nor group: C31" in data.describe()
    patients = data.patients(data.train_rows)
    # One of two slides is there; a single value that is missing is the training fold's mean.
    assert (len(data.patient_bags[0]), patients[0].no_slide) == (1, False)
    assert patients[4].missing.tolist() == [False] * 4
    assert patients[4].omics[0][1] == 0
    assert patients[3].missing.tolist() == [False, True, False, False]
    assert patients[3].omics[1].tolist() == [0]
    assert patients[5].missing.tolist() == [False, False, False, True]
    for row in (7, 8):
        assert patients[row].no_slide
        assert patients[row].patches.tolist() == [[0, 0, 0, 0]]
    with pytest.raises(PatientError, match="C31 has neither a slide nor a group"):
        data.patients(FOLD.test)


def test_a_slide_under_two_names_is_one_and_of_one_case(cohort: Cohort, bags: BagFolder) -> None:
    twice = replace(cohort, slides={**cohort.slides, "C09": ("C09-DX0.svs", "C09-DX0")})
    assert len(FoldData.of(twice, FOLD, None, bags=bags).patient_bags[9]) == 1
    shared = replace(cohort, slides={**cohort.slides, "C33": ("C09-DX0.tif",)})
    with pytest.raises(FoldDataError, match=r"C09-DX0\.h5 is of slides of two cases, C09 and C33"):
        FoldData.of(shared, FOLD, None, bags=bags)


def test_the_real_tables(shared_data: Path) -> None:
    folder = shared_data / "tcga"
    cohort = read_cohort(folder / "tcga_skcm_all_clean.csv.zip")
    fold = read_folds(folder / "splits" / "tcga_skcm", cohort)[0]
    data = FoldData.of(cohort, fold, read_groups(folder / "signatures.csv"), require_omics=True)
    assert data.group_sizes == (87, 335, 544, 453, 171, 448)
    batch = collate(list(data.patients(data.test_rows)))
    assert [tuple(values.shape) for values in batch.omics] == [(len(fold.test), g) for g in data.group_sizes]
    assert all(torch.isfinite(values).all() for values in batch.omics)
    died = fold.train[cohort.event[fold.train]]
    counts = np.bincount(data.intervals.of_times(cohort.time[died]), minlength=4)
    assert counts.max() - counts.min() <= 1
    assert data.absent == []


def test_missing_parts_are_fatal_where_asked(tmp_path: Path, cohort: Cohort) -> None:
    folder = made_bags(tmp_path, cohort)
    (tmp_path / "C02-DX1.h5").unlink()
    with pytest.raises(FoldDataError, match=r"1 slides are missing.*C02 \(no bag of slide C02-DX1\.svs\)"):
        FoldData.of(cohort, FOLD, GROUPS, bags=folder.__class__(tmp_path), require_slides=True)
    lacking = changed(cohort, G2_rnaseq=([35], np.nan))
    with pytest.raises(FoldDataError, match=r"1 groups are missing.*C35 \(no value of second\)"):
        FoldData.of(lacking, FOLD, GROUPS, require_omics=True)
    assert FoldData.of(lacking, FOLD, GROUPS, bags=BagFolder(tmp_path)).absent == [
        ("C02", "no bag of slide C02-DX1.svs"),
        ("C35", "no value of second"),
    ]


def test_columns_without_a_value_to_learn_from_are_left_out(
    cohort: Cohort, caplog: pytest.LogCaptureFixture
) -> None:
    lacking = changed(cohort, G1_rnaseq=(FOLD.train, np.nan), G2_rnaseq=(FOLD.train, np.nan))
    data = FoldData.of(lacking, FOLD, GROUPS)
    assert [group.columns for group in data.groups] == [("G0_mut", "G0_rnaseq"), ("G3_rnaseq",)]
    assert "1 columns of second have no value in the training fold" in caplog.text
    nothing = replace(cohort, omics=cohort.omics * np.where(np.arange(40) < 30, np.nan, 1)[:, None])
    with pytest.raises(FoldDataError, match="no gene has a value in the training fold"):
        FoldData.of(nothing, FOLD, GROUPS)


def test_folds_that_cannot_be_used(tmp_path: Path, cohort: Cohort, bags: BagFolder) -> None:
    with pytest.raises(FoldDataError, match="neither groups of genes, bags nor vectors"):
        FoldData.of(cohort, FOLD, None)
    others = replace(cohort, slides={case: (f"other-{case}",) for case in cohort.cases})
    with pytest.raises(FoldDataError, match="none of its 45 bags is of a slide of made, such as other-C00"):
        FoldData.of(others, FOLD, None, bags=bags)
    # Of the scored, only some censored have a slide.
    alive = {c: s for c, s in cohort.slides.items() if c in cohort.cases[:30] or not cohort.outcome.event[c]}
    with pytest.raises(FoldDataError, match="are left to score, none of whom died"):
        FoldData.of(replace(cohort, slides=alive), FOLD, None, bags=bags)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda v: pd.concat([v, v.iloc[[3]]]), "case C03 twice"),
        (lambda v: v.where(~((v.index == "C04")[:, None] & (v.columns == "v1")), np.nan), "C04 is NaN.*v1"),
        (
            lambda v: v.astype(object).where(np.tile((v.index != "C04")[:, None], 3), "x"),
            "something else than numbers",
        ),
        (lambda v: v.iloc[30:], "none of the 10 vectors is of a training case"),
        (lambda v: v.rename(index=lambda case: f"{case}-01"), "none of the 40 vectors"),
    ],
)
def test_vectors_that_cannot_be_used(cohort: Cohort, spoil: object, said: str) -> None:
    with pytest.raises(FoldDataError, match=said):
        FoldData.of(cohort, FOLD, GROUPS, vectors=spoil(vectors_of(cohort)))


def test_an_empty_class_is_named(cohort: Cohort, caplog: pytest.LogCaptureFixture) -> None:
    outcome = cohort.outcome.copy()
    late = outcome["time"].rank() > 25
    outcome.loc[late, "event"] = True
    with caplog.at_level(logging.WARNING):
        FoldData.of(replace(cohort, outcome=outcome), FOLD, GROUPS)
    assert "censored in interval 4; balanced sampling goes without" in caplog.text


def test_slides_alone_and_genes_alone(cohort: Cohort, bags: BagFolder) -> None:
    slides = FoldData.of(cohort, FOLD, None, bags=bags)
    batch = collate([slides.patients(FOLD.train)[i] for i in (0, 9)])
    assert (slides.group_sizes, batch.omics, tuple(batch.missing.shape)) == ((), (), (2, 0))
    genes = FoldData.of(cohort, FOLD, GROUPS)
    batch = collate([genes.patients(FOLD.train)[i] for i in (0, 9)])
    assert (genes.patch_dim, tuple(batch.patches.shape), batch.no_slide.tolist()) == (
        None,
        (2, 1, 1),
        [True] * 2,
    )


def test_a_batch(cohort: Cohort, bags: BagFolder) -> None:
    data = FoldData.of(cohort, FOLD, GROUPS, bags=bags)
    patients = list(data.patients(np.array([30, 0, 17])))
    batch = collate(patients)
    lengths = [len(patient.patches) for patient in patients]
    assert (~batch.padding).sum(dim=1).tolist() == lengths
    assert batch.patches.shape == (3, max(lengths), 4)
    for number, patient in enumerate(patients):
        np.testing.assert_array_equal(batch.patches[number, : lengths[number]], patient.patches)
    assert not batch.patches[batch.padding].any()
    dtypes = {name: getattr(batch, name).dtype for name in SurvivalBatch._fields if name != "omics"}
    assert dtypes == {
        "patches": torch.float32, "padding": torch.bool, "missing": torch.bool, "interval": torch.int64,
        "censored": torch.float32, "time": torch.float32, "event": torch.bool, "row": torch.int64,
        "no_slide": torch.bool,
    }  # fmt: skip
    assert batch.row.tolist() == [30, 0, 17]
    np.testing.assert_array_equal(batch.event, cohort.event[[30, 0, 17]])
    np.testing.assert_array_equal(batch.censored, ~cohort.event[[30, 0, 17]])
    np.testing.assert_allclose(batch.time, cohort.time[[30, 0, 17]], rtol=1e-6)
    other = FoldData.of(cohort, FOLD, {"first": ["G0"]}, bags=bags).patients(FOLD.train)[0]
    with pytest.raises(BatchError, match=r"row 0 has 4 wide .* of \[2\].*row 30 4 and \[3, 1, 2\]"):
        collate([patients[0], other])
    with pytest.raises(BatchError, match="no patients"):
        collate([])
    with pytest.raises(BatchError, match="row 30 has no patch"):
        collate([patients[0]._replace(patches=np.zeros((0, 4)))])


def test_a_padded_batch_is_as_good_as_patients_one_by_one(tmp_path: Path, cohort: Cohort) -> None:
    folder = made_bags(tmp_path, cohort)
    data = FoldData.of(changed(cohort, G2_rnaseq=([1, 6], np.nan)), FOLD, GROUPS, bags=folder)
    torch.manual_seed(0)
    model = MCAT(data.group_sizes, patch_dim=data.patch_dim).eval()

    def risk(batch: SurvivalBatch) -> torch.Tensor:
        with torch.no_grad():
            return model(batch.patches, batch.omics, padding=batch.padding, missing=batch.missing).risk

    patients = list(data.patients(np.arange(12)))
    single = torch.cat([risk(collate([patient])) for patient in patients])
    torch.testing.assert_close(risk(collate(patients)), single, atol=1e-6, rtol=0)
    order = torch.randperm(12)
    torch.testing.assert_close(risk(collate([patients[i] for i in order])), single[order], atol=1e-6, rtol=0)


@given(most=st.integers(1, 30), row=st.integers(0, 39), seed=st.integers(0, 99))
def test_instances_are_drawn_without_repeats(
    cohort: Cohort, bags: BagFolder, most: int, row: int, seed: int
) -> None:
    data = FoldData.of(cohort, FOLD, None, bags=bags)
    everything = data.patients([row])[0].patches
    total = len(everything)
    even = data.patients([row], max_patches=most)
    np.testing.assert_array_equal(even[0].patches, even[0].patches)
    drawn = even[Draw(0, seed)].patches
    np.testing.assert_array_equal(drawn, even[Draw(0, seed)].patches)
    generated = data.patients([row], max_patches=most, generator=torch.Generator().manual_seed(seed))
    for patches in (even[0].patches, drawn, generated[0].patches):
        assert len(patches) == min(most, total)
        places = [int(np.flatnonzero((everything == patch).all(axis=1))[0]) for patch in patches]
        assert places == sorted(set(places))


def test_every_patch_is_drawn_equally_often(cohort: Cohort, bags: BagFolder) -> None:
    data = FoldData.of(cohort, FOLD, None, bags=bags)
    everything = data.patients([1])[0].patches  # of two slides
    patients, counts = data.patients([1], max_patches=2), np.zeros(len(everything))
    for seed in range(400):
        for patch in patients[Draw(0, seed)].patches:
            counts[np.flatnonzero((everything == patch).all(axis=1))[0]] += 1
    share = 2 / len(everything)
    assert np.abs(counts / 400 - share).max() < 4 * np.sqrt(share * (1 - share) / 400)
    with pytest.raises(PatientError, match="at most 0 patches"):
        data.patients([1], max_patches=0)


def test_balanced_draws_take_every_class_equally_often() -> None:
    classes = np.repeat([0, 1, 2, 5], [60, 25, 10, 5])
    sampler = PatientSampler(classes, seed=1)
    drawn = np.concatenate([[draw.index for draw in sampler] for _ in range(40)])
    counts = np.bincount(classes[drawn])[[0, 1, 2, 5]]
    assert counts.sum() == 4000
    assert np.abs(counts - 1000).max() < 4 * np.sqrt(4000 * 0.25 * 0.75)
    assert sorted(draw.index for draw in PatientSampler(classes, "plain")) == list(range(100))
    with pytest.raises(PatientError, match="expected balanced or plain"):
        PatientSampler(classes, "other")


@given(n=st.integers(4, 40), world=st.integers(1, 4), epoch=st.integers(0, 5), plain=st.booleans())
def test_ranks_share_one_order_that_an_epoch_fixes(n: int, world: int, epoch: int, plain: bool) -> None:
    classes, kind = np.arange(n) % 3, "plain" if plain else "balanced"
    alone = PatientSampler(classes, kind, seed=2)
    first = [list(alone) for _ in range(epoch + 1)][-1]
    shares = [PatientSampler(classes, kind, seed=2, rank=rank, world_size=world) for rank in range(world)]
    for share in shares:
        share.set_epoch(epoch)
    drawn = [list(share) for share in shares]
    assert {len(draws) for draws in drawn} == {n // world} == {len(shares[0])}
    assert [draw for step in zip(*drawn, strict=True) for draw in step] == first[: n // world * world]
    assert len({draw.seed for draw in first}) == n
