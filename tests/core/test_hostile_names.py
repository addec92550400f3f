"""Names from tables and stores that are paths, markup or nothing: no file elsewhere, and nothing runs."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_view import view_slide

from past_core.embed.sheet import read_sheet
from past_core.foreign.names import file_name
from past_core.ingest.quality.report import write_report
from past_core.ingest.sheet import read_ingest_sheet
from past_core.ingest.store import SlideStore
from past_core.ingest.write import write_store

OUTSIDE = ["../../x", "/tmp/x", "a/../../x", "..", "../x.h5ad"]
SCRIPT = "<script>alert('x')</script>"


@pytest.mark.parametrize("name", [*OUTSIDE, "a/b", "a\\b", ".hidden", "x" * 300, "a\nb", "a:b", ""])
def test_a_slides_name_in_a_sheet_is_a_plain_name(name: str, tmp_path: Path) -> None:
    sheet, out = tmp_path / "s.csv", tmp_path / "out"
    sheet.write_text(f'slide,bundle\n"{name}",in\n')
    (row,) = read_ingest_sheet(sheet, out)
    assert row.problem is not None
    assert row.request is None
    assert row.output.parent == out


@pytest.mark.parametrize("column", ["name", "output"])
@pytest.mark.parametrize("name", OUTSIDE)
def test_embeddings_stay_in_their_folder(column: str, name: str, tmp_path: Path) -> None:
    sheet, out = tmp_path / "s.csv", tmp_path / "out"
    sheet.write_text(f'path,{column}\nin/a.svs,"{name}"\n')
    (row,) = read_sheet(sheet, out)
    assert row.problem is not None or row.output.resolve().is_relative_to(out.resolve())
    if column == "output" or "../" in name:
        assert row.problem is not None


@given(st.text(max_size=400))
def test_any_text_becomes_the_name_of_a_file(text: str) -> None:
    name = file_name(text)
    assert name
    assert Path("/out", name).parent == Path("/out")
    assert name not in (".", "..")
    assert not name.startswith(".")
    assert len(name.encode()) <= 200
    assert name.isprintable()
    assert file_name(name) == name


def test_markup_in_a_store_stays_text_in_its_report(tmp_path: Path) -> None:
    slide = view_slide()
    slide.name = SCRIPT
    slide.table.obs["qc_reason"] = SCRIPT
    path = write_store(slide, tmp_path / "s.zarr", block_size=400)
    write_report(SlideStore(path), tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
