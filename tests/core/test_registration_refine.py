"""Refinement against the image: what it finds, what it refuses, and that it never makes worse."""

import shutil

import numpy as np
import pytest
from made_registered import SIZE_UM, bulge, grid_um, he_of, made_bundle, shifted, truth_of, without_masks

from past_core.registration import nuclei_points
from past_core.registration.boundaries import outlines_in
from past_core.registration.combine import combine
from past_core.registration.contradiction import contradiction
from past_core.registration.image_report import judge_image
from past_core.registration.keypoints import read_keypoints
from past_core.registration.measure import measure
from past_core.registration.nuclei_points import NucleiImageError, open_nuclei
from past_core.registration.refine import refine, refined_keypoints
from past_core.registration.report import pairs_um
from past_core.registration.search import Affine
from past_core.registration.windows import choose_windows
from past_core.slides import open_slide
from past_core.slides.arrays import ArraySlide


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return made_bundle(tmp_path_factory.mktemp("refine") / "S", seed=4)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return made_bundle(tmp_path_factory.mktemp("refine") / "O", seed=9)


@pytest.fixture(scope="module")
def warped(tmp_path_factory):
    return made_bundle(tmp_path_factory.mktemp("refine") / "W", seed=4, warped=True)


def error(frame, truth, field=None):
    points = grid_um()
    wanted = truth(points + (0 if field is None else field(points)))
    return float(np.linalg.norm(frame(points) - wanted, axis=1).mean())


@pytest.mark.parametrize(("angle", "shift"), [(0.0, (5.0, 0.0)), (0.45, (-7.0, 7.0)), (-0.5, (9.0, -9.0))])
def test_a_wrong_start_is_brought_to_the_truth(bundle, angle, shift):
    truth = truth_of(bundle)
    start = shifted(truth, angle, shift)
    with open_slide(he_of(bundle)) as slide, open_nuclei(bundle) as nuclei:
        assert nuclei.source == "masks"
        found = refine(slide, nuclei, start)
    assert error(start, truth) > 4
    assert found.accepted
    assert found.judged_by == "windows"
    assert found.after_um < 0.3 < found.before_um
    assert error(found.registration, truth) < 0.1
    assert found.registration.correction is None


def test_a_right_start_is_not_made_worse(bundle):
    truth = truth_of(bundle)
    with open_slide(he_of(bundle)) as slide, open_nuclei(bundle) as nuclei:
        found = refine(slide, nuclei, truth)
    assert sum(w.found for w in found.windows) == len(found.windows)
    assert min(w.contrast for w in found.windows) > 0.1
    assert found.before_um < 0.3
    assert not found.accepted or error(found.registration, truth) < 0.1


def test_the_scale_is_found_where_windows_left_out_profit(bundle):
    # Stated 1 % too small; a rigid start through the tissue's middle.
    truth = truth_of(bundle)
    middle = np.full((1, 2), SIZE_UM / 2)
    matrix = truth.matrix.copy()
    matrix[:2, 2] = truth(middle)[0] - matrix[:2, :2] @ middle[0] * 0.99
    with open_slide(he_of(bundle), mpp=0.2475) as slide, open_nuclei(bundle) as nuclei:
        found = refine(slide, nuclei, Affine(matrix))
    assert found.registration.transform.scale == pytest.approx(0.25 / 0.2475, abs=5e-4)
    assert found.registration.correction is None
    assert found.after_um < 0.2 < found.before_um


def test_a_coarse_image_says_nothing(bundle):
    truth = truth_of(bundle)
    with open_slide(he_of(bundle), mpp=2.0) as slide, open_nuclei(bundle) as nuclei:
        found = refine(slide, nuclei, truth)
    assert not found.accepted
    assert found.windows == []
    assert "2 µm per pixel" in found.reason
    judgement = judge_image(found, truth.matrix)
    assert judgement.verdict == "check"
    assert "not checked against the image" in judgement.reasons[0]


def test_another_tissue_is_not_accepted(bundle, other):
    with open_slide(he_of(other)) as slide, open_nuclei(bundle) as nuclei:
        found = refine(slide, nuclei, truth_of(bundle))
    assert not found.accepted
    assert found.registration is None
    assert "does not show this bundle's nuclei" in found.reason


@pytest.fixture(scope="module")
def images(bundle):
    """The bundle's H&E, and images that show nothing of it."""
    with open_slide(he_of(bundle)) as slide:
        pixels = slide.read(0, 0, 0, slide.height, slide.width)
    noise = np.random.default_rng(0).normal(0, 6, pixels.shape)
    eosin = np.array([230.0, 170, 200])[:, None, None]
    return {
        "itself": pixels,
        "grey": np.repeat(pixels.mean(axis=0, keepdims=True).astype(np.uint8), 3, axis=0),
        "glass": np.clip(240 + noise, 0, 255).astype(np.uint8),
        "eosin": np.clip(eosin + noise, 0, 255).astype(np.uint8),
        "mirrored": np.ascontiguousarray(pixels[:, ::-1]),
    }


@pytest.mark.parametrize(
    ("image", "shift", "words"),
    [
        ("itself", (0.0, 0.0), None),
        ("itself", (30.0, 20.0), "none of the bundle's nuclei is found in the H&E, though it shows"),
        ("mirrored", (0.0, 0.0), "none of the bundle's nuclei is found"),
        ("grey", (30.0, 20.0), "none of the bundle's nuclei is found"),
        ("glass", (0.0, 0.0), "100% of the cells lie on glass or beside the H&E"),
        ("itself", (200.0, 0.0), "% of the cells lie on glass or beside the H&E"),
        ("eosin", (0.0, 0.0), None),
    ],
)
def test_what_contradicts_a_registration(bundle, images, image, shift, words):
    frame = shifted(truth_of(bundle), 0.0, shift)
    slide = ArraySlide(images[image], mpp=0.25)
    with open_nuclei(bundle) as nuclei:
        middles, side = choose_windows(nuclei.cells_um, most=3)
        windows = measure(slide, nuclei, frame, middles, side_um=side, search_um=12.0)
        assert any(window.found for window in windows) == (image == "itself" and shift == (0.0, 0.0))
        found = contradiction(slide, nuclei, frame, windows, side_um=side)
    assert (found is None) == (words is None)
    assert words is None or words in found


@pytest.mark.parametrize(("image", "verdict"), [("glass", "reject"), ("eosin", "check")])
def test_an_image_without_nuclei_is_judged_by_why(bundle, images, image, verdict):
    """Glass cannot be the right place; tissue that shows no nucleus of its own cannot be judged."""
    slide, truth = ArraySlide(images[image], mpp=0.25), truth_of(bundle)
    with open_nuclei(bundle) as nuclei:
        found = refine(slide, nuclei, truth, most_windows=4)
    assert found.before_um is None
    assert (found.against is None, found.blind) == (verdict == "check", verdict == "check")
    judgement = judge_image(found, truth.matrix)
    assert judgement.verdict == verdict
    assert judgement.reasons[0].startswith("100%" if verdict == "reject" else "not checked against the image")


def test_dapi_serves_where_there_are_no_masks(bundle, tmp_path):
    copy = without_masks(bundle, tmp_path / "S")
    truth = truth_of(bundle)
    with open_slide(he_of(bundle)) as slide, open_nuclei(copy) as nuclei:
        assert nuclei.source == "dapi"
        found = refine(slide, nuclei, shifted(truth, 0.3, (-4.0, 3.0)))
    assert found.accepted
    assert error(found.registration, truth) < 0.3
    shutil.rmtree(copy / "morphology_focus")
    with pytest.raises(NucleiImageError, match="there is no DAPI image"), open_nuclei(copy):
        pass


def test_a_local_deformation_is_followed(warped):
    truth = truth_of(warped)
    with open_slide(he_of(warped)) as slide, open_nuclei(warped) as nuclei:
        found = refine(slide, nuclei, truth)
    assert found.accepted
    assert found.registration.correction is not None
    assert error(truth, truth, bulge) > 3
    rigid = error(found.registration.transform, truth, bulge)
    assert error(found.registration, truth, bulge) < min(1.0, 0.5 * rigid)


def test_keypoints_judge_by_regions_that_windows_have_not_seen(bundle):
    sets = read_keypoints(sorted(bundle.glob("keypoints_region*.csv")))
    pairs = pairs_um(sets, he_mpp=0.25, pixel_size=0.2125)
    registration = combine(pairs)
    truth = truth_of(bundle)
    with open_slide(he_of(bundle)) as slide, open_nuclei(bundle) as nuclei:
        found = refine(slide, nuclei, registration, keypoints=(registration, pairs))
    assert found.registration is not None
    assert error(found.registration, truth) < 0.1 < error(registration, truth)
    final = refined_keypoints(found, registration, pairs)
    assert final.transform == found.registration.transform
    assert set(final.held_out) >= {"rigid"}
    assert len(final.held_out[final.chosen]) == len(pairs)
    # A keypoint's error is at least its picking noise, which no transform takes away.
    assert 0.3 < np.mean(final.held_out[final.chosen]) < 1.5


def test_it_is_the_same_every_time(bundle):
    truth = truth_of(bundle)
    with open_slide(he_of(bundle)) as slide, open_nuclei(bundle) as nuclei:
        start = shifted(truth, 0.1, (2.0, 2.0))
        first, second = (refine(slide, nuclei, start, most_windows=4) for _ in range(2))
    np.testing.assert_array_equal(first.registration.transform.matrix, second.registration.transform.matrix)


def test_only_windows_are_read(bundle, monkeypatch):
    with open_slide(he_of(bundle)) as slide, open_nuclei(bundle) as nuclei:
        middles, side = choose_windows(nuclei.cells_um, most=3)
        assert len(middles) == 3
        read = []
        window = nuclei._nuclei
        monkeypatch.setattr(
            nuclei,
            "_nuclei",
            lambda y0, y1, x0, x1: read.append((y1 - y0, x1 - x0)) or window(y0, y1, x0, x1),
        )
        measure(slide, nuclei, truth_of(bundle), middles, side_um=side, search_um=5.0)
        assert len(read) == 3
        # A turned window's box, with the margin around it.
        assert max(map(max, read)) * 0.2125 < 1.5 * (side + 45)
        monkeypatch.setattr(nuclei_points, "MAX_WINDOW_PX", 1000)
        with pytest.raises(NucleiImageError, match="at most 1000"):
            measure(slide, nuclei, truth_of(bundle), middles, side_um=side, search_um=5.0)


def test_windows_lie_apart_on_the_tissue():
    rng = np.random.default_rng(0)
    cells = np.concatenate([rng.uniform(0, 3000, (20_000, 2)), rng.uniform(6000, 9000, (20_000, 2))])
    middles, side = choose_windows(cells, most=24)
    assert (len(middles), side) == (24, 300.0)
    assert ((middles < 3100).all(axis=1) | (middles > 5900).all(axis=1)).all()
    apart = np.linalg.norm(middles[:, None] - middles, axis=-1) + np.eye(24) * 1e9
    assert apart.min() > side
    assert len(choose_windows(cells[:3], most=24)[0]) == 0


def test_outlines_of_boxes_are_those_of_the_whole_table(bundle, tmp_path):
    import pandas as pd

    table = pd.read_parquet(bundle / "cell_boundaries.parquet")
    box = (100.0, 120.0, 180.0, 190.0)
    found, none = outlines_in(bundle / "cell_boundaries.parquet", [box, (-900, -900, -800, -800)])
    assert none == []
    rings = {tuple(map(tuple, ring)) for ring in found}
    inside = 0
    for _, polygon in table.groupby("label_id", sort=False):
        points = polygon[["vertex_x", "vertex_y"]].to_numpy(float)
        if ((points > box[:2]) & (points < box[2:])).all():
            assert tuple(map(tuple, points)) in rings
            inside += 1
    assert inside > 10
    table.to_csv(tmp_path / "cell_boundaries.csv.gz", index=False)
    (again, _) = outlines_in(tmp_path / "cell_boundaries.csv.gz", [box, box])
    assert len(again) == len(found)
