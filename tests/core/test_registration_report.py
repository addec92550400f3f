"""Report, verdict and `past register`: what is said of good, doubtful and useless keypoints."""

import json

import numpy as np
import pytest
from made_keypoints import FIVE, NINE, SIDE_UM, drawn, made_sets, turned, waves
from PIL import Image

from past_core.ingest.xenium_alignment import read_alignment
from past_core.registration.combine import PairSet, combine
from past_core.registration.keypoints import KeypointSet
from past_core.registration.report import pairs_um, registration_report
from past_core.registration.verdict import judge

MPP, PIXEL = 0.25, 0.2125


def made(seed=0, truth=None, **options):
    rng = np.random.default_rng(seed)
    truth = truth or drawn(rng)
    sets, wrong = made_sets(truth, rng, **options)
    return truth, sets, wrong


def files(folder, sets, mpp=MPP):
    paths = []
    for pairs in sets:
        rows = np.hstack([pairs.fixed_um / PIXEL, pairs.he_um / mpp])
        paths.append(folder / f"{pairs.name}.csv")
        header = "fixedX,fixedY,alignmentX,alignmentY"
        np.savetxt(paths[-1], rows, delimiter=",", fmt="%.6f", header=header, comments="")
    return paths


def verdict(sets, *, matrix_only=False):
    judgement = judge(combine(sets), sets, size_um=(SIDE_UM, SIDE_UM), matrix_only=matrix_only)
    return judgement.verdict, " ".join(judgement.reasons)


def test_good_keypoints_are_good():
    assert verdict(made()[1]) == ("good", "")
    assert verdict(made(wrong_um=100.0)[1]) == ("good", "")
    assert verdict(made(middles=NINE, field=waves, fixed_noise=0.5)[1])[0] == "good"


@pytest.mark.parametrize(
    ("options", "want", "words"),
    [
        ({"middles": FIVE[:1]}, "check", "one region cannot show"),
        ({"middles": 3000 + FIVE * 0.05}, "check", "span"),
        ({"points": 3}, "check", "has 3 pairs, which do not show a wrong one"),
        ({"truth": turned(0.3, scale=1.1)}, "check", "1.10"),
        ({"truth": turned(0.3, scale=1.5)}, "reject", "check the resolution"),
        ({"field": lambda p: waves(p, 12.0)}, "check", "no local correction helps a region left out"),
        ({"field": lambda p: waves(p, 60.0)}, "reject", "regions left out are"),
    ],
)
def test_doubtful_keypoints_are_told(options, want, words):
    found, reasons = verdict(made(**options)[1])
    assert found == want, reasons
    assert words in reasons


@pytest.mark.parametrize(("amplitude", "want"), [(0.0, "good"), (10.0, "check"), (40.0, "reject")])
def test_a_matrix_that_is_used_alone_is_judged_alone(amplitude, want):
    sets = made(middles=NINE, field=lambda p: waves(p, amplitude), fixed_noise=0.5)[1]
    found, reasons = verdict(sets, matrix_only=True)
    assert found == want
    assert ("the matrix alone" in reasons) == (amplitude > 0)


def test_a_region_of_its_own_is_named():
    _, sets, _ = made()
    sets[2] = PairSet("R3", sets[2].he_um, sets[2].fixed_um + np.array([40.0, 0.0]))
    found, reasons = verdict(sets)
    assert found == "reject"
    assert "region 'R3' is" in reasons


def test_a_mirrored_image_is_rejected():
    _, sets, _ = made()
    found, reasons = verdict([PairSet(s.name, s.he_um * [-1, 1], s.fixed_um) for s in sets])
    assert found == "reject"
    assert "flip the H&E" in reasons


def test_the_report_holds_every_pair_and_survives_json():
    truth, sets, wrong = made(wrong_um=50.0)
    pixels = [
        KeypointSet(s.name, s.fixed_um / PIXEL, s.he_um / MPP, tuple(f"f line {k + 2}" for k in range(4)))
        for s in sets
    ]
    registration = combine(pairs_um(pixels, he_mpp=MPP, pixel_size=PIXEL))
    given = truth.pixel_matrix(he_mpp=MPP, pixel_size=PIXEL)
    report = registration_report(registration, pixels, he_mpp=MPP, pixel_size=PIXEL, matrix=given)
    report = json.loads(json.dumps(report, allow_nan=False))
    assert (report["pairs"], report["wrong_pairs"], report["verdict"]) == (20, 5, "good")
    for region, pair in zip(report["regions"], wrong, strict=True):
        assert [p["kept"] for p in region["pairs"]] == [k != pair for k in range(4)]
        assert region["pairs"][pair]["residual_um"] == pytest.approx(50, abs=5)
        kept = [p["residual_um"] ** 2 for p in region["pairs"] if p["kept"]]
        assert region["residual_um"] == pytest.approx(np.sqrt(np.mean(kept)))
    assert report["held_out_um"] > report["residual_um"] > 0
    assert report["given_matrix"]["farthest_um"] < 3
    np.testing.assert_allclose(np.array(report["matrix_px"])[:2, :2], given[:2, :2], atol=1e-3)


def test_past_register(past, tmp_path):
    truth, sets, _ = made(wrong_um=60.0)
    np.savetxt(tmp_path / "m.csv", truth.pixel_matrix(he_mpp=MPP, pixel_size=PIXEL), delimiter=",")
    out = tmp_path / "new" / "registered"
    command = ["register", *files(tmp_path, sets), "--he-mpp", MPP, "--pixel-size", PIXEL, "-o", out]
    status, stdout, stderr = past(*command, "--matrix", tmp_path / "m.csv")
    assert status == 0, stderr
    assert stdout.startswith("good: 20 pairs in 5 regions, 5 wrong")
    assert stdout.count("left out: R") == 5
    written = {"alignment.csv", "report.html", "report.json", "residuals.png"}
    assert {path.name for path in out.iterdir()} == written
    found = read_alignment(out / "alignment.csv").matrix
    report = json.loads((out / "report.json").read_text())
    np.testing.assert_array_equal(found, report["matrix_px"])
    assert report["given_matrix"]["farthest_um"] < 3
    with Image.open(out / "residuals.png") as picture:
        assert min(picture.size) > 500
    status, _, stderr = past(*command)
    assert status == 1
    assert "--overwrite" in stderr
    assert past(*command, "--overwrite")[0] == 0
    (out / "mine.txt").touch()
    assert "something else" in past(*command, "--overwrite")[2]


def test_past_register_writes_no_matrix_that_must_not_be_used(past, tmp_path):
    _, sets, _ = made(truth=turned(0.3, scale=1.3))
    out = tmp_path / "out"
    command = ["register", *files(tmp_path, sets), "--he-mpp", MPP, "--pixel-size", PIXEL, "-o", out]
    status, stdout, stderr = past(*command)
    assert status == 1
    assert stdout.startswith("reject")
    assert "do not use this registration" in stderr
    assert {path.name for path in out.iterdir()} == {"report.html", "report.json", "residuals.png"}
    # The right resolution makes it good.
    status, stdout, _ = past(*command, "--he-mpp", MPP * 1.3, "--overwrite")
    assert status == 0
    assert stdout.startswith("good")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--he-mpp", 0.25], "one of --bundle and --pixel-size"),
        (["--pixel-size", 0.2125], "give --he IMAGE or --he-mpp"),
        (["--pixel-size", 0, "--he-mpp", 0.25], "--pixel-size is 0"),
        (["--pixel-size", 0.2125, "--he-mpp", "nan"], "--he-mpp is nan"),
        (["--bundle", "nowhere", "--he-mpp", 0.25], "experiment.xenium not found"),
    ],
)
def test_past_register_says_what_is_missing(past, tmp_path, options, words):
    paths = files(tmp_path, made()[1])
    status, _, stderr = past("register", *paths, *options, "-o", tmp_path / "out")
    assert status == 1
    assert words in stderr
    assert not (tmp_path / "out").exists()
