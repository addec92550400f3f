"""A registration read back: exactly what was written; damage and foreign files are named."""

import json
import shutil
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from made_keypoints import NINE, waves

from past_core.registration.folder import fingerprint
from past_core.registration.local import BlendedRigid, ThinPlate
from past_core.registration.run import RegisterRequest
from past_core.registration.stored import (
    StoredError,
    StoredNotFoundError,
    correction_from,
    describe_bundle,
    describe_he,
    read_stored,
    refuse_unusable,
    same_bundle,
    same_he,
)

REPORT = {
    "kind": "registration",
    "verdict": "good",
    "reasons": [],
    "matrix_px": [[1.2, 0.1, 5.0], [-0.1, 1.2, 7.0], [0, 0, 1]],
    "he_mpp": 0.25,
    "pixel_size": 0.2125,
    "correction": None,
}
CORRECTIONS = [
    ThinPlate(NINE, waves(NINE), np.full(9, 0.1)),
    BlendedRigid(NINE, waves(NINE), np.linspace(-1e-3, 1e-3, 9), 1500.0),
]


def written(folder, **changes):
    path = folder / "report.json"
    path.write_text(json.dumps({k: v for k, v in (REPORT | changes).items() if v != "absent"}))
    return path


@pytest.mark.parametrize("correction", CORRECTIONS, ids=["thin-plate", "blended"])
def test_what_is_read_is_what_was_written(tmp_path, correction):
    written(tmp_path, correction=correction.describe(), verdict="check", reasons=["a", "b"])
    stored = read_stored(tmp_path)
    np.testing.assert_array_equal(stored.matrix, REPORT["matrix_px"])
    points = np.random.default_rng(0).uniform(0, 8000, (100, 2))
    np.testing.assert_array_equal(stored.correction(points), correction(points))
    assert (stored.verdict, stored.reasons) == ("check", ("a", "b"))
    assert read_stored(tmp_path / "report.json").matrix.tolist() == stored.matrix.tolist()
    assert stored.record["correction"] == correction.describe()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "something"}, "no report of `past register`"),
        ({"matrix_px": "absent"}, "KeyError('matrix_px')"),
        ({"matrix_px": [[1, 2], [3, 4]]}, "shape (2, 2)"),
        ({"matrix_px": [[1, 0, "x"], [0, 1, 0], [0, 0, 1]]}, "could not convert"),
        ({"matrix_px": [[1, 0, float("nan")], [0, 1, 0], [0, 0, 1]]}, "not finite"),
        ({"he_mpp": -1}, "he_mpp -1"),
        ({"pixel_size": None}, "damaged"),
        ({"verdict": "splendid"}, "'splendid'"),
        ({"source": [1]}, "source is no object"),
        ({"correction": {"kind": "wavelets"}}, "'wavelets'"),
        ({"correction": CORRECTIONS[0].describe() | {"smoothing": [1.0]}}, "[9, 9, 1] rows"),
        ({"correction": CORRECTIONS[1].describe() | {"width_um": 0}}, "width_um is 0"),
        ({"correction": CORRECTIONS[1].describe() | {"centres_um": [[1, 2, 3, 4]]}}, "shape (1, 4)"),
        ({"correction": CORRECTIONS[1].describe() | {"centres_um": [[1, 2, 3]] * 9}}, "damaged"),
        ({"correction": CORRECTIONS[0].describe() | {"nodes_um": [[k, k] for k in range(9)]}}, "Singular"),
        ({"correction": 7}, "local correction is damaged"),
    ],
)
def test_damage_is_named(tmp_path, changes, words):
    path = written(tmp_path, **changes)
    with pytest.raises(StoredError) as caught:
        read_stored(path)
    assert words in str(caught.value)
    assert "report.json" in str(caught.value)


def test_files_that_are_no_report(tmp_path):
    with pytest.raises(StoredNotFoundError, match="past register"):
        read_stored(tmp_path)
    for text in ("", "[" * 100_000, "[]", "\x00"):
        (tmp_path / "report.json").write_text(text)
        with pytest.raises(StoredError, match="report"):
            read_stored(tmp_path)


def test_a_rejected_registration_is_refused(tmp_path):
    written(tmp_path, verdict="reject", reasons=["mirrored"])
    with pytest.raises(StoredError, match="verdict is reject \\(mirrored\\)"):
        refuse_unusable(read_stored(tmp_path))
    written(tmp_path, verdict="check")
    refuse_unusable(read_stored(tmp_path))


def test_another_image_is_refused(tmp_path):
    image, second = tmp_path / "he.png", tmp_path / "other.png"
    image.write_bytes(b"a" * 1000)
    second.write_bytes(b"b" * 1000)
    written(tmp_path, source={"he": describe_he(image, width=300, height=200, mpp=0.25)})
    stored = read_stored(tmp_path)
    same_he(stored, image, width=300, height=200, mpp=0.25)
    same_he(stored, image, width=300, height=200, mpp=None)
    for given, words in (
        ({"path": image, "width": 301, "height": 200, "mpp": 0.25}, "was 300 pixels wide"),
        ({"path": image, "width": 300, "height": 100, "mpp": 0.25}, "was 200 pixels high"),
        ({"path": second, "width": 300, "height": 200, "mpp": 0.25}, "by its content"),
        ({"path": image, "width": 300, "height": 200, "mpp": 0.5}, "0.25 µm per pixel"),
    ):
        path = given.pop("path")
        with pytest.raises(StoredError) as caught:
            same_he(stored, path, **given)
        assert words in str(caught.value)
    # A report of keypoints alone knows the resolution only.
    written(tmp_path)
    same_he(read_stored(tmp_path), second, width=1, height=1, mpp=0.25)


def test_another_bundle_is_refused(tmp_path):
    for name, text in (("a", '{"run": 1}'), ("b", '{"run": 2}')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "experiment.xenium").write_text(text)
    written(tmp_path, source={"bundle": describe_bundle(tmp_path / "a", pixel_size=0.2125)})
    stored = read_stored(tmp_path)
    same_bundle(stored, tmp_path / "a", pixel_size=0.2125)
    with pytest.raises(StoredError, match="another bundle, a"):
        same_bundle(stored, tmp_path / "b", pixel_size=0.2125)
    with pytest.raises(StoredError, match="was made for morphology pixels"):
        same_bundle(stored, tmp_path / "a", pixel_size=0.5)


def test_no_correction_is_none():
    assert correction_from(None) is None


def inputs(folder):
    """A request of made-up files, which are not read but for what tells them apart."""
    return RegisterRequest(
        keypoints=(folder / "keypoints.csv",),
        bundle=folder / "bundle",
        he=folder / "he.tif",
        matrix=folder / "matrix.csv",
    )


def test_a_fingerprint_is_of_what_is_in_the_files(tmp_path):
    first = tmp_path / "first"
    (first / "bundle" / "morphology_focus").mkdir(parents=True)
    files = ("keypoints.csv", "he.tif", "matrix.csv", "bundle/experiment.xenium", "bundle/cells.parquet")
    files += ("bundle/morphology_focus/morphology_focus_0000.ome.tif",)
    for name in files:
        (first / name).write_text(name)
    masks = first / "bundle" / "cells.zarr.zip"
    with zipfile.ZipFile(masks, "w") as archive:
        archive.writestr("masks/0/0.0", b"labels")
    wanted = fingerprint(inputs(first))
    assert fingerprint(inputs(shutil.copytree(first, tmp_path / "moved"))) == wanted
    seen = {wanted}
    for name in files:
        other = shutil.copytree(first, tmp_path / name.replace("/", "-"))
        (other / name).write_text(name.upper())
        seen.add(fingerprint(inputs(other)))
    for content in (b"others", b"labels of another size"):
        with zipfile.ZipFile(masks, "w") as archive:
            archive.writestr("masks/0/0.0", content)
        seen.add(fingerprint(inputs(first)))
    masks.write_bytes(b"no zip")
    seen.add(fingerprint(inputs(first)))
    masks.unlink()
    (first / "bundle" / "cells.parquet").unlink()
    seen.add(fingerprint(inputs(first)))
    changes = ({"refine": False}, {"scale": True}, {"he_mpp": 0.25}, {"matrix": None})
    seen |= {fingerprint(replace(inputs(first), **change)) for change in changes}
    assert len(seen) == 1 + len(files) + 4 + len(changes)
