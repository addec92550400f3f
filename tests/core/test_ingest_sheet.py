"""`past ingest SHEET.csv`: reading sheets, what is complete, failures that stop nothing else."""

import csv
import json
import os
import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_bundles import made_bundle
from typer.testing import CliRunner

from past_core.cli import build_app
from past_core.ingest.many import ingest_rows
from past_core.ingest.outcome import OUTCOMES, ingest_row, write_outcomes
from past_core.ingest.quality import parse_quality
from past_core.ingest.records import FOLDER, is_complete
from past_core.ingest.run import SOURCES, IngestError
from past_core.ingest.sheet import NOTES, columns, read_ingest_sheet
from past_core.ingest.store import SlideStore
from past_core.sheets import SheetError, SheetNotFoundError, read_table

HEADER = "slide,bundle,he,patient,cancer\n"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """A folder with the bundles a and b."""
    folder = tmp_path_factory.mktemp("bundles")
    for seed, name in enumerate("ab"):
        made_bundle(folder, name, seed=seed)
    return folder


@pytest.fixture
def data(bundles, tmp_path):
    """The bundles' own copy for a test that changes them."""
    shutil.copytree(bundles, tmp_path / "data")
    return tmp_path / "data"


def sheet(folder, text, name="sheet.csv"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def row_of(name, **cells):
    return f"{name},{name},{name}/*_he_image.ome.tif,P{name},breast\n"


def past(*args):
    result = CliRunner().invoke(build_app(), ["ingest", *map(str, args)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def outcomes(folder):
    with (folder / OUTCOMES).open(newline="", encoding="utf-8") as file:
        return {row["slide"]: row for row in csv.DictReader(file)}


# --- reading ------------------------------------------------------------------------------------------------


def test_rows_become_requests(tmp_path):
    (tmp_path / "b1").mkdir()
    for file in ("h.tif", "m.csv", "ann.csv", "c.h5ad"):
        (tmp_path / file).touch()
    text = (
        "Slide, bundle ,hest,he,alignment,mpp,patient,cancer,organism,assay,annotations,k,swap_xy,panel\r\n"
        "s 1,b1,,h.tif,m.csv,0.25,P1,breast,human,,ann.csv,5,,multi\r\n"
        "\r\n"
        f"s2.zarr,,c.h5ad,{tmp_path / 'h.tif'},,,,,mouse,merscope,,,yes,\r\n"
    )
    for content in (text.encode(), b"\xef\xbb\xbf" + text.encode()):
        rows = read_ingest_sheet(
            sheet(tmp_path, content),
            tmp_path / "out",
            options={"mpp": 0.5, "organism": None},
            common={"k": 7, "cancer_type": "lung", "name": None, "overwrite": False},
        )
        first, second = rows
        assert (first.line, second.line) == (2, 4)
        assert first.problem is None, first.problem
        assert first.request.path == tmp_path / "b1"
        assert first.request.options == {
            "he": tmp_path / "h.tif",
            "alignment": tmp_path / "m.csv",
            "mpp": 0.25,
            "organism": "human",
        }
        assert first.output == first.request.output == tmp_path / "out" / "s 1.zarr"
        assert first.request.annotations == tmp_path / "ann.csv"
        assert (first.request.name, first.request.patient, first.request.k) == ("s 1", "P1", 5)
        assert (first.request.cancer_type, second.request.cancer_type) == ("breast", "lung")
        assert second.request.source == "--hest"
        assert second.request.options == {
            "he": tmp_path / "h.tif",
            "mpp": 0.5,
            "organism": "mouse",
            "assay": "merscope",
            "swap_xy": True,
        }
        assert (second.slide, second.request.k) == ("s2", 7)


def test_every_option_of_every_source_is_a_column():
    known = columns()
    assert set().union(*SOURCES.values()) <= set(known)
    assert {"slide", "bundle", "hest", "spatialdata", "patient", "cancer", "annotations", "k"} <= set(known)
    assert not set(NOTES) & set(known)
    assert not {"output", "source", "path", "options", "overwrite"} & set(known)


def test_tabs_and_semicolons(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "h.tif").touch()
    for name, text in (
        ("s.tsv", "slide\tbundle\the\nx\tb\th.tif\n"),
        ("s.csv", "slide;bundle;he\nx;b;h.tif"),
    ):
        (row,) = read_ingest_sheet(sheet(tmp_path, text, name), tmp_path / "out")
        assert row.request.options == {"he": tmp_path / "h.tif"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty"),
        ("\n\n", "the file is empty"),
        (HEADER, "the sheet has no rows"),
        (HEADER + "\n,,,,\n", "the sheet has no rows"),
        ("path,he\na,b\n", "no column 'slide' among path, he; expected slide, one of bundle"),
        ("slide,he\na,b\n", "no column that names the slides' files among slide, he"),
        ("slide,bundle,slide\na,b,c\n", "line 1: the column 'slide' is there twice"),
        ("slide,bundle,cancer,cancer_type\na,b,c,d\n", "columns 'cancer' and 'cancer_type' are the same"),
        (HEADER + "a,a,a,a,a\n\nb,b,b,b,b\na,c,c,c,c\n", "lines 2 and 5 would both make a.zarr"),
        (HEADER + "a,a,a,a,a\na.zarr,b,b,b,b\n", "lines 2 and 3 would both make a.zarr"),
        (HEADER + "a,a,a,a,a,surplus\n", "line 2 has 6 cells and the header 5 .*'surplus'"),
        (HEADER + 'a,"open,a\nb,b,b,b,b\n', "line 2: unexpected end of data"),
        (HEADER + 'a,"two\nlines",a,a,a\nb,b,b,b,b,b\n', "line 4 has 6 cells"),
        (HEADER.encode() + b"a,caf\xe9,x,,\n", "line 2 is no text in UTF-8"),
        ("\ufeffslide".encode("utf-16"), "line 1 is no text in UTF-8"),
        (b"PK\x03\x04\0\0\0\0", "line 1 holds binary data"),
    ],
)
def test_sheets_that_cannot_be_read(content, message, tmp_path):
    path = sheet(tmp_path, content)
    with pytest.raises(SheetError, match=message) as caught:
        read_ingest_sheet(path, tmp_path / "out")
    assert str(path) in str(caught.value)


def test_a_sheet_that_is_not_there_or_too_large(tmp_path, monkeypatch):
    with pytest.raises(SheetNotFoundError, match="no such sheet"):
        read_ingest_sheet(tmp_path / "none.csv", tmp_path)
    monkeypatch.setattr("past_core.sheets.MAX_BYTES", 10)
    with pytest.raises(SheetError, match="26 bytes are no sheet"):
        read_ingest_sheet(sheet(tmp_path, "slide,bundle,he\na,b,c\nd,e,"), tmp_path)


@pytest.mark.parametrize(
    ("cells", "message", "absent"),
    [
        ("../x,b,h.tif", "the slide's name '../x' cannot be that of a store", False),
        ("/x,b,h.tif", "name '/x' cannot", False),
        ("..,b,h.tif", "name '..' cannot", False),
        (".hidden,b,h.tif", "dot in front", False),
        ("C:x,b,h.tif", "name 'C:x' cannot", False),
        (r"a\b,b,h.tif", "cannot be that of a store", False),
        ("x" * 200 + ",b,h.tif", "longer than 150 bytes", False),
        (",b,h.tif", "the column 'slide' is empty", False),
        ("a,,h.tif", "exactly one of the columns bundle, hest, spatialdata filled; found none", False),
        ("a,b,h.tif,c.h5ad", "found bundle and hest", False),
        ("a,b,", "BUNDLE needs its H&E", False),
        ("a,b,h.tif,,zero", "mpp 'zero' is not a positive number of µm per pixel", False),
        ("a,b,h.tif,,-1", "mpp '-1' is not", False),
        ("a,b,h.tif,,nan", "mpp 'nan' is not", False),
        ("a,b,h.tif,,,0", "k '0' is not a whole number from 1", False),
        ("a,b,h.tif,,,,1.5", "max_outside '1.5' is not a share from 0 to 1", False),
        ("a,b,h.tif,,,,,perhaps", "swap_xy 'perhaps' is neither yes nor no", False),
        ("a,b,h.tif,,,,,yes", "--swap-xy does not go with BUNDLE, only with --hest", False),
        ("a,gone,h.tif", "bundle: nothing at .*gone", True),
        ("a,b,gone.tif", "he: nothing at .*gone.tif", True),
        ("a,b,*.png", "he: nothing fits .*png", True),
        ("a,b,*.tif", "he: 2 files fit .*h.tif, h2.tif", False),
    ],
)
def test_a_row_that_cannot_be_says_its_line(cells, message, absent, tmp_path):
    (tmp_path / "b").mkdir()
    for file in ("h.tif", "h2.tif", "c.h5ad"):
        (tmp_path / file).touch()
    text = "slide,bundle,he,hest,mpp,k,max_outside,swap_xy\nfine,b,h.tif\n" + cells + "\n"
    fine, row = read_ingest_sheet(sheet(tmp_path, text), tmp_path / "out")
    assert fine.request is not None
    assert row.request is None
    assert row.absent == absent
    outcome = ingest_row(row)
    assert outcome.status == "failed"
    assert outcome.message.startswith("sheet.csv, line 3: ")
    assert re.search(message, outcome.message), outcome.message
    assert row.output.resolve().parent == (tmp_path / "out").resolve()
    assert ingest_row(row, skip_absent=True).status == ("skipped" if absent else "failed")
    assert not (tmp_path / "out").exists()


def test_brackets_are_part_of_names(tmp_path):
    folder = tmp_path / "set [1]"
    folder.mkdir()
    for file in ("x[2]_he.tif", "x2_he.tif"):
        (folder / file).touch()
    (folder / "b").mkdir()
    path = sheet(folder, "slide,bundle,he\na,b,x[2]_*.tif\n")
    assert read_ingest_sheet(path, tmp_path)[0].request.options["he"].name == "x[2]_he.tif"
    path = sheet(tmp_path, f"slide,bundle,he\na,{folder / 'b'},{folder / 'x2_*'}\n")
    assert read_ingest_sheet(path, tmp_path)[0].request.options["he"].name == "x2_he.tif"


def test_columns_and_options_without_use(tmp_path, caplog):
    (tmp_path / "b").mkdir()
    (tmp_path / "h.tif").touch()
    path = sheet(tmp_path, "slide,bundle,he,colour,organ,licence\na,b,h.tif,red,skin,CC\n")
    read_ingest_sheet(path, tmp_path)
    assert "columns that are not used: colour" in caplog.text
    with pytest.raises(SheetError, match="--swap-xy goes with none of the sheet's sources"):
        read_ingest_sheet(path, tmp_path, options={"swap_xy": True})


@given(
    st.lists(st.lists(st.text(st.characters(exclude_categories=["C"]), max_size=8), min_size=3, max_size=3))
)
def test_what_csv_writes_is_read_back(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("sheet") / "s.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["slide", "x", "y"], *rows])
    expected = [[cell.strip() for cell in row] for row in rows]
    expected = [row for row in expected if any(row)]
    if not expected:
        with pytest.raises(SheetError, match="no rows"):
            read_table(path)
        return
    assert [list(line.cells.values()) for line in read_table(path).lines] == expected


# --- ingesting ----------------------------------------------------------------------------------------------


def test_a_sheet_through_the_command(data, tmp_path):
    """Two good slides, one broken and one that is not there, by two processes; then again."""
    shutil.copytree(data / "a", data / "broken")
    (data / "broken" / "cells.parquet").write_bytes(b"PAR1")
    text = HEADER + row_of("a") + row_of("broken") + row_of("gone") + row_of("b")
    path, out = sheet(data, text), tmp_path / "stores"
    result = past(path, "-o", out, "--jobs", 2)
    assert result.exit_code == 1
    assert "2 done, 0 skipped, 2 failed" in result.output
    found = outcomes(out)
    assert list(found) == ["a", "broken", "gone", "b"]
    assert [found[name]["status"] for name in found] == ["done", "failed", "failed", "done"]
    assert "cells.parquet" in found["broken"]["message"]
    assert "sheet.csv, line 4: bundle: nothing at" in found["gone"]["message"]
    for name in "ab":
        store = SlideStore(out / f"{name}.zarr")
        assert (store.name, store.patient, store.cancer_type) == (name, f"P{name}", "breast")
        numbers = (store.n_cells, int(store.passed.sum()), len(store.genes))
        assert tuple(int(found[name][key]) for key in ("cells", "passed", "genes")) == numbers
    assert sorted(item.name for item in out.iterdir()) == [FOLDER, "a.zarr", "b.zarr", OUTCOMES]

    times = {name: (out / f"{name}.zarr" / "zarr.json").stat().st_mtime_ns for name in "ab"}
    shutil.rmtree(data / "broken")
    shutil.copytree(data / "b", data / "broken")
    result = past(path, "-o", out, "--missing", "skip")
    assert result.exit_code == 0
    assert "1 done, 3 skipped, 0 failed" in result.output
    assert {name: (out / f"{name}.zarr" / "zarr.json").stat().st_mtime_ns for name in "ab"} == times


@pytest.fixture(scope="module")
def made(bundles, tmp_path_factory):
    """Slide a, ingested: its folder of data, and that of its stores."""
    root = tmp_path_factory.mktemp("made")
    shutil.copytree(bundles / "a", root / "data" / "a")
    (row,) = read_ingest_sheet(sheet(root / "data", HEADER + row_of("a")), root / "stores")
    assert ingest_row(row).status == "done"
    return root


@pytest.fixture
def copied(made, tmp_path):
    """Copies of both that a test may change; times are kept."""
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy"


def only_row(root, text=None, **common):
    (row,) = read_ingest_sheet(
        sheet(root / "data", text or HEADER + row_of("a")), root / "stores", common=common
    )
    return row


def hashed(monkeypatch):
    """Which files are hashed from now on."""
    import past_core.ingest.records as records

    seen, whole = [], records.sha256
    monkeypatch.setattr(records, "sha256", lambda path: seen.append(path.name) or whole(path))
    return seen


def test_complete_slides_are_known_without_reading_them(copied, monkeypatch):
    seen = hashed(monkeypatch)
    monkeypatch.setattr("past_core.ingest.records.read_slide", lambda request: 1 / 0)
    # The data and the stores have moved together; sizes and times are what they were.
    assert ingest_row(only_row(copied)).status == "skipped"
    assert seen == []


def test_touched_sources_are_hashed_once(copied, monkeypatch):
    seen = hashed(monkeypatch)
    os.utime(copied / "data" / "a" / "cells.parquet", (1, 1))
    assert ingest_row(only_row(copied)).message == "complete"
    assert "cells.parquet" in seen
    seen.clear()
    assert ingest_row(only_row(copied)).message == "complete"
    assert seen == []


@pytest.mark.parametrize("kept", [True, False])
def test_other_sources_are_not_taken_for_complete(kept, copied):
    """With the record of the first run and without it."""
    if not kept:
        shutil.rmtree(copied / "stores" / FOLDER)
        assert ingest_row(only_row(copied)).message == "complete"
    alignment = copied / "data" / "a" / "a_he_imagealignment.csv"
    matrix = np.loadtxt(alignment, delimiter=",")
    matrix[0, 2] += 0.25
    np.savetxt(alignment, matrix, delimiter=",")
    outcome = ingest_row(only_row(copied))
    assert outcome.status == "failed"
    assert re.search(r"a.zarr exists, made from another .*alignment.* pass --overwrite", outcome.message)
    assert ingest_row(only_row(copied), overwrite=True).status == "done"
    assert ingest_row(only_row(copied)).status == "skipped"


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize(
    ("row", "common", "message"),
    [
        ("a,a,a/*_he_image.ome.tif,P9,breast\n", {}, r"another patient \(Pa, now P9\)"),
        ("a,a,a/*_he_image.ome.tif,Pa,lung\n", {}, r"another cancer_type \(breast, now lung\)"),
        ("a,a,a/*_he_image.ome.tif,Pa,breast\n", {"k": 5}, r"another k \((8|the default), now 5\)"),
        (
            "a,a,a/*_he_image.ome.tif,Pa,breast\n",
            {"quality": parse_quality(["min_counts=3"])},
            r"another (min_counts \(10, now 3\)|quality)",
        ),
    ],
)
def test_other_settings_are_not_taken_for_complete(row, common, message, kept, copied):
    if not kept:
        shutil.rmtree(copied / "stores" / FOLDER)
    before = (copied / "stores" / "a.zarr" / "zarr.json").stat().st_mtime_ns
    outcome = ingest_row(only_row(copied, HEADER + row, **common))
    assert outcome.status == "failed"
    assert re.search(message, outcome.message), outcome.message
    assert "pass --overwrite" in outcome.message
    assert (copied / "stores" / "a.zarr" / "zarr.json").stat().st_mtime_ns == before


def test_a_run_killed_before_the_record_was_written(copied):
    """The store was completed, the record still says that it was started."""
    path = copied / "stores" / FOLDER / "a.json"
    done = json.loads(path.read_text())["done"]
    path.write_text(json.dumps({"started": {**done, "before": None}}))
    assert is_complete(only_row(copied).request)
    assert set(json.loads(path.read_text())) == {"done"}
    # Here the new store had not been completed: the one that is there is the old one, of patient Pa.
    other = {**done, "settings": {**done["settings"], "patient": "P9"}, "before": done["stamp"]}
    path.write_text(json.dumps({"done": done, "started": other}))
    assert is_complete(only_row(copied).request)
    outcome = ingest_row(only_row(copied, HEADER + row_of("a").replace("Pa", "P9")))
    assert "another patient (Pa, now P9)" in outcome.message


@pytest.mark.parametrize("content", ["", "[]", '{"done": 3}', "{", '{"done": {"stamp": null}}'])
def test_a_damaged_record_is_not_trusted(content, copied):
    (copied / "stores" / FOLDER / "a.json").write_text(content)
    assert ingest_row(only_row(copied)).message == "complete"


def test_what_is_no_whole_store_is_a_failure(copied):
    shutil.rmtree(copied / "stores" / "a.zarr" / "images" / "he" / "s0" / "c")
    outcome = ingest_row(only_row(copied))
    assert outcome.status == "failed"
    assert "the store is damaged" in outcome.message
    assert "--overwrite" in outcome.message
    assert ingest_row(only_row(copied), overwrite=True).status == "done"
    shutil.rmtree(copied / "stores" / "a.zarr")
    (copied / "stores" / "a.zarr").write_text("a file")
    outcome = ingest_row(only_row(copied), overwrite=True)
    assert outcome.status == "failed"
    assert "not a slide store" in outcome.message


def test_what_nobody_foresaw_fails_its_row_only(copied, monkeypatch):
    monkeypatch.setattr("past_core.ingest.records.is_complete", lambda request: 1 / 0)
    assert "unexpected ZeroDivisionError" in ingest_row(only_row(copied)).message

    def full(request):
        raise MemoryError

    monkeypatch.setattr("past_core.ingest.records.is_complete", full)
    assert "out of memory" in ingest_row(only_row(copied)).message


def test_options_that_are_for_one_slide(data, tmp_path):
    path = sheet(data, HEADER + row_of("a"))
    out = tmp_path / "stores"
    for args, message in [
        ([path, "-o", out, "--hest", "x.h5ad"], "--hest is for a single slide"),
        ([path, "-o", out, "--name", "x"], "--name is for a single slide"),
        ([path, "-o", out, "--dask", "x:1", "--jobs", 2], "its workers set how many"),
        ([data / "a", "--he", "x", "-o", out, "--jobs", 2], "--jobs, --dask and --missing are for a sheet"),
        ([path, "-o", path], "is not a folder for stores"),
    ]:
        with pytest.raises(IngestError, match=message):
            past(*args)
    assert not out.exists()


# --- processes ----------------------------------------------------------------------------------------------


def test_a_process_that_dies_fails_its_row_only(data, tmp_path, monkeypatch):
    """Killed in the middle of a slide, as by a system that is out of memory."""
    rows = read_ingest_sheet(sheet(data, HEADER + row_of("a") + row_of("b")), tmp_path / "out")
    pids = pids_of_workers(monkeypatch)

    def progress(row, done, total):
        if row.slide == "a":
            os.kill(pids["a"], signal.SIGKILL)

    found = {outcome.slide: outcome for outcome in ingest_rows(rows, progress=progress)}
    assert found["b"].status == "done"
    assert found["a"].status == "failed"
    assert "its process died (SIGKILL)" in found["a"].message
    again = {outcome.slide: outcome.status for outcome in ingest_rows(rows)}
    assert again == {"a": "done", "b": "skipped"}
    assert sorted(item.name for item in (tmp_path / "out").iterdir()) == [FOLDER, "a.zarr", "b.zarr"]


def pids_of_workers(monkeypatch):
    """The process that works at each slide, filled in as they are started."""
    import past_core.ingest.many as many

    pids, begin = {}, many._Worker.__init__

    def noted(self, row, **options):
        begin(self, row, **options)
        pids[row.slide] = self.process.pid

    monkeypatch.setattr(many._Worker, "__init__", noted)
    return pids


def test_an_interrupted_run_cleans_up_and_goes_on(data, tmp_path, monkeypatch):
    path, out = sheet(data, HEADER + row_of("a") + row_of("b")), tmp_path / "out"
    pids = pids_of_workers(monkeypatch)

    def interrupt(self, row, done, total):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("past_core.commands.ingest_sheet._Bars.__call__", interrupt)
        result = past(path, "-o", out)
    assert result.exit_code == 130
    assert "the same command goes on from here" in result.output
    assert not Path(f"/proc/{pids['a']}").exists()
    left = {item.name for item in out.iterdir()}
    assert left <= {FOLDER, "a.zarr"}, "a temporary folder was left"
    assert past(path, "-o", out).exit_code == 0
    assert {item.name for item in out.iterdir()} == {FOLDER, "a.zarr", "b.zarr", OUTCOMES}


def test_outcomes_are_sorted_and_whole(tmp_path):
    rows = [replace(ingest_row(row), line=line) for line, row in ((5, bad("x")), (3, bad("y")))]
    write_outcomes(rows, tmp_path)
    assert list(outcomes(tmp_path)) == ["y", "x"]
    assert [item.name for item in tmp_path.iterdir()] == [OUTCOMES]


def bad(name):
    from past_core.ingest.sheet import IngestRow

    return IngestRow(2, name, Path(f"{name}.zarr"), problem="no")
