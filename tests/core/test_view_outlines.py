"""Outlines of the view, decoded without objects and found by place, against shapely."""

import shutil
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from made_slides import made_slide
from made_view import view_slide

from past_core.ingest.store import SlideStore
from past_core.ingest.write import SlideData, write_store
from past_core.view.outlines import Outlines, read_outlines
from past_core.view.wkb import OutlineError, exterior_rings


@pytest.fixture(scope="module")
def slide() -> SlideData:
    return view_slide()


@pytest.fixture(scope="module")
def store(slide: SlideData, tmp_path_factory: pytest.TempPathFactory) -> SlideStore:
    return SlideStore(write_store(slide, tmp_path_factory.mktemp("view") / "s.zarr", block_size=400))


def exteriors(shapes: list) -> list[tuple[int, np.ndarray]]:
    return [
        (row, np.asarray(part.exterior.coords)[:, :2])
        for row, shape in enumerate(shapes)
        if shape is not None
        for part in getattr(shape, "geoms", [shape])
        if not part.is_empty
    ]


boxes = st.builds(
    lambda x, y, w, h: shapely.box(x, y, x + w, y + h),
    *(st.floats(-1e5, 1e5) for _ in range(2)),
    *(st.floats(0.5, 100) for _ in range(2)),
)
shapes = st.one_of(
    boxes,
    st.lists(boxes, min_size=1, max_size=3).map(shapely.MultiPolygon),
    boxes.map(lambda box: shapely.Polygon(box.exterior, [box.centroid.buffer(0.1).exterior])),
    boxes.map(shapely.force_3d),
    st.just(shapely.Polygon()),
    st.none(),
)


@given(st.lists(shapes, max_size=8), st.lists(st.booleans(), min_size=8, max_size=8), st.integers(0, 2))
def test_rings_are_those_that_shapely_reads(found: list, big: list[bool], skipped: int) -> None:
    values = [
        None if s is None else shapely.to_wkb(s, byte_order=0 if b else 1)
        for s, b in zip(found, big, strict=False)
    ]
    # A slice begins in the middle of its buffers.
    column = pa.array([b"xx"] * skipped + values, pa.binary())[skipped:]
    rows, lengths, points = exterior_rings(column)
    expected = exteriors(found)
    assert rows.tolist() == [row for row, _ in expected]
    assert lengths.tolist() == [len(ring) for _, ring in expected]
    np.testing.assert_array_equal(points, np.concatenate([np.zeros((0, 2)), *(ring for _, ring in expected)]))


@given(st.binary(min_size=0, max_size=60), st.integers(0, 300))
def test_what_is_no_geometry_is_refused_or_empty(noise: bytes, cut: int) -> None:
    whole = shapely.to_wkb(shapely.MultiPolygon([shapely.box(0, 0, 1, 1), shapely.box(2, 2, 3, 3)]))
    for value in (noise, whole[:cut], whole[:9] + noise):
        try:
            rows, lengths, points = exterior_rings(pa.array([value], pa.binary()))
        except OutlineError:
            continue
        assert lengths.sum() == len(points)
        assert set(rows.tolist()) <= {0}


def test_a_line_is_named() -> None:
    column = pa.array([shapely.to_wkb(shapely.LineString([(0, 0), (1, 1)]))])
    with pytest.raises(OutlineError, match="type 2; expected polygons"):
        exterior_rings(column)


def test_outlines_belong_to_their_cells(slide: SlideData, store: SlideStore) -> None:
    outlines = read_outlines(store, "cell_boundaries")
    assert outlines is not None
    assert len(outlines) == store.n_cells + 1  # one has two parts
    geometry = slide.cell_boundaries.geometry
    for number in range(len(outlines)):
        shape = geometry.loc[store.cell_ids[outlines.owner[number]]]
        line = shapely.LinearRing(outlines.polygon(number))
        assert line.hausdorff_distance(shape.boundary.intersection(line.buffer(0.1))) < 0.01
    nuclei = read_outlines(store, "nucleus_boundaries")
    assert nuclei is not None
    assert nuclei.owner.tolist() == list(range(store.n_cells))


def test_a_store_without_outlines_has_circles_of_each_cells_area(tmp_path: Path) -> None:
    store = SlideStore(write_store(made_slide(outlines=False), tmp_path / "s.zarr"))
    outlines = read_outlines(store, "cell_boundaries")
    assert outlines is not None
    assert read_outlines(store, "nucleus_boundaries") is None
    radius = np.sqrt(9 / np.pi) / store.mpp
    for number in range(len(outlines)):
        distance = np.hypot(*(outlines.polygon(number) - store.centroids[outlines.owner[number]]).T)
        np.testing.assert_allclose(distance, radius, rtol=1e-4)


def made_outlines(seed: int, number: int) -> Outlines:
    rng = np.random.default_rng(seed)
    middle = rng.uniform(-50, 2000, (number, 2))
    half = rng.uniform(2, 20, number) * np.where(rng.random(number) < 0.02, 40, 1)  # a few are huge
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    vertices = (middle[:, None] + half[:, None, None] * corners).reshape(-1, 2).astype(np.float32)
    return Outlines(rng.permutation(number), np.arange(number + 1) * 4, vertices)


@given(
    st.integers(0, 5), st.integers(0, 300), st.tuples(*[st.floats(-300, 2300, width=32)] * 2),
    st.floats(0, 900),
)  # fmt: skip
def test_what_touches_a_box_is_found(seed: int, number: int, corner: tuple, side: float) -> None:
    outlines = made_outlines(seed, number)
    left, top, right, bottom = *corner, corner[0] + side, corner[1] + side
    boxes = outlines.boxes
    touch = (boxes[:, 0] <= right) & (boxes[:, 2] >= left) & (boxes[:, 1] <= bottom) & (boxes[:, 3] >= top)
    assert outlines.touching(left, top, right, bottom).tolist() == np.flatnonzero(touch).tolist()


def test_what_contains_a_point_is_found(slide: SlideData, store: SlideStore) -> None:
    outlines = read_outlines(store, "cell_boundaries")
    assert outlines is not None
    tree = shapely.STRtree([shapely.Polygon(outlines.polygon(k)) for k in range(len(outlines))])
    points = np.random.default_rng(3).uniform(0, 1300, (400, 2))
    hits = 0
    for x, y in points:
        expected = sorted(tree.query(shapely.Point(x, y), predicate="within").tolist())
        assert outlines.containing(x, y).tolist() == expected
        hits += len(expected)
    assert hits > 50


def test_damage_is_named(store: SlideStore, tmp_path: Path) -> None:
    copy = SlideStore(shutil.copytree(store.path, tmp_path / "copy.zarr"))
    file = copy.path / "shapes" / "cell_boundaries" / "shapes.parquet"
    table = pq.read_table(file)
    for damaged, message in [
        (table.drop_columns("geometry"), "no column `geometry`"),
        (table.select(["geometry"]).replace_schema_metadata(None), "do not say which cells"),
    ]:
        pq.write_table(damaged, file)
        with pytest.raises(OutlineError, match=message) as error:
            read_outlines(copy, "cell_boundaries")
        assert str(file) in str(error.value)
    lines = gpd.GeoDataFrame(geometry=[shapely.LineString([(0, 0), (1, 1)])], index=["a"])
    lines.to_parquet(file)
    with pytest.raises(OutlineError, match="type 2"):
        read_outlines(copy, "cell_boundaries")
    file.write_bytes(b"PAR1 and then nothing")
    with pytest.raises(OutlineError, match="cannot be read"):
        read_outlines(copy, "cell_boundaries")


def test_outlines_without_end_or_cell_are_left_out(store: SlideStore, tmp_path: Path) -> None:
    copy = SlideStore(shutil.copytree(store.path, tmp_path / "copy.zarr"))
    frame = gpd.GeoDataFrame(
        geometry=[
            shapely.box(0, 0, 9, 9),
            shapely.box(0, 0, np.inf, 9),
            shapely.box(0, 0, 9, 9),
        ],
        index=[store.cell_ids[3], store.cell_ids[4], "stranger"],
    )
    frame.to_parquet(copy.path / "shapes" / "cell_boundaries" / "shapes.parquet")
    outlines = read_outlines(copy, "cell_boundaries")
    assert outlines is not None
    assert outlines.owner.tolist() == [3]
