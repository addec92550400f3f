"""Nuclei on H&E: found where they are, whatever the tiles, and refused where they cannot be seen."""

from pathlib import Path

import numpy as np
import pytest
import shapely
from PIL import Image
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage.filters import threshold_otsu

from past_core.nuclei import NucleiError, nucleus_tiles, segment_nuclei, watershed_labels
from past_core.nuclei.slidewide import slide_wide
from past_core.nuclei.watershed import WatershedSettings, haematoxylin
from past_core.slides import SlideError, open_slide
from past_core.stains import reconstruct
from past_core.synthetic.render import render_he
from past_core.synthetic.tissue import Tissue, TissueConfig, simulate_tissue


@pytest.fixture(scope="module")
def tissue() -> Tissue:
    return simulate_tissue(TissueConfig(patient="N", cancer_type="breast", seed=1, size_um=260, mpp=0.5))


@pytest.fixture(scope="module")
def image(tissue: Tissue, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("nuclei") / "he.png"
    Image.fromarray(render_he(tissue)).save(path)
    return path


def overlap_f1(found: np.ndarray, truth: np.ndarray) -> float:
    """F1 of labels whose intersection over union is above one half; such pairs are unique."""
    both = (found > 0) & (truth > 0)
    code, count = np.unique(np.stack([found[both], truth[both]]), axis=1, return_counts=True)
    union = np.bincount(found.ravel())[code[0]] + np.bincount(truth.ravel())[code[1]] - count
    hits = int((count / union > 0.5).sum())
    return 2 * hits / (len(np.unique(found)) + len(np.unique(truth)) - 2)


def test_synthetic_nuclei_are_found(tissue: Tissue, image: Path) -> None:
    """Measured on this tissue: F1 0.97 by centroids within 3 µm."""
    with open_slide(image, mpp=0.5) as slide:
        nuclei = segment_nuclei(slide)
    truth = tissue.cells[["x_um", "y_um"]].to_numpy()
    distance, nearest = cKDTree(truth).query(nuclei.centroids * 0.5)
    hits = len(np.unique(nearest[distance < 3]))
    assert 2 * hits / (len(nuclei) + len(truth)) > 0.9
    ratio = np.median(nuclei.areas) / tissue.cells["nucleus_area_um2"].median()
    assert 0.7 < ratio < 1.4
    assert nuclei.segmenter == "watershed"
    assert nuclei.parameters["otsu"] > 0.1


@pytest.mark.parametrize("tile", [150, 256, 333])
def test_tiles_change_nothing(image: Path, tile: int) -> None:
    with open_slide(image, mpp=0.5) as slide:
        whole, tiled = segment_nuclei(slide, tile=10_000), segment_nuclei(slide, tile=tile)
    np.testing.assert_array_equal(tiled.centroids, whole.centroids)
    np.testing.assert_array_equal(tiled.areas, whole.areas)
    for a, b in zip(tiled.outlines, whole.outlines, strict=True):
        np.testing.assert_array_equal(a, b)


def test_tiles_change_nothing_on_a_real_slide(shared_data: Path) -> None:
    with open_slide(shared_data / "he" / "stardist_histo.jpg", mpp=0.5) as slide:
        whole, tiled = segment_nuclei(slide, tile=10_000), segment_nuclei(slide, tile=170)
    assert len(whole) > 50
    np.testing.assert_array_equal(tiled.centroids, whole.centroids)


def test_outlines_are_the_nuclei(image: Path) -> None:
    with open_slide(image, mpp=0.5) as slide:
        nuclei = segment_nuclei(slide)
    polygons = nuclei.polygons()
    assert shapely.is_valid(polygons).mean() > 0.99
    # A contour cuts the corners of its pixels: a little less than their area.
    share = shapely.area(polygons) * 0.25 / nuclei.areas
    assert 0.85 < np.median(share) <= 1
    centres = shapely.points(nuclei.centroids)
    assert shapely.distance(polygons, centres).max() < 3


def test_real_nuclei_of_a_haematoxylin_image(shared_data: Path) -> None:
    """Bladder, same-section haematoxylin with its nuclei drawn: F1 at IoU 0.5, measured 0.74."""
    strip = np.asarray(Image.open(shared_data / "ihc" / "deepliif" / "train_Bladder1.png").convert("RGB"))
    he, drawn = strip[:, 512:1024], strip[:, 2560:3072].astype(int)
    inside = (np.maximum(drawn[..., 0], drawn[..., 2]) > 100) & (drawn[..., 1] < 100)
    truth, _ = ndimage.label(inside)
    settings = WatershedSettings()
    amount = haematoxylin(
        he.transpose(2, 0, 1), white=(255.0,) * 3, stains="qupath-he", sigma=settings.smooth_um / 0.25
    )
    labels = watershed_labels(amount, mpp=0.25, threshold=float(threshold_otsu(amount)))
    assert overlap_f1(labels, truth) > 0.68


def test_touching_discs_come_apart_and_specks_go() -> None:
    y, x = np.mgrid[:120, :120]
    discs = sum((((x - cx) ** 2 + (y - cy) ** 2) < 100) for cx, cy in ((40, 60), (58, 60)))
    speck = ((x - 100) ** 2 + (y - 20) ** 2) < 4
    amount = np.where((discs > 0) | speck, 0.6, 0.05).astype(np.float32)
    labels = watershed_labels(amount, mpp=0.5, threshold=0.3)
    assert labels.max() == 2
    assert labels[60, 40] != labels[60, 58]
    assert labels[20, 100] == 0


def test_glass_of_any_colour_is_white(tmp_path: Path) -> None:
    concentrations = np.zeros((3, 400, 400))
    y, x = np.mgrid[:400, :400]
    concentrations[1, 100:300, 100:300] = 0.3
    for cx, cy in ((150, 150), (200, 220), (250, 180)):
        concentrations[0] += 0.7 * (((x - cx) ** 2 + (y - cy) ** 2) < 64)
    found = {}
    for white in ((255.0, 255.0, 255.0), (238.0, 232.0, 240.0)):
        path = tmp_path / f"{white[0]:.0f}.png"
        pixels = reconstruct(concentrations, "qupath-he", white=white)
        Image.fromarray(np.round(pixels).clip(0, 255).astype(np.uint8).transpose(1, 2, 0)).save(path)
        with open_slide(path, mpp=0.5) as slide:
            found[white] = segment_nuclei(slide)
    first, second = found.values()
    assert len(first) == len(second) == 3
    np.testing.assert_allclose(second.centroids, first.centroids, atol=0.3)
    np.testing.assert_allclose(second.haematoxylin, first.haematoxylin, atol=0.03)
    assert second.parameters["white"] == [238.0, 232.0, 240.0]


def test_memory_is_a_tile(image: Path) -> None:
    settings = WatershedSettings()
    with open_slide(image, mpp=0.5) as slide:
        wide = slide_wide(slide, mpp=0.5, settings=settings)
        tiles = list(nucleus_tiles(slide, wide, tile=128))
    limit = 128 + 2 * np.ceil(settings.halo_um / 0.5)
    assert len(tiles) > 4
    assert max(max(tile.labels.shape) for tile in tiles) <= limit


def test_what_cannot_be_segmented_is_refused(tmp_path: Path, image: Path) -> None:
    blank = tmp_path / "blank.png"
    Image.fromarray(np.full((300, 300, 3), 243, np.uint8)).save(blank)
    with open_slide(blank, mpp=0.5) as slide, pytest.raises(NucleiError, match="no tissue"):
        segment_nuclei(slide)
    with (
        open_slide(image, mpp=2.0) as slide,
        pytest.raises(NucleiError, match="2 µm per pixel is too coarse"),
    ):
        segment_nuclei(slide)
    with open_slide(image) as slide, pytest.raises(SlideError, match="--mpp"):
        segment_nuclei(slide)
    with (
        open_slide(image, mpp=0.5) as slide,
        pytest.raises(NucleiError, match="'magic'; expected one of watershed"),
    ):
        segment_nuclei(slide, segmenter="magic")
