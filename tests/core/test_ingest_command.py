"""`past ingest` and `past info`, through the real command."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from made_slides import made_slide
from PIL import Image

from past_core.ingest.store import SlideStore
from past_core.ingest.write import write_store


@pytest.fixture
def hest(tmp_path):
    """An AnnData of mouse cells and its image."""
    rng = np.random.default_rng(0)
    table = AnnData(
        rng.poisson(2, (40, 4)).astype(np.float32) + 1,
        obs=pd.DataFrame(index=[f"c{number}" for number in range(40)]),
        var=pd.DataFrame(index=["Epcam", "Acta2", "Cd3e", "H2-K1"]),
        obsm={"spatial": rng.uniform(0, (300, 200), (40, 2))},
    )
    table.X[3] = 0
    table.write_h5ad(tmp_path / "cells.h5ad")
    pixels = rng.integers(100, 250, (200, 300, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "he.png")
    return tmp_path / "cells.h5ad", tmp_path / "he.png"


def test_ingest_and_info(past, hest, tmp_path):
    h5ad, he = hest
    out = tmp_path / "new" / "slide [1].zarr"
    options = ["--mpp", 0.5, "--patient", "M1", "--cancer-type", "lung", "--k", 4]
    status, stdout, stderr = past("ingest", "--hest", h5ad, "--he", he, "-o", out, *options)
    assert status == 0, stderr
    store = SlideStore(out)
    assert (store.name, store.patient, store.cancer_type) == ("slide [1]", "M1", "lung")
    assert (store.organism, store.n_cells, store.passed.sum()) == ("mouse", 40, 39)
    assert store.neighbors.shape == (40, 4)
    assert list(store.genes.index[:2]) == ["ENSG00000119888", "ENSG00000107796"]
    assert store.genes["source_id"].str.startswith("ENSMUSG").all()
    assert "40, of which 39 pass QC (fail: 1 no_genes)" in stdout
    assert "3 of 4 mouse genes have a one-to-one human ortholog; 1 keep their mouse id" in stdout
    assert f"--data.slides '[{out}]'" in stdout

    status, stdout, _ = past("info", out)
    assert status == 0
    assert "slide [1]" in stdout
    assert "300 x 200 px at 0.5 µm/px" in stdout
    status, stdout, _ = past("info", out, "--json")
    assert status == 0
    description = json.loads(stdout)
    assert description["cells"] == 40
    assert description["reasons"] == {"no_genes": 1}
    assert description["image"]["mpp"] == 0.5
    assert description["report"]["orthologs"]["unmapped"] == 1
    assert len(description["sources"]["he.png"]) == 64


def test_overwrite(past, hest, tmp_path):
    h5ad, he = hest
    out = tmp_path / "s.zarr"
    command = ["ingest", "--hest", h5ad, "--he", he, "--mpp", 0.5, "-o", out]
    assert past(*command)[0] == 0
    status, _, stderr = past(*command)
    assert status == 1
    assert "exists; pass --overwrite" in stderr
    assert "Traceback" not in stderr
    assert past(*command, "--overwrite", "--name", "again")[0] == 0
    assert SlideStore(out).name == "again"


def test_sources_and_options_that_do_not_go_together(past, hest, tmp_path):
    h5ad, he = hest
    out = tmp_path / "s.zarr"
    for args, message in [
        ([], "exactly one source of BUNDLE, --hest, --spatialdata; found none"),
        (["bundle", "--hest", h5ad], "found BUNDLE, --hest"),
        (["--hest", h5ad], "--hest needs its H&E: give --he IMAGE"),
        (["bundle"], "BUNDLE needs its H&E"),
        (["--hest", h5ad, "--he", he, "--alignment", "a.csv"], "--alignment does not go with --hest"),
        (["--spatialdata", "x.zarr", "--he", he], "--he does not go with --spatialdata"),
        (["bundle", "--he", he, "--no-swap-xy"], "--swap-xy does not go with BUNDLE, only with --hest"),
    ]:
        status, _, stderr = past("ingest", *args, "-o", out)
        assert status == 1
        assert message in " ".join(stderr.split())
    assert not out.exists()


def test_missing_inputs(past, hest, tmp_path):
    h5ad, he = hest
    out = tmp_path / "s.zarr"
    for args, message in [
        (["--hest", tmp_path / "no.h5ad", "--he", he], "no AnnData file at"),
        (["--hest", h5ad, "--he", tmp_path / "no.png"], "no such slide"),
        (["--spatialdata", tmp_path / "no.zarr"], "no SpatialData store at"),
        ([tmp_path / "no-bundle", "--he", he], "no-bundle"),
        (["--hest", h5ad, "--he", he], "give --mpp"),
        (["--hest", h5ad, "--he", he, "--mpp", 0.5, "--assay", "x"], "assay 'x' is not known"),
        (["--hest", h5ad, "--he", he, "--mpp", 0.5, "--organism", "rat"], "organism 'rat' is not known"),
    ]:
        status, _, stderr = past("ingest", *args, "-o", out)
        assert status == 1, stderr
        assert message in " ".join(stderr.split())
    assert not out.exists()


def test_counts_that_are_not_raw(past, hest, tmp_path):
    import anndata

    h5ad, he = hest
    table = anndata.read_h5ad(h5ad)
    table.X = np.log1p(table.X)
    table.write_h5ad(tmp_path / "log.h5ad")
    out = tmp_path / "s.zarr"
    status, _, stderr = past("ingest", "--hest", tmp_path / "log.h5ad", "--he", he, "--mpp", 0.5, "-o", out)
    assert status == 1
    assert "raw counts are needed" in " ".join(stderr.split())
    assert [item.name for item in tmp_path.iterdir() if "s.zarr" in item.name] == []


def test_spatialdata_source(past, tmp_path):
    first = write_store(made_slide(), tmp_path / "first.zarr")
    out = tmp_path / "second.zarr"
    status, _, stderr = past("ingest", "--spatialdata", first, "--assay", "merscope", "-o", out)
    assert status == 0, stderr
    store = SlideStore(out)
    assert (store.assay, store.n_cells, store.name) == ("merfish", 60, "second")


def test_info_of_something_else(past, tmp_path):
    (tmp_path / "a.txt").write_text("x")
    for path, message in [
        (tmp_path / "none", "nothing at"),
        (tmp_path / "a.txt", "not an image that PAST knows"),
        (tmp_path, "not a slide store"),
    ]:
        status, _, stderr = past("info", path)
        assert status == 1
        assert message in " ".join(stderr.split())


def test_info_of_a_slide_without_cells(past, tmp_path):
    from PIL import Image

    Image.new("RGB", (300, 200)).save(tmp_path / "a.png")
    status, stdout, stderr = past("info", tmp_path / "a.png", "--json")
    assert status == 0, stderr
    found = json.loads(stdout)
    assert (found["kind"], found["width"], found["height"], found["mpp"]) == ("slide", 300, 200, None)
    assert "not stated" in past("info", tmp_path / "a.png")[1]
    status, _, stderr = past("info", tmp_path / "a.png", "--overlay", tmp_path / "b.png")
    assert status == 1
    assert "has no cells" in stderr


def test_installed_command_prints_one_message(tmp_path):
    """The console script itself: exit status 1, one line, no traceback."""
    script = f"import sys; sys.argv = ['past', 'info', {str(tmp_path / 'no.zarr')!r}]; "
    script += "from past_core.cli import past_main; past_main()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: nothing at")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
