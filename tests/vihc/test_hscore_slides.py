"""`past hscore` and `past calibrate` on a synthetic pair of known truth, and on input that is not right."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image
from typer.testing import CliRunner

from past_core.cli import build_app
from past_core.errors import PastError
from past_core.nuclei import NucleiError
from past_core.slides import SlideError, open_slide
from past_core.synthetic.pair_files import SyntheticPair, make_pairs, pair_in
from past_core.synthetic.pairs import positive_patients
from past_vihc.hscore.output import OutputError
from past_vihc.hscore.pairing import PairError
from past_vihc.hscore.pipeline import score_slide
from past_vihc.hscore.presets import PRESETS, ThresholdError
from past_vihc.hscore.regions import RegionError, read_regions
from past_vihc.hscore.score import h_score
from past_vihc.hscore.stain_choice import StainsError
from past_vihc.hscore.stain_estimation import estimate_stains
from past_vihc.hscore.white import WhiteError, white_point
from past_vihc.markers import MarkerError


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> SyntheticPair:
    config = dataclasses.replace(positive_patients("er", 1)[0], size_um=220.0)
    made = pair_in(tmp_path_factory.mktemp("pair"), config, "er", misalignment_um=0.0)
    make_pairs([made])
    return made


@pytest.fixture(scope="module")
def true_stains(pair, tmp_path_factory) -> str:
    haematoxylin, dab = pair.staining.stains.tolist()
    path = tmp_path_factory.mktemp("stains") / "lab.json"
    path.write_text(json.dumps({"haematoxylin": haematoxylin, "dab": dab}))
    return str(path)


@pytest.fixture
def past(monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")
    app = build_app()
    return lambda *args: CliRunner().invoke(app, [str(arg) for arg in args])


def test_density_in_true_masks_is_the_rendered_one(pair, true_stains) -> None:
    """With the laboratory's own stains and the white that the slide shows: within 2 %, H within 3."""
    result = score_slide(
        pair.ihc,
        pair.he,
        marker="er",
        thresholds="qupath",
        labels=pair.nuclei,
        stains=true_stains,
        white="auto",
    )
    truth = pd.read_csv(pair.truth)
    labels = tifffile.imread(pair.nuclei)
    rows, columns = np.nonzero(labels)
    centres = pd.DataFrame({"label": labels[rows, columns], "x": columns + 0.5, "y": rows + 0.5})
    centres = centres.groupby("label", as_index=False).mean()
    expected = truth.merge(centres, on="label").sort_values(["y", "x"])["dab_od"].to_numpy()
    found = result.nuclei["dab_od"].to_numpy()
    assert len(found) == len(expected) > 100
    stained = expected > 0.2
    assert stained.sum() > 20
    assert np.abs(found[stained] / expected[stained] - 1).max() < 0.02
    assert found[stained].mean() / expected[stained].mean() == pytest.approx(1, abs=0.01)
    for preset in ("qupath", "ihc4bc-er"):
        measured = result.sensitivity.set_index("variant").loc[preset, "h"]
        assert measured == pytest.approx(h_score(expected, PRESETS[preset]).h, abs=3)


def test_watershed_on_the_he_scores_near_the_truth(pair, true_stains) -> None:
    result = score_slide(
        pair.ihc, pair.he, marker="er", thresholds="qupath", stains=true_stains, white="auto"
    )
    truth = h_score(pd.read_csv(pair.truth)["dab_od"].to_numpy(), PRESETS["qupath"])
    assert result.score.h == pytest.approx(truth.h, abs=6)  # other nuclei at the border, a few merged
    assert result.record["segmenter"] == "watershed"
    assert result.record["nuclei_on"] == "H&E"
    assert "no-he" not in result.flags


@pytest.mark.parametrize("source", ["he", "ihc", "labels"])
def test_tiles_change_nothing(pair, source: str) -> None:
    he = None if source == "ihc" else pair.he
    labels = pair.nuclei if source == "labels" else None
    one, *others = [
        score_slide(pair.ihc, he, marker="er", thresholds="qupath", labels=labels, tile=tile)
        for tile in (None, 512, 150)
    ]
    for other in others:
        pd.testing.assert_frame_equal(one.nuclei, other.nuclei, check_exact=True)
        assert all(np.array_equal(a, b) for a, b in zip(one.outlines, other.outlines, strict=True))
        assert one.as_json() == other.as_json()
    assert ("no-he" in one.flags) == (source == "ihc")


def test_the_command_writes_what_it_says(pair, past, tmp_path) -> None:
    regions = tmp_path / "regions.geojson"
    half = open_slide(pair.ihc).width // 2
    ring = [[0, 0], [half, 0], [half, 9999], [0, 9999], [0, 0]]
    far = [[[90000, 0], [90001, 0], [90001, 1], [90000, 0]]]
    features = [
        {
            "type": "Feature",
            "properties": {"name": "left"},
            "geometry": {"type": "Polygon", "coordinates": [ring]},
        },
        {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": far}},
    ]
    regions.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    out = tmp_path / "out"
    command = ["hscore", pair.ihc, "--he", pair.he, "--marker", "er", "--preset", "qupath", "-o", out]
    ran = past(*command, "--regions", regions)
    assert ran.exit_code == 0, ran.output
    assert "H-score" in ran.output
    assert "Research use only" in ran.output
    assert {p.name for p in out.iterdir()} == {
        "nuclei.csv",
        "nuclei.geojson",
        "score.json",
        "regions.csv",
        "overlay.png",
    }
    nuclei = pd.read_csv(out / "nuclei.csv", keep_default_na=False)
    score = json.loads((out / "score.json").read_text())
    counts = nuclei["class"].value_counts()
    by_hand = 100 * sum(k * counts.get(f"{k}+", 0) for k in (1, 2, 3)) / len(nuclei)
    assert score["h_score"] == pytest.approx(by_hand)
    assert score["ci95"][0] <= score["h_score"] <= score["ci95"][1]
    assert score["thresholds"]["name"] == "qupath"
    assert {"segmenter", "parameters", "stains", "white", "mpp", "software", "sensitivity", "flags"} <= set(
        score
    )
    left = nuclei[nuclei["region"] == "left"]
    assert (left["x"] < half).all()
    table = pd.read_csv(out / "regions.csv").set_index("region")
    assert table.loc["left", "nuclei"] == len(left) == (nuclei["x"] < half).sum()
    assert np.isnan(table.loc["region 2", "h_score"])
    assert "no nuclei" in table.loc["region 2", "why_undefined"]
    detections = json.loads((out / "nuclei.geojson").read_text())["features"]
    assert len(detections) == len(nuclei)
    row = nuclei.iloc[3]
    polygon, properties = np.array(detections[3]["geometry"]["coordinates"][0]), detections[3]["properties"]
    assert properties["objectType"] == "detection"
    assert properties["classification"]["name"] == row["class"]
    assert properties["measurements"]["Nucleus: DAB OD mean"] == pytest.approx(row["dab_od"], abs=1e-4)
    assert (polygon[0] == polygon[-1]).all()
    x, y = polygon[:-1].T
    area = 0.5 * abs(x @ np.roll(y, 1) - y @ np.roll(x, 1)) * score["mpp"] ** 2
    assert area == pytest.approx(row["area_um2"], rel=0.15)
    assert polygon.min(axis=0)[0] < row["x"] < polygon.max(axis=0)[0]
    with Image.open(out / "overlay.png") as picture:
        assert picture.width > 1000
    again = past(*command)
    assert isinstance(again.exception, OutputError)
    assert past(*command, "--overwrite").exit_code == 0


def test_nothing_is_left_of_a_score_that_fails(pair, past, tmp_path, monkeypatch) -> None:
    def broken(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("past_vihc.hscore.output.write_overlay", broken)
    ran = past("hscore", pair.ihc, "--marker", "er", "--preset", "qupath", "-o", tmp_path / "out")
    assert isinstance(ran.exception, OSError)
    assert list(tmp_path.iterdir()) == []


def test_adjacent_sections_take_the_number_from_the_he(pair) -> None:
    alone = score_slide(pair.ihc, marker="er", thresholds="qupath")
    both = score_slide(pair.ihc, pair.he, marker="er", thresholds="qupath", adjacent=True)
    he = score_slide(pair.ihc, pair.he, marker="er", thresholds="qupath")
    pd.testing.assert_frame_equal(alone.nuclei, both.nuclei)
    assert both.score.denominator == len(he.nuclei)
    assert "adjacent" in both.flags


def test_sizes_that_differ_are_named(pair, tmp_path) -> None:
    image = tifffile.imread(pair.he)
    tifffile.imwrite(tmp_path / "small.tif", image[:400, :400], photometric="rgb")
    with open_slide(pair.ihc) as ihc, open_slide(tmp_path / "small.tif", mpp=0.25) as he:  # noqa: SIM117
        with pytest.raises(PairError, match=r"small\.tif 400 x 400"):
            score_slide(ihc, he, marker="er", thresholds="qupath")


def test_an_he_of_another_resolution_is_read_on_one_grid(pair, tmp_path) -> None:
    image = tifffile.imread(pair.he)
    image = image[: len(image) // 2 * 2, : image.shape[1] // 2 * 2].astype(np.float64)
    half = np.rint(image.reshape(len(image) // 2, 2, -1, 2, 3).mean(axis=(1, 3))).astype(np.uint8)
    Image.fromarray(half).save(tmp_path / "half.png")
    fine = score_slide(pair.ihc, pair.he, marker="er", thresholds="qupath")
    with open_slide(pair.ihc) as ihc, open_slide(tmp_path / "half.png", mpp=0.5) as he:
        coarse = score_slide(ihc, he, marker="er", thresholds="qupath")
    assert coarse.score.h == pytest.approx(fine.score.h, abs=2)
    assert len(coarse.nuclei) == pytest.approx(len(fine.nuclei), rel=0.02)


def _png(path: Path, image: np.ndarray) -> Path:
    Image.fromarray(image).save(path)
    return path


def test_bad_input(pair, past, tmp_path) -> None:
    rgb = tifffile.imread(pair.ihc)[:400, :400]
    plain = _png(tmp_path / "plain.png", rgb)
    rgba = _png(tmp_path / "rgba.png", np.dstack([rgb, np.full((400, 400), 255, np.uint8)]))
    grey = _png(tmp_path / "grey.png", rgb[..., 0])
    deep = tmp_path / "deep.tif"
    tifffile.imwrite(deep, rgb.astype(np.uint16) * 257, photometric="rgb")
    glass = _png(tmp_path / "glass.png", np.full((400, 400, 3), 243, np.uint8))
    few = (tmp_path / "few.npy", tmp_path / "none.npy")
    np.save(few[0], np.ones((10, 25), np.int32))
    np.save(few[1], np.zeros((400, 400), np.int32))
    out = tmp_path / "out"
    end = ("-o", out, "--marker", "er")
    ok = ("--mpp", 0.25, "--preset", "qupath")
    for args, error, message in (
        ((grey, *ok), SlideError, "RGB"),
        ((deep, *ok), SlideError, "8"),
        ((plain, "--preset", "qupath"), SlideError, "--mpp"),
        ((glass, *ok), NucleiError, "no tissue"),
        ((plain, "--mpp", 0.25), ThresholdError, "ihc4bc-er"),
        ((plain, "--mpp", 0.25, "--thresholds", "0.3,0.2,0.4"), ThresholdError, "ascending"),
        ((plain, *ok, "--thresholds", "0.1,0.2,0.4"), ThresholdError, "one of them"),
        ((plain, *ok, "--segmenter", "magic"), NucleiError, "watershed"),
        ((plain, *ok, "--white", "20"), WhiteError, "100 to 255"),
        ((plain, *ok, "--stains", "qupath-he"), StainsError, "dab"),
        ((plain, *ok, "--stains", "no.json"), StainsError, "haematoxylin"),
        ((plain, *ok, "--labels", few[0]), PastError, "400"),
        ((plain, *ok, "--regions", grey), RegionError, "GeoJSON"),
    ):
        ran = past("hscore", *args, *end)
        assert isinstance(ran.exception, error), (args, ran.exception, ran.output)
        assert message in str(ran.exception)
        assert not out.exists()
    her2 = past("hscore", plain, *ok, "-o", out, "--marker", "her2")
    assert isinstance(her2.exception, MarkerError)
    assert "membrane" in str(her2.exception)
    # What can be scored is: transparency lies over white; without nuclei the score is undefined, and says so.
    assert past("hscore", rgba, *ok, *end).exit_code == 0
    assert past("hscore", plain, *ok, "-o", tmp_path / "rgb", "--marker", "er").exit_code == 0
    scores = [
        json.loads((folder / "score.json").read_text())["h_score"] for folder in (out, tmp_path / "rgb")
    ]
    assert scores[0] == scores[1]
    none = past("hscore", plain, *ok, "-o", tmp_path / "none", "--marker", "er", "--labels", few[1])
    assert none.exit_code == 0, none.exception
    assert "undefined" in none.output
    score = json.loads((tmp_path / "none/score.json").read_text())
    assert score["h_score"] is None
    assert "no nuclei" in score["why_undefined"]


def test_white_and_stains_from_the_slide(pair) -> None:
    with open_slide(pair.ihc) as slide:
        white = white_point(slide, "auto")
        assert white.source == "estimated"
        assert np.abs(np.array(white.rgb) - pair.staining.white).max() < 4
        found = estimate_stains(slide, white=white.rgb).stains.matrix
        both = estimate_stains(slide, method="macenko", white=white.rgb).stains.matrix
    angle = [
        np.degrees(np.arccos(row @ true)) for row, true in zip(found[:2], pair.staining.stains, strict=True)
    ]
    assert max(angle) < 2.5
    leans = np.degrees(np.arccos(both[1] @ pair.staining.stains[1]))
    assert leans > 2 * angle[1]  # why `macenko` is not what `auto` does


def test_a_slide_without_glass_keeps_255(tmp_path) -> None:
    image = np.full((200, 200, 3), (150, 120, 170), np.uint8)
    with open_slide(_png(tmp_path / "full.png", image), mpp=0.5) as slide:
        white = white_point(slide, "auto")
    assert white.rgb == (255.0, 255.0, 255.0)
    assert "255 was taken" in white.note


def test_calibrated_thresholds_are_taken_by_hscore(pair, past, tmp_path) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for i in range(5):
        dab = rng.gamma(1.5, rng.uniform(0.02, 0.5), 500)
        pd.DataFrame({"dab_od": dab}).to_csv(tmp_path / f"{i}.csv", index=False)
        rows.append({"nuclei": f"{i}.csv", "h_score": h_score(dab, PRESETS["qupath"]).h})
    table, fitted = tmp_path / "table.csv", tmp_path / "fitted.json"
    pd.DataFrame(rows).to_csv(table, index=False)
    ran = past("calibrate", table, "-o", fitted, "--marker", "er")
    assert ran.exit_code == 0, ran.exception
    record = json.loads(fitted.read_text())
    assert record["rmse"] < 1.5
    assert len(record["examples"]) == 5
    out = tmp_path / "out"
    ran = past("hscore", pair.ihc, "--marker", "er", "--thresholds", fitted, "-o", out)
    assert ran.exit_code == 0, ran.exception
    score = json.loads((out / "score.json").read_text())
    assert [score["thresholds"][k] for k in ("weak", "moderate", "strong")] == [
        record[k] for k in ("weak", "moderate", "strong")
    ]
    pd.DataFrame({"nuclei": ["9.csv"], "h_score": [1]}).to_csv(table, index=False)
    assert "line 2" in str(past("calibrate", table, "-o", fitted, "--marker", "er").exception)
    pd.DataFrame({"slide": ["9.csv"]}).to_csv(table, index=False)
    assert "h_score" in str(past("calibrate", table, "-o", fitted, "--marker", "er").exception)


def test_regions_with_holes(tmp_path) -> None:
    outer = [[0, 0], [10, 0], [10, 10], [0, 10], [0, 0]]
    hole = [[4, 4], [6, 4], [6, 6], [4, 6], [4, 4]]
    path = tmp_path / "r.geojson"
    path.write_text(json.dumps({"type": "Polygon", "coordinates": [outer, hole]}))
    (region,) = read_regions(path)
    assert region.contains(np.array([[1, 1], [5, 5], [11, 5]])).tolist() == [True, False, False]
    path.write_text(json.dumps({"type": "Point", "coordinates": [1, 1]}))
    with pytest.raises(RegionError, match="Point"):
        read_regions(path)
