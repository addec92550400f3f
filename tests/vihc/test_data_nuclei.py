"""Labels of nuclei over a pair: given at any resolution, or segmented once."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from made_pairs import made_pair, write_image, write_labels
from skimage.segmentation import relabel_sequential

from past_core.nuclei import segment_nuclei
from past_core.slides import open_slide
from past_vihc.data.nuclei import GivenLabels, LabelImageError, SegmentedLabels, relabel


@given(hnp.arrays(np.int64, (7, 5), elements=st.sampled_from([0, 0, 3, 17, 2**40])))
def test_labels_are_numbered_as_by_skimage(labels: np.ndarray) -> None:
    made = relabel(labels)
    values, inverse = np.unique(labels, return_inverse=True)
    assert made.dtype == np.int32
    assert np.array_equal(made, relabel_sequential(inverse.reshape(labels.shape) + (values[0] != 0))[0])
    assert set(np.unique(made)) - {0} == set(range(1, len(set(values) - {0}) + 1))


@pytest.mark.parametrize("name", ["nuclei.tif", "nuclei.npy"])
def test_given_labels_lie_where_they_were_drawn(name: str, tmp_path: Path) -> None:
    he, _, labels = made_pair(0, 60, 80)
    with open_slide(write_image(tmp_path / "he.tif", he, mpp=0.5)) as slide:
        given_labels = GivenLabels(write_labels(tmp_path / name, labels), slide, 0.5)
        window = given_labels.read(-3, 10, 70, 80)
        assert np.array_equal(window[3:63, :70], labels[:, 10:])
        assert not window[:3].any()
        assert not window[63:].any()
        assert not window[:, 70:].any()
        # Twice as coarse: the pixel under each new pixel's centre, which lies on a corner and goes down and
        # right.
        assert np.array_equal(GivenLabels(tmp_path / name, slide, 1.0).read(0, 0, 30, 40), labels[1::2, 1::2])
        # Labels drawn at a coarser resolution than the image.
        half = write_labels(tmp_path / f"half-{name}", labels[::2, ::2])
        again = GivenLabels(half, slide, 0.5).read(0, 0, 60, 80)
        assert np.array_equal(again, np.repeat(np.repeat(labels[::2, ::2], 2, 0), 2, 1))


def test_label_images_that_are_none(tmp_path: Path) -> None:
    he, _, labels = made_pair(0, 60, 80)
    slide = open_slide(write_image(tmp_path / "he.tif", he))
    pickled = tmp_path / "pickled.npy"
    np.save(pickled, np.array([{"a": 1}], object), allow_pickle=True)
    cases = {
        "wrong field": (
            write_labels(tmp_path / "wide.tif", labels[:30]),
            "80 x 30 labels .* expected the same field",
        ),
        "colour": (write_image(tmp_path / "rgb.tif", he), "expected one plane of whole numbers"),
        "pickle": (pickled, "not a label image that can be read"),
        "missing": (tmp_path / "gone.tif", "does not exist"),
        "text": (tmp_path / "text.tif", "not a label image that can be read"),
    }
    (tmp_path / "text.tif").write_text("labels")
    for path, message in cases.values():
        with pytest.raises(LabelImageError, match=message):
            GivenLabels(path, slide, 0.5)
    np.save(tmp_path / "float.npy", labels.astype(float))
    with pytest.raises(LabelImageError, match=r"float64 .* whole numbers"):
        GivenLabels(tmp_path / "float.npy", slide, 0.5)


def test_nuclei_are_segmented_once_and_are_those_of_the_slide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    he, _, truth = made_pair(3, 150, 170)
    slide = open_slide(write_image(tmp_path / "he.tif", he))
    labels = SegmentedLabels(slide, 0.5, tmp_path).read(0, 0, 150, 170)
    found = segment_nuclei(slide, mpp=0.5, outlines=False)
    assert np.array_equal(np.bincount(labels.ravel())[1:].sum(), round(found.areas.sum() / 0.25))
    assert len(np.unique(labels)) - 1 == len(found)
    x, y = found.centroids.astype(int).T
    assert (labels[y, x] > 0).mean() > 0.95
    overlap = ((labels > 0) & (truth > 0)).sum() / ((labels > 0) | (truth > 0)).sum()
    assert overlap > 0.6
    monkeypatch.setattr("past_vihc.data.nuclei.nucleus_tiles", None)  # the second time it is read
    again = SegmentedLabels(slide, 0.5, tmp_path).read(-10, 100, 40, 100)
    assert np.array_equal(again[10:, :70], labels[:30, 100:])
    assert not again[:10].any()


def test_glass_and_coarse_images_have_no_nuclei(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    glass = open_slide(write_image(tmp_path / "glass.tif", np.full((3, 64, 64), 240, np.uint8)))
    assert not SegmentedLabels(glass, 0.5, tmp_path).read(0, 0, 64, 64).any()
    assert "no tissue, so no nuclei" in caplog.text
    he = open_slide(write_image(tmp_path / "he.tif", made_pair(0)[0], mpp=2.0))
    assert not SegmentedLabels(he, 2.0, tmp_path).read(0, 0, 160, 160).any()
    assert "too coarse to see them" in caplog.text
