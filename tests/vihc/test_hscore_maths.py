"""Quantification, thresholds, scores, uncertainty and calibration against plain formulas."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.quantification import run
from past_core.stains import STAINS, deconvolve, reconstruct, stain_set
from past_vihc.hscore.calibrate import CalibrationError, Example, fit_thresholds
from past_vihc.hscore.pixel_score import pixel_counts, pixel_score
from past_vihc.hscore.presets import (
    PRESETS,
    ThresholdError,
    ThresholdFileNotFoundError,
    Thresholds,
    thresholds_named,
)
from past_vihc.hscore.quantify import QuantificationError, density_tables, nuclear_dab
from past_vihc.hscore.score import ScoreError, allred, h_score
from past_vihc.hscore.uncertainty import blocks_of, bootstrap_interval, sensitivity

QUPATH = PRESETS["qupath"]


@given(st.integers(0, 2**32 - 1), st.sampled_from([255.0, 243.0, (240.0, 250.0, 231.5)]))
def test_nuclear_dab_is_the_plain_formula(seed: int, white: float | tuple[float, float, float]) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (3, 37, 23), np.uint8)
    labels = rng.choice([0, 0, 1, 5, 7, 10_000_000], (37, 23)).astype(np.int32)
    found = nuclear_dab(image, labels, white=white)
    haematoxylin, dab, _ = deconvolve(image.astype(np.float64), "qupath-hdab", white=white)
    names = np.unique(labels[labels > 0])
    assert found.labels.tolist() == names.tolist()
    for i, name in enumerate(names):
        inside = labels == name
        assert found.area[i] == inside.sum()
        assert found.dab[i] == pytest.approx(dab[inside].mean(), abs=1e-12)
        assert found.haematoxylin[i] == pytest.approx(haematoxylin[inside].mean(), abs=1e-12)


def test_conventions_are_qupaths() -> None:
    # QuPath prints its H-DAB residual as 0.633, -0.713, 0.302, of 0.651 0.701 0.290 and 0.269 0.568 0.778.
    assert stain_set("qupath-hdab").matrix[2] == pytest.approx([0.633, -0.713, 0.302], abs=2e-3)
    table = density_tables(255.0)[0]
    assert table[255] == 0
    assert table[0] == table[1] == pytest.approx(np.log10(255))
    assert density_tables(240.0)[1, 255] == 0  # brighter than white: no negative density
    blue, white = np.array([90, 90, 255]), np.array([255, 255, 255])
    image = np.stack([blue, white])[None].transpose(2, 0, 1).astype(np.uint8)
    each = nuclear_dab(image, np.array([[1, 2]], np.int32)).dab
    assert each[0] < -0.05  # bluer than haematoxylin: DAB below 0, and it stays in the mean
    assert nuclear_dab(image, np.array([[3, 3]], np.int32)).dab[0] == pytest.approx(each.mean(), abs=1e-12)


def test_a_known_amount_of_dab_is_found() -> None:
    amounts = np.zeros((3, 8, 8))
    amounts[0], amounts[1] = 0.3, 0.45
    image = np.rint(reconstruct(amounts, "qupath-hdab")).astype(np.uint8)
    found = nuclear_dab(image, np.ones((8, 8), np.int32))
    assert found.dab[0] == pytest.approx(0.45, abs=0.01)
    assert found.haematoxylin[0] == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize(
    ("image", "labels", "white"),
    [
        (np.zeros((3, 4, 4), np.uint16), np.zeros((4, 4), np.int32), 255),
        (np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4), np.int32), 255),
        (np.zeros((3, 4, 4), np.uint8), np.zeros((4, 5), np.int32), 255),
        (np.zeros((3, 4, 4), np.uint8), np.zeros((4, 4)), 255),
        (np.zeros((3, 4, 4), np.uint8), np.full((4, 4), -1), 255),
        (np.zeros((3, 4, 4), np.uint8), np.ones((4, 4), int), 0.5),
        (np.zeros((3, 4, 4), np.uint8), np.ones((4, 4), int), float("nan")),
    ],
)
def test_what_cannot_be_measured_is_refused(image: np.ndarray, labels: np.ndarray, white: float) -> None:
    with pytest.raises(QuantificationError, match="expected"):
        nuclear_dab(image, labels, white=white)


def test_the_benchmark_agrees_with_the_plain_formula() -> None:
    result = run(side=300, nuclei=100, repeats=1)
    assert result["nuclei"] == 100
    assert result["max_difference"] < 1e-12
    assert result["ratio"] == result["skimage_s"] / result["ours_s"]


@given(
    st.lists(st.floats(-0.2, 2), min_size=1, max_size=60), st.lists(st.floats(0, 1.5), min_size=3, max_size=3)
)
def test_h_score_properties(dab: list[float], levels: list[float]) -> None:
    levels = sorted(levels)
    if not levels[0] < levels[1] < levels[2]:
        with pytest.raises(ThresholdError):
            Thresholds(*levels)
        return
    found = h_score(np.array(dab), Thresholds(*levels))
    by_hand = [sum(v >= t for v in dab) / len(dab) for t in levels]
    assert found.h == pytest.approx(100 * sum(by_hand))
    assert 0 <= found.h <= 300
    assert found.percent.sum() == pytest.approx(100)
    assert found.percent_positive == pytest.approx(100 * by_hand[0])
    darker = h_score(np.array(dab) + 0.1, Thresholds(*levels))
    assert darker.h >= found.h - 1e-9
    mirrored = h_score(np.array(dab[::-1]), Thresholds(*levels))
    assert mirrored.h == found.h


def test_the_denominator_is_the_he() -> None:
    dab = np.array([0.3, 0.5, 0.7, 0.0])  # 1+, 2+, 3+, negative
    assert h_score(dab, QUPATH).h == pytest.approx(150)
    more = h_score(dab, QUPATH, denominator=12)  # eight more nuclei on the H&E: negative
    assert more.h == pytest.approx(50)
    assert more.percent[0] == pytest.approx(75)
    assert not more.clipped
    fewer = h_score(dab, QUPATH, denominator=2)
    assert fewer.clipped
    assert fewer.percent_positive == 100
    assert fewer.h == pytest.approx(200)
    assert fewer.percent.sum() == pytest.approx(100)


def test_without_nuclei_a_score_is_undefined() -> None:
    for found in (h_score(np.zeros(0), QUPATH), h_score(np.array([0.3]), QUPATH, denominator=0)):
        assert found.h is None
        assert found.percent_positive is None
        assert found.allred is None
        assert "no nuclei" in found.why_undefined
    with pytest.raises(ScoreError, match="no numbers"):
        h_score(np.array([0.1, np.nan]), QUPATH)
    with pytest.raises(ScoreError, match="denominator"):
        h_score(np.array([0.1]), QUPATH, denominator=-1)


@pytest.mark.parametrize(
    ("percent", "expected"),
    [
        ((100, 0, 0, 0), (0, 0, 0)),
        ((99.5, 0.5, 0, 0), (1, 1, 2)),
        ((99, 0, 1, 0), (2, 2, 4)),
        ((90, 0, 0, 10), (3, 3, 6)),
        ((200 / 3, 100 / 3, 0, 0), (4, 1, 5)),
        ((100 / 3, 0, 0, 200 / 3), (5, 3, 8)),
        ((0, 50, 0, 50), (5, 2, 7)),
    ],
)
def test_allred(percent: tuple[float, ...], expected: tuple[int, int, int]) -> None:
    assert tuple(allred(np.array(percent, float))) == expected


@pytest.mark.parametrize(
    "text", [None, "", "er", "0.1,0.2", "0.3,0.2,0.4", "-0.1,0.2,0.3", "nan,1,2", "0.1,0.1,0.2"]
)
def test_thresholds_are_never_silent(text: str | None) -> None:
    with pytest.raises(ThresholdError) as caught:
        thresholds_named(text)
    if text in (None, "", "er"):
        assert all(name in str(caught.value) for name in PRESETS)
        assert "66" in str(caught.value)  # how far scores differ


def test_thresholds_by_name_and_numbers(tmp_path) -> None:
    assert thresholds_named("ihc4bc-ki67").levels == (0.12, 0.35, 0.55)
    assert thresholds_named("0.06, 0.26,0.46") == Thresholds(0.06, 0.26, 0.46)
    with pytest.raises(ThresholdFileNotFoundError):
        thresholds_named(str(tmp_path / "none.json"))
    for content in ("[]", "{", '{"format": "other"}', '{"format": "past-thresholds", "weak": 1}'):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(ThresholdError, match="bad"):
            thresholds_named(str(tmp_path / "bad.json"))
    good = {"format": "past-thresholds", "weak": 0.1, "moderate": 0.2, "strong": 0.3}
    (tmp_path / "good.json").write_text(json.dumps(good))
    assert thresholds_named(str(tmp_path / "good.json")).levels == (0.1, 0.2, 0.3)


def test_pixel_score_counts_stained_pixels() -> None:
    amounts = np.zeros((3, 1, 6))
    amounts[0, 0] = [0, 0.3, 0.3, 0.1, 0.3, 0.05]  # glass, negative, 1+, 2+, 3+, too pale to count
    amounts[1, 0] = [0, 0.0, 0.3, 0.5, 0.8, 0.02]
    image = np.rint(reconstruct(amounts, "qupath-hdab")).astype(np.uint8)
    counts = pixel_counts(image, np.ones((1, 6), bool), QUPATH)
    assert counts.tolist() == [1, 1, 1, 1, 6]
    assert pixel_score(counts).h == pytest.approx(150)
    assert pixel_score(np.array([0, 0, 0, 0, 9])).h is None


def test_the_interval_is_of_squares_of_tissue() -> None:
    rng = np.random.default_rng(3)
    # Two kinds of squares, alike within: 5,000 nuclei say no more than their 20 squares.
    x, y = rng.uniform(0, 1000, 5000), rng.uniform(0, 800, 5000)
    blocks = blocks_of(x, y)
    assert len(np.unique(blocks)) == 20
    classes = np.where(blocks % 3 == 0, 3, 0)
    wide = bootstrap_interval(classes, blocks)
    narrow = bootstrap_interval(rng.permutation(classes), blocks)
    h = 300 * (classes == 3).mean()
    assert wide.low < h < wide.high
    assert wide.high - wide.low > 4 * (narrow.high - narrow.low)
    assert bootstrap_interval(classes, blocks) == wide  # the same draws
    assert bootstrap_interval(classes[:5], np.zeros(5, int)) is None


def test_the_interval_covers() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for trial in range(60):
        p = np.repeat(rng.beta(2, 2, 40), 25)  # squares with their own share, true mean 0.5
        found = bootstrap_interval(
            (rng.random(1000) < p).astype(int), np.repeat(np.arange(40), 25), seed=trial
        )
        inside += found.low <= 50 <= found.high
    assert inside >= 51  # 95 % of 60 is 57


def test_sensitivity_holds_every_preset() -> None:
    dab = np.random.default_rng(0).uniform(-0.1, 1, 500)
    table = sensitivity(dab, QUPATH, other_whites={"white x 0.98": dab - 0.01}).set_index("variant")
    assert set(PRESETS) <= set(table.index)
    assert table.loc["ihc4bc-er", "h"] == pytest.approx(h_score(dab, PRESETS["ihc4bc-er"]).h)
    assert table.loc["thresholds x 0.8", "h"] > table.loc["qupath", "h"] > table.loc["thresholds x 1.2", "h"]
    assert table.loc["white x 0.98", "h"] <= table.loc["qupath", "h"]


def _examples(n: int, truth: Thresholds, *, noise: float = 0.0, classes: bool = False) -> list[Example]:
    rng = np.random.default_rng(1)
    made = []
    for i in range(n):
        dab = rng.gamma(1.5, rng.uniform(0.02, 0.5), 800)
        score = h_score(dab, truth)
        h = float(np.clip(score.h + noise * rng.standard_normal(), 0, 300))
        made.append(Example(f"slide {i}", dab, h, score.percent if classes else None))
    return made


@pytest.mark.parametrize("classes", [False, True])
def test_calibration_finds_the_thresholds(classes: bool) -> None:
    truth = Thresholds(0.11, 0.33, 0.58)
    fit = fit_thresholds(_examples(12, truth, classes=classes))
    assert fit.thresholds.levels == pytest.approx(truth.levels, abs=0.021)
    assert fit.rmse < 1
    assert fit.loo_rmse < 2
    assert (fit.ranges[:, 0] <= fit.thresholds.levels).all()
    assert (fit.ranges[:, 1] >= fit.thresholds.levels).all()


def test_the_error_left_out_is_honest() -> None:
    fit = fit_thresholds(_examples(6, QUPATH, noise=15))
    assert fit.loo_rmse > fit.rmse  # fitted to noise, which it does not predict


def test_examples_that_say_nothing_are_refused() -> None:
    good = _examples(5, QUPATH)
    for bad, message in (
        (good[:2], "at least 3"),
        ([*good, Example("empty", np.zeros(0), 10)], "empty"),
        ([*good, Example("high", np.ones(3), 301)], "0 to 300"),
        ([*good, Example("odd", np.ones(3), 10, np.array([50, 10, 10, 10]))], "add up"),
        ([g._replace(h=100.0) for g in good], "10 points"),
    ):
        with pytest.raises(CalibrationError, match=message):
            fit_thresholds(bad)


def test_stain_sets_have_dab_second() -> None:
    assert STAINS["qupath-hdab"].stains[1] == "dab"  # what `nuclear_dab` takes for granted
