"""Where cells lie on the H&E: by matrix, by registration, by a local correction that is undone."""

import json
import logging

import numpy as np
import pytest
from made_keypoints import SIDE_UM, waves

from past_core.ingest.xenium_alignment import Alignment
from past_core.ingest.xenium_files import BundleError, BundleNotFoundError
from past_core.ingest.xenium_frame import register_slide
from past_core.registration.local import ThinPlate
from past_core.registration.stored import StoredError
from past_core.slides.slide import Slide

PIXEL, MPP = 0.2125, 0.25
MATRIX = np.array([[0.02, -MPP / PIXEL, 40_000.0], [MPP / PIXEL, 0.02, 300.0], [0, 0, 1]])
MATRIX[:2, :2] *= MPP / PIXEL / np.sqrt(np.linalg.det(MATRIX[:2, :2]))


class BareSlide(Slide):
    """A slide of a size, without pixels."""

    def __init__(self, mpp=MPP):
        side = round(SIDE_UM / MPP)
        super().__init__("he.ome.tif", [(side, side)], mpp)

    def _read(self, level, y, x, height, width):
        raise AssertionError("not read")


def report(folder, **changes):
    nodes = np.random.default_rng(0).uniform(0, SIDE_UM, (40, 2)) + 300
    correction = ThinPlate(nodes, waves(nodes, 8.0), np.full(40, 0.1))
    content = {
        "kind": "registration",
        "verdict": "good",
        "reasons": [],
        "matrix_px": MATRIX.tolist(),
        "he_mpp": MPP,
        "pixel_size": PIXEL,
        "held_out_um": 0.7,
        "correction": correction.describe(),
    } | changes
    (folder / "report.json").write_text(json.dumps(content))
    return correction


def framed(folder, *, image=None, **options):
    image = image or BareSlide()
    given = {"alignment": None, "pixel_size": PIXEL, "registration": folder} | options
    return register_slide(image, folder / "he.ome.tif", **given)


def forward(he, correction):
    """H&E pixels to morphology pixels, correction included."""
    moved = (he @ MATRIX[:2, :2].T + MATRIX[:2, 2]) * PIXEL
    return (moved + correction(moved)) / PIXEL


def test_the_correction_is_undone_to_a_thousandth_of_a_pixel(tmp_path):
    correction = report(tmp_path)
    registered = framed(tmp_path)
    he = np.random.default_rng(1).uniform(0, SIDE_UM / MPP, (20_000, 2))
    found = registered.frame.to_image(forward(he, correction))
    assert np.abs(found - he).max() < 1e-3
    assert np.abs(Alignment(MATRIX).to_image(forward(he, correction)) - he).max() > 10
    assert registered.mpp == pytest.approx(MPP)
    assert registered.path == tmp_path / "report.json"
    record = registered.record
    assert record["correction"] == correction.describe()
    assert (record["verdict"], record["held_out_um"], record["morphology_mpp"]) == ("good", 0.7, PIXEL)
    assert json.loads(json.dumps(record, allow_nan=False)) == record


def test_without_a_correction_it_is_the_matrix(tmp_path):
    report(tmp_path, correction=None)
    points = np.random.default_rng(2).uniform(0, 30_000, (100, 2))
    np.testing.assert_array_equal(framed(tmp_path).frame.to_image(points), Alignment(MATRIX).to_image(points))


def test_a_doubtful_one_warns_and_a_useless_one_is_refused(tmp_path, caplog):
    report(tmp_path, verdict="check", reasons=["region 'A' is odd"])
    with caplog.at_level(logging.WARNING):
        framed(tmp_path)
    assert "region 'A' is odd" in caplog.text
    report(tmp_path, verdict="reject", reasons=["mirrored"])
    with pytest.raises(StoredError, match="mirrored"):
        framed(tmp_path)


def test_it_must_fit_image_and_pixels(tmp_path):
    report(tmp_path)
    with pytest.raises(StoredError, match="was made for an H&E of"):
        framed(tmp_path, image=BareSlide(mpp=0.5))
    with pytest.raises(StoredError, match="was made for morphology pixels of"):
        framed(tmp_path, pixel_size=0.3, bundle=tmp_path)
    with pytest.raises(BundleError, match="give one"):
        framed(tmp_path, alignment=tmp_path / "m.csv")
    # An image that states nothing takes the registration's resolution.
    assert framed(tmp_path, image=BareSlide(mpp=None)).mpp == pytest.approx(MPP)


def test_a_correction_that_folds_is_refused(tmp_path):
    nodes = np.array([[1, 1], [7000, 1], [1, 7000], [7000, 7000], [3500, 3500.0]])
    shifts = np.array([[0, 0], [0, 0], [0, 0], [0, 0], [9000, 0.0]])
    report(tmp_path, correction=ThinPlate(nodes, shifts, np.zeros(5)).describe())
    with pytest.raises(StoredError, match="folds the tissue"):
        framed(tmp_path)


def test_neither_alignment_nor_registration(tmp_path):
    with pytest.raises(BundleNotFoundError, match="--alignment"):
        framed(tmp_path, registration=None)
