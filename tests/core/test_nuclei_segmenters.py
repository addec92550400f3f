"""Which segmenter is taken, what it needs, and how agreement is counted."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from benchmarks.deepliif import deepliif_figures
from past_core.nuclei import NucleiError, choose_segmenter, f1_at_iou
from past_core.nuclei import stardist as module
from past_core.nuclei.stardist import VARIABLE, ModelError, WeightsError, find_weights, load_model

ASKED = """
import sys
import numpy as np
from PIL import Image
from past_core.errors import PastError
from past_core.nuclei import label_tiles, segment_nuclei
from past_core.slides import open_slide

with open_slide(sys.argv[1], mpp=0.5) as slide:
    assert label_tiles(slide, segmenter="auto").segmenter == "watershed"
    try:
        segment_nuclei(slide, segmenter="stardist")
    except PastError as error:
        print(type(error).__name__, error)
assert not {"tensorflow", "keras", "csbdeep"} & set(sys.modules), "TensorFlow was imported"
"""


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    return tmp_path


def folder_of_weights(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"n_channel_in": 3}')
    (folder / "weights_best.h5").write_bytes(b"")
    return folder


def test_without_weights_stardist_says_so_and_nothing_is_imported(no_weights: Path) -> None:
    path = no_weights / "he.png"
    pixels = np.full((300, 300, 3), (230, 180, 210), np.uint8)
    pixels[100:120, 100:120] = (90, 60, 140)
    Image.fromarray(pixels).save(path)
    done = subprocess.run(
        [sys.executable, "-c", ASKED, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(("StarDistError", "WeightsError"))
    assert "past-core[stardist]" in done.stdout or VARIABLE in done.stdout
    assert "nuclei are found by watershed" in done.stderr


def test_a_package_without_weights_says_what_to_do(
    no_weights: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: object())
    with pytest.raises(WeightsError, match=f"nothing is downloaded.*{VARIABLE}.*watershed"):
        module.stardist_segmenter(None, None, mpp=0.5)
    assert choose_segmenter("auto") == "watershed"
    assert "StarDist has no weights" in caplog.text
    monkeypatch.setenv(VARIABLE, str(folder_of_weights(no_weights / "model")))
    assert choose_segmenter("auto") == "stardist"


def test_weights_are_looked_for_in_order(no_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_weights() is None
    home = no_weights / "keras" / "models" / "StarDist2D" / "2D_versatile_he"
    unpacked = folder_of_weights(home / "2D_versatile_he_extracted")
    assert find_weights() == unpacked
    named, given_path = (folder_of_weights(no_weights / name) for name in ("named", "given"))
    monkeypatch.setenv(VARIABLE, str(named))
    assert find_weights() == named
    assert find_weights(given_path) == given_path
    monkeypatch.setenv(VARIABLE, str(no_weights / "nowhere"))
    with pytest.raises(WeightsError, match=rf"nowhere \({VARIABLE}\); expected a folder with config.json"):
        find_weights()


def test_a_zip_of_other_content_and_other_models_are_refused(no_weights: Path) -> None:
    path = no_weights / "model.zip"
    path.write_bytes(b"not the model")
    with pytest.raises(ModelError, match="expected f1696ef0631bd7e1"):
        load_model(path)
    folder = folder_of_weights(no_weights / "grey")
    (folder / "config.json").write_text('{"n_channel_in": 1}')
    with pytest.raises(ModelError, match="images with 1 channels; expected 3"):
        load_model(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(ModelError, match="not a StarDist model's"):
        load_model(folder)


SMALL = hnp.arrays(np.int32, (5, 6), elements=st.integers(0, 3))


@given(true=SMALL, found=SMALL, iou=st.sampled_from([0.2, 0.5, 0.7, 1.0]))
def test_f1_is_that_of_the_best_of_all_matchings(true: np.ndarray, found: np.ndarray, iou: float) -> None:
    a = [true == name for name in np.unique(true[true > 0])]
    b = [found == name for name in np.unique(found[found > 0])]

    def most(index: int, free: frozenset[int]) -> int:
        if index == len(a):
            return 0
        best = most(index + 1, free)
        for other in free:
            if (a[index] & b[other]).sum() / (a[index] | b[other]).sum() >= iou:
                best = max(best, 1 + most(index + 1, free - {other}))
        return best

    expected = 2 * most(0, frozenset(range(len(b)))) / (len(a) + len(b)) if a or b else 1.0
    assert f1_at_iou(true, found, iou) == pytest.approx(expected)


def test_f1_of_what_cannot_be_compared() -> None:
    labels = np.zeros((3, 3), int)
    for other, iou in ((np.zeros((3, 4), int), 0.5), (labels * 0.5, 0.5), (labels, 0.0)):
        with pytest.raises(NucleiError):
            f1_at_iou(labels, other, iou)


def test_deepliif(shared_data: Path) -> None:
    """Bladder, measured 0.74 and above 0.9 of calls."""
    figures = deepliif_figures(shared_data / "ihc" / "deepliif" / "train_Bladder1.png")
    assert figures.f1 > 0.68
    assert figures.drawn_positive + figures.drawn_negative == figures.drawn
    assert 0 <= figures.agreement <= 1
