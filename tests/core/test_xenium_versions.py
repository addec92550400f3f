"""One tissue, written as every version and variant of a bundle, is read as one and the same slide."""

import json
import logging
import shutil
import warnings

import numpy as np
import pandas as pd
import pytest
import spatialdata as sd
import spatialdata_io
from made_xenium import HE, same_slide, small_tissue

from past_core.ingest.store import SlideStore
from past_core.ingest.write import write_store
from past_core.ingest.xenium import read_bundle
from past_core.ingest.xenium_layout import find_files
from past_core.ingest.xenium_masks import open_cells
from past_core.ingest.xenium_outlines import read_outlines
from past_core.ingest.xenium_tables import read_cells
from past_core.synthetic.bundle import write_bundle
from past_core.synthetic.xenium_versions.extras import add_proteins, zarr_matrix
from past_core.synthetic.xenium_versions.layouts import LAYOUTS
from past_core.synthetic.xenium_versions.panels import PRIME_CONTROLS, with_custom_genes

ONE_NUCLEUS = {"missed_nuclei": 0.0, "split_nuclei": 0.0}
MANY_NUCLEI = {"missed_nuclei": 0.1, "split_nuclei": 0.2}


@pytest.fixture(scope="module")
def simulated():
    return small_tissue()


@pytest.fixture(scope="module")
def written(simulated, tmp_path_factory):
    """Writes a bundle once for each set of options."""
    root, made = tmp_path_factory.mktemp("versions"), {}

    def write(version, **options):
        key = (version, *sorted(options.items()))
        if key not in made:
            made[key] = write_bundle(*simulated, root / str(len(made)), version=version, **options)
        return made[key]

    return write


def read(bundle, **options):
    return read_bundle(bundle, bundle / HE, **options)


def spatialdata(bundle, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return spatialdata_io.xenium(bundle, transcripts=False, aligned_images=False, **options)


# --- every version -------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [False, True], ids=["binary", "text"])
@pytest.mark.parametrize("version", sorted(LAYOUTS))
def test_every_version_gives_the_same_slide(written, version, text):
    expected = read(written("3.0", **ONE_NUCLEUS))
    bundle = written(version, text_tables=text, **ONE_NUCLEUS)
    found = read(bundle)
    if version == "1.0":  # ids are numbers there; the cells are the same in the same order
        assert list(found.table.obs_names) == [str(n) for n in range(1, found.table.n_obs + 1)]
    same_slide(found, expected, ids=version != "1.0", methods=LAYOUTS[version].masks == "polygon_sets")
    assert found.report["xenium_version"] == LAYOUTS[version].software
    assert found.report["notes"] == []
    assert bundle.joinpath("cells.parquet").exists() != text


@pytest.mark.parametrize("version", ["1.0", "1.9", "4.0"])
def test_the_matrix_of_the_explorer_gives_the_same_slide(written, version, tmp_path):
    """The zip of zarr alone; where another form is there too, that is read."""
    options = ONE_NUCLEUS if version < "2" else {"proteins": 3}
    whole = written(version, **options)
    expected = read(whole)
    bundle = shutil.copytree(whole, tmp_path / "b")
    zarr_matrix(bundle, only=False)
    assert read(bundle).report["matrix"] == "cell_feature_matrix.h5"
    zarr_matrix(bundle)
    assert not list(bundle.glob("cell_feature_matrix*.h5"))
    found = read(bundle)
    assert found.report["matrix"] == found.sources["matrix"].name == "cell_feature_matrix.zarr.zip"
    same_slide(found, expected)
    assert {**found.report, "matrix": None} == {**expected.report, "matrix": None}
    if "protein" in expected.table.obsm:
        pd.testing.assert_frame_equal(found.table.obsm["protein"], expected.table.obsm["protein"])


@pytest.mark.parametrize("version", ["2.0", "3.0", "4.0"])
@pytest.mark.parametrize("resegmented", [False, True])
def test_multinucleate_cells_are_the_same_in_every_version_that_has_them(written, version, resegmented):
    expected = read(written("3.0", **MANY_NUCLEI))
    found = read(written(version, resegmented=resegmented, **MANY_NUCLEI))
    same_slide(found, expected, methods=not resegmented)
    count = found.table.obs["nucleus_count"]
    assert {0, 1, 2} <= set(count)
    nuclei = found.nucleus_boundaries.to_geodataframe()
    owner = nuclei["cell_id"].value_counts().reindex(found.table.obs_names, fill_value=0)
    np.testing.assert_array_equal(owner, count)
    assert nuclei.is_valid.all()


@pytest.mark.parametrize("version", sorted(LAYOUTS))
def test_spatialdata_io_reads_the_same(written, version):
    bundle = written(version, **ONE_NUCLEUS)
    slide, reference = read(bundle), spatialdata(bundle)
    table = reference["table"]
    np.testing.assert_array_equal(slide.table.obs_names, table.obs["cell_id"].astype(str))
    np.testing.assert_array_equal(slide.table.var_names, table.var["gene_ids"])
    np.testing.assert_array_equal(slide.table.X.toarray(), table.X.toarray())
    np.testing.assert_allclose(slide.table.obs["cell_area_um2"], table.obs["cell_area"])
    matrix = np.array(slide.registration["matrix"])
    morphology = slide.table.obsm["spatial"] @ matrix[:2, :2].T + matrix[:2, 2]
    labels = sd.get_centroids(reference["cell_labels"], coordinate_system="global").compute()
    np.testing.assert_allclose(morphology, labels[["x", "y"]].to_numpy(), atol=1e-6)
    np.testing.assert_allclose(morphology * 0.2125, table.obsm["spatial"], atol=1e-6)
    theirs = reference["cell_boundaries"]
    outlines = slide.cell_boundaries.to_geodataframe()
    ours = outlines.geometry.affine_transform([*matrix[0, :2], *matrix[1, :2], *matrix[:2, 2]])
    np.testing.assert_array_equal(outlines["cell_id"], theirs.index.astype(str))
    for left, right in zip(ours, theirs.geometry, strict=True):
        np.testing.assert_allclose(left.exterior.coords, np.array(right.exterior.coords) / 0.2125, atol=1e-4)
    assert "morphology_focus" in reference.images
    assert ("morphology_mip" in reference.images) == (version < "2")


def test_layouts_are_told_apart_by_content(written, caplog):
    for version, layout in LAYOUTS.items():
        bundle = written(version, **ONE_NUCLEUS)
        with open_cells(bundle / "cells.zarr.zip") as archive:
            assert archive.layout == layout.masks
        kind = read_cells(bundle / "cells.parquet").attrs["integer_ids"]
        assert kind == (layout.ids == "integers")


@pytest.mark.parametrize("version", sorted(LAYOUTS))
def test_bundles_of_an_unnamed_version_are_read_by_their_layout(written, version, tmp_path, caplog):
    bundle = copy(written(version, **ONE_NUCLEUS), tmp_path)
    expected = read(bundle)
    change_manifest(bundle, analysis_sw_version="R&D", xenium_ranger=None)
    with caplog.at_level(logging.WARNING):
        found = read(bundle)
    same_slide(found, expected)
    assert "'R&D' is not known; reads it by its layout" in caplog.text


# --- ids -----------------------------------------------------------------------------------------------


def test_whole_number_ids_are_spelt_as_the_matrix_spells_them(written, tmp_path):
    import h5py

    from past_core.ingest.xenium_masks import cell_id_strings

    bundle = copy(written("1.0", **ONE_NUCLEUS), tmp_path)
    expected = read(bundle)
    n = expected.table.n_obs
    spelt = cell_id_strings(np.column_stack([np.arange(1, n + 1), np.ones(n, dtype=int)]))
    with h5py.File(bundle / "cell_feature_matrix.h5", "r+") as file:
        del file["matrix/barcodes"]
        file["matrix"]["barcodes"] = spelt.astype("S")
    found = read(bundle)
    assert list(found.table.obs_names) == list(spelt)
    assert found.table.obs_names[0] == "aaaaaaab-1"
    same_slide(found, expected, ids=False)


# --- what bundles meet on their way --------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1.0", "1.9", "3.0", "4.0"])
def test_files_of_macos_are_never_looked_at(written, version):
    bundle = written(version, appledouble=True, **ONE_NUCLEUS)
    assert (bundle / "._cells.parquet").is_file()
    assert (bundle / ".DS_Store").is_file()
    same_slide(read(bundle), read(written(version, **ONE_NUCLEUS)))
    assert not [path for path in find_files(bundle).present().values() if path.name.startswith("._")]


def test_the_rangers_version_wins(written):
    bundle = written("2.0", resegmented=True, **MANY_NUCLEI)
    assert json.loads((bundle / "experiment.xenium").read_text())["analysis_sw_version"] == "xenium-2.0.0.12"
    slide = read(bundle)
    assert slide.report["xenium_version"] == "xenium-3.1.0.5"
    assert set(slide.table.obs["segmentation_method"]) == {"Imported segmentation"}


def test_import_that_left_no_outlines(written, tmp_path):
    bundle = copy(written("3.0", resegmented=True, **MANY_NUCLEI), tmp_path)
    expected = read(bundle)
    for name in ("cell_boundaries", "nucleus_boundaries"):
        (bundle / f"{name}.parquet").unlink()
    slide = read(bundle)
    assert slide.cell_boundaries is slide.nucleus_boundaries is None
    assert len(slide.report["notes"]) == 2
    pd.testing.assert_frame_equal(slide.table.obs, expected.table.obs)
    store = SlideStore(write_store(slide, tmp_path / "a.zarr"))
    assert store.manifest["report"]["notes"] == slide.report["notes"]
    assert store.passed.all()


def test_nuclei_of_no_cell_are_left_out_and_counted(written, tmp_path):
    import pyarrow.parquet as pq

    from past_core.synthetic.bundle_tables import write_parquet
    from past_core.synthetic.xenium_versions.arrays import read_archive, write_archive

    bundle = copy(written("3.0", **MANY_NUCLEI), tmp_path)
    before = read(bundle)
    path = bundle / "nucleus_boundaries.parquet"
    frame = pq.read_table(path).to_pandas()
    lost = frame["label_id"].isin([3, 8])
    frame.loc[lost, "cell_id"] = "UNASSIGNED"
    write_parquet(path, {name: frame[name].to_numpy() for name in frame})
    archive = read_archive(bundle / "cells.zarr.zip")
    archive.arrays["polygon_sets/0/cell_index"][[2, 7]] = 2**32 - 1
    write_archive(bundle / "cells.zarr.zip", archive)
    after = read(bundle)
    assert after.report["nuclei_without_cell"] == 2
    assert len(after.nucleus_boundaries) == len(before.nucleus_boundaries) - 2


# --- panels --------------------------------------------------------------------------------------------


def test_prime_panel(written):
    plain, prime = (read(written("3.0", prime=prime, **ONE_NUCLEUS)) for prime in (False, True))
    assert (plain.table.X != prime.table.X).nnz == 0
    for kind, (_, number, _) in PRIME_CONTROLS.items():
        assert prime.report["features_dropped"][kind] == number
        assert prime.report["counts_dropped"][kind] > 0
    more = sum(prime.report["counts_dropped"][kind] for kind in PRIME_CONTROLS)
    difference = prime.table.obs["control_counts"].sum() - plain.table.obs["control_counts"].sum()
    assert difference == more
    assert sum(prime.report["counts_dropped"].values()) == prime.table.obs["control_counts"].sum()


def test_custom_genes_keep_their_ids(simulated, tmp_path, caplog):
    tissue, expression = simulated
    custom = with_custom_genes(expression, ("GFP", "HPV16_E6", "chr7:55191822_T"))
    bundle = write_bundle(tissue, custom, tmp_path / "custom")
    with caplog.at_level(logging.WARNING):
        slide = read(bundle)
    assert list(slide.table.var_names[-3:]) == ["GFP", "HPV16_E6", "chr7:55191822_T"]
    assert list(slide.table.var["symbol"][-3:]) == ["GFP", "HPV16_E6", "chr7:55191822_T"]
    assert slide.report["custom_genes"] == 3
    assert "3 of 300 genes have no Ensembl id" in caplog.text
    n = slide.table.n_vars
    np.testing.assert_array_equal(slide.table.X.toarray(), expression.counts[:, :n].toarray())
    store = SlideStore(write_store(slide, tmp_path / "custom.zarr"))
    assert set(slide.table.var_names[-3:]) <= set(store.genes.index)


def test_mouse_panel(simulated, written, tmp_path):
    bundle = copy(written("3.0", **ONE_NUCLEUS), tmp_path)
    change_manifest(
        bundle, panel_organism="Mouse", panel_name="Mouse multi-tissue", panel_tissue_type="Multi"
    )
    slide = read(bundle)
    assert (slide.organism, slide.report["panel"]) == ("mouse", "Mouse multi-tissue")


# --- proteins ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["3.0", "4.0"])
def test_proteins_stand_apart(simulated, written, tmp_path, version):
    plain = read(written(version, **ONE_NUCLEUS))
    bundle = copy(written(version, **ONE_NUCLEUS), tmp_path)
    truth = add_proteins(bundle, seed=1, number=7)
    slide = read(bundle)
    same_slide(slide, plain)
    found = slide.table.obsm["protein"]
    assert isinstance(found, pd.DataFrame)
    assert list(found) == list(truth)
    assert list(found.index) == list(slide.table.obs_names)
    np.testing.assert_allclose(found, truth, rtol=1e-6)
    assert slide.report["proteins"] == 7
    assert not set(found) & set(slide.table.var_names)
    assert "Protein Expression" not in slide.report["features_dropped"]
    theirs = spatialdata_proteins(bundle)
    np.testing.assert_allclose(found, theirs[:, list(found)].X.toarray(), rtol=1e-6)


def test_proteins_of_the_store(written, tmp_path):
    import spatialdata

    bundle = copy(written("4.0", **MANY_NUCLEI), tmp_path)
    truth = add_proteins(bundle, seed=2, number=5)
    path = write_store(read(bundle), tmp_path / "p.zarr")
    store = SlideStore(path)
    assert store.n_cells == len(truth)
    table = spatialdata.read_zarr(path)["cells"]
    found = table.obsm["protein"]
    np.testing.assert_allclose(found.loc[truth.index].to_numpy(), truth.to_numpy(), rtol=1e-6)
    assert list(found) == list(truth)


def spatialdata_proteins(bundle):
    table = spatialdata(bundle, gex_only=False, morphology_focus=False)["table"]
    return table[:, table.var["feature_types"] == "Protein Expression"]


# --- outlines without labels ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cell", "nucleus"])
def test_rings_of_one_cell_are_told_apart_by_where_they_close(written, tmp_path, kind):
    """Early builds of 2.0 write no label_id."""
    bundle = copy(written("2.0", **MANY_NUCLEI), tmp_path)
    expected = read(bundle)
    import pyarrow.parquet as pq

    path = bundle / f"{kind}_boundaries.parquet"
    frame = pq.read_table(path).to_pandas().drop(columns="label_id")
    ids = pd.read_parquet(bundle / "cells.parquet")["cell_id"]
    frame["row"] = pd.Index(ids).get_indexer(frame["cell_id"])
    frame.sort_values("row", kind="stable").drop(columns="row").to_parquet(path, index=False)
    assert len(read_outlines(path, pd.Index(ids)).points) == len(frame)
    same_slide(read(bundle), expected)


def change_manifest(bundle, **changes):
    path = bundle / "experiment.xenium"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def copy(bundle, folder):
    import shutil

    return shutil.copytree(bundle, folder / "copy", ignore=shutil.ignore_patterns("transcripts*"))
