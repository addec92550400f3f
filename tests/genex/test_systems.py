"""Systems: what each predicts, against the same computed by hand."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from past_core.encoders import load_encoders, load_image_encoder
from past_core.frozen import EncoderNotFoundError
from past_genex.data.slides import ExpressionSlide
from past_genex.data.splits import Split, intra_patient, leave_patients_out
from past_genex.systems.base import Surroundings, SystemUnavailableError, UnknownSystemError
from past_genex.systems.features import EncoderFeatures, ShuffledFeatures
from past_genex.systems.mean import MeanOfTraining, training_mean
from past_genex.systems.neighbours import NearestInSpace, NeighbourError
from past_genex.systems.registry import build_system
from past_genex.systems.retrieval import Retrieval, nearest
from past_genex.systems.ridge import RidgeProbe
from past_genex.systems.stnet import STNet
from past_genex.systems.untrained import untrained_encoder


@pytest.fixture(scope="module")
def slides(tiny_slides: Sequence[Path]) -> list[ExpressionSlide]:
    return [ExpressionSlide(path) for path in tiny_slides]


@pytest.fixture(scope="module")
def around(tmp_path_factory: pytest.TempPathFactory) -> Surroundings:
    return Surroundings(cache=tmp_path_factory.mktemp("cache"), device="cpu")


@pytest.fixture(scope="module")
def patients(slides: list[ExpressionSlide]) -> Split:
    return leave_patients_out(slides)


@pytest.fixture(scope="module")
def inside(slides: list[ExpressionSlide]) -> Split:
    return intra_patient(slides, rim_um=10.0, folds=2)


def stacked(split: Split, fold: int, genes: pd.Index, system: object) -> dict[int, np.ndarray]:
    """Predictions by slide, over all its cells; NaN where a cell was not asked for."""
    out = {n: np.full((split.slides[n].n_cells, len(genes)), np.nan) for n in split.folds[fold].test}
    for number, cells, values in system.predict(split, split.folds[fold], genes):
        assert np.isnan(out[number][cells]).all(), "a cell was predicted twice"
        out[number][cells] = values
    return out


def test_the_mean_is_that_of_the_training_cells_that_measure_a_gene(patients: Split, around) -> None:
    genes = patients.genes(patients.folds[0])
    mean = training_mean(patients, patients.folds[0], genes, around.target)
    for column, gene in list(enumerate(genes))[::40]:
        values = [
            patients.slides[n].expression(around.target, [gene])
            for n in patients.folds[0].train
            if gene in patients.slides[n].genes
        ]
        np.testing.assert_allclose(mean[column], np.concatenate(values).mean(), rtol=1e-12)
    predicted = stacked(patients, 0, genes, MeanOfTraining(around))
    np.testing.assert_array_equal(predicted[0], np.broadcast_to(mean, predicted[0].shape))


def test_neighbours_average_the_nearest_training_cells(inside: Split, around) -> None:
    fold, genes = inside.folds[0], inside.genes(inside.folds[0])[:5]
    slide, regions = inside.slides[0], inside.regions[0]
    train = np.flatnonzero(regions.cells(fold.train[0]))
    test = np.flatnonzero(regions.cells(fold.test[0]))
    finder = NearestNeighbors(n_neighbors=3).fit(slide.xy_um[train])
    found = train[finder.kneighbors(slide.xy_um[test], return_distance=False)]
    expected = slide.expression(around.target, genes)[found].mean(axis=1)
    predicted = stacked(inside, 0, genes, NearestInSpace(around, k=3))[0][test]
    np.testing.assert_allclose(predicted, expected, rtol=1e-12)


def test_neighbours_need_training_cells_on_the_slide(patients: Split, around) -> None:
    genes = patients.genes(patients.folds[0])
    with pytest.raises(SystemUnavailableError, match="training cells on the test slide"):
        list(NearestInSpace(around).predict(patients, patients.folds[0], genes))
    with pytest.raises(NeighbourError, match="k is 0"):
        NearestInSpace(around, k=0)


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 2**31))
def test_the_nearest_are_those_of_a_full_sort(queries: int, k: int, seed: int) -> None:
    stream = np.random.default_rng(seed)
    q, bank = stream.standard_normal((queries, 4)), stream.standard_normal((30, 4))
    found = nearest(q, bank, k)
    wanted = np.argsort(-(q @ bank.T), axis=1)[:, :k]
    np.testing.assert_array_equal(np.sort(found, axis=1), np.sort(wanted, axis=1))


def test_the_bank_may_come_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = np.random.default_rng(0)
    q, bank = stream.standard_normal((9, 4)), stream.standard_normal((50, 4))
    whole = np.sort(nearest(q, bank, 5), axis=1)
    monkeypatch.setattr("past_genex.systems.retrieval.BANK", 7)
    np.testing.assert_array_equal(np.sort(nearest(q, bank, 5), axis=1), whole)


def test_retrieval_averages_over_the_neighbours_that_measure_a_gene(patients: Split, around) -> None:
    from past_genex.data.features import joint_features, slide_features

    image, cell = load_encoders("demo", "joint")
    fold, genes = patients.folds[0], patients.genes(patients.folds[0])
    predicted = stacked(patients, 0, genes, Retrieval(image, cell, around, k=20))[0]
    training = [patients.slides[n] for n in fold.train]
    bank = np.concatenate([joint_features(s, cell, cache=around.cache) for s in training])
    truth = np.concatenate([s.expression(around.target, genes) for s in training])
    query = slide_features(patients.slides[0], image, cache=around.cache)
    order = np.argsort(-(query @ bank.T), axis=1)[:, :20]
    fallback = training_mean(patients, fold, genes, around.target)
    for row in (0, 57, 133):
        chosen = truth[order[row]]
        known = ~np.isnan(chosen)
        with np.errstate(invalid="ignore"):
            wanted = np.where(known, chosen, 0).sum(axis=0) / known.sum(axis=0)
        np.testing.assert_allclose(predicted[row], np.where(known.any(axis=0), wanted, fallback), atol=1e-6)
    with pytest.raises(SystemUnavailableError, match="retrieval averages 100000"):
        list(Retrieval(image, cell, around, k=100_000).predict(patients, fold, genes))


@pytest.mark.parametrize("kind", ["inside", "patients"])
def test_a_probe_scores_what_it_predicts(kind: str, around, request: pytest.FixtureRequest) -> None:
    from past_genex.metrics.pairs import PairMoments

    split = request.getfixturevalue(kind)
    fold, genes = split.folds[0], split.genes(split.folds[0])
    system = build_system("ridge:demo", around)
    scored = system.score(split, fold, genes)
    predicted = stacked(split, 0, genes, system)
    assert {number for number, _ in scored} == set(fold.test)
    for (number, region), moments in scored.items():
        slide, regions = split.slides[number], split.regions[number]
        here = (regions.region == region) & regions.cells(fold.test[number])
        truth = slide.expression(around.target, genes, np.flatnonzero(here))
        direct = PairMoments.of(predicted[number][here], truth)
        np.testing.assert_array_equal(moments.n, direct.n)
        measured = direct.n > 0
        for name in ("mean_p", "mean_t", "pp", "tt", "pt"):
            found, wanted = getattr(moments, name)[measured], getattr(direct, name)[measured]
            np.testing.assert_allclose(found, wanted, rtol=1e-7, atol=1e-9)


def test_a_probe_has_not_seen_its_test_cells(patients: Split, around) -> None:
    """The model of a fold is that of its training slides alone."""
    from past_genex.statistics.moments import Moments
    from past_genex.statistics.ridge import fit_ridge

    fold, genes = patients.folds[0], patients.genes(patients.folds[0])
    features = EncoderFeatures(load_image_encoder("demo"), around)
    model = RidgeProbe("probe", features, around).fit(patients, fold, genes)
    units = []
    for number in fold.train:
        slide = patients.slides[number]
        y = slide.expression(around.target)
        units.append((Moments.of(np.asarray(features.of(slide)), y), slide.genes))
    again = fit_ridge(units, genes)
    np.testing.assert_allclose(model.weight, again.weight, rtol=1e-6, atol=1e-9)


def test_shuffled_features_are_the_same_rows_in_another_order(slides, around) -> None:
    inner = EncoderFeatures(load_image_encoder("demo"), around)
    mixed = ShuffledFeatures(inner, seed=3)
    before, after = np.asarray(inner.of(slides[0])), mixed.of(slides[0])
    assert not np.array_equal(before, after)
    np.testing.assert_array_equal(np.sort(before, axis=0), np.sort(after, axis=0))
    np.testing.assert_array_equal(after, ShuffledFeatures(inner, seed=3).of(slides[0]))
    assert mixed.fingerprint != inner.fingerprint


def test_an_untrained_encoder_differs_in_its_weights_alone() -> None:
    import torch

    demo, fresh = load_image_encoder("demo"), untrained_encoder("demo", seed=1)
    assert (fresh.dim, fresh.mpp, fresh.patch_size, fresh.mean) == (
        demo.dim,
        demo.mpp,
        demo.patch_size,
        demo.mean,
    )
    assert fresh.fingerprint != demo.fingerprint
    state = torch.random.get_rng_state()
    assert untrained_encoder("demo", seed=1).fingerprint == fresh.fingerprint
    assert untrained_encoder("demo", seed=2).fingerprint != fresh.fingerprint
    assert torch.equal(state, torch.random.get_rng_state())


def test_an_untrained_public_encoder_needs_no_weights() -> None:
    assert untrained_encoder("densenet121").dim == 1024


def test_stnet_trains_from_scratch_where_that_is_asked_for(slides, around) -> None:
    split = leave_patients_out(slides[:2])
    genes = split.genes(split.folds[0])[:6]
    system = STNet(around, pretrained=False, epochs=1, image_size=32, max_cells=48)
    predicted = stacked(split, 0, genes, system)[0]
    assert system.name == "stnet (from scratch)"
    assert np.isfinite(predicted).all()
    assert predicted.std(axis=0).min() > 0


def test_names_and_what_is_missing_are_said(around) -> None:
    with pytest.raises(UnknownSystemError, match="expected one of stnet, mean"):
        build_system("lasso", around)
    with pytest.raises(UnknownSystemError, match="lacks its encoder"):
        build_system("ridge", around)
    with pytest.raises(SystemUnavailableError, match="no joint space"):
        build_system("retrieval:uni", around)
    with pytest.raises(EncoderNotFoundError, match="MahmoodLab/UNI"):
        build_system("ridge:uni", around)
