"""Regions combined: accuracy, wrong pairs, a local correction where it helps and nowhere else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_keypoints import FIVE, NINE, SIDE_UM, drawn, made_sets, mean_error, turned, waves

from past_core.registration.combine import CombineError, PairSet, combine
from past_core.registration.held_out import choose, leave_one_set_out
from past_core.registration.local import BlendedRigid, ThinPlate, blended_rigid, folds, thin_plate
from past_core.registration.outliers import reject_pairs, trimmed_core
from past_core.registration.rigid import RigidError, mirrored

SEEDS = range(40)


def errors(**options):
    field = options.get("field")
    found = []
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        truth = drawn(rng)
        sets, _ = made_sets(truth, rng, **options)
        found.append(mean_error(combine(sets), truth, field))
    return np.array(found)


def test_below_half_a_micrometre_from_five_sets_of_four():
    # 1 µm standard deviation of each coordinate of the pick; mean over the whole tissue and all seeds.
    assert errors(fixed_noise=1.0).mean() < 0.42
    assert errors(fixed_noise=1.0, wrong_um=100.0).mean() < 0.5


def test_below_half_a_micrometre_with_noise_on_both_sides():
    # A pair's noise is then 1.41 µm; the tissue reaches beyond the regions, where the angle's error grows.
    assert errors(fixed_noise=1.0, he_noise=1.0).mean() < 0.6


@given(st.integers(0, 2**32 - 1))
def test_without_noise_it_is_exact(seed):
    rng = np.random.default_rng(seed)
    truth = drawn(rng)
    sets, wrong = made_sets(truth, rng, fixed_noise=0.0, wrong_um=40.0)
    registration = combine(sets)
    assert [np.flatnonzero(~keep).tolist() for keep in registration.kept] == [[w] for w in wrong]
    assert mean_error(registration, truth) < 1e-6
    assert registration.correction is None


def test_one_wrong_pair_of_four_is_found_in_each_set():
    found, false, rejected_right = 0, 0, 0
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        truth = drawn(rng)
        sets, wrong = made_sets(truth, rng, he_noise=1.0, wrong_um=30.0)
        for keep, pair in zip(combine(sets).kept, wrong, strict=True):
            found += not keep[pair]
            false += int((~keep).sum()) - (not keep[pair])
        sets, _ = made_sets(truth, rng, he_noise=1.0)
        rejected_right += sum(int((~keep).sum()) for keep in combine(sets).kept)
    pairs = 5 * len(SEEDS)
    assert found >= 0.98 * pairs
    assert false <= 0.01 * pairs
    assert rejected_right <= 0.01 * 4 * pairs


def test_a_single_set_finds_its_wrong_pair():
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        sets, wrong = made_sets(drawn(rng), rng, middles=FIVE[:1], wrong_um=100.0)
        assert np.flatnonzero(~combine(sets).kept[0]).tolist() == [wrong[0]]


def test_many_pairs_with_a_third_wrong():
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 1000, (90, 2))
    y = turned(1.0, (5.0, 6.0))(x) + rng.normal(0, 1, x.shape)
    y[::3] += rng.uniform(50, 500, (30, 2))
    (keep,) = reject_pairs([x], [y])
    assert not keep[::3].any()
    assert keep.sum() >= 59


def test_three_pairs_are_all_kept():
    assert trimmed_core(np.eye(3)[:, :2] * 100, np.eye(3)[:, :2] * 300).all()


@pytest.mark.parametrize("amplitude", [10.0, 30.0])
def test_a_local_deformation_improves_over_the_rigid_fit(amplitude):
    def field(points):
        return waves(points, amplitude)

    for seed in range(12):
        rng = np.random.default_rng(seed)
        truth = drawn(rng)
        sets, _ = made_sets(truth, rng, middles=NINE, he_noise=1.0, field=field)
        registration, rigid = combine(sets), combine(sets, local=False)
        assert registration.correction is not None
        assert mean_error(registration, truth, field) < 0.6 * mean_error(rigid, truth, field)
        # Points that no fit has seen, in regions of their own.
        unseen, _ = made_sets(truth, rng, middles=NINE[:8] * 0.6 + 1500, fixed_noise=0.0, field=field)
        he, fixed = (np.concatenate([getattr(s, side) for s in unseen]) for side in ("he_um", "fixed_um"))
        off = [np.linalg.norm(found(he) - fixed, axis=1).mean() for found in (registration, rigid)]
        assert off[0] < 0.6 * off[1]
        np.testing.assert_allclose(registration.to_he(registration(he)), he, atol=1e-4)


def test_a_stretch_improves_from_five_sets():
    def field(points):
        return 10 * (points / SIDE_UM - 0.5) * [1, -1]

    rigid, found = [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        truth = drawn(rng)
        sets, _ = made_sets(truth, rng, field=field)
        found.append(mean_error(combine(sets), truth, field))
        rigid.append(mean_error(combine(sets, local=False), truth, field))
    assert np.mean(found) < 0.4 * np.mean(rigid)


@pytest.mark.parametrize("middles", [FIVE, NINE])
def test_a_rigid_slide_is_not_made_worse(middles):
    local, rigid, corrected = [], [], 0
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        truth = drawn(rng)
        sets, _ = made_sets(truth, rng, middles=middles)
        registration = combine(sets)
        corrected += registration.correction is not None
        local.append(mean_error(registration, truth))
        rigid.append(mean_error(combine(sets, local=False), truth))
    assert corrected <= 1
    assert np.mean(local) <= 1.02 * np.mean(rigid)


def test_a_noisy_set_counts_less():
    rng = np.random.default_rng(3)
    truth = drawn(rng)
    sets, _ = made_sets(truth, rng, points=12)
    he = sets[0].he_um
    sets[0] = PairSet("noisy", he, truth(he) + rng.normal(0, 6, he.shape))
    weights = combine(sets).weights
    assert weights[0] < 0.4 * weights[1:].min()


def test_scale_is_fitted_on_demand():
    rng = np.random.default_rng(4)
    truth = turned(1.2, (100.0, 200.0), 1.05)
    sets, _ = made_sets(truth, rng, fixed_noise=0.2)
    assert combine(sets, scale=True).transform.scale == pytest.approx(1.05, abs=1e-3)
    assert combine(sets, local=False).transform.scale == 1


def test_held_out_errors_see_nothing_of_the_set_left_out():
    rng = np.random.default_rng(5)
    sets, _ = made_sets(drawn(rng), rng)
    x, y = [s.he_um for s in sets], [s.fixed_um for s in sets]
    before = leave_one_set_out(x, y, np.ones(5), candidates={"rigid": None})["rigid"]
    moved = [y[0] + [300.0, 0.0], *y[1:]]
    after = leave_one_set_out(x, moved, np.ones(5), candidates={"rigid": None})["rigid"]
    assert abs(after[0] - 300) < before[0] + 1
    assert (after[1:] > before[1:]).all()


def test_the_choice_is_by_held_out_error_with_a_margin():
    rigid = np.array([2.0, 2.0])
    assert choose({"rigid": rigid, "a": rigid * 0.97, "b": rigid * 1.5}, [4, 4]) == "rigid"
    assert choose({"rigid": rigid, "a": rigid * 0.5, "b": rigid * 0.6}, [4, 4]) == "a"
    assert choose({"rigid": rigid, "a": np.array([0.1, 3.0])}, [4, 40]) == "rigid"
    assert choose({}, [4]) == "rigid"


def test_blended_rigid_motions_are_those_of_their_sets():
    rng = np.random.default_rng(6)
    points = [middle + rng.uniform(-100, 100, (6, 2)) for middle in FIVE]
    motions = [turned(angle) for angle in (0.01, -0.02, 0.015, -0.01, 0.02)]
    moved = [m(p - c) + c + 5 for m, p, c in zip(motions, points, FIVE, strict=True)]
    left = [b - a for a, b in zip(points, moved, strict=True)]
    found = blended_rigid(points, left, width=0.2, variances=np.full(5, 1e-6))
    assert isinstance(found, BlendedRigid)
    for a, b in zip(points, left, strict=True):
        np.testing.assert_allclose(found(a), b, atol=1e-3)
    # What noise explains is not believed.
    assert np.abs(blended_rigid(points, left, width=0.2, variances=np.full(5, 1e9)).angles).max() == 0
    with pytest.raises(RigidError, match="at least 2"):
        blended_rigid(points[:1], left[:1], width=1.0, variances=np.ones(1))
    with pytest.raises(RigidError, match="same middle"):
        blended_rigid([points[0]] * 2, [left[0]] * 2, width=1.0, variances=np.ones(2))


def test_a_correction_that_folds_is_seen():
    nodes = np.array([[0, 0], [100, 0], [0, 100], [100, 100], [50, 50.0]])
    gentle = ThinPlate(nodes, np.array([[0, 0], [0, 0], [0, 0], [0, 0], [5, 0.0]]), np.zeros(5))
    torn = ThinPlate(nodes, np.array([[0, 0], [0, 0], [0, 0], [0, 0], [90, 0.0]]), np.zeros(5))
    assert not folds(gentle, nodes)
    assert folds(torn, nodes)
    smooth = thin_plate([nodes], [torn.displacement], smoothing=100.0, variances=[1.0])
    np.testing.assert_allclose(smooth(nodes), 18 * np.array([[1, 0]] * 5), atol=3)


def test_a_mirrored_image_is_told():
    rng = np.random.default_rng(7)
    sets, _ = made_sets(drawn(rng), rng)
    flipped = [PairSet(s.name, s.he_um * [-1, 1], s.fixed_um) for s in sets]
    assert mirrored(*(np.concatenate([getattr(s, side) for s in flipped]) for side in ("he_um", "fixed_um")))
    assert combine(flipped).mirrored
    assert not combine(sets).mirrored


def line(n):
    return np.column_stack([np.arange(n) * 100.0, np.arange(n) * 50.0])


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        ([], "0 pairs"),
        ([(line(2), line(2))], "2 pairs in all regions"),
        ([(line(1), line(1)), (line(4), line(4))], "region 'A': 1 points"),
        ([(line(4), line(4)), (line(4) + 400, line(4) + np.nan)], "region 'B': morphology point 0"),
        ([(line(6), line(6))], "all 6 H&E points lie on one line"),
        ([(np.ones((3, 2)), line(3))], "region 'A': all source points"),
        ([(line(3), line(2))], "region 'A': 3 source points and 2"),
    ],
)
def test_what_cannot_be_combined_is_named(sets, words):
    with pytest.raises(CombineError) as caught:
        combine([PairSet(name, x, y) for name, (x, y) in zip("AB", sets, strict=False)])
    assert words in str(caught.value)
