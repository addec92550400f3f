"""`past catalogue` and `past summary`: public slides as a sheet that ingest takes, sums over any stores."""

import csv
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from made_bundles import made_bundle
from made_slides import made_slide
from PIL import Image
from scipy.sparse import csr_matrix
from typer.testing import CliRunner

from past_core.cli import build_app
from past_core.ingest.catalogue import (
    COLUMNS,
    CatalogueError,
    hest_entries,
    select,
    sheet_rows,
    vendor_entries,
    write_sheet,
)
from past_core.ingest.outcome import ingest_row
from past_core.ingest.sheet import NOTES, columns, read_ingest_sheet
from past_core.ingest.store import SlideStore, StoreError, StoreNotFoundError
from past_core.ingest.summary import Group, SummaryError, find_stores, summarise, summary_text
from past_core.ingest.write import write_store
from past_core.sheets import SheetNotFoundError

HEST = """dataset_title,id,organ,disease_state,oncotree_code,species,patient,st_technology,\
download_page_link1,subseries,pixel_size_um_estimated,nb_genes,license
Breast,TENX1,Breast,Cancer,IDC,Homo sapiens,patient 2,Xenium,https://www.10xgenomics.com/datasets/x,,0.25,541,CC
Lung,NCBI2,Lung,Diseased,,Homo sapiens,Patient 23,Xenium,https://www.ncbi.nlm.nih.gov/geo,VUILD91MF,0.2125,541,
Lung,NCBI3,Lung,Diseased,,Homo sapiens,Patient 24,Xenium,https://www.ncbi.nlm.nih.gov/geo,VUILD91LF,0.2125,541,
Pup,TENX4,Whole organism,Healthy,,Mus musculus,,Xenium,,,0.27,541,CC
Spots,SPA5,Brain,Healthy,,Mus musculus,,Visium,,,0.5,30000,CC
"""


def past(*args):
    result = CliRunner(env={"COLUMNS": "200"}).invoke(build_app(), list(map(str, args)))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def metadata(tmp_path):
    (tmp_path / "HEST.csv").write_text("\ufeff" + HEST, encoding="utf-8")
    return tmp_path / "HEST.csv"


# --- catalogue ----------------------------------------------------------------------------------------------


def test_the_vendors_table_is_whole():
    entries = vendor_entries()
    assert len(entries) > 30
    assert len({entry.id for entry in entries}) == len(entries)
    for entry in entries:
        assert entry.source.startswith("https://www.10xgenomics.com/datasets/")
        assert entry.licence == "CC BY 4.0"
        assert entry.species in ("human", "mouse")
        assert entry.organ
        assert entry.patient
        assert entry.disease
        assert not entry.cancer or entry.species == "human"
    # A page's slides are told apart, and what may be one donor's stays together.
    pages = pd.DataFrame([vars(entry) for entry in entries]).groupby("source")
    for _, page in pages:
        if len(page) > 1:
            assert page["section"].is_unique
            assert (page["section"] != "").all()


def test_the_vendors_table_against_hests_metadata(shared_data):
    """Every page, species and kind of tissue is what HEST says of the slides that it took from there."""
    known = hest_entries(shared_data / "hest" / "HEST_v1_1_0.csv")
    for entry in vendor_entries():
        same = [other for other in known if other.source == entry.source]
        assert same, entry.source
        if entry.section:
            same = [other for other in same if _alike(other.section, entry.section)]
            assert len(same) == 1, (entry.id, entry.section)
        for other in same:
            assert other.species == entry.species
            assert bool(other.cancer) == bool(entry.cancer), (entry.id, other)
            assert not entry.cancer or other.cancer == entry.cancer, (entry.id, other.cancer)


def _alike(one, other):
    first, second = (text.lower().replace("-", "").replace(" and ", " + ") for text in (one, other))
    return first == second


def test_hests_xenium_entries(shared_data):
    entries = hest_entries(shared_data / "hest" / "HEST_v1_1_0.csv")
    assert len(entries) == 65
    assert len({entry.id for entry in entries}) == 65
    assert {entry.species for entry in entries} == {"human", "mouse"}
    by_id = {entry.id: entry for entry in entries}
    assert (by_id["TENX94"].cancer, by_id["TENX94"].patient) == ("breast", by_id["TENX96"].patient)
    # Sections of one donor, which HEST numbers as two patients, stay together.
    assert by_id["NCBI858"].patient == by_id["NCBI859"].patient == "VUILD91"
    # Numbers count within an organ and a study.
    assert by_id["TENX141"].patient != by_id["NCBI882"].patient
    assert by_id["TENX105"].cancer == "kidney"
    assert by_id["TENX106"].cancer == ""


def test_hests_metadata_as_entries(metadata):
    first, second, third, mouse = hest_entries(metadata)
    assert (first.organ, first.cancer, first.species, first.patient) == (
        "breast",
        "breast",
        "human",
        "TENX-breast-2",
    )
    assert (first.hest, first.mpp, first.features) == (False, None, 541)
    assert (second.hest, second.mpp, second.cancer, second.licence) == (True, 0.2125, "", "not stated")
    assert second.patient == third.patient == "VUILD91"
    assert (mouse.species, mouse.patient, mouse.hest) == ("mouse", "TENX4", True)
    assert mouse.source.endswith("MahmoodLab/hest")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,organ\nx,y\n", "no column 'dataset_title' .* HEST's metadata is HEST_v1_1_0.csv"),
        (HEST.replace("Xenium", "Visium"), "none of 5 entries is of Xenium"),
        ("\0", "binary data"),
    ],
)
def test_other_tables_than_hests(content, message, tmp_path):
    (tmp_path / "x.csv").write_text(content)
    with pytest.raises(CatalogueError, match=message):
        hest_entries(tmp_path / "x.csv")
    with pytest.raises(SheetNotFoundError):
        hest_entries(tmp_path / "none.csv")


def test_selecting():
    entries = vendor_entries()
    assert {entry.organ for entry in select(entries, organ="Breast")} == {"breast"}
    assert {entry.species for entry in select(entries, species="mouse")} == {"mouse"}
    cancers, others = select(entries, cancer="any"), select(entries, cancer="none")
    assert len(cancers) + len(others) == len(entries)
    assert all(entry.cancer for entry in cancers)
    for wanted in (
        {"organ": "toe"},
        {"cancer": "toe"},
        {"species": "rat"},
        {"organ": "heart", "cancer": "lung"},
    ):
        with pytest.raises(CatalogueError, match=r"no entry has the .*; there are"):
            select(entries, **wanted)


def test_every_column_is_one_that_ingest_knows():
    assert set(COLUMNS) <= set(columns()) | set(NOTES)
    assert list(sheet_rows(vendor_entries()[:1])[0]) == list(COLUMNS)


def test_a_sheet_that_ingest_takes_once_downloaded(tmp_path, metadata, caplog):
    """One slide of the vendor's and one of HEST's have been downloaded."""
    root = tmp_path / "data set"
    result = past("catalogue", "-o", tmp_path / "vendor.csv", "--root", "data set", "--cancer", "breast")
    assert result.exit_code == 0
    assert "6 slides of 3 patients" in result.output
    made_bundle(root, "V1")
    (root / "V1").rename(root / "10x-breast-idc-predesigned")
    rows = read_ingest_sheet(tmp_path / "vendor.csv", tmp_path / "stores")
    assert "not used" not in caplog.text
    found = {row.slide: ingest_row(row, skip_absent=True) for row in rows}
    outcome = found.pop("10x-breast-idc-predesigned")
    assert outcome.status == "done", outcome.message
    assert {outcome.status for outcome in found.values()} == {"skipped"}
    assert all("vendor.csv, line" in outcome.message for outcome in found.values())
    assert {ingest_row(row).status for row in rows} == {"skipped", "failed"}
    store = SlideStore(tmp_path / "stores" / "10x-breast-idc-predesigned.zarr")
    assert (store.patient, store.cancer_type, store.organism) == ("10x-breast-sample-1", "breast", "human")

    result = past("catalogue", "-o", root / "hest.tsv", "--hest", metadata, "--species", "mouse")
    assert "1 slides of 1 patients" in result.output
    rng = np.random.default_rng(0)
    table = AnnData(
        rng.poisson(2, (40, 4)).astype(np.float32) + 1,
        obs=pd.DataFrame(index=[f"c{number}" for number in range(40)]),
        var=pd.DataFrame(index=["Epcam", "Acta2", "Cd3e", "H2-K1"]),
        obsm={"spatial": rng.uniform(0, (300, 200), (40, 2))},
    )
    for folder in ("st", "wsis"):
        (root / folder).mkdir()
    table.write_h5ad(root / "st" / "TENX4.h5ad")
    Image.fromarray(rng.integers(100, 250, (200, 300, 3), dtype=np.uint8)).save(root / "wsis" / "TENX4.tif")
    (row,) = read_ingest_sheet(root / "hest.tsv", tmp_path / "stores")
    outcome = ingest_row(row)
    assert outcome.status == "done", outcome.message
    store = SlideStore(tmp_path / "stores" / "TENX4.zarr")
    assert (store.organism, store.mpp, store.patient) == ("mouse", 0.27, "TENX4")


def test_sheets_that_cannot_be_written(tmp_path):
    with pytest.raises(CatalogueError, match=r"ends in \.csv or \.tsv"):
        write_sheet(vendor_entries(), tmp_path / "x.xlsx")
    (tmp_path / "file").touch()
    with pytest.raises(CatalogueError, match="cannot be written"):
        write_sheet(vendor_entries(), tmp_path / "file" / "x.csv")
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


# --- summary ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Two breast slides of a patient with other genes, one of lung, one that says nothing, a mouse's."""
    folder = tmp_path_factory.mktemp("stores")
    more = made_slide(seed=1, n_cells=50)
    more.table.var.index = [f"ENSG{number:011d}" for number in range(6, 18)]
    counts = more.table.X.toarray()
    counts[0] = 0  # a cell without genes: it fails
    more.table.X = csr_matrix(counts)
    write_store(made_slide(seed=0), folder / "b1.zarr")
    write_store(more, folder / "b2.zarr")
    write_store(made_slide(seed=2, patient="P2", cancer_type="lung"), folder / "l.zarr")
    write_store(made_slide(seed=3, patient=None, cancer_type=None, name="n"), folder / "n.zarr")
    write_store(made_slide(seed=4, patient="M1", organism="mouse"), folder / "m.zarr")
    return folder


def test_the_summary_counts(stores):
    rows = {(row.organism, row.cancer): row for row in summarise(find_stores([stores]))}
    order = [("human", "breast"), ("human", "lung"), ("human", "not stated"), ("human", "all")]
    assert list(rows) == [*order, ("mouse", "breast"), ("mouse", "all")]
    breast, total = rows["human", "breast"], rows["human", "all"]
    assert (breast.slides, breast.patients, breast.cells, breast.passed) == (2, {"P1"}, 110, 109)
    assert (breast.panels, len(breast.genes)) == ({12}, 18)
    assert (total.slides, total.patients, total.cells) == (4, {"P1", "P2", "n"}, 230)
    counts = [int(SlideStore(stores / f"{name}.zarr").counts.sum()) for name in ("b1", "b2", "l", "n")]
    assert breast.transcripts == sum(counts[:2])
    assert total.transcripts == sum(counts)
    assert rows["mouse", "all"].slides == 1
    assert breast.row() == ("human", "breast", 2, 1, 109, 110, "12", 18, sum(counts[:2]))


def test_the_command(stores, tmp_path):
    result = past("summary", stores / "b1.zarr", stores / "l.zarr", "-o", tmp_path / "table.csv")
    assert result.exit_code == 0
    assert "breast" in result.output
    with (tmp_path / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["Cancer"] for row in rows] == ["breast", "lung", "all"]
    assert rows[2]["Slides"] == "2"
    assert int(rows[2]["Cells"]) == sum(int(row["Cells"]) for row in rows[:2])
    past("summary", stores, stores / "b1.zarr", "-o", tmp_path / "table.md")
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines[2].startswith("| human | breast | 2 | 1 | 109 | 110 | 12 | 18 |"), "a slide counts once"
    assert len({line.count("|") for line in lines}) == 1


def test_what_cannot_be_summed_up(stores, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SummaryError, match="no slide stores in it"):
        past("summary", tmp_path / "empty")
    with pytest.raises(SummaryError, match=r"written as \.csv or \.md, not \.xlsx"):
        past("summary", stores, "-o", tmp_path / "x.xlsx")
    with pytest.raises(StoreNotFoundError, match=r"none\.zarr"):
        past("summary", tmp_path / "none.zarr")
    shutil.copytree(stores / "b1.zarr", tmp_path / "bad.zarr")
    shutil.rmtree(tmp_path / "bad.zarr" / "images" / "he" / "s0" / "c")
    with pytest.raises(StoreError, match="damaged"):
        past("summary", tmp_path / "bad.zarr")
    assert summary_text([Group("a", "b|c", 1, {"p"}, 1, 1, {1, 2}, {"g"}, 3)], ".md").splitlines()[2] == (
        r"| a | b\|c | 1 | 1 | 1 | 1 | 1-2 | 1 | 3 |"
    )


def test_help_stays_light():
    code = """
import sys
from typer.testing import CliRunner
from past_core.cli import build_app
app, runner = build_app(), CliRunner()
for verb in ([], ["catalogue"], ["summary"], ["ingest"]):
    assert runner.invoke(app, [*verb, "--help"]).exit_code == 0, verb
heavy = {"pandas", "torch", "zarr", "dask", "distributed", "spatialdata"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
