"""Reference annotations: a table joined on cell ids, into `obs` of the store."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from made_slides import made_slide
from PIL import Image
from typer.testing import CliRunner

from past_core.cli import build_app
from past_core.ingest.annotations import (
    UNANNOTATED,
    AnnotationError,
    AnnotationNotFoundError,
    add_annotations,
)
from past_core.ingest.store import SlideStore
from past_core.ingest.write import write_store


def table_of(data, *, drop: int = 0) -> pd.DataFrame:
    """Annotations of a made slide in another order, lacking the last ones."""
    ids = data.table.obs_names[::-1][drop:]
    kinds = [("tumour", "stroma")[int(name.split("-")[1]) % 2] for name in ids]
    return pd.DataFrame({"cell_id": ids, "kind": kinds, "cluster": np.arange(len(ids)) % 3 + 1})


def write(table: pd.DataFrame, path: Path) -> Path:
    if path.suffix == ".parquet":
        table.to_parquet(path, index=False)
    else:
        table.to_csv(path, sep="\t" if ".tsv" in path.name else ",", index=False)
    return path


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.csv.gz", "a.parquet"])
def test_annotations_are_joined_on_the_id_and_kept_by_the_store(tmp_path: Path, name: str) -> None:
    data = made_slide()
    file = write(table_of(data, drop=7), tmp_path / name)
    left = set(data.table.obs_names[::-1][:7])
    store = SlideStore(write_store(add_annotations(data, file), tmp_path / "s.zarr"))
    for cell, kind, cluster in zip(store.cell_ids, store.obs["kind"], store.obs["cluster"], strict=True):
        number = int(cell.split("-")[1])
        assert kind == (UNANNOTATED if cell in left else ("tumour", "stroma")[number % 2])
        assert cluster in ({UNANNOTATED} if cell in left else {"1", "2", "3"})
    assert isinstance(store.obs["kind"].dtype, pd.CategoricalDtype)
    report = store.manifest["report"]["annotations"]
    assert (report["matched"], report["unknown_ids"]) == (53, 0)
    assert report["columns"]["cluster"] == {"categories": 3, "unannotated": 7}
    assert len(store.manifest["sources"][name]) == 64


@pytest.mark.parametrize("header", ["Barcode", "barcode", "anything"])
def test_ids_are_found_by_name_or_in_the_first_column(tmp_path: Path, header: str) -> None:
    data = made_slide()
    table = table_of(data)[["cell_id", "kind"]].rename(columns={"cell_id": header})
    if header != "anything":
        table = table[["kind", header]]
    add_annotations(data, write(table, tmp_path / "a.csv"))
    assert UNANNOTATED not in data.table.obs["kind"].cat.categories


def test_ids_in_the_index_of_a_parquet_file(tmp_path: Path) -> None:
    data = made_slide()
    table_of(data).set_index("cell_id").rename_axis(None).to_parquet(tmp_path / "a.parquet")
    add_annotations(data, tmp_path / "a.parquet")
    assert (data.table.obs["kind"] != UNANNOTATED).all()


def test_empty_values_fractions_and_unknown_ids(tmp_path: Path, caplog) -> None:
    data = made_slide()
    table = table_of(data)
    table.loc[3, ["kind", "cluster"]] = None  # the whole numbers are then written as 1.0, 2.0
    table["score"] = 0.5
    table.loc[len(table)] = ["cell-elsewhere", "tumour", 1, 0.5]
    file = write(table, tmp_path / "a.csv")
    add_annotations(data, file)
    assert "score" not in data.table.obs
    assert "score" in caplog.text
    assert set(data.table.obs["cluster"]) == {"1", "2", "3", UNANNOTATED}
    assert data.table.obs.loc[table.loc[3, "cell_id"], "kind"] == UNANNOTATED
    report = data.report["annotations"]
    assert report["unknown_ids"] == 1
    assert report["columns"]["kind"]["unannotated"] == 1
    assert "1 of 61 ids are no cell" in caplog.text


def test_chosen_columns(tmp_path: Path) -> None:
    data = made_slide()
    file = write(table_of(data), tmp_path / "a.csv")
    add_annotations(data, file, columns=["kind"])
    assert "cluster" not in data.table.obs
    with pytest.raises(AnnotationError, match="no column 'type'; it has kind, cluster"):
        add_annotations(made_slide(), file, columns=["type"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.assign(cell_id=[f"{i}-1" for i in range(len(t))]),
            r"none of its 60 ids .*'0-1'.*'cell-",
        ),
        (lambda t: pd.concat([t, t.iloc[:1]]), "more than once in column 'cell_id'"),
        (lambda t: t[["cell_id"]], "one or more annotations"),
        (lambda t: t.iloc[:0], "0 rows"),
        (lambda t: t.rename(columns={"kind": "qc_pass"}), "'qc_pass' of its own"),
        (lambda t: t.rename(columns={"kind": "cell_area_um2"}), "'cell_area_um2' of its own"),
        (lambda t: t[["cell_id"]].assign(score=0.5), "holds no annotation"),
    ],
)
def test_tables_that_do_not_fit_are_refused(tmp_path: Path, change, message: str) -> None:
    data = made_slide()
    before = data.table.obs.copy()
    file = write(change(table_of(data)), tmp_path / "a.csv")
    with pytest.raises(AnnotationError, match=message):
        add_annotations(data, file)
    pd.testing.assert_frame_equal(data.table.obs, before)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(AnnotationNotFoundError, match="no annotations at"):
        add_annotations(made_slide(), tmp_path / "none.csv")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(AnnotationError, match=r"cannot be read as \.parquet"):
        add_annotations(made_slide(), tmp_path / "a.parquet")
    (tmp_path / "a.xlsx").write_bytes(b"")
    with pytest.raises(AnnotationError, match=r"not \.xlsx"):
        add_annotations(made_slide(), tmp_path / "a.xlsx")


def test_the_command_takes_annotations_and_says_what_it_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cells = AnnData(
        rng.poisson(2, (40, 4)).astype(np.float32) + 1,
        obs=pd.DataFrame(index=[f"c{number}" for number in range(40)]),
        var=pd.DataFrame(index=["EPCAM", "ACTA2", "CD3E", "HLA-A"]),
        obsm={"spatial": rng.uniform(0, (300, 200), (40, 2))},
    )
    cells.write_h5ad(tmp_path / "cells.h5ad")
    pixels = rng.integers(100, 250, (200, 300, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "he.png")
    kinds = pd.DataFrame({"cell_id": [f"c{number}" for number in range(38)], "cell_type": "tumour"})
    source = ["--hest", tmp_path / "cells.h5ad", "--he", tmp_path / "he.png", "--mpp", 0.5]
    out = tmp_path / "s.zarr"

    def run(file: Path):
        command = ["ingest", *source, "-o", out, "--annotations", file]
        return CliRunner().invoke(build_app(), list(map(str, command)))

    result = run(tmp_path / "none.csv")
    assert isinstance(result.exception, AnnotationNotFoundError)
    assert not out.exists()
    result = run(write(kinds, tmp_path / "types.csv"))
    assert result.exit_code == 0, result.output
    assert "Annotations of 38 of 40 cells: cell_type (1 kinds, 2 cells without)" in result.output
    assert (SlideStore(out).obs["cell_type"] == "tumour").sum() == 38
    info = CliRunner().invoke(build_app(), ["info", str(out), "--json"])
    assert json.loads(info.stdout)["report"]["annotations"]["matched"] == 38


def test_the_embedded_default_knows_its_cell_types(tiny_slides) -> None:
    for path in tiny_slides:
        kinds = SlideStore(path).obs["cell_type"]
        assert kinds.nunique() > 3
        assert (kinds == UNANNOTATED).mean() == 0
