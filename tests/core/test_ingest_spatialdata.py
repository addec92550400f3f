"""SpatialData stores of other assays: transformations, joins, refusals."""

import json
import logging

import dask.array as da
import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
import spatialdata
from anndata import AnnData
from spatialdata import SpatialData
from spatialdata.models import Image2DModel, ShapesModel, TableModel
from spatialdata.transformations import Affine, Identity, Scale, Sequence, Translation

from past_core.errors import PastError
from past_core.ingest.assays import AssayError, assay_token, known_assays
from past_core.ingest.checks import SlideDataError
from past_core.ingest.frames import FrameError
from past_core.ingest.spatialdata import SpatialDataError, SpatialDataNotFoundError, read_spatialdata
from past_core.ingest.store import SlideStore
from past_core.ingest.write import write_store
from past_core.vocabulary import ASSAYS

SYMBOLS = ["EPCAM", "CD3E", "ACTA2", "Blank-1"]
N = 40
HEIGHT, WIDTH, MPP = 240, 320, 0.5

# Cells in um -> global: turned by 30 degrees, scaled, mirrored, shifted. Image px -> global: scaled, shifted.
ANGLE = np.deg2rad(30)
CELLS_TO_GLOBAL = np.array(
    [
        [3 * np.cos(ANGLE), 3 * np.sin(ANGLE), 700],
        [3 * np.sin(ANGLE), -3 * np.cos(ANGLE), -90],
        [0, 0, 1],
    ]
)
IMAGE_TO_GLOBAL = np.array([[1.5, 0, 40], [0, 1.5, -25], [0, 0, 1]])


def place(points, matrix):
    return points @ matrix[:2, :2].T + matrix[:2, 2]


def made(*, circles=False, multiscale=True, micron_frame=True, seed=0):
    """Elements of a store, and the centroids in image pixels that a reader must find."""
    rng = np.random.default_rng(seed)
    xy = rng.uniform((20, 20), (WIDTH - 20, HEIGHT - 20), (N, 2))
    own = place(xy, np.linalg.inv(CELLS_TO_GLOBAL) @ IMAGE_TO_GLOBAL)
    ids = pd.Index([f"cell_{number}" for number in rng.permutation(N)])
    cell_frames = {"global": Affine(CELLS_TO_GLOBAL, ("x", "y"), ("x", "y"))}
    image_frames = {
        "global": Sequence([Scale([1.5, 1.5], ("x", "y")), Translation([40, -25], ("x", "y"))]),
    }
    if micron_frame:
        image_frames["microns"] = Scale([MPP, MPP], ("x", "y"))
    if circles:
        shapes = ShapesModel.parse(
            own, geometry=0, radius=np.full(N, 2.0), index=ids, transformations=cell_frames
        )
    else:
        boxes = shapely.box(own[:, 0] - 1, own[:, 1] - 2, own[:, 0] + 1, own[:, 1] + 2)
        shapes = ShapesModel.parse(gpd.GeoDataFrame(geometry=boxes, index=ids), transformations=cell_frames)
    pixels = rng.integers(0, 256, (3, HEIGHT, WIDTH), dtype=np.uint8)
    image = Image2DModel.parse(
        da.from_array(pixels, chunks=(3, 100, 100)),
        dims=("c", "y", "x"),
        c_coords=["r", "g", "b"],
        scale_factors=[2] if multiscale else None,
        transformations=image_frames,
    )
    order = rng.permutation(N)  # rows of the table in another order than the shapes
    counts = rng.poisson(2, (N, len(SYMBOLS))) + 1
    table = AnnData(
        counts.astype(np.float32),
        obs=pd.DataFrame(
            {"region": pd.Categorical(["cells"] * N), "cell": ids[order], "score": np.arange(N)},
            index=[f"row{number}" for number in range(N)],
        ),
        var=pd.DataFrame(index=SYMBOLS),
    )
    table = TableModel.parse(table, region="cells", region_key="region", instance_key="cell")
    truth = pd.DataFrame(xy, index=ids, columns=["x", "y"]).loc[ids[order]]
    return {"images": {"he": image}, "shapes": {"cells": shapes}, "tables": {"table": table}}, truth, pixels


def write(tmp_path, elements, **attrs):
    path = tmp_path / "source.zarr"
    SpatialData(**elements, attrs=attrs).write(path)
    return path


@pytest.mark.parametrize("circles", [False, True])
@pytest.mark.parametrize("multiscale", [False, True])
def test_cells_land_on_their_pixels(tmp_path, circles, multiscale):
    elements, truth, pixels = made(circles=circles, multiscale=multiscale)
    path = write(tmp_path, elements)
    data = read_spatialdata(path, assay="cosmx")
    store = SlideStore(write_store(data, tmp_path / "out.zarr"))
    assert (store.assay, store.organism, store.mpp) == ("cosmx", "human", MPP)
    np.testing.assert_allclose(store.centroids, truth.loc[store.cell_ids], rtol=1e-9)
    np.testing.assert_array_equal(store.read(0, 0, 0, HEIGHT, WIDTH), pixels)
    table = elements["tables"]["table"]
    row = pd.Index(table.obs["cell"]).get_indexer(store.cell_ids)
    np.testing.assert_array_equal(store.counts.toarray(), table.X[row, :3])
    assert list(store.obs["score"]) == row.tolist()
    assert store.genes.index[0] == "ENSG00000119888"
    own_area = np.pi * 4 if circles else 8.0
    np.testing.assert_allclose(store.obs["cell_area_um2"], own_area * (3 / 1.5) ** 2 * MPP**2)


def test_outlines_agree_with_spatialdatas_own_transformation(tmp_path):
    """The reference: spatialdata carries the outlines to `global`, the image's matrix is undone by hand."""
    elements, _, _ = made()
    path = write(tmp_path, elements)
    out = write_store(read_spatialdata(path, assay="cosmx"), tmp_path / "out.zarr")
    outlines = spatialdata.read_zarr(out).shapes["cell_boundaries"]
    moved = spatialdata.transform(elements["shapes"]["cells"], to_coordinate_system="global").loc[
        outlines.index
    ]
    for ours, theirs in zip(outlines.geometry, moved.geometry, strict=True):
        corners = place(shapely.get_coordinates(theirs), np.linalg.inv(IMAGE_TO_GLOBAL))
        np.testing.assert_allclose(shapely.get_coordinates(ours), corners)


def test_a_store_that_states_everything(tmp_path):
    elements, _, _ = made()
    assert read_spatialdata(write(tmp_path, elements, assay="MERSCOPE")).assay == "merfish"


def test_a_store_of_our_own_is_a_source_like_any_other(tmp_path):
    elements, _, _ = made()
    first = write_store(read_spatialdata(write(tmp_path, elements), assay="xenium"), tmp_path / "a.zarr")
    again = SlideStore(write_store(read_spatialdata(first, assay="xenium"), tmp_path / "b.zarr"))
    first = SlideStore(first)
    assert list(again.cell_ids) == list(first.cell_ids)
    np.testing.assert_allclose(again.centroids, first.centroids)
    assert (again.counts != first.counts).nnz == 0
    np.testing.assert_array_equal(again.neighbors, first.neighbors)


def test_a_layer_of_counts_goes_before_x(tmp_path):
    elements, _, _ = made()
    table = elements["tables"]["table"]
    table.layers["counts"] = table.X.copy()
    table.X = np.log1p(table.X)
    data = read_spatialdata(write(tmp_path, elements), assay="cosmx")
    np.testing.assert_array_equal(data.table.X.toarray(), table.layers["counts"][:, :3])


def test_the_largest_part_of_a_multipolygon_is_the_cell(tmp_path):
    elements, truth, _ = made()
    cells = elements["shapes"]["cells"]
    name = truth.index[3]
    box = cells.loc[name, "geometry"]
    speck = shapely.affinity.translate(shapely.affinity.scale(box, 0.1, 0.1), 30, 0)
    cells.loc[[name], "geometry"] = gpd.GeoSeries([shapely.MultiPolygon([speck, box])], index=[name])
    data = read_spatialdata(write(tmp_path, elements), assay="cosmx")
    np.testing.assert_allclose(data.table.obsm["spatial"], truth)


def test_choices_by_name(tmp_path):
    elements, truth, _ = made()
    other, _, _ = made(seed=1)
    elements["images"]["overview"] = other["images"]["he"]
    elements["shapes"]["others"] = other["shapes"]["cells"]
    copy = elements["tables"]["table"].copy()
    elements["tables"]["second"] = copy
    path = write(tmp_path, elements)
    with pytest.raises(SpatialDataError, match="several: second, table; choose one with --table"):
        read_spatialdata(path, assay="cosmx")
    data = read_spatialdata(path, table="second", assay="cosmx")  # the image named `he` is taken
    assert data.report["elements"] == {"image": "he", "shapes": "cells", "table": "second"}
    np.testing.assert_allclose(data.table.obsm["spatial"], truth)
    with pytest.raises(SpatialDataError, match="has no image 'x'; found he, overview"):
        read_spatialdata(path, table="table", image="x", assay="cosmx")
    assert read_spatialdata(path, table="table", image="overview", assay="cosmx").table.n_obs == N


def test_mouse_is_told_from_its_genes(tmp_path):
    elements, _, _ = made()
    elements["tables"]["table"].var_names = ["Epcam", "Cd3e", "Acta2", "Blank-1"]
    data = read_spatialdata(write(tmp_path, elements), assay="cosmx")
    assert data.organism == "mouse"
    assert data.table.var_names[0] == "ENSMUSG00000045394"


# --- refusals ---------------------------------------------------------------


def drop_transformation(elements):
    spatialdata.transformations.set_transformation(
        elements["shapes"]["cells"], {"elsewhere": Identity()}, set_all=True
    )


def fewer_shapes(elements):
    elements["shapes"]["cells"] = elements["shapes"]["cells"].iloc[:-3]


def set_counts(value):
    def apply(elements):
        elements["tables"]["table"].X[2, 1] = value

    return apply


def no_image(elements):
    elements["images"] = {}


def no_table(elements):
    elements["tables"] = {}


def grey(elements):
    elements["images"]["he"] = Image2DModel.parse(
        np.zeros((1, 20, 20), np.uint8), dims=("c", "y", "x"), transformations={"global": Identity()}
    )


def singular(elements):
    matrix = np.array([[1.0, 1, 0], [1, 1, 0], [0, 0, 1]])
    spatialdata.transformations.set_transformation(
        elements["shapes"]["cells"], {"global": Affine(matrix, ("x", "y"), ("x", "y"))}, set_all=True
    )


REFUSED = {
    "no common frame": (drop_transformation, FrameError, r"\['elsewhere'\].*--coordinate-system"),
    "singular": (singular, FrameError, "cannot be inverted"),
    "ids": (fewer_shapes, SpatialDataError, r"3 of 40 rows of table 'table' have no outline in 'cells'"),
    "nan": (set_counts(np.nan), SlideDataError, "nan of gene 'CD3E'"),
    "negative": (set_counts(-1), SlideDataError, "whole numbers from 0"),
    "fraction": (set_counts(0.3), SlideDataError, "raw counts are needed"),
    "no image": (no_image, SpatialDataError, "has no image that could be"),
    "no table": (no_table, SpatialDataError, "has no table that could be"),
    "grey": (grey, SpatialDataError, "has no image that could be"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(tmp_path, case):
    damage, error, message = REFUSED[case]
    elements, _, _ = made()
    damage(elements)
    path = write(tmp_path, elements)
    with pytest.raises(error, match=message):
        read_spatialdata(path, assay="cosmx")
    assert issubclass(error, PastError)


def test_a_grey_image_by_name(tmp_path):
    elements, _, _ = made()
    grey(elements)
    with pytest.raises(FrameError, match=r"image 'he' is uint8 .*expected an 8-bit RGB image"):
        read_spatialdata(write(tmp_path, elements), image="he", assay="cosmx")


def test_missing_and_damaged_stores(tmp_path):
    with pytest.raises(SpatialDataNotFoundError, match="no SpatialData store"):
        read_spatialdata(tmp_path / "none.zarr", assay="cosmx")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SpatialDataError, match="cannot be read as SpatialData"):
        read_spatialdata(tmp_path / "empty", assay="cosmx")
    elements, _, _ = made()
    path = write(tmp_path, elements)
    file = path / "zarr.json"
    file.write_text(file.read_text()[:40])
    with pytest.raises(SpatialDataError, match="cannot be read as SpatialData"):
        read_spatialdata(path, assay="cosmx")


def test_unknown_pixel_size_and_assay(tmp_path):
    elements, _, _ = made(micron_frame=False)
    path = write(tmp_path, elements)
    with pytest.raises(SpatialDataError, match="give --mpp"):
        read_spatialdata(path, assay="cosmx")
    with pytest.raises(SpatialDataError, match="give --assay, one of merfish, cosmx, xenium"):
        read_spatialdata(path, mpp=0.3)
    assert read_spatialdata(path, mpp=0.3, assay="cosmx").mpp == 0.3


def test_a_table_that_annotates_nothing(tmp_path):
    elements, _, _ = made()
    table = elements["tables"]["table"]
    del table.uns["spatialdata_attrs"]
    with pytest.raises(SpatialDataError, match="annotates no shapes"):
        read_spatialdata(write(tmp_path, elements), assay="cosmx")


def test_assay_names(caplog):
    assert set(known_assays()) > set(ASSAYS)
    for name in ASSAYS:
        assert assay_token(name.upper()) == name
    with caplog.at_level(logging.WARNING):
        assert assay_token("Visium_HD") == "10x 3' v3"
    assert "goes under the token of" in caplog.text
    with pytest.raises(AssayError, match="'magic' is not known"):
        assay_token("magic")


def test_provenance(tmp_path):
    elements, _, _ = made()
    data = read_spatialdata(write(tmp_path, elements), assay="cosmx")
    manifest = SlideStore(write_store(data, tmp_path / "out.zarr")).manifest
    assert len(manifest["sources"]["source.zarr"]) == 64
    expected = np.linalg.inv(IMAGE_TO_GLOBAL) @ CELLS_TO_GLOBAL
    np.testing.assert_allclose(manifest["registration"]["shapes_to_image"], expected)
    json.dumps(dict(manifest))
