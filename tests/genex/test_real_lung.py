"""The one real pair of Xenium and H&E: from its files to held-out predictions and their store."""

from pathlib import Path

import numpy as np
import pytest
import spatialdata
from typer.testing import CliRunner

from past_core.cli import build_app
from past_genex.data.slides import ExpressionSlide
from past_genex.data.splits import intra_patient
from past_genex.probe.files import load_probe


@pytest.fixture(scope="module")
def lung(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    source, store = shared_data / "xenium_lung_ncbi858", tmp_path_factory.mktemp("lung") / "NCBI858.zarr"
    arguments = ["ingest", "--hest", str(source / "NCBI858.h5ad"), "--he", str(source / "NCBI858.jpg")]
    arguments += ["--mpp", "2.125", "--patient", "VUILD91LF", "--cancer-type", "lung", "-o", str(store)]
    result = CliRunner().invoke(build_app(), arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return store


def test_real_counts_are_whole_and_regions_keep_their_distance(lung: Path) -> None:
    slide = ExpressionSlide(lung)
    assert slide.n_cells == 200
    assert 300 <= len(slide.genes) <= 338
    assert 150 < np.median(slide.totals) < 300
    split = intra_patient([slide], rim_um=56.0, folds=3)
    assert split.leakage().clean
    tested = sum(split.regions[0].cells(fold.test[0]).astype(int) for fold in split.folds)
    assert (tested == 1).all()


def test_a_probe_of_a_real_slide_predicts_it(lung: Path, tmp_path: Path, monkeypatch) -> None:
    """One patient and blurred pixels (2.1 µm): whatever r comes out, it is said to be of regions only."""
    monkeypatch.setenv("PAST_CACHE", str(tmp_path / "cache"))
    probe, predicted = tmp_path / "lung.safetensors", tmp_path / "predicted.zarr"
    for arguments in (
        ["probe", str(lung), "--encoder", "demo", "-o", str(probe)],
        ["predict", str(lung), "--probe", str(probe), "--encoder", "demo", "-o", str(predicted)],
    ):
        result = CliRunner().invoke(build_app(), arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
    made = load_probe(probe)
    assert "only patient" in made.trust_table.setting
    r = made.trust_table.r
    assert np.isfinite(r).mean() > 0.5
    assert abs(np.nanmean(r)) < 0.5
    table = spatialdata.read_zarr(predicted).tables["predicted"]
    assert table.shape == (200, len(made.genes))
    truth = ExpressionSlide(lung).expression(made.target, made.genes)
    # The training cells themselves: their means are met exactly, for the intercept is not penalised.
    np.testing.assert_allclose(np.asarray(table.X).mean(axis=0), truth.mean(axis=0), atol=2e-3)
