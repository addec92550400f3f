"""Slide stores for QuPath and Xenium Explorer: what other programs read back, and what is refused."""

import csv
import gzip
import json
import re
import uuid
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from made_slides import made_slide
from typer.testing import CliRunner

from past_core.cli import build_app
from past_core.errors import PastError
from past_core.ingest.store import SlideStore, StoreError
from past_core.ingest.write import write_store
from past_core.ingest.xenium_alignment import read_alignment
from past_core.interop import outlines
from past_core.interop.explorer import ALIGNMENT_FILE, GROUPS_FILE, write_explorer
from past_core.interop.groups import MAX_GROUPS, ExportError, cell_groups, colours, native_scale
from past_core.interop.qupath import MAX_GENES, write_qupath
from past_core.nuclei.geojson import read_geojson
from past_core.slides import open_slide

MATRIX = [[0.011, 1.29, 807.98], [-1.29, 0.011, 73097.66], [0.0, 0.0, 1.0]]
FAILED = (3, 5)


def xenium_slide(**changes):
    """60 cells with ids as the instrument spells them, clusters and types; two without counts."""
    slide = made_slide(**changes)
    ids = [f"aaaaaa{chr(97 + n // 16)}{chr(97 + n % 16)}-1" for n in range(slide.table.n_obs)]
    renamed = dict(zip(slide.table.obs_names, ids, strict=True))
    for shapes in (slide.cell_boundaries, slide.nucleus_boundaries):
        if shapes is not None:
            shapes.index = [renamed[name] for name in shapes.index]
    slide.table.obs_names = ids
    slide.table.obs["cluster"] = np.arange(len(ids)) % 12
    kinds = pd.Series(np.array(["tumour", "T cell"])[np.arange(len(ids)) % 2])
    slide.table.obs["kind"] = pd.Categorical(kinds.where(np.arange(len(ids)) != 7))
    counts = slide.table.X.tolil()
    counts[list(FAILED)] = 0
    slide.table.X = counts.tocsr()
    slide.registration = {"matrix": MATRIX}
    return slide


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> SlideStore:
    slide = xenium_slide()
    extra = slide.nucleus_boundaries.iloc[[0]].translate(20, 0)  # a cell with two nuclei
    slide.nucleus_boundaries = pd.concat(
        [slide.nucleus_boundaries, gpd.GeoDataFrame(geometry=extra, index=extra.index)]
    )
    return SlideStore(write_store(slide, tmp_path_factory.mktemp("interop") / "s.zarr"))


def past(*arguments):
    return CliRunner().invoke(build_app(), [str(argument) for argument in arguments])


def in_pixels(path: Path) -> gpd.GeoDataFrame:
    """Read as any program would; GeoJSON is taken to be on the globe unless told otherwise."""
    return gpd.read_file(path).set_crs(None, allow_override=True)


def rings(geometry):
    parts = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
    return [ring for part in parts for ring in part]


# --- QuPath -----------------------------------------------------------------


def test_features_are_cells_of_qupath(store, tmp_path):
    path = tmp_path / "cells.geojson"
    genes = [store.genes["symbol"].iloc[2], store.genes.index[4]]
    assert write_qupath(store, path, genes=genes, groups="kind") == 58
    content = json.loads(path.read_text())
    assert content["type"] == "FeatureCollection"
    counts = pd.DataFrame(store.counts.toarray(), index=store.cell_ids)
    ids = set()
    for feature in content["features"]:
        cell = feature["properties"]["name"]
        own = store.obs.loc[cell]
        ids.add(str(uuid.UUID(feature["id"])))
        assert uuid.UUID(feature["id"]).version == 5
        assert feature["type"] == "Feature"
        assert feature["properties"]["objectType"] == "cell"
        measured = feature["properties"]["measurements"]
        assert measured == {
            "Cell: Area µm^2": 9,
            "Counts": own["n_counts"],
            "Genes": own["n_genes"],
            "Gene: G2": counts.loc[cell, 2],
            "Gene: G4": counts.loc[cell, 4],
        }
        if isinstance(own["kind"], str):
            assert feature["properties"]["classification"]["name"] == own["kind"]
            assert len(feature["properties"]["classification"]["color"]) == 3
        else:
            assert "classification" not in feature["properties"]
        for geometry in (feature["geometry"], feature.get("nucleusGeometry")):
            for ring in rings(geometry) if geometry else ():
                assert len(ring) >= 4
                assert ring[0] == ring[-1]
    assert len(ids) == 58


def test_geopandas_and_shapely_read_the_same_outlines(store, tmp_path):
    path = tmp_path / "cells.geojson"
    write_qupath(store, path, every_cell=True)
    frame = in_pixels(path)
    assert len(frame) == store.n_cells
    stored = gpd.read_parquet(store.path / "shapes" / "cell_boundaries" / "shapes.parquet")
    read = frame.set_index("name").geometry.loc[stored.index]
    assert shapely.hausdorff_distance(read.to_numpy(), stored.geometry.to_numpy()).max() <= 0.0072
    nuclei = gpd.read_parquet(store.path / "shapes" / "nucleus_boundaries" / "shapes.parquet")
    merged = nuclei.groupby("cell_id").geometry.apply(lambda parts: shapely.unary_union(list(parts)))
    found = {
        feature["properties"]["name"]: shapely.from_geojson(json.dumps(feature["nucleusGeometry"]))
        for feature in json.loads(path.read_text())["features"]
        if "nucleusGeometry" in feature
    }
    assert set(found) == set(merged.index)
    for cell, geometry in merged.items():
        assert shapely.hausdorff_distance(found[cell], geometry) <= 0.0072
    assert sum(geometry.geom_type == "MultiPolygon" for geometry in found.values()) == 1


def test_our_own_reader_of_qupath_takes_it_back(store, tmp_path):
    path = tmp_path / "cells.geojson.gz"
    write_qupath(store, path)
    labels = read_geojson(path, open_slide(store.path), mpp=0.25)
    assert len(labels.names) == 58
    window = labels.window(0, 0, labels.height, labels.width)
    inside = store.centroids[store.passed].astype(int)
    assert (window[inside[:, 1], inside[:, 0]] > 0).mean() > 0.95  # a few are overdrawn by others


def test_batches_do_not_change_a_byte(store, tmp_path, monkeypatch):
    write_qupath(store, tmp_path / "a.geojson", genes=["G1"], log1p=True)
    monkeypatch.setattr(outlines, "BATCH", 7)
    write_qupath(store, tmp_path / "b.geojson", genes=["G1"], log1p=True)
    assert (tmp_path / "a.geojson").read_bytes() == (tmp_path / "b.geojson").read_bytes()
    write_qupath(store, tmp_path / "c.geojson.gz", genes=["G1"], log1p=True)
    assert gzip.decompress((tmp_path / "c.geojson.gz").read_bytes()) == (tmp_path / "a.geojson").read_bytes()
    values = store.counts[:, 1].toarray().ravel() / np.maximum(store.obs["n_counts"], 1) * 10_000
    expected = dict(zip(store.cell_ids, np.log1p(values), strict=True))
    for feature in json.loads((tmp_path / "a.geojson").read_text())["features"]:
        found = feature["properties"]["measurements"]["Gene: G1 (log1p)"]
        assert found == pytest.approx(expected[feature["properties"]["name"]], rel=1e-5)


def test_circles_stand_for_cells_without_outlines(tmp_path):
    store = SlideStore(write_store(made_slide(outlines=False), tmp_path / "s.zarr"))
    write_qupath(store, tmp_path / "c.geojson")
    frame = in_pixels(tmp_path / "c.geojson").set_index("name").geometry
    centres = pd.DataFrame(store.centroids, index=store.cell_ids).loc[frame.index].to_numpy()
    np.testing.assert_allclose(np.column_stack([frame.centroid.x, frame.centroid.y]), centres, atol=0.02)
    np.testing.assert_allclose(frame.area * store.mpp**2, 9.0, rtol=0.03)  # 24 corners of a circle


def test_a_resampled_slide_is_exported_in_pixels_of_its_file(tmp_path):
    slide = xenium_slide()
    slide.report = {"target_mpp": {"native": 0.125, "target": 0.25}}
    store = SlideStore(write_store(slide, tmp_path / "s.zarr"))
    assert native_scale(store) == 2
    write_qupath(store, tmp_path / "c.geojson")
    frame = in_pixels(tmp_path / "c.geojson").set_index("name").geometry
    centres = 2 * pd.DataFrame(store.centroids, index=store.cell_ids).loc[frame.index].to_numpy()
    np.testing.assert_allclose(np.column_stack([frame.centroid.x, frame.centroid.y]), centres, atol=0.02)
    write_explorer(store, tmp_path / "x")
    matrix = read_alignment(tmp_path / "x" / ALIGNMENT_FILE).matrix
    np.testing.assert_allclose(matrix @ [20.0, 40.0, 1], np.array(MATRIX) @ [10.0, 20.0, 1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"genes": ["NOPE"]}, "no gene 'NOPE'"),
        ({"genes": [f"g{n}" for n in range(MAX_GENES + 1)]}, f"at most {MAX_GENES}"),
        ({"groups": "nothing"}, "no column 'nothing'; it has .*cluster"),
        ({"groups": "cell_area_um2"}, "holds measurements"),
        ({"output": "cells.csv"}, "is not a file that QuPath imports"),
    ],
)
def test_what_cannot_be_exported_is_refused_before_anything_is_written(store, tmp_path, options, message):
    options = dict(options)
    output = tmp_path / options.pop("output", "c.geojson")
    if options.get("groups") == "cell_area_um2":
        store.obs.loc[store.obs.index[0], "cell_area_um2"] = 9.5
    with pytest.raises(ExportError, match=message):
        write_qupath(store, output, **options)
    store.obs["cell_area_um2"] = 9.0
    assert list(tmp_path.iterdir()) == []


def test_an_old_export_stays_until_the_new_one_is_whole(store, tmp_path, monkeypatch):
    path = tmp_path / "c.geojson"
    path.write_text("mine")
    with pytest.raises(ExportError, match="exists"):
        write_qupath(store, path)

    def broken(store):
        yield from list(outlines.cell_batches(store))[:1]
        raise StoreError("broken off")

    monkeypatch.setattr("past_core.interop.qupath.cell_batches", broken)
    with pytest.raises(StoreError, match="broken off"):
        write_qupath(store, path, overwrite=True)
    assert path.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [path]


def test_outlines_in_another_order_or_damaged_are_refused(tmp_path):
    path = write_store(xenium_slide(), tmp_path / "s.zarr")
    file = path / "shapes" / "cell_boundaries" / "shapes.parquet"
    frame = gpd.read_parquet(file)
    frame.iloc[::-1].to_parquet(file)
    with pytest.raises(StoreError, match="not in the order"):
        write_qupath(SlideStore(path), tmp_path / "c.geojson")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(StoreError, match="cannot be read"):
        write_qupath(SlideStore(path), tmp_path / "c.geojson")
    file.unlink()
    with pytest.raises(StoreError, match="is missing"):
        write_qupath(SlideStore(path), tmp_path / "c.geojson")
    assert not (tmp_path / "c.geojson").exists()


# --- Xenium Explorer --------------------------------------------------------


def table_of(folder: Path) -> dict[str, tuple[str, str]]:
    with (folder / GROUPS_FILE).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert set(rows[0]) == {"cell_id", "group", "color"}
    assert all(re.fullmatch("#[0-9A-F]{6}", row["color"]) for row in rows)
    return {row["cell_id"]: (row["group"], row["color"]) for row in rows}


def test_explorer_gets_groups_and_the_matrix(store, tmp_path):
    notes = write_explorer(store, tmp_path / "x")
    groups = table_of(tmp_path / "x")
    assert set(groups) == set(store.cell_ids)
    assert {cell for cell, (name, _) in groups.items() if name != "pass"} == set(
        store.cell_ids[~store.passed]
    )
    np.testing.assert_array_equal(read_alignment(tmp_path / "x" / ALIGNMENT_FILE).matrix, MATRIX)
    assert "60 cells in 2 groups" in notes[0]


def test_explorer_leaves_out_cells_that_fail_or_have_no_group(store, tmp_path):
    notes = write_explorer(store, tmp_path / "x", groups="kind")
    groups = table_of(tmp_path / "x")
    known = store.obs.loc[list(groups), "kind"]
    assert [name for name, _ in groups.values()] == known.astype(str).tolist()
    assert len(groups) == store.n_cells - 3
    assert "3 others stay unassigned" in notes[0]
    write_explorer(store, tmp_path / "y", groups="kind", every_cell=True)
    assert len(table_of(tmp_path / "y")) == store.n_cells - 1


def test_explorer_says_what_it_cannot_take(store, tmp_path):
    slide = xenium_slide()
    slide.registration = {"matrix": MATRIX, "correction": {"kind": "thin-plate"}}
    corrected = SlideStore(write_store(slide, tmp_path / "c.zarr"))
    assert any("rigid part" in note for note in write_explorer(corrected, tmp_path / "x"))
    slide.registration = None
    without = SlideStore(write_store(slide, tmp_path / "w.zarr"))
    assert any("no matrix" in note for note in write_explorer(without, tmp_path / "y"))
    assert [file.name for file in (tmp_path / "y").iterdir()] == [GROUPS_FILE]


def test_explorer_refuses_foreign_slides_and_folders(store, tmp_path):
    other = SlideStore(write_store(made_slide(), tmp_path / "o.zarr"))
    with pytest.raises(ExportError, match="is none of a Xenium bundle"):
        write_explorer(other, tmp_path / "x")
    cosmx = SlideStore(write_store(made_slide(assay="cosmx"), tmp_path / "p.zarr"))
    with pytest.raises(ExportError, match="slide of cosmx"):
        write_explorer(cosmx, tmp_path / "x")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.docx").write_text("years of work")
    with pytest.raises(ExportError, match="not a folder of an earlier export"):
        write_explorer(store, mine, overwrite=True)
    assert (mine / "thesis.docx").read_text() == "years of work"
    write_explorer(store, tmp_path / "x")
    with pytest.raises(ExportError, match="pass --overwrite"):
        write_explorer(store, tmp_path / "x")
    write_explorer(store, tmp_path / "x", groups="cluster", overwrite=True)
    assert [name for name, _ in table_of(tmp_path / "x").values()][:1] != ["pass"]


# --- groups and the command -------------------------------------------------


def test_clusters_are_ordered_as_numbers_and_colours_differ(store):
    groups = cell_groups(store, "cluster")
    assert groups.names == [str(number) for number in range(12)]
    np.testing.assert_array_equal(groups.codes, store.obs["cluster"])
    assert len(set(colours(60))) == 60
    store.obs["many"] = [f"name {number % (MAX_GROUPS + 1)}" for number in range(store.n_cells)]
    assert len(cell_groups(store, "many").names) == store.n_cells
    wide = pd.DataFrame({"cluster": np.arange(MAX_GROUPS + 1)})
    with pytest.raises(ExportError, match=f"{MAX_GROUPS + 1} groups"):
        cell_groups(type("Stub", (), {"obs": wide, "path": "s.zarr"})(), "cluster")


def test_command(store, tmp_path):
    result = past(
        "export",
        store.path,
        "--qupath",
        "-o",
        tmp_path / "c.geojson",
        "--genes",
        "G1, G2",
        "--groups",
        "kind",
    )
    assert result.exit_code == 0, result.output
    assert "58 cells" in result.output
    assert "2 left out" in result.output
    result = past("export", store.path, "--explorer", "-o", tmp_path / "x")
    assert result.exit_code == 0, result.output
    assert "60 cells in 2 groups" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--qupath", "--explorer"], "different files"),
        ([], "is a slide store; say what for"),
        (["--groups", "kind"], "--groups does not go without"),
        (["--explorer", "--genes", "G1"], "--genes does not go with --explorer"),
        (["--qupath", "--log1p"], "--log1p is about"),
        (["--qupath", "--genes", " , "], "--genes is"),
        (["--qupath", "--license", "mit"], "--license does not go with --qupath"),
    ],
)
def test_options_that_do_not_go_together(store, tmp_path, arguments, message):
    error = past("export", store.path, "-o", tmp_path / "c.geojson", *arguments).exception
    assert isinstance(error, PastError)
    assert message in str(error)
    assert list(tmp_path.iterdir()) == []


def test_no_store_is_named(tmp_path):
    error = past("export", tmp_path / "none.zarr", "--qupath", "-o", tmp_path / "c.geojson").exception
    assert isinstance(error, PastError)
    assert "no slide store" in str(error)
