"""The synthetic Xenium bundle against independent readers and its own truth."""

import json

import h5py
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import scanpy as sc
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from past_core.synthetic.bundle import write_bundle
from past_core.synthetic.bundle_frame import (
    keypoint_regions,
    morphology_frame,
    pixels_by_label,
    resample_labels,
    transform_points,
)
from past_core.synthetic.bundle_images import halve
from past_core.synthetic.bundle_polygons import trace_polygons
from past_core.synthetic.expression import simulate_expression
from past_core.synthetic.tissue import TissueConfig, simulate_tissue


@pytest.fixture(scope="module")
def simulated():
    tissue = simulate_tissue(TissueConfig(patient="T1", cancer_type="lung", seed=3, size_um=150))
    return tissue, simulate_expression(tissue)


@pytest.fixture(scope="module")
def bundle(simulated, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle") / "T1"
    return write_bundle(*simulated, folder, missed_nuclei=0.05, split_nuclei=0.05, stack_planes=3)


def test_all_files_of_the_format_are_there(bundle):
    names = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    assert names == {
        "experiment.xenium",
        "cells.parquet",
        "cell_feature_matrix.h5",
        "transcripts.parquet",
        "cell_boundaries.parquet",
        "nucleus_boundaries.parquet",
        "cells.zarr.zip",
        "morphology.ome.tif",
        "morphology_focus/morphology_focus_0000.ome.tif",
        "T1_he_image.ome.tif",
        "T1_he_imagealignment.csv",
        "keypoints_region1.csv",
        "keypoints_region2.csv",
        "keypoints_region3.csv",
        "truth.json",
        "truth.parquet",
    }


def test_matrix_counts_are_the_good_assigned_transcripts(bundle, simulated):
    transcripts = pd.read_parquet(bundle / "transcripts.parquet")
    table = sc.read_10x_h5(bundle / "cell_feature_matrix.h5", gex_only=False)
    good = transcripts[(transcripts["qv"] >= 20) & (transcripts["cell_id"] != "UNASSIGNED")]
    counted = pd.crosstab(good["cell_id"], good["feature_name"])
    counted = counted.reindex(index=table.obs_names, columns=table.var_names, fill_value=0)
    np.testing.assert_array_equal(counted.to_numpy(), table.X.toarray())
    np.testing.assert_array_equal(table.X.toarray(), simulated[1].counts.toarray())
    assert ((transcripts["qv"] < 20) & (transcripts["cell_id"] != "UNASSIGNED")).sum() > 0
    assert (transcripts["cell_id"] == "UNASSIGNED").sum() > 0
    assert transcripts["transcript_id"].is_unique


def test_transcripts_lie_in_their_cell_and_nucleus(bundle):
    import zarr

    transcripts = pd.read_parquet(bundle / "transcripts.parquet")
    root = zarr.open_group(zarr.storage.ZipStore(bundle / "cells.zarr.zip", mode="r"), mode="r")
    cells, nuclei = root["masks/1"][...], root["masks/0"][...]
    row = (transcripts["y_location"] / 0.2125).astype(int)
    column = (transcripts["x_location"] / 0.2125).astype(int)
    ids = pd.Index([*pd.read_parquet(bundle / "cells.parquet")["cell_id"], "UNASSIGNED"])
    label = ids.get_indexer(transcripts["cell_id"]) + 1
    np.testing.assert_array_equal(cells[row, column], np.where(label == len(ids), 0, label))
    np.testing.assert_array_equal(nuclei[row, column] > 0, transcripts["overlaps_nucleus"] == 1)
    inside = transcripts["overlaps_nucleus"] == 1
    assert (transcripts.loc[inside, "nucleus_distance"] == 0).all()
    assert 0.1 < inside.mean() < 0.9
    # Quarter resolution: both ends of the distance may lie a pixel of it off.
    exact = ndimage.distance_transform_edt(nuclei == 0)[row, column] * 0.2125
    assert np.abs(exact - transcripts["nucleus_distance"]).max() < 2 * 3 * np.sqrt(2) * 0.2125


def test_counts_columns_and_manifest_agree(bundle, simulated):
    tissue, expression = simulated
    cells = pd.read_parquet(bundle / "cells.parquet")
    manifest = json.loads((bundle / "experiment.xenium").read_text())
    counts, kind = expression.counts.toarray(), expression.features["feature_type"].to_numpy()
    np.testing.assert_array_equal(
        cells["transcript_counts"], counts[:, kind == "Gene Expression"].sum(axis=1)
    )
    np.testing.assert_array_equal(
        cells["control_probe_counts"], counts[:, kind == "Negative Control Probe"].sum(axis=1)
    )
    np.testing.assert_array_equal(cells["total_counts"], counts.sum(axis=1))
    assert manifest["num_cells"] == len(cells) == len(tissue.cells)
    assert manifest["pixel_size"] == 0.2125
    assert manifest["transcripts_per_cell"] == int(cells["transcript_counts"].median())
    assert 0.9 < manifest["fraction_transcripts_assigned"] < 1
    assert manifest["analysis_sw_version"] == "xenium-3.0.0.15"


def test_nuclei_are_missed_and_split_and_labels_follow_their_own_order(bundle):
    cells = pd.read_parquet(bundle / "cells.parquet")
    nuclei = pd.read_parquet(bundle / "nucleus_boundaries.parquet")
    assert (cells["nucleus_count"] == 0).any()
    assert (cells["nucleus_count"] == 2).any()
    assert cells.loc[cells["nucleus_count"] == 0, "nucleus_area"].isna().all()
    assert (cells["nucleus_area"].dropna() > 0).all()
    per_cell = nuclei.groupby("cell_id")["label_id"].nunique().reindex(cells["cell_id"], fill_value=0)
    np.testing.assert_array_equal(per_cell, cells["nucleus_count"])


def test_areas_and_outlines_follow_the_truth(bundle, simulated):
    tissue, _ = simulated
    cells = pd.read_parquet(bundle / "cells.parquet")
    ratio = cells["cell_area"].to_numpy() / tissue.cells["cell_area_um2"].to_numpy()
    assert abs(ratio.mean() - 1) < 0.002
    assert np.abs(ratio - 1).max() < 0.1
    vertices = pd.read_parquet(bundle / "cell_boundaries.parquet")
    x, y = vertices["vertex_x"].to_numpy().reshape(-1, 25), vertices["vertex_y"].to_numpy().reshape(-1, 25)
    np.testing.assert_array_equal(x[:, 0], x[:, -1])
    np.testing.assert_array_equal(y[:, 0], y[:, -1])
    area = np.abs((x[:, :-1] * y[:, 1:] - x[:, 1:] * y[:, :-1]).sum(axis=1)) / 2
    assert 0.9 < np.median(area / cells["cell_area"]) <= 1.0
    np.testing.assert_allclose(x.mean(axis=1), cells["x_centroid"], atol=1.5)


def test_images_are_pyramids_with_physical_sizes(bundle, simulated):
    from past_core.synthetic.render import render_he

    with tifffile.TiffFile(bundle / "T1_he_image.ome.tif") as tiff:
        assert tiff.is_ome
        assert tiff.series[0].axes == "YXS"
        assert len(tiff.series[0].levels) > 1
        assert 'PhysicalSizeX="0.25"' in tiff.ome_metadata
        np.testing.assert_array_equal(tiff.series[0].asarray(), render_he(simulated[0]))
    with tifffile.TiffFile(bundle / "morphology_focus" / "morphology_focus_0000.ome.tif") as tiff:
        focus = tiff.series[0].asarray()
        assert focus.dtype == np.uint16
        assert 'PhysicalSizeX="0.2125"' in tiff.ome_metadata
        assert 'Name="DAPI"' in tiff.ome_metadata
    with tifffile.TiffFile(bundle / "morphology.ome.tif") as tiff:
        assert tiff.series[0].axes == "ZYX"
        np.testing.assert_array_equal(tiff.series[0].asarray()[1], focus)
    truth = json.loads((bundle / "truth.json").read_text())
    assert list(focus.shape) == truth["morphology_shape"]


def test_keypoints_carry_the_stated_noise(bundle):
    truth = json.loads((bundle / "truth.json").read_text())
    matrix = np.array(truth["he_to_morphology_px"])
    np.testing.assert_allclose(np.loadtxt(bundle / "T1_he_imagealignment.csv", delimiter=","), matrix)
    regions = [pd.read_csv(bundle / f"keypoints_region{k}.csv") for k in (1, 2, 3)]
    for points in regions:
        assert list(points) == ["fixedX", "fixedY", "alignmentX", "alignmentY"]
        mapped = transform_points(matrix, points[["alignmentX", "alignmentY"]].to_numpy())
        error_um = (points[["fixedX", "fixedY"]].to_numpy() - mapped) * 0.2125
        assert 0.4 < error_um.std() < 1.1  # noise of 0.5 µm on both sides
    # Distinct regions: the strips follow one another along x.
    bounds = [(r["alignmentX"].min(), r["alignmentX"].max()) for r in regions]
    assert bounds[0][1] < bounds[1][0] + 20
    assert bounds[1][1] < bounds[2][0] + 20


def test_keypoint_noise_at_scale():
    frame = morphology_frame((4000, 4000), mpp=0.25, rotation_deg=30)
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 4000, (9000, 2))
    region = np.vstack(keypoint_regions(points, frame, mpp=0.25, rng=rng, n_points=3000, noise_um=0.8))
    back = transform_points(frame.inverse, region[:, :2])
    assert np.std((back - region[:, 2:]) * 0.25) == pytest.approx(0.8 * np.sqrt(2), rel=0.03)


def test_same_seed_gives_the_same_tables(bundle, simulated, tmp_path):
    again = write_bundle(*simulated, tmp_path / "b", missed_nuclei=0.05, split_nuclei=0.05, stack_planes=3)
    for name in ("cells.parquet", "transcripts.parquet", "nucleus_boundaries.parquet"):
        assert pq.read_table(bundle / name).equals(pq.read_table(again / name))
    assert (bundle / "T1_he_image.ome.tif").stat().st_size == (again / "T1_he_image.ome.tif").stat().st_size


def test_version_2_lacks_the_later_columns(simulated, tmp_path):
    folder = write_bundle(*simulated, tmp_path / "b", version="2.0", name="other")
    columns = pq.read_schema(folder / "cells.parquet").names
    assert not {"nucleus_count", "genomic_control_counts"} & set(columns)
    assert not {"is_gene", "codeword_category"} & set(pq.read_schema(folder / "transcripts.parquet").names)
    assert (folder / "other_he_image.ome.tif").is_file()
    assert not (folder / "morphology.ome.tif").exists()


def test_refuses_what_it_cannot_write(simulated, tmp_path):
    with pytest.raises(ValueError, match=r"version '5\.1'.*'1\.0', '1\.3', '1\.9', '2\.0'"):
        write_bundle(*simulated, tmp_path / "b", version="5.1")
    with pytest.raises(ValueError, match="neither imported segmentations nor proteins"):
        write_bundle(*simulated, tmp_path / "b", version="1.3", resegmented=True)
    with pytest.raises(ValueError, match="expected uint8"):
        write_bundle(*simulated, tmp_path / "b", he_image=np.zeros((10, 10, 3), np.uint8))
    assert not (tmp_path / "b").exists()


def test_h5_has_the_layout_of_the_instrument(bundle):
    with h5py.File(bundle / "cell_feature_matrix.h5") as file:
        assert {k: v.dtype.kind for k, v in file["matrix"].items() if isinstance(v, h5py.Dataset)} == {
            "barcodes": "S",
            "data": "i",
            "indices": "i",
            "indptr": "i",
            "shape": "i",
        }
        shape = file["matrix/shape"][...]
        assert shape[0] == file["matrix/features/id"].size
        assert shape[1] == file["matrix/barcodes"].size


@settings(max_examples=25, deadline=None)
@given(
    angle=st.floats(-180, 180),
    height=st.integers(3, 60),
    width=st.integers(3, 60),
    mpp=st.floats(0.15, 0.6),
    seed=st.integers(0, 99),
)
def test_resampling_takes_the_pixel_under_each_centre(angle, height, width, mpp, seed):
    mask = np.random.default_rng(seed).integers(0, 9, (height, width)).astype(np.uint32)
    frame = morphology_frame((height, width), mpp=mpp, rotation_deg=angle, margin=(2.5, 3.0))
    (moved,) = resample_labels((mask,), frame)
    corners = np.array([[0, 0], [width, 0], [0, height], [width, height]], float)
    mapped = transform_points(frame.matrix, corners)
    assert (mapped > 2).all()
    assert (mapped < np.array(frame.shape[::-1]) - 2).all()
    for row in range(0, frame.shape[0], 5):
        for column in range(0, frame.shape[1], 5):
            x, y = transform_points(frame.inverse, np.array([[column + 0.5, row + 0.5]]))[0]
            if min(abs(x - round(x)), abs(y - round(y))) < 1e-9:
                continue  # on an edge either neighbour will do
            inside = 0 <= x < width and 0 <= y < height
            assert moved[row, column] == (mask[int(y), int(x)] if inside else 0)


@settings(max_examples=25, deadline=None)
@given(shape=st.tuples(st.integers(1, 20), st.integers(1, 20)), n=st.integers(1, 12), seed=st.integers(0, 99))
def test_pixels_by_label_lists_each_labels_pixels(shape, n, seed):
    mask = np.random.default_rng(seed).integers(0, n + 1, shape).astype(np.uint32)
    indptr, pixels = pixels_by_label(mask, n)
    for label in range(1, n + 1):
        np.testing.assert_array_equal(
            pixels[indptr[label - 1] : indptr[label]], np.flatnonzero(mask.ravel() == label)
        )


def test_outline_of_a_disc_and_of_nothing():
    y, x = np.mgrid[:80, :90]
    mask = np.where((x + 0.5 - 40) ** 2 + (y + 0.5 - 30) ** 2 < 20**2, 2, 0).astype(np.uint32)
    outline = trace_polygons(mask, 2)
    assert np.isnan(outline[0]).all()
    radius = np.hypot(outline[1, :, 0] - 40, outline[1, :, 1] - 30)
    np.testing.assert_allclose(radius, 20, atol=0.8)


def test_halving_is_the_mean_of_2_by_2():
    image = np.random.default_rng(0).integers(0, 256, (9, 12, 3)).astype(np.uint8)
    mean = image[:8].reshape(4, 2, 6, 2, 3).astype(float).mean(axis=(1, 3))
    np.testing.assert_array_equal(halve(image), np.floor(mean + 0.5))
