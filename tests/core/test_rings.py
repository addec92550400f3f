"""Outlines as arrays are what they are as shapes, and are written part by part as they would be at once."""

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from made_slides import made_slide
from pandas.testing import assert_frame_equal

from past_core.ingest import rings as rings_module
from past_core.ingest.quality import nuclei_of
from past_core.ingest.rings import Rings, RingShapes
from past_core.ingest.store import SlideStore
from past_core.ingest.target import to_resolution
from past_core.ingest.write import write_store


def as_rings(frame: gpd.GeoDataFrame, cell_id) -> Rings:
    points, ring = shapely.get_coordinates(frame.geometry.to_numpy(), return_index=True)
    return Rings(points, np.searchsorted(ring, np.arange(len(frame) + 1)), np.asarray(cell_id, dtype=object))


@st.composite
def drawn_rings(draw):
    corners = draw(st.lists(st.integers(3, 9), min_size=1, max_size=12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    frame = gpd.GeoDataFrame(
        geometry=[
            shapely.Polygon(rng.uniform(0, 500, 2) + np.column_stack([np.cos(angle), np.sin(angle)]) * 9)
            for angle in (np.sort(rng.uniform(0, 2 * np.pi, n)) for n in corners)
        ]
    )
    return frame, as_rings(frame, [f"c{number}" for number in range(len(frame))])


@given(drawn_rings(), st.floats(0.1, 10))
def test_rings_are_their_polygons(made, factor):
    frame, rings = made
    assert len(rings) == len(frame)
    assert frame.geometry.geom_equals_exact(rings.to_geodataframe().geometry, 0).all()
    scaled = frame.geometry.scale(1 / factor, 1 / factor, origin=(0, 0))
    assert scaled.geom_equals_exact(rings.divided(factor).to_geodataframe().geometry, 1e-9).all()


@given(drawn_rings(), st.randoms(use_true_random=False))
def test_some_rings_in_any_order(made, random):
    frame, rings = made
    rows = random.choices(range(len(frame)), k=random.randint(0, 2 * len(frame)))
    taken = rings.taken(np.array(rows, dtype=np.int64)).to_geodataframe()
    assert list(taken["cell_id"]) == [f"c{row}" for row in rows]
    assert all(a.equals_exact(b, 0) for a, b in zip(taken.geometry, frame.geometry.iloc[rows], strict=True))


@pytest.mark.parametrize("by_id", [True, False])
@pytest.mark.parametrize("part", [1, 7, 64])
def test_the_file_is_what_geopandas_writes_of_all_at_once(tmp_path, monkeypatch, by_id, part):
    monkeypatch.setattr(rings_module, "PART", part)
    slide = made_slide()
    frame = slide.cell_boundaries
    rings = as_rings(frame, frame.index)
    order = np.random.default_rng(0).permutation(len(frame))[:50]
    RingShapes(rings, order, by_id=by_id).write(tmp_path / "parts.parquet")
    expected = rings.to_geodataframe().iloc[order]
    expected = expected.set_index("cell_id").rename_axis(None) if by_id else expected.reset_index(drop=True)
    expected.to_parquet(tmp_path / "whole.parquet")

    found = gpd.read_parquet(tmp_path / "parts.parquet")
    whole = gpd.read_parquet(tmp_path / "whole.parquet")
    assert_frame_equal(pd.DataFrame(found), pd.DataFrame(whole))
    assert type(found.index) is type(whole.index)
    np.testing.assert_array_equal(found.total_bounds, whole.total_bounds)
    parts, once = (pq.read_metadata(tmp_path / f"{name}.parquet") for name in ("parts", "whole"))
    assert parts.num_row_groups == -(-50 // part)
    for key in (b"geo", b"pandas"):
        assert parts.metadata[key] == once.metadata[key]
    assert parts.schema.equals(once.schema)


def test_a_store_of_rings_is_the_store_of_shapes(tmp_path, monkeypatch):
    monkeypatch.setattr(rings_module, "PART", 16)
    slide = made_slide()
    slide.nucleus_boundaries = slide.cell_boundaries.iloc[[4, 2, 2]].assign(cell_id=lambda frame: frame.index)
    stores = {"shapes": SlideStore(write_store(slide, tmp_path / "shapes.zarr"))}
    cells, nuclei = slide.cell_boundaries, slide.nucleus_boundaries
    slide.cell_boundaries = as_rings(cells, cells.index)
    slide.nucleus_boundaries = as_rings(nuclei, nuclei["cell_id"])
    stores["rings"] = SlideStore(write_store(slide, tmp_path / "rings.zarr"))
    for name in ("cell_boundaries", "nucleus_boundaries"):
        one, other = (
            gpd.read_parquet(store.path / "shapes" / name / "shapes.parquet") for store in stores.values()
        )
        assert_frame_equal(pd.DataFrame(one), pd.DataFrame(other))


def test_cells_without_an_outline_are_said(tmp_path, caplog):
    slide = made_slide()
    cells = slide.cell_boundaries.iloc[5:]
    slide.cell_boundaries = as_rings(cells, cells.index)
    store = SlideStore(write_store(slide, tmp_path / "s.zarr"))
    assert f"5 of {len(cells) + 5} cells have no outline" in caplog.text
    assert len(gpd.read_parquet(store.path / "shapes" / "cell_boundaries" / "shapes.parquet")) == len(cells)


def test_nuclei_of_cells_that_the_table_lacks_are_left_out():
    slide = made_slide()
    nuclei = slide.cell_boundaries.iloc[:6]
    rings = as_rings(nuclei, ["nobody", *nuclei.index[1:]])
    of_rings = nuclei_of(rings, slide.table.obs_names)
    of_shapes = nuclei_of(nuclei.set_axis(["nobody", *nuclei.index[1:]], axis=0), slide.table.obs_names)
    for one, other in zip(of_rings, of_shapes, strict=True):
        np.testing.assert_array_equal(one, other)


def test_rings_are_resampled_with_their_slide():
    slide = made_slide()
    frame = slide.cell_boundaries
    shapes = to_resolution(slide, 0.5)
    slide.cell_boundaries = as_rings(frame, frame.index)
    rings = to_resolution(slide, 0.5)
    assert shapes.cell_boundaries.geometry.geom_equals_exact(
        rings.cell_boundaries.to_geodataframe().set_index("cell_id").geometry, 1e-9
    ).all()
