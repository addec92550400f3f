"""Nuclei found elsewhere: label images and polygons come back as they went, whatever the tiles."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage
from skimage.measure import find_contours

from past_core.errors import PastError
from past_core.nuclei import label_image, label_tiles, read_geojson, read_labels, segment_nuclei
from past_core.nuclei.geojson import GeoJsonError, GeoJsonNotFoundError
from past_core.nuclei.labels import LabelError, LabelNotFoundError
from past_core.slides import Slide, open_slide

HEIGHT, WIDTH = 1100, 1300


@pytest.fixture(scope="module")
def drawn() -> np.ndarray:
    """Discs at random places with scattered numbers; later ones lie on earlier ones."""
    random = np.random.default_rng(3)
    labels = np.zeros((HEIGHT, WIDTH), np.int32)
    y, x = np.mgrid[-12:13, -12:13]
    for number in random.permutation(400)[:250] + 7:
        cy, cx = random.integers(0, HEIGHT), random.integers(0, WIDTH)
        # Two on the borders of tiles, one over the slide's corner.
        cy, cx = {10: (512, 300), 11: (400, 1024), 12: (0, 0)}.get(int(number), (cy, cx))
        inside = x**2 + y**2 < random.uniform(5, 12) ** 2
        rows, columns = cy + y[inside], cx + x[inside]
        keep = (rows >= 0) & (columns >= 0) & (rows < HEIGHT) & (columns < WIDTH)
        labels[rows[keep], columns[keep]] = number
    return labels


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory, drawn: np.ndarray) -> Path:
    path = tmp_path_factory.mktemp("labels") / "he.png"
    pixels = np.where(drawn[..., None] > 0, [110, 80, 160], [230, 190, 210]).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def reading_order(labels: np.ndarray) -> np.ndarray:
    names = np.unique(labels[labels > 0])
    points = np.array(ndimage.center_of_mass(labels > 0, labels, names))
    rank = np.zeros(labels.max() + 1, np.int32)
    rank[names[np.lexsort((points[:, 1], points[:, 0]))]] = np.arange(1, len(names) + 1)
    return rank[labels]


def features(labels: np.ndarray, **properties: Any) -> list[dict[str, Any]]:
    """Each label as a feature, its outline half-way between pixels; pieces make a MultiPolygon."""
    out = []
    for name, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None:
            continue
        top, left = box[0].start, box[1].start
        mask = np.pad(labels[box] == name, 1)
        rings = [
            [[x - 0.5 + left, y - 0.5 + top] for y, x in ring.tolist()]
            for ring in find_contours(mask.astype(float), 0.5, positive_orientation="low")
        ]
        kind = {"type": "Polygon", "coordinates": rings}
        if len(rings) > 1:
            kind = {"type": "MultiPolygon", "coordinates": [[ring] for ring in rings]}
        out.append({"type": "Feature", "geometry": kind, "properties": properties})
    return out


@pytest.mark.parametrize("ending", ["tif", "npy", "png"])
def test_label_images_round_trip(tmp_path: Path, image: Path, drawn: np.ndarray, ending: str) -> None:
    path = tmp_path / f"labels.{ending}"
    if ending == "tif":
        tifffile.imwrite(path, drawn, compression="zlib")
    elif ending == "npy":
        np.save(path, drawn)
    else:
        Image.fromarray(drawn.astype(np.uint16)).save(path)
    np.testing.assert_array_equal(read_labels(path, shape=drawn.shape).image, drawn)
    with open_slide(image, mpp=0.5) as slide:
        np.testing.assert_array_equal(label_image(slide, labels=path), reading_order(drawn))
        tiles = label_tiles(slide, labels=path)
        found = np.sort(np.concatenate([tile.owned for tile in tiles]))
    np.testing.assert_array_equal(found, np.unique(drawn[drawn > 0]))
    assert tiles.segmenter == "labels"
    assert tiles.parameters == {"mpp": 0.5, "file": path.name, "downsample": 1}


def test_labels_of_half_the_size(image: Path, drawn: np.ndarray) -> None:
    half = drawn[::2, ::2]
    with open_slide(image, mpp=0.25) as slide:
        tiles = label_tiles(slide, labels=half)
        nuclei = segment_nuclei(slide, labels=half)
    assert (tiles.mpp, tiles.downsample, tiles.height, tiles.width) == (0.5, 2.0, HEIGHT // 2, WIDTH // 2)
    np.testing.assert_allclose(nuclei.areas.sum(), (half > 0).sum() * 0.25)
    first = np.argwhere(half == half[half > 0][0]).mean(axis=0)[::-1] * 2 + 1
    assert np.abs(nuclei.centroids - first).sum(axis=1).min() < 1e-9


def as_geojson(drawn: np.ndarray, path: Path) -> Path:
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features(drawn)}))
    return path


@pytest.mark.parametrize("kind", ["image", "geojson"])
def test_tiles_change_nothing(tmp_path: Path, image: Path, drawn: np.ndarray, kind: str) -> None:
    labels = drawn if kind == "image" else as_geojson(drawn, tmp_path / "n.geojson")
    with open_slide(image, mpp=0.5) as slide:
        whole, *tiled = (segment_nuclei(slide, labels=labels, tile=tile) for tile in (None, 512, 1024))
    assert len(whole) == len(np.unique(drawn)) - 1
    for other in tiled:
        np.testing.assert_array_equal(other.centroids, whole.centroids)
        np.testing.assert_array_equal(other.areas, whole.areas)
        np.testing.assert_allclose(other.haematoxylin, whole.haematoxylin, rtol=1e-6)


@pytest.mark.parametrize("shape", ["collection", "list", "gzip"])
def test_polygons_round_trip(tmp_path: Path, image: Path, drawn: np.ndarray, shape: str) -> None:
    content: Any = features(drawn, objectType="detection")
    if shape != "list":
        content = {"type": "FeatureCollection", "features": content}
    text = json.dumps(content).encode()
    path = tmp_path / ("n.geojson.gz" if shape == "gzip" else "n.geojson")
    path.write_bytes(gzip.compress(text) if shape == "gzip" else text)
    with open_slide(image, mpp=0.5) as slide:
        np.testing.assert_array_equal(label_image(slide, labels=path), reading_order(drawn))


def square(x: float, y: float, side: float) -> list[list[float]]:
    return [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]


def feature(*rings: list[list[float]], **more: Any) -> dict[str, Any]:
    return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": list(rings)}, **more}


def made(tmp_path: Path, image: Path, content: Any) -> np.ndarray:
    path = tmp_path / "made.geojson"
    path.write_text(json.dumps(content))
    with open_slide(image, mpp=0.5) as slide:
        return label_image(slide, labels=path)


def test_a_cell_is_its_nucleus_and_annotations_are_none(tmp_path: Path, image: Path) -> None:
    nucleus = {"type": "Polygon", "coordinates": [square(20, 20, 4)]}
    cell = feature(square(10, 10, 20), properties={"objectType": "cell"}, nucleusGeometry=nucleus)
    region = feature(square(0, 0, 1000), properties={"objectType": "annotation"})
    found = made(tmp_path, image, [region, cell])
    assert (found > 0).sum() == 16
    assert found[20:24, 20:24].all()


def test_holes_overlaps_and_specks(tmp_path: Path, image: Path) -> None:
    ring = feature(square(10, 10, 10), square(12, 12, 4))
    over, speck = feature(square(18, 10, 10)), feature(square(50.6, 50.6, 0.3))
    found = made(tmp_path, image, [ring, over, speck])
    assert [(found == label).sum() for label in (1, 2)] == [80, 100 - 16]
    assert not found[12:16, 12:16].any()
    assert found.max() == 2


BAD_POLYGONS = {
    "nothing": ({}, "expected a FeatureCollection"),
    "number": ([1], "feature 1 is int"),
    "empty": ([], "no polygons"),
    "point": ([{"geometry": {"type": "Point", "coordinates": [1, 2]}}], "feature 1 is a Point"),
    "no geometry": ([feature(square(1, 1, 5)), {"type": "Feature"}], "feature 2 is a None"),
    "short": ([feature([[1, 1], [2, 2], [1, 1]])], "fewer than four points"),
    "words": ([feature([["a", 1], [2, 2], [3, 3], [1, 1]])], r"the point \['a', 1\]"),
    "no rings": ([feature()], "without rings"),
    "coordinates": ([{"geometry": {"type": "MultiPolygon", "coordinates": 3}}], "no coordinates"),
    "outside": ([feature(square(5000, 10, 5))], "outside the slide of 1300 x 1100"),
    "huge": ([feature(square(0, 0, 1000))], "500 µm wide"),
    "astronomic": ([feature(square(0, 0, 1e300))], "expected \\[x, y\\]"),
}


@pytest.mark.parametrize("case", BAD_POLYGONS)
def test_bad_polygons_are_named(tmp_path: Path, image: Path, case: str) -> None:
    content, message = BAD_POLYGONS[case]
    with pytest.raises(GeoJsonError, match=message):
        made(tmp_path, image, content)


def test_files_that_are_no_geojson(tmp_path: Path, image: Path) -> None:
    path = tmp_path / "x.geojson"
    with open_slide(image, mpp=0.5) as slide:
        with pytest.raises(GeoJsonNotFoundError, match="no polygons at"):
            read_geojson(path, slide)
        for content in (b"{", b"\x1f\x8b broken", b"\xff\xfe\x00", b"[" * 100_000, b"[NaN]"):
            path.write_bytes(content)
            with pytest.raises(GeoJsonError, match="not GeoJSON"):
                read_geojson(path, slide)


def test_bad_label_images_are_named(tmp_path: Path) -> None:
    shape = (HEIGHT, WIDTH)
    with pytest.raises(LabelNotFoundError, match="no labels at"):
        read_labels(tmp_path / "none.tif", shape=shape)
    cases = {
        "size.npy": (np.zeros((1100, 1200), int), "1200 x 1100 pixels for a slide of 1300 x 1100"),
        "larger.npy": (np.zeros((2200, 2600), np.uint8), "the same size or a whole fraction"),
        "float.npy": (np.zeros(shape, np.float32), "float32; expected one plane"),
        "rgb.tif": (np.zeros((*shape, 3), np.uint8), "expected one plane"),
        "negative.npy": (np.full(shape, -1), "labels from -1 to -1"),
        "large.npy": (np.full(shape, 2**40), "at most 2147483647"),
        "rgb.png": (np.zeros((*shape, 3), np.uint8), "mode RGB"),
        "objects.npy": (np.array([{}]), "cannot be read"),
        "text.csv": (None, r"\.csv; expected \.npy"),
        "broken.tif": (None, "cannot be read"),
        "broken.png": (None, "cannot be read"),
        "broken.npy": (None, "cannot be read"),
    }
    for name, (content, message) in cases.items():
        path = tmp_path / name
        if content is None:
            path.write_bytes(b"no labels")
        elif name.endswith("npy"):
            np.save(path, content)
        elif name.endswith("png"):
            Image.fromarray(content).save(path)
        else:
            tifffile.imwrite(path, content, photometric="rgb")
        with pytest.raises(LabelError, match=message):
            read_labels(path, shape=shape)


def test_a_size_is_refused_before_memory_is_asked_for(tmp_path: Path) -> None:
    """A header that claims 2^40 pixels."""
    path = tmp_path / "claim.npy"
    with path.open("wb") as file:
        np.lib.format.write_array_header_2_0(
            file, {"descr": "<i4", "fortran_order": False, "shape": (2**20, 2**20)}
        )
    with pytest.raises(LabelError):
        read_labels(path, shape=(HEIGHT, WIDTH))


@pytest.fixture(scope="module")
def opened(image: Path) -> Slide:
    return open_slide(image, mpp=0.5)


NUMBERS = st.one_of(st.integers(-50, 1500), st.floats(-50, 1500), st.just("x"), st.none(), st.just(10**400))
RINGS = st.lists(st.lists(NUMBERS, max_size=3), max_size=6)
GEOMETRY = st.one_of(
    st.none(),
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(["Polygon", "MultiPolygon", "Point", None]),
            "coordinates": st.one_of(
                st.lists(RINGS, max_size=2), st.lists(st.lists(RINGS, max_size=2)), NUMBERS
            ),
        }
    ),
)
JUNK = st.recursive(NUMBERS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5)
FEATURE = st.fixed_dictionaries(
    {"geometry": GEOMETRY | JUNK}, optional={"properties": JUNK, "nucleusGeometry": GEOMETRY}
)


@given(content=st.lists(FEATURE | JUNK, max_size=3) | JUNK | st.fixed_dictionaries({"features": JUNK}))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_only_our_errors_escape(tmp_path: Path, opened: Slide, content: Any) -> None:
    path = tmp_path / "fuzz.geojson"
    path.write_text(json.dumps(content))
    try:
        found = read_geojson(path, opened)
    except PastError:
        return
    for top, left, bottom, right in found.boxes:
        assert found.window(top, left, bottom - top, right - left).shape == (bottom - top, right - left)
