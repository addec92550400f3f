"""StarDist on rendered nuclei: a small model is trained, saved, and loaded by path through our loader."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from past_core.nuclei import f1_at_iou, label_image, segment_nuclei
from past_core.nuclei.sources import choose_segmenter
from past_core.nuclei.stardist import VARIABLE, ModelError, load_model
from past_core.slides import open_slide
from past_core.stains import reconstruct

pytestmark = pytest.mark.stardist


def rendered(seed: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """H&E of ellipses, `(size, size, 3)` uint8, and their labels; nuclei do not touch."""
    random = np.random.default_rng(seed)
    labels = np.zeros((size, size), np.int32)
    y, x = np.mgrid[:size, :size]
    for _ in range(size * size // 300):
        cy, cx = random.uniform(6, size - 6, 2)
        a, b, angle = *random.uniform(5, 9, 2), random.uniform(0, np.pi)
        u = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
        v = (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)
        inside = (u / a) ** 2 + (v / b) ** 2 < 1
        if not (labels[ndimage.binary_dilation(inside)] > 0).any():
            labels[inside] = labels.max() + 1
    amount = np.zeros((3, size, size))
    dark = np.append(0, random.uniform(0.4, 0.8, labels.max()))
    amount[0] = ndimage.gaussian_filter(dark[labels], 0.7) + 0.05
    amount[1] = 0.25 + ndimage.gaussian_filter(random.normal(0, 0.3, (size, size)), 2)
    values = reconstruct(amount, "qupath-he") + random.normal(0, 4, (3, size, size))
    return values.clip(0, 255).astype(np.uint8).transpose(1, 2, 0), labels


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A StarDist of two levels, trained for a minute on 24 tiles of 128 px."""
    from csbdeep.utils import normalize
    from stardist.models import Config2D, StarDist2D

    pairs = [rendered(seed, 128) for seed in range(28)]
    images = [normalize(image, 1, 99.8, axis=(0, 1)).astype(np.float32) for image, _ in pairs]
    labels = [label for _, label in pairs]
    folder = tmp_path_factory.mktemp("models") / "small"
    config = Config2D(
        n_rays=16,
        grid=(2, 2),
        n_channel_in=3,
        unet_n_depth=2,
        unet_n_filter_base=16,
        net_conv_after_unet=32,
        train_patch_size=(96, 96),
        train_batch_size=4,
        train_epochs=12,
        train_steps_per_epoch=20,
        train_learning_rate=2e-3,
        train_tensorboard=False,
        use_gpu=False,
    )
    trained = StarDist2D(config, name=folder.name, basedir=str(folder.parent))
    trained.train(images[:24], labels[:24], validation_data=(images[24:], labels[24:]), seed=1)
    trained.optimize_thresholds(images[24:], labels[24:])
    return folder


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    image, labels = rendered(100, 400)
    path = tmp_path_factory.mktemp("held_out") / "he.png"
    Image.fromarray(image).save(path)
    return path, labels


def test_held_out_nuclei_are_found(model: Path, held_out: tuple[Path, np.ndarray]) -> None:
    path, truth = held_out
    with open_slide(path, mpp=0.5) as slide:
        found = label_image(slide, segmenter="stardist", model=model)
    assert f1_at_iou(truth, found) > 0.7


@pytest.mark.parametrize("tile", [128, 200])
def test_tiles_change_nothing(model: Path, held_out: tuple[Path, np.ndarray], tile: int) -> None:
    with open_slide(held_out[0], mpp=0.5) as slide:
        whole, tiled = (
            segment_nuclei(slide, segmenter="stardist", model=model, tile=size) for size in (None, tile)
        )
    assert len(whole) > 50
    assert len(tiled) == len(whole)
    np.testing.assert_array_equal(tiled.centroids, whole.centroids)
    np.testing.assert_array_equal(tiled.areas, whole.areas)


def test_results_say_what_found_them(
    model: Path, held_out: tuple[Path, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(model))
    assert choose_segmenter("auto") == "stardist"
    with open_slide(held_out[0], mpp=0.5) as slide:
        nuclei = segment_nuclei(slide, segmenter="auto")
    assert nuclei.segmenter == "stardist"
    assert nuclei.parameters["model"] == "small"
    assert nuclei.parameters["percentiles"] == [1.0, 99.8]
    assert 0 < nuclei.parameters["prob"] < 1
    assert (np.array(nuclei.parameters["low"]) < nuclei.parameters["high"]).all()


def test_damaged_weights_are_refused(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    folder.mkdir()
    (folder / "config.json").write_bytes((model / "config.json").read_bytes())
    (folder / "weights_best.h5").write_bytes(b"no weights")
    with pytest.raises(ModelError, match="damaged: the StarDist model cannot be loaded"):
        load_model(folder)
