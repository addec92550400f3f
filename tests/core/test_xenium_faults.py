"""Every fault of a Xenium bundle is refused with an error that names the file and what is wrong."""

import json
import logging
import shutil
import zipfile

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

from past_core.errors import PastError
from past_core.ingest import xenium_columns, xenium_outlines
from past_core.ingest.xenium import read_bundle
from past_core.ingest.xenium_files import BundleError, BundleNotFoundError
from past_core.synthetic.bundle import write_bundle
from past_core.synthetic.expression import simulate_expression
from past_core.synthetic.tissue import TissueConfig, simulate_tissue

HE = "T3_he_image.ome.tif"
ALIGNMENT = "T3_he_imagealignment.csv"
FILES = (
    "experiment.xenium",
    "cells.parquet",
    "cell_feature_matrix.h5",
    "cells.zarr.zip",
    "cell_boundaries.parquet",
    "nucleus_boundaries.parquet",
    HE,
    ALIGNMENT,
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    tissue = simulate_tissue(TissueConfig(patient="T3", cancer_type="ovarian", seed=5, size_um=110))
    folder = tmp_path_factory.mktemp("bundle") / "T3"
    return write_bundle(tissue, simulate_expression(tissue), folder)


@pytest.fixture
def bundle(whole, tmp_path):
    return shutil.copytree(
        whole, tmp_path / "T3", ignore=shutil.ignore_patterns("morphology*", "transcripts*")
    )


def read(bundle, **options):
    return read_bundle(bundle, bundle / HE, **options)


def refused(bundle, *words, error=BundleError, **options):
    """Reads and expects an error whose message holds all words."""
    with pytest.raises(error) as caught:
        read(bundle, **options)
    message = str(caught.value)
    for word in words:
        assert str(word) in message
    return message


def edit_json(bundle, **changes):
    path = bundle / "experiment.xenium"
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(content))


def edit_table(bundle, name, function):
    """Replaces a parquet table by what `function` makes of its DataFrame."""
    path = bundle / name
    frame = pq.read_table(path).to_pandas()
    pq.write_table(pa.Table.from_pandas(function(frame), preserve_index=False), path)


def edit_zip(bundle, function):
    """Rewrites cells.zarr.zip with the entries that `function(dict)` changes in place."""
    path = bundle / "cells.zarr.zip"
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    function(entries)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def edit_array(bundle, name, function):
    """Replaces an array of cells.zarr.zip by what `function` makes of it."""
    with zarr.storage.ZipStore(bundle / "cells.zarr.zip", mode="r") as store:
        values = function(zarr.open_group(store, mode="r")[name][...])
    memory = zarr.storage.MemoryStore()
    zarr.create_array(memory, name=name, data=values, zarr_format=2, compressors=None)

    def change(entries):
        for key in [key for key in entries if key.startswith(f"{name}/")]:
            del entries[key]
        entries.update({k: v.to_bytes() for k, v in memory._store_dict.items() if k.startswith(f"{name}/")})

    edit_zip(bundle, change)


def edit_matrix(bundle, name, function):
    """Replaces a dataset of the count matrix."""
    with h5py.File(bundle / "cell_feature_matrix.h5", "r+") as file:
        values = function(file[name][...])
        del file[name]
        file[name] = values


def write_alignment(bundle, matrix):
    np.savetxt(bundle / ALIGNMENT, matrix, delimiter=",")


def true_matrix(bundle):
    return np.array(json.loads((bundle / "truth.json").read_text())["he_to_morphology_px"])


# --- files ---------------------------------------------------------------------------------------------


def test_whole_bundle_is_read(bundle):
    assert read(bundle).table.n_obs > 50


def test_no_bundle(tmp_path):
    with pytest.raises(BundleNotFoundError, match=r"nowhere is not a folder.*experiment\.xenium"):
        read_bundle(tmp_path / "nowhere", tmp_path / HE)


OPTIONAL = ("cells.zarr.zip", "cell_boundaries.parquet", "nucleus_boundaries.parquet")


@pytest.mark.parametrize("name", [name for name in FILES if name not in OPTIONAL])
def test_missing_file(bundle, name):
    (bundle / name).unlink()
    error = FileNotFoundError if name == HE else BundleNotFoundError
    message = refused(bundle, name, error=error)
    assert "not found" in message or "no such" in message


@pytest.mark.parametrize("name", OPTIONAL)
def test_missing_file_that_one_can_do_without(bundle, name, caplog):
    expected = read(bundle)
    (bundle / name).unlink()
    with caplog.at_level(logging.WARNING):
        slide = read(bundle)
    label = {"cells.zarr.zip": "masks"}.get(name, name.removesuffix(".parquet"))
    assert len(slide.report["notes"]) == 1
    assert slide.report["notes"][0].startswith(f"{label} not found")
    assert slide.report["notes"][0] in caplog.text
    assert label not in slide.sources
    np.testing.assert_allclose(slide.table.obsm["spatial"], expected.table.obsm["spatial"], atol=1e-6)
    assert (slide.table.X != expected.table.X).nnz == 0
    pd.testing.assert_frame_equal(slide.table.obs, expected.table.obs)
    assert (slide.cell_boundaries is None) == (label == "cell_boundaries")
    assert (slide.nucleus_boundaries is None) == (label == "nucleus_boundaries")


def test_bundle_inside_the_folder_given(bundle):
    with pytest.raises(BundleNotFoundError, match=r"there is one in T3: name that folder"):
        read_bundle(bundle.parent, bundle / HE)


@pytest.mark.parametrize("name", FILES)
def test_empty_file(bundle, name):
    (bundle / name).write_bytes(b"")
    refused(bundle, name, "empty", error=PastError)


@pytest.mark.parametrize("name", FILES[:-1])
@pytest.mark.parametrize("share", [0.3, 0.97])
def test_truncated_file(bundle, name, share):
    content = (bundle / name).read_bytes()
    (bundle / name).write_bytes(content[: int(share * len(content))])
    refused(bundle, name, error=PastError)


@pytest.mark.parametrize("name", FILES[:-1])
def test_other_content(bundle, name):
    (bundle / name).write_bytes(b"this is not what it should be\n" * 100)
    refused(bundle, name, error=PastError)


def test_damaged_chunk_of_the_mask(bundle):
    with zipfile.ZipFile(bundle / "cells.zarr.zip") as archive:
        entry = archive.getinfo("masks/1/0.0")
    with (bundle / "cells.zarr.zip").open("r+b") as file:
        file.seek(entry.header_offset + entry.compress_size // 2)
        file.write(b"\xff" * 64)
    refused(bundle, "cells.zarr.zip")


@pytest.mark.parametrize("name", ["cells.parquet", "cell_boundaries.parquet"])
@pytest.mark.parametrize("column", ["cell_id", None])
def test_missing_column(bundle, name, column):
    column = column or {"cells.parquet": "x_centroid"}.get(name, "vertex_y")
    edit_table(bundle, name, lambda frame: frame.drop(columns=column))
    refused(bundle, name, f"'{column}'")


@pytest.mark.parametrize("part", ["matrix/data", "matrix/barcodes", "matrix/features/feature_type"])
def test_missing_part_of_the_matrix(bundle, part):
    with h5py.File(bundle / "cell_feature_matrix.h5", "r+") as file:
        del file[part]
    refused(bundle, "cell_feature_matrix.h5", part.rsplit("/")[-1])


@pytest.mark.parametrize(
    "part", ["masks/1", "cell_id", "polygon_sets/1/cell_index", "masks/homogeneous_transform"]
)
def test_missing_array(bundle, part):
    edit_zip(bundle, lambda entries: [entries.pop(k) for k in list(entries) if k.startswith(f"{part}/")])
    refused(bundle, "cells.zarr.zip", part)


# --- identity of the cells -----------------------------------------------------------------------------


def swap(values, i=4, j=9):
    values[[i, j]] = values[[j, i]]
    return values


def test_ids_differ_from_the_matrix(bundle):
    edit_matrix(bundle, "matrix/barcodes", swap)
    refused(bundle, "cells.parquet", "cell_feature_matrix.h5 (barcodes)", "2 of", "row 4")


def test_ids_differ_from_the_masks(bundle):
    edit_array(bundle, "cell_id", swap)
    refused(bundle, "cells.parquet", "cells.zarr.zip (cell_id)", "2 of", "row 4")


def test_fewer_cells_than_barcodes(bundle):
    edit_table(bundle, "cells.parquet", lambda frame: frame.iloc[:-3])
    refused(bundle, "cell_feature_matrix.h5", "barcodes", "table of cells")


def test_fewer_cells_than_masks(bundle):
    edit_array(bundle, "cell_id", lambda ids: ids[:-1])
    refused(bundle, "cells.zarr.zip", "'cell_id'", "expected")


def test_repeated_id(bundle):
    edit_table(bundle, "cells.parquet", lambda f: f.assign(cell_id=[f.cell_id[0], *f.cell_id[:-1]]))
    refused(bundle, "cells.parquet", "repeats", "row 1")


def test_missing_id(bundle):
    edit_table(bundle, "cells.parquet", lambda f: f.assign(cell_id=f.cell_id.mask(f.index == 7, None)))
    refused(bundle, "cells.parquet", "cell_id", "row 7")


def test_ids_as_bytes_are_read(bundle):
    expected = read(bundle).table.obs_names
    edit_table(bundle, "cells.parquet", lambda f: f.assign(cell_id=f.cell_id.str.encode("utf-8")))
    assert list(read(bundle).table.obs_names) == list(expected)


def test_no_cells(bundle):
    edit_table(bundle, "cells.parquet", lambda frame: frame.iloc[:0])
    refused(bundle, "cells.parquet", "no cells")


def test_outline_of_an_unknown_cell(bundle):
    edit_table(bundle, "nucleus_boundaries.parquet", lambda f: f.assign(cell_id=["x-1", *f.cell_id[1:]]))
    refused(bundle, "nucleus_boundaries.parquet", "'x-1'", "row 0")


def test_vertex_that_is_no_number(bundle):
    edit_table(bundle, "cell_boundaries.parquet", lambda f: f.assign(vertex_y=f.vertex_y.mask(f.index == 30)))
    refused(bundle, "cell_boundaries.parquet", "vertex_y", "row 30")


def test_outlines_in_mixed_order_are_sorted(bundle):
    expected = read(bundle).cell_boundaries
    edit_table(bundle, "cell_boundaries.parquet", lambda f: f.iloc[np.argsort(f.index % 25, kind="stable")])
    found = read(bundle).cell_boundaries
    np.testing.assert_array_equal(found.cell_id, expected.cell_id)
    np.testing.assert_array_equal(found.points, expected.points)


def test_a_few_open_outlines_are_closed_and_many_refused(bundle):
    expected = read(bundle).cell_boundaries
    last = 24, 25 * 7 + 24  # of the first cell's 25 vertices, and of the eighth's
    edit_table(bundle, "cell_boundaries.parquet", lambda f: f.drop(index=[last[1]]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(xenium_outlines, "MAX_OPEN", 0.1)  # a share of this few cells
        found = read(bundle).cell_boundaries
        np.testing.assert_array_equal(found.points, expected.points)
        np.testing.assert_array_equal(found.start, expected.start)
        edit_table(bundle, "cell_boundaries.parquet", lambda f: f.drop(index=[last[0], f.index[-1]]))
        found = read(bundle).cell_boundaries
        np.testing.assert_array_equal(found.points, expected.points)
        np.testing.assert_array_equal(found.start, expected.start)
    edit_table(bundle, "cell_boundaries.parquet", lambda f: f.groupby("cell_id", sort=False).head(20))
    refused(bundle, "cell_boundaries.parquet", "outlines are not closed, first polygon")


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_vertices_are_read_batch_by_batch_to_the_same(bundle, monkeypatch, kind):
    """Polygons that go on in the next batch; single and double precision."""
    expected = read(bundle)
    for name in ("cell_boundaries", "nucleus_boundaries"):
        path = f"{name}.parquet"
        edit_table(bundle, path, lambda f: f.astype({"vertex_x": kind, "vertex_y": kind}))
    monkeypatch.setattr(xenium_columns, "ROWS", 33)
    found = read(bundle)
    for name in ("cell_boundaries", "nucleus_boundaries"):
        one, other = getattr(found, name), getattr(expected, name)
        np.testing.assert_array_equal(one.points, other.points)
        np.testing.assert_array_equal(one.start, other.start)
        np.testing.assert_array_equal(one.cell_id, other.cell_id)
    assert (found.table.X != expected.table.X).nnz == 0
    edit_table(bundle, "cell_boundaries.parquet", lambda f: f.assign(vertex_y=f.vertex_y.mask(f.index == 40)))
    refused(bundle, "cell_boundaries.parquet", "vertex_y", "row 40")
    edit_table(
        bundle,
        "nucleus_boundaries.parquet",
        lambda f: f.assign(cell_id=[*f.cell_id[:70], "x-1", *f.cell_id[71:]]),
    )
    (bundle / "cell_boundaries.parquet").unlink()
    refused(bundle, "nucleus_boundaries.parquet", "'x-1'", "row 70")


# --- counts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.5, np.nan, -1.0, np.inf])
def test_counts_that_are_no_counts(bundle, value):
    def spoil(data):
        data = data.astype(np.float32)
        data[10] = value
        return data

    edit_matrix(bundle, "matrix/data", spoil)
    refused(bundle, "cell_feature_matrix.h5", "whole numbers", "row")


def test_whole_counts_stored_as_floats_are_read(bundle):
    expected = read(bundle).table.X
    edit_matrix(bundle, "matrix/data", lambda data: data.astype(np.float32))
    assert (expected != read(bundle).table.X).nnz == 0


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("matrix/indices", lambda v: np.where(np.arange(v.size) == 3, 10**6, v)),
        ("matrix/indices", lambda v: np.where(np.arange(v.size) == 3, -1, v)),
        ("matrix/indptr", lambda v: np.where(np.arange(v.size) == 3, v[-1], v)),
        ("matrix/indptr", lambda v: v[:-1]),
        ("matrix/data", lambda v: v[:-5]),
        ("matrix/shape", lambda v: v[::-1].copy()),
        ("matrix/features/name", lambda v: v[:-1]),
    ],
)
def test_inconsistent_matrix(bundle, part, change):
    edit_matrix(bundle, part, change)
    refused(bundle, "cell_feature_matrix.h5")


def test_matrix_that_claims_to_be_huge_is_not_allocated(bundle):
    with h5py.File(bundle / "cell_feature_matrix.h5", "r+") as file:
        for name in ("data", "indices"):
            del file[f"matrix/{name}"]
            file.create_dataset(f"matrix/{name}", shape=(10**14,), dtype="i4", chunks=(1024,))
    refused(bundle, "cell_feature_matrix.h5", "sizes do not fit")


def test_no_genes_among_the_features(bundle):
    edit_matrix(bundle, "matrix/features/feature_type", lambda v: np.full_like(v, b"Genomic Control"))
    refused(bundle, "cell_feature_matrix.h5", "Gene Expression", "Genomic Control")


def test_repeated_gene(bundle):
    edit_matrix(bundle, "matrix/features/id", lambda v: np.concatenate([v[:1], v[:1], v[2:]]))
    refused(bundle, "cell_feature_matrix.h5", "occurs twice")


# --- masks ---------------------------------------------------------------------------------------------


def test_cell_without_pixels_takes_the_tables_centroid(bundle, caplog):
    before = read(bundle)
    edit_array(bundle, "masks/1", lambda mask: np.where(mask == 6, 0, mask).astype(np.uint32))
    with caplog.at_level(logging.WARNING):
        after = read(bundle)
    assert after.report["cells_without_mask"] == 1
    assert "no pixel in the mask" in caplog.text
    np.testing.assert_allclose(after.table.obsm["spatial"], before.table.obsm["spatial"], atol=1e-3)


def test_cell_without_pixels_and_centroid(bundle):
    edit_array(bundle, "masks/1", lambda mask: np.where(mask == 6, 0, mask).astype(np.uint32))
    edit_table(bundle, "cells.parquet", lambda f: f.assign(x_centroid=f.x_centroid.mask(f.index == 5)))
    refused(bundle, "row 5", "x_centroid")


def test_masks_of_another_segmentation(bundle):
    edit_array(bundle, "masks/1", lambda mask: np.roll(mask, 60, axis=1))
    refused(bundle, "cells.zarr.zip", "cells.parquet", "different places", "same segmentation", max_outside=1)


def test_masks_that_lie_a_little_off_warn(bundle, caplog):
    edit_array(bundle, "masks/1", lambda mask: np.roll(mask, 12, axis=1))
    with caplog.at_level(logging.WARNING):
        slide = read(bundle, max_outside=1)
    assert slide.report["cells_mask_table_disagree"] > 0.9 * slide.table.n_obs
    assert "from the table's centroids" in caplog.text


def test_axes_of_the_table_are_swapped(bundle):
    edit_table(
        bundle,
        "cells.parquet",
        lambda f: f.rename(columns={"x_centroid": "y_centroid", "y_centroid": "x_centroid"}),
    )
    refused(bundle, "cells.parquet", "cells.zarr.zip", "x and y are swapped")


def test_axes_of_the_mask_are_swapped(bundle):
    edit_array(bundle, "masks/1", lambda mask: np.ascontiguousarray(mask.T))
    refused(bundle, "cells.zarr.zip", "x and y are swapped", max_outside=1)


@pytest.mark.parametrize("name", ["cell_boundaries.parquet", "nucleus_boundaries.parquet"])
def test_axes_of_outlines_are_swapped(bundle, name):
    edit_table(bundle, name, lambda f: f.rename(columns={"vertex_x": "vertex_y", "vertex_y": "vertex_x"}))
    refused(bundle, name, "x and y are swapped", "leave it out")


def test_mask_that_lacks_a_part_of_some_cells(bundle):
    def thin(mask):
        return np.where((mask % 5 == 0) & (np.arange(mask.shape[1]) % 4 == 0), 0, mask).astype(np.uint32)

    edit_array(bundle, "masks/1", thin)
    refused(bundle, "cells.parquet", "cells.zarr.zip", "different areas")


@pytest.mark.parametrize("value", [-1.0, 0.5, 1e300, np.inf])
def test_impossible_number_of_nuclei(bundle, value):
    edit_table(
        bundle,
        "cells.parquet",
        lambda f: f.assign(nucleus_count=f.nucleus_count.astype(float).where(f.index != 3, value)),
    )
    refused(bundle, "cells.parquet", "nucleus_count", "row 3")


def test_areas_of_other_cells(bundle):
    edit_table(bundle, "cells.parquet", lambda f: f.assign(cell_area=np.roll(f.cell_area, 1)))
    refused(bundle, "cells.parquet", "cells.zarr.zip", "different areas")


def test_areas_that_are_computed_in_another_way(bundle):
    """As those of polygons, which are a few per cent smaller than the masks."""
    expected = read(bundle)
    smaller = np.random.default_rng(0).uniform(0.93, 0.99, expected.table.n_obs)
    edit_table(bundle, "cells.parquet", lambda f: f.assign(cell_area=f.cell_area * smaller))
    np.testing.assert_array_equal(read(bundle).table.obsm["spatial"], expected.table.obsm["spatial"])


def test_areas_of_the_nuclei_in_place_of_the_cells(bundle):
    edit_table(bundle, "cells.parquet", lambda f: f.assign(cell_area=f.nucleus_area))
    refused(bundle, "cell_area", "cells.parquet")


def test_counts_of_another_tissue_under_the_same_ids(bundle):
    edit_matrix(bundle, "matrix/indices", lambda v: v)  # the helper alone changes nothing
    assert read(bundle).report["cells_counts_disagree"] == 0
    edit_matrix(bundle, "matrix/data", lambda v: v[::-1].copy())
    refused(bundle, "cell_feature_matrix.h5", "cells.parquet", "transcript_counts")


def test_entry_that_occurs_twice(bundle):
    def repeat(indices):
        indices[1] = indices[0]
        return indices

    edit_matrix(bundle, "matrix/indices", repeat)
    refused(bundle, "cell_feature_matrix.h5", "stored twice")


def test_label_without_owner(bundle):
    edit_array(bundle, "masks/1", lambda mask: np.where(mask == 6, 10**6, mask).astype(np.uint32))
    refused(bundle, "masks/1", "label 1000000")


def test_empty_mask(bundle):
    edit_array(bundle, "masks/1", np.zeros_like)
    refused(bundle, "masks/1", "empty")


def test_owner_that_is_no_row(bundle):
    edit_array(bundle, "polygon_sets/1/cell_index", lambda v: v + np.uint32(1))
    refused(bundle, "polygon_sets/1/cell_index")


def test_mask_scale_that_contradicts_the_manifest(bundle):
    edit_json(bundle, pixel_size=0.23)
    refused(bundle, "homogeneous_transform", "0.23")


def test_mask_with_pickles_is_refused_unread(bundle):
    def spoil(entries):
        described = json.loads(entries["masks/1/.zarray"])
        entries["masks/1/.zarray"] = json.dumps(
            described | {"filters": [{"id": "pickle"}], "dtype": "|O"}
        ).encode()

    edit_zip(bundle, spoil)
    refused(bundle, "masks/1", "pickle")


def test_mask_in_one_enormous_chunk_is_refused_unread(bundle):
    def spoil(entries):
        described = json.loads(entries["masks/1/.zarray"])
        entries["masks/1/.zarray"] = json.dumps(described | {"chunks": [10**6, 10**6]}).encode()

    edit_zip(bundle, spoil)
    refused(bundle, "masks/1", "chunks")


# --- version and manifest ------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["R&D", "xenium-9.0.1.0", ""])
def test_unknown_version_is_read_by_its_layout(bundle, version, caplog):
    edit_json(bundle, analysis_sw_version=version)
    with caplog.at_level(logging.WARNING):
        assert read(bundle).table.n_obs > 0
    assert "layout" in caplog.text


def test_layout_counts_more_than_the_version(bundle, caplog):
    edit_json(bundle, analysis_sw_version="xenium-1.7.6.0")
    with caplog.at_level(logging.WARNING):
        assert read(bundle).table.n_obs > 0
    assert "does not have this layout" in caplog.text


def test_no_known_layout(bundle):
    edit_zip(bundle, lambda entries: [entries.pop(k) for k in list(entries) if k.startswith("polygon_sets/")])
    refused(bundle, "cells.zarr.zip", "neither polygon_sets", "nor seg_mask_value", "no known layout")


def test_version_of_xenium_ranger_wins(bundle):
    edit_json(bundle, analysis_sw_version="xenium-1.6.0.7", xenium_ranger={"version": "xenium-3.0.1.1"})
    assert read(bundle).report["xenium_version"] == "xenium-3.0.1.1"


@pytest.mark.parametrize("value", [None, 0, -1, "0.2125", True])
def test_impossible_pixel_size(bundle, value):
    edit_json(bundle, pixel_size=value)
    refused(bundle, "experiment.xenium", "pixel_size")


def test_organism(bundle):
    edit_json(bundle, panel_organism="Mouse")
    assert read(bundle).organism == "mouse"
    edit_json(bundle, panel_organism="Axolotl")
    refused(bundle, "panel_organism", "Axolotl", "human, mouse")
    assert read(bundle, organism="human").organism == "human"


# --- alignment and image -------------------------------------------------------------------------------


def test_alignment_that_puts_cells_outside(bundle):
    matrix = true_matrix(bundle)
    matrix[:2, 2] += 10_000
    write_alignment(bundle, matrix)
    n = read(bundle, max_outside=1).table.n_obs
    refused(bundle, f"{n} of {n} cells lie outside", HE, ALIGNMENT)


def test_few_cells_outside_are_counted(bundle):
    matrix = true_matrix(bundle)
    x = np.sort(read(bundle).table.obsm["spatial"][:, 0])
    matrix[:2, 2] += matrix[:2, 0] * (x[1] + x[0]) / 2  # moves the leftmost cell past the edge
    write_alignment(bundle, matrix)
    slide = read(bundle, max_outside=0.02)
    assert slide.report["cells_outside_image"] == 1


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("1,0,0\n0,1,0\n", "expected a 3x3 matrix"),
        ("1,0\n0,1\n0,0\n", "expected a 3x3 matrix"),
        ("1,0,0\n0,1,zero\n0,0,1\n", "row 1, column 2 is 'zero'"),
        ("1,0,0\n0,nan,0\n0,0,1\n", "not finite"),
        ("1,2,0\n2,4,0\n0,0,1\n", "singular"),
        ("0,0,0\n0,0,0\n0,0,1\n", "singular"),
        ("1,0,0\n0,1,0\n0.1,0,1\n", "last row"),
        ("\n", "expected a 3x3 matrix"),
    ],
)
def test_bad_matrix(bundle, text, word):
    (bundle / ALIGNMENT).write_text(text)
    refused(bundle, ALIGNMENT, word)


def test_keypoints_instead_of_a_matrix(bundle):
    refused(bundle, "keypoints", "matrix.csv", alignment=bundle / "keypoints_region1.csv")


def test_alignment_can_be_given(bundle, tmp_path):
    (bundle / ALIGNMENT).rename(tmp_path / "matrix.csv")
    refused(bundle, "--alignment", error=BundleNotFoundError)
    assert read(bundle, alignment=tmp_path / "matrix.csv").table.n_obs > 0


def test_matrix_with_a_byte_order_mark_is_read(bundle):
    path = bundle / ALIGNMENT
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert read(bundle).table.n_obs > 0


def test_alignment_of_a_smaller_copy_of_the_image(bundle):
    write_alignment(bundle, true_matrix(bundle) @ np.diag([4, 4, 1]))
    refused(bundle, "µm per pixel", ALIGNMENT, "another size")


def test_resolutions_that_differ_a_little_warn_and_follow_the_alignment(bundle, caplog):
    with caplog.at_level(logging.WARNING):
        slide = read(bundle, mpp=0.26)
    assert "apart" in caplog.text
    assert slide.mpp == pytest.approx(0.25)


def test_image_without_a_resolution_takes_the_alignments(bundle):
    import tifffile

    image = tifffile.imread(bundle / HE)
    tifffile.imwrite(bundle / "plain.tif", image, photometric="rgb")
    slide = read_bundle(bundle, bundle / "plain.tif", alignment=bundle / ALIGNMENT)
    assert slide.mpp == pytest.approx(0.25)


@pytest.mark.parametrize("axes", ["CYX", "RGBA", "1YXS"])
def test_other_axes_of_the_image(bundle, axes):
    import tifffile

    image = tifffile.imread(bundle / HE)
    path = bundle / "other.ome.tif"
    if axes == "CYX":
        tifffile.imwrite(
            path, np.moveaxis(image, -1, 0), photometric="minisblack", ome=True, metadata={"axes": "CYX"}
        )
    elif axes == "RGBA":
        opaque = np.full_like(image[..., :1], 255)
        tifffile.imwrite(
            path, np.concatenate([image, opaque], -1), photometric="rgb", extrasamples=["unassalpha"]
        )
    else:
        tifffile.imwrite(path, image[None], photometric="rgb", ome=True, metadata={"axes": "ZYXS"})
    slide = read_bundle(bundle, path, alignment=bundle / ALIGNMENT)
    height, width = image.shape[:2]
    np.testing.assert_array_equal(slide.image.read(0, 0, 0, height, width), np.moveaxis(image, -1, 0))
