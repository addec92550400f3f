"""The settings as splits: who trains, who tests, and a leakage check that finds leaks."""

import json
from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from past_core.synthetic import default
from past_genex.data.default import default_cohort
from past_genex.data.regions import INTERIOR, RIM
from past_genex.data.splits import (
    Fold,
    Split,
    SplitError,
    cross_cancer,
    inter_patient,
    intra_patient,
    leave_patients_out,
    random_cells,
)

FIELD = 56.0


@dataclass
class Points:
    """A slide of which only places, genes and names are known."""

    name: str
    patient: str
    cancer_type: str
    xy_um: np.ndarray
    genes: pd.Index = field(default_factory=lambda: pd.Index(["A", "B"]))

    @property
    def n_cells(self) -> int:
        return len(self.xy_um)


def slide(name: str, patient: str, kind: str = "breast", *, size=(625.0, 625.0), n=800, genes="AB") -> Points:
    stream = np.random.default_rng(list(name.encode()))
    return Points(name, patient, kind, stream.random((n, 2)) * size, pd.Index(list(genes)))


def cohort() -> list[Points]:
    kinds = ["breast", "lung", "breast", "lung", "colon", "ovary", "ovary"]
    genes = ["ABX", "ABC", "AB", "ABCD", "AE", "ABC", "ABC"]
    patients = ["P1", "P2", "P3", "P4", "P5", "P6", "P6"]
    return [slide(f"s{i}", patients[i], kinds[i], genes=genes[i], n=60) for i in range(len(kinds))]


@st.composite
def specimens(draw: st.DrawFn) -> tuple[list[Points], float, int]:
    """One to three slides of at most two patients, cells in clumps or even, wide enough for the field."""
    stream = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rim = draw(st.floats(5, 60))
    slides = []
    for i in range(draw(st.integers(1, 3))):
        size = rim * np.array([draw(st.floats(9.5, 30)), draw(st.floats(9.5, 30))])
        xy = stream.random((draw(st.integers(150, 500)), 2)) * size
        if draw(st.booleans()):  # most of them in a corner
            xy[: len(xy) // 2] = xy[: len(xy) // 2] * 0.2
        xy = np.concatenate([xy, [[0, 0], size]])
        slides.append(Points(f"s{i}", f"P{i % 2}", "breast", xy))
    return slides, rim, draw(st.integers(2, 4))


@given(specimens())
@settings(max_examples=40)
def test_held_out_regions_keep_their_distance_and_test_every_cell_once(made) -> None:
    slides, rim, folds = made
    split = intra_patient(slides, rim_um=rim, folds=folds)
    tested = [np.zeros(s.n_cells, int) for s in slides]
    for fold in split.folds:
        assert {slides[i].patient for i in fold.train} == {slides[i].patient for i in fold.test}
        assert len({slides[i].patient for i in fold.test}) == 1
        for i, parts in fold.test.items():
            test = split.regions[i].cells(parts)
            train = split.regions[i].cells(fold.train[i])
            tested[i] += test
            assert not (test & train).any()
            if test.any() and train.any():
                distance, _ = cKDTree(slides[i].xy_um[train]).query(slides[i].xy_um[test])
                assert distance.min() >= rim * (1 - 1e-9)
    for count in tested:
        np.testing.assert_array_equal(count, 1)
    assert split.leakage().clean


def test_a_fold_is_one_piece_of_tissue() -> None:
    xy = np.stack(np.meshgrid(np.arange(0, 2400, 20.0), np.arange(0, 1600, 20.0)), axis=-1).reshape(-1, 2)
    split = intra_patient([Points("s", "P", "lung", xy)], rim_um=FIELD)
    regions = split.regions[0]
    for fold in split.folds:
        held = fold.test[0][:, INTERIOR]
        reached = np.zeros_like(held)
        reached[np.flatnonzero(held)[0]] = True
        for _ in range(regions.n_regions):
            reached |= held & regions.touching(reached)
        np.testing.assert_array_equal(reached, held)
        share = split.cells(fold.test) / len(xy)
        assert 0.15 < share < 0.35


def test_a_small_synthetic_slide_is_cut_and_trains_on_the_rims_that_may() -> None:
    split = intra_patient([slide("s", "P", n=3000)], rim_um=FIELD)
    assert len(split.folds) == 4
    for fold in split.folds:
        assert split.cells(fold.train) > 0.2 * 3000
        held = fold.test[0][:, INTERIOR]
        near = split.regions[0].touching(held)
        np.testing.assert_array_equal(fold.train[0][:, RIM], ~held & ~near)


def test_between_patients_of_a_type() -> None:
    split = inter_patient(cohort())
    assert split.setting == "inter"
    assert set(split.excluded) == {"colon", "ovary"}
    assert "P6" in split.excluded["ovary"]  # two slides, one patient
    assert len(split.folds) == 4
    for fold in split.folds:
        train, test = ([split.slides[i] for i in side] for side in (fold.train, fold.test))
        assert {s.cancer_type for s in train} == {s.cancer_type for s in test}
        assert {s.patient for s in train}.isdisjoint(s.patient for s in test)
        assert split.cells(fold.test) == sum(s.n_cells for s in test)
    genes = {fold.test.keys().__iter__().__next__(): list(split.genes(fold)) for fold in split.folds}
    by_name = {split.slides[i].name: found for i, found in genes.items()}
    assert by_name == {"s0": ["A", "B"], "s2": ["A", "B"], "s1": ["A", "B", "C"], "s3": ["A", "B", "C"]}


def test_a_whole_type_is_held_out_in_both_readings_of_the_paper() -> None:
    methods, figure = cross_cancer(cohort()), cross_cancer(cohort(), variant="figure")
    assert (methods.name, figure.name) == ("cross-methods", "cross-figure")
    assert set(methods.excluded) == {"colon", "ovary"}
    assert not figure.excluded
    assert [len(s.folds) for s in (methods, figure)] == [2, 4]
    for split in (methods, figure):
        for fold in split.folds:
            kinds = [{split.slides[i].cancer_type for i in side} for side in (fold.train, fold.test)]
            assert len(kinds[1]) == 1
            assert kinds[0] == {s.cancer_type for s in split.slides} - kinds[1]
        assert split.leakage().clean
    assert "6 types, 24 slices" in methods.describe()
    assert "14 types against one" in figure.describe()
    assert "excluded colon" in methods.describe()


def test_each_patient_in_turn() -> None:
    split = leave_patients_out(cohort())
    assert len(split.folds) == 6
    for fold in split.folds:
        assert sorted([*fold.train, *fold.test]) == list(range(7))
    assert split.leakage().clean


def test_slides_without_a_type_are_no_type() -> None:
    slides = [*cohort(), slide("s7", "P7", "unknown"), slide("s8", "P8", "unknown")]
    for split in (inter_patient(slides), cross_cancer(slides), cross_cancer(slides, variant="figure")):
        assert "s7, s8" in split.excluded["unknown"]
        assert all(s.cancer_type != "unknown" for s in split.slides)


def test_random_cells_are_labelled_as_leaking_everywhere() -> None:
    slides = cohort()
    split = random_cells(slides, folds=3)
    assert split.setting == "random"
    assert not split.leakage().clean
    assert "LEAKS" in split.describe()
    assert "LEAKS" in str(split.leakage())
    assert split.to_dict()["leakage"]["clean"] is False
    assert max(fold.gap_um for fold in split.leakage().folds) < FIELD
    for i, own in enumerate(slides):
        tested = sum(split.regions[i].cells(f.test[i]).astype(int) for f in split.folds if i in f.test)
        np.testing.assert_array_equal(tested, np.ones(own.n_cells))


def test_the_check_finds_a_training_rim_beside_the_test_region() -> None:
    clean = intra_patient([slide("s", "P", n=3000)], rim_um=FIELD)
    fold = clean.folds[0]
    parts = fold.train[0].copy()
    parts[:, RIM] = ~fold.test[0][:, RIM]  # no buffer
    leaking = replace(clean, folds=(Fold(fold.name, {0: parts}, fold.test), *clean.folds[1:]))
    found = leaking.leakage()
    assert not found.clean
    train, test = (leaking.regions[0].cells(side) for side in (parts, fold.test[0]))
    xy = clean.slides[0].xy_um
    brute = np.abs(xy[train][:, None] - xy[test][None]).max(axis=2).min()
    assert found.folds[0].gap_um == pytest.approx(brute, rel=1e-12)
    assert brute < FIELD / 4
    assert f"within the field of {FIELD:g} µm" in leaking.describe()
    assert all(one.gap_um >= FIELD for one in found.folds[1:])


def test_the_check_finds_cells_and_patients_on_both_sides() -> None:
    clean = leave_patients_out(cohort())
    fold = clean.folds[0]
    both = replace(clean, folds=(Fold("bad", {**fold.train, **fold.test}, fold.test),))
    assert not both.leakage().clean
    assert both.leakage().folds[0].patients == ("P1",)
    assert both.leakage().folds[0].cells == 60
    assert both.leakage().folds[0].gap_um == 0
    sisters = [i for i, s in enumerate(clean.slides) if s.patient == "P6"]
    everything = [regions.everything() for regions in clean.regions]
    one, other = ({i: everything[i]} for i in sisters)
    sister = replace(clean, folds=(Fold("sisters", one, other),))
    assert "P6 on both sides" in str(sister.leakage())


def test_description_holds_everything_and_is_json() -> None:
    split = intra_patient([slide("s", "P", n=2000), slide("t", "Q", n=2000)], rim_um=FIELD)
    text, content = split.describe(), json.loads(json.dumps(split.to_dict()))
    for wanted in ("slide s: patient P, breast, 2,000 cells, 2 genes", "fold P 1/4", "in the buffer"):
        assert wanted in text
    for fold in content["folds"]:
        assert fold["train"]["cells"] + fold["test"]["cells"] + fold["buffer_cells"] == 2000
    across = json.loads(json.dumps(inter_patient(cohort()).to_dict(), allow_nan=False))
    assert across["leakage"]["folds"][0]["gap_um"] is None


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: leave_patients_out(cohort()[5:]), r"all 2 slides are of one patient \(P6\)"),
        (lambda: leave_patients_out(cohort()[:1]), r"one slide \(s0\); this setting needs at least 2"),
        (lambda: intra_patient([], rim_um=FIELD), "no slide"),
        (lambda: inter_patient(cohort()[3:]), "no cancer type has two patients .*colon: P5"),
        (lambda: cross_cancer([cohort()[i] for i in (0, 2)]), "1 cancer types to hold out"),
        (lambda: cross_cancer(cohort()[3:]), "left out: .*colon .one patient, P5.*'figure'"),
        (lambda: cross_cancer(cohort(), variant="table"), "variant 'table'"),
        (
            lambda: cross_cancer([*cohort(), slide("x", "P1", "lung")]),
            "patient P1 has slides of breast and lung",
        ),
        (lambda: intra_patient([cohort()[0]] * 2, rim_um=FIELD), "slides s0 are given twice"),
        (
            lambda: leave_patients_out([*cohort(), replace(cohort()[0], name="again", patient="P9")]),
            "s0 and again have the same cells",
        ),
        (
            lambda: leave_patients_out([*cohort(), slide("odd", "P9", genes="YZ")]),
            "test slides .odd. have no gene in common",
        ),
        (lambda: intra_patient([slide("tiny", "P", size=(160, 160))], rim_um=FIELD), "slide tiny is 160 µm"),
        (lambda: intra_patient([slide("s", "P")], rim_um=0.0), "at least as wide as the encoder's field"),
        (lambda: intra_patient([slide("s", "P")], rim_um=FIELD, region_um=100), "slide s: .*three rims"),
        (lambda: intra_patient([slide("s", "P")], rim_um=FIELD, folds=1), "1 folds; at least 2"),
        (lambda: intra_patient([slide("s", "P")], rim_um=FIELD, folds=20), "slide s has .* 20 folds"),
        (lambda: random_cells([slide("s", "P", n=3)]), "slide s has 3 cells"),
    ],
)
def test_what_cannot_be_split_says_what_was_found(build, message: str) -> None:
    with pytest.raises(SplitError, match=message):
        build()


def test_a_test_slide_of_another_panel_is_named_even_beside_one_that_fits() -> None:
    slides = [slide("a", "P1"), slide("b", "P2"), slide("c", "P2", genes="YZ")]
    with pytest.raises(SplitError, match=r"test slides \(c\)"):
        leave_patients_out(slides)


def test_splits_are_frozen_and_told_apart_by_identity() -> None:
    split = leave_patients_out(cohort())
    assert {split: 1}[split] == 1
    assert isinstance(split, Split)
    assert split != leave_patients_out(cohort())


def test_the_default_cohort_has_two_new_patients_of_every_type(tmp_path, monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(default, "_make_all", lambda missing, root: asked.extend(c for c, _ in missing))
    paths = default_cohort(cache=tmp_path)
    assert [path.stem for path in paths] == [f"P{number}" for number in range(6, 14)]
    assert set(Counter(config.cancer_type for config in asked).values()) == {2}
    assert {config.patient for config in asked}.isdisjoint({"P1", "P2", "P3", "P4", "P5"})
    assert all(config.divergence > 0 for config in asked)
