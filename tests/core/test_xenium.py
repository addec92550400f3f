"""The Xenium reader against the simulator's truth and against spatialdata-io."""

import json
import warnings

import numpy as np
import pandas as pd
import pytest
import spatialdata as sd
import spatialdata_io
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from spatialdata.transformations import get_transformation, get_transformation_between_coordinate_systems

from past_core.ingest.xenium import read_bundle
from past_core.ingest.xenium_alignment import Alignment, alignment_beside
from past_core.ingest.xenium_masks import CELL, NUCLEUS, cell_id_strings, open_cells
from past_core.synthetic.bundle import write_bundle
from past_core.synthetic.expression import simulate_expression
from past_core.synthetic.tissue import TissueConfig, simulate_tissue

AXES = ("x", "y")


@pytest.fixture(scope="module")
def simulated():
    tissue = simulate_tissue(TissueConfig(patient="T2", cancer_type="breast", seed=4, size_um=150))
    return tissue, simulate_expression(tissue)


@pytest.fixture(scope="module", params=["3.0 turned", "2.0 upright"])
def bundle(request, simulated, tmp_path_factory):
    version, turn = request.param.split()
    folder = tmp_path_factory.mktemp("bundle") / "T2"
    rotation = {"turned": 91.3, "upright": -1.7}[turn]
    errors = {"missed_nuclei": 0.05, "split_nuclei": 0.05}
    return write_bundle(*simulated, folder, version=version, rotation_deg=rotation, **errors)


@pytest.fixture(scope="module")
def slide(bundle):
    return read_bundle(bundle, bundle / "T2_he_image.ome.tif", patient="T2", cancer_type="breast")


@pytest.fixture(scope="module")
def reference(bundle):
    """What spatialdata-io reads of the same bundle."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return spatialdata_io.xenium(bundle)


def test_centroids_return_to_the_truth(slide, simulated):
    truth_um = simulated[0].cells[["x_um", "y_um"]].to_numpy()
    error = slide.table.obsm["spatial"] * slide.mpp - truth_um
    # Nearest-neighbour resampling moves single pixels of the rim, evenly to all sides.
    assert np.abs(error.mean(axis=0)).max() < 0.01
    assert np.abs(error).max() < 0.2125 / 2
    # The check would notice a half pixel of either frame.
    assert np.abs(error.mean(axis=0)).max() < 0.1 * 0.5 * 0.2125


def test_table_equals_spatialdata_io(slide, reference, simulated):
    table = reference["table"]
    np.testing.assert_array_equal(slide.table.obs_names, table.obs["cell_id"].astype(str))
    np.testing.assert_array_equal(slide.table.var["symbol"], table.var_names)
    np.testing.assert_array_equal(slide.table.var_names, table.var["gene_ids"])
    np.testing.assert_array_equal(slide.table.X.toarray(), table.X.toarray())
    assert slide.table.X.dtype == np.int32
    np.testing.assert_allclose(slide.table.obs["cell_area_um2"], table.obs["cell_area"])
    np.testing.assert_allclose(slide.table.obs["nucleus_area_um2"], table.obs["nucleus_area"])
    np.testing.assert_array_equal(slide.table.obs["nucleus_count"], table.obs["nucleus_count"])
    counts, features = simulated[1].counts, simulated[1].features
    control = (features["feature_type"] != "Gene Expression").to_numpy()
    np.testing.assert_array_equal(slide.table.obs["control_counts"], counts[:, control].sum(axis=1).A1)
    assert sum(slide.report["features_dropped"].values()) == control.sum()


def test_masks_equal_spatialdata_io(bundle, reference):
    with open_cells(bundle / "cells.zarr.zip") as cells:
        for kind, name in ((NUCLEUS, "nucleus_labels"), (CELL, "cell_labels")):
            expected = level_0(reference[name]).to_numpy()
            mask = np.zeros_like(expected)
            for y, x, tile in cells.mask_tiles(kind):
                mask[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
            np.testing.assert_array_equal(mask, expected)


def test_centroids_equal_those_of_spatialdata_io_through_its_own_transforms(slide, reference):
    labels = sd.get_centroids(reference["cell_labels"], coordinate_system="global").compute()
    order = reference["table"].obs["cell_labels"].to_numpy()
    morphology = labels.loc[order, list(AXES)].to_numpy()
    back = get_transformation_between_coordinate_systems(reference, "global", reference["he_image"])
    matrix = back.to_affine_matrix(input_axes=AXES, output_axes=AXES)
    expected = morphology @ matrix[:2, :2].T + matrix[:2, 2]
    np.testing.assert_allclose(slide.table.obsm["spatial"], expected, atol=1e-6)


def test_registration_equals_the_affine_of_spatialdata_io(slide, reference, bundle):
    affine = get_transformation(reference["he_image"]).to_affine_matrix(input_axes=AXES, output_axes=AXES)
    np.testing.assert_allclose(slide.registration["matrix"], affine, rtol=1e-12)
    truth = json.loads((bundle / "truth.json").read_text())
    np.testing.assert_allclose(slide.registration["matrix"], truth["he_to_morphology_px"])
    assert slide.registration["scale_mpp"] == pytest.approx(0.25)
    assert slide.registration["rotation_deg"] == pytest.approx(truth["rotation_deg"])
    assert slide.registration["anisotropy"] == pytest.approx(1)
    assert slide.mpp == 0.25


def test_outlines_equal_spatialdata_io(slide, reference):
    matrix = np.array(slide.registration["matrix"])
    for name in ("cell_boundaries", "nucleus_boundaries"):
        ours = getattr(slide, name).to_geodataframe()
        theirs = sd.transform(reference[name], to_coordinate_system="global")
        assert len(ours) == len(theirs)
        np.testing.assert_array_equal(ours["cell_id"], theirs.get("cell_id", theirs.index))
        moved = ours.geometry.affine_transform([*matrix[0, :2], *matrix[1, :2], *matrix[:2, 2]])
        for left, right in zip(moved, theirs.geometry, strict=True):
            np.testing.assert_allclose(left.exterior.coords, right.exterior.coords, atol=1e-6)


def test_outlines_lie_around_the_centroids(slide):
    outlines = slide.cell_boundaries.to_geodataframe().set_index("cell_id")
    outline = outlines.loc[slide.table.obs_names].geometry.centroid
    distance = np.hypot(*(np.column_stack([outline.x, outline.y]) - slide.table.obsm["spatial"]).T)
    assert distance.max() * slide.mpp < 1.0


def test_image_equals_spatialdata_io(slide, reference):
    expected = level_0(reference["he_image"]).to_numpy()
    height, width = slide.image.height, slide.image.width
    np.testing.assert_array_equal(slide.image.read(0, 0, 0, height, width), expected)


def test_everything_else_is_read_by_spatialdata_io(reference, bundle):
    assert set(reference.images) == {"he_image", "morphology_focus"}
    assert len(reference["transcripts"]) == len(pd.read_parquet(bundle / "transcripts.parquet"))
    assert set(reference.coordinate_systems) == {"global"}


def test_image_pixels_under_a_cell_are_that_cell(slide, simulated):
    tissue = simulated[0]
    x, y = np.floor(slide.table.obsm["spatial"]).astype(int).T
    label = tissue.cell_labels[y, x]
    assert (label == np.arange(1, len(label) + 1)).mean() > 0.98  # a bent cell may not hold its own centroid


def test_what_a_slide_says_of_itself(slide, bundle):
    assert (slide.name, slide.patient, slide.cancer_type) == ("T2", "T2", "breast")
    assert (slide.assay, slide.organism, slide.modality) == ("xenium", "human", "spatial")
    assert all(path.is_file() for path in slide.sources.values())
    assert slide.report["cells"] == slide.table.n_obs
    assert slide.report["cells_without_mask"] == slide.report["cells_outside_image"] == 0
    assert slide.report["xenium_version"].startswith("xenium-")


def test_every_version_reads_the_same(simulated, tmp_path):
    slides = []
    for version in ("2.0", "3.0"):
        folder = write_bundle(*simulated, tmp_path / version, version=version)
        slides.append(read_bundle(folder, folder / "T2_he_image.ome.tif"))
    first, second = slides
    pd.testing.assert_frame_equal(first.table.obs, second.table.obs)
    np.testing.assert_array_equal(first.table.X.toarray(), second.table.X.toarray())
    np.testing.assert_array_equal(first.table.obsm["spatial"], second.table.obsm["spatial"])


def test_store_of_the_slide(slide, simulated, tmp_path):
    from past_core.ingest.store import SlideStore
    from past_core.ingest.write import write_store

    store = SlideStore(write_store(slide, tmp_path / "T2.zarr"))
    rows = pd.Index(store.cell_ids).get_indexer(slide.table.obs_names)
    np.testing.assert_allclose(store.centroids[rows], slide.table.obsm["spatial"])
    np.testing.assert_array_equal(store.counts[rows].toarray(), slide.table.X.toarray())
    assert store.manifest["registration"]["matrix"] == slide.registration["matrix"]
    assert set(store.manifest["sources"]) >= {"experiment", "matrix", "masks", "he", "alignment"}
    assert store.passed.all()


def level_0(element):
    """The finest scale as an array."""
    scale = element["scale0"]
    return scale[next(iter(scale.keys()))]


# --- parts ---------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 9)), min_size=1, max_size=8))
def test_cell_ids_are_spelt_as_spatialdata_io_spells_them(pairs):
    from spatialdata_io.readers.xenium import cell_id_str_from_prefix_suffix_uint32

    pairs = np.array(pairs, dtype=np.uint32)
    expected = cell_id_str_from_prefix_suffix_uint32(pairs[:, 0], pairs[:, 1])
    np.testing.assert_array_equal(cell_id_strings(pairs), expected)


def test_cell_ids_of_the_vendors_examples():
    pairs = [[1, 1], [1437536272, 1], [0, 1]]
    assert cell_id_strings(pairs).tolist() == ["aaaaaaab-1", "ffkpbaba-1", "aaaaaaaa-1"]


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 25), st.integers(1, 25)),
    chunk=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    n=st.integers(1, 6),
    seed=st.integers(0, 999),
)
def test_streamed_centroids_are_the_means(shape, chunk, n, seed, tmp_path_factory):
    rng = np.random.default_rng(seed)
    mask = rng.integers(0, n + 1, shape).astype(np.uint32)
    mask[0, 0] = 1
    owners = rng.permutation(n).astype(np.uint32)
    path = tmp_path_factory.mktemp("zarr") / "cells.zarr.zip"
    with zarr.storage.ZipStore(path, mode="w") as store:
        root = zarr.create_group(store, zarr_format=2)
        root.create_array("masks/1", shape=shape, chunks=chunk, dtype="u4", compressors=None)[...] = mask
        root.create_array("polygon_sets/1/cell_index", shape=(n,), dtype="u4", compressors=None)[...] = owners
    with open_cells(path) as cells:
        found = cells.centroids(CELL, n)
    for label, owner in enumerate(owners, start=1):
        assert found.n_pixels[owner] == (mask == label).sum()
        if (mask == label).any():
            y, x = ndimage.center_of_mass(mask == label)
            np.testing.assert_allclose(found.xy[owner], [x + 0.5, y + 0.5], rtol=1e-12)
        else:
            assert np.isnan(found.xy[owner]).all()


@settings(max_examples=50, deadline=None)
@given(
    angle=st.floats(-180, 180),
    scale=st.floats(0.2, 5),
    shift=st.tuples(st.floats(-1e5, 1e5), st.floats(-1e5, 1e5)),
    mirrored=st.booleans(),
)
def test_alignment_inverts(angle, scale, shift, mirrored):
    turn = np.deg2rad(angle)
    linear = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    linear = linear @ np.diag([1, -1 if mirrored else 1])
    frame = Alignment(np.block([[linear, np.array(shift)[:, None]], [np.zeros((1, 2)), np.ones((1, 1))]]))
    points = np.array([[0.0, 0.0], [1000.5, 3.25], [40_000, 70_000]])
    moved = points @ linear.T + shift
    np.testing.assert_allclose(frame.to_image(moved), points, atol=1e-5)
    assert frame.scale == pytest.approx(scale)
    assert frame.anisotropy == pytest.approx(1)


def test_alignment_is_looked_for_by_the_vendors_name(tmp_path):
    assert alignment_beside(tmp_path / "a_he_image.ome.tif") == tmp_path / "a_he_imagealignment.csv"
    assert alignment_beside(tmp_path / "a.svs") is None
