"""`past cluster` on a synthetic slide with planted annotations and predictions."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import zarr
from typer.testing import CliRunner, Result

from past_core.cli import build_app
from past_genex.clusters import leiden
from past_genex.data.slides import ExpressionSlide
from past_genex.data.targets import Target


def annotate(store: Path, labels: np.ndarray) -> None:
    """Writes obs["type"] into a store's table."""
    folder = zarr.open_group(store / "tables" / "cells", mode="r+")
    obs = ad.io.read_elem(folder["obs"])
    obs["type"] = pd.Categorical(labels)
    ad.io.write_elem(folder, "obs", obs)
    zarr.consolidate_metadata(store)


@pytest.fixture(scope="module")
def case(tiny_slides: Sequence[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with measured.zarr (annotated) and predicted.zarr (measured, shrunk, with noise)."""
    folder = tmp_path_factory.mktemp("cluster")
    shutil.copytree(tiny_slides[0], folder / "measured.zarr")
    slide = ExpressionSlide(folder / "measured.zarr")
    truth = slide.expression(Target())
    labels = np.full(slide.store.n_cells, "", dtype=object)
    labels[slide.rows] = [f"type {c}" for c in leiden(truth, clusters=3).labels]
    labels[slide.rows[:8]] = "scarce"
    annotate(folder / "measured.zarr", labels)
    noise = np.random.default_rng(0).normal(0, 0.1, truth.shape)
    table = ad.AnnData(
        (0.6 * truth + noise).astype(np.float32)[::-1].copy(),
        obs=pd.DataFrame(index=slide.cell_ids[::-1].astype(str)),
        var=pd.DataFrame({"r": np.linspace(0, 0.9, len(slide.genes))}, index=slide.genes.astype(str)),
        obsm={"spatial": slide.centroids[::-1].copy()},
        uns={"past": {"slide": slide.name, "normalisation": "median"}},
    )
    with ad.settings.override(zarr_write_format=3):  # as `past predict` writes it
        table.write_zarr(folder / "predicted.zarr" / "tables" / "predicted")
    return folder


def run(case: Path, *options: object, measured: str = "measured.zarr") -> Result:
    return CliRunner().invoke(build_app(), ["cluster", str(case / measured), *map(str, options)])


def test_tables_scores_and_pictures(case: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("--predicted", case / "predicted.zarr", "--labels", "type", "--clusters", 3, "-o", out)
    result = run(case, *options)
    assert result.exit_code == 0, result.output
    assert "scarce (rare)" in result.output
    assert "Best matches" in result.output
    cells = pd.read_csv(out / "clusters.csv")
    slide = ExpressionSlide(case / "measured.zarr")
    assert list(cells["cell_id"].astype(str)) == list(slide.cell_ids)
    assert list(cells.columns) == [
        "cell_id", "measured_cluster", "predicted_cluster", "label", "transferred_label",
    ]  # fmt: skip
    scores = json.loads((out / "scores.json").read_text())
    assert scores["adjusted_rand_index"]["measured clusters, predicted clusters"] > 0.5
    assert scores["labels"]["predicted clusters"]["rare_types"] == ["scarce"]
    assert scores["target"] == Target().name
    assert scores["versions"]["scanpy"]
    pairs = pd.read_csv(out / "correspondence.csv")
    assert len(pairs) == 9
    assert (pairs["genes"] <= 10).all()
    assert set(pd.read_csv(out / "markers.csv")["side"]) == {"measured", "predicted"}
    assert {"clusters.png", "correspondence.png", "types.png"} <= {path.name for path in out.iterdir()}
    # Again: the same, in place of what was there.
    first = (out / "clusters.csv").read_bytes()
    (out / "stale.txt").touch()
    assert run(case, *options).exit_code == 0
    assert (out / "clusters.csv").read_bytes() == first
    assert not (out / "stale.txt").exists()


def test_measured_only(case: Path, tmp_path: Path) -> None:
    result = run(case, "-o", tmp_path / "out", "--resolution", 1.5)
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "out" / "correspondence.csv").exists()
    assert "predicted_cluster" not in pd.read_csv(tmp_path / "out" / "clusters.csv")


def test_reliable_genes(case: Path, tmp_path: Path) -> None:
    result = run(
        case, "-o", tmp_path / "out", "--predicted", case / "predicted.zarr", "--genes", "reliable",
        "--min-r", 0.45,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    slide = ExpressionSlide(case / "measured.zarr")
    reliable = int((np.linspace(0, 0.9, len(slide.genes)) >= 0.45).sum())
    assert json.loads((tmp_path / "out" / "scores.json").read_text())["settings"]["genes"] == reliable


def test_a_prediction_of_past_predict(case: Path, tmp_path: Path) -> None:
    store = tmp_path / "predicted.zarr"
    shutil.copytree(case / "predicted.zarr", store)
    root = zarr.open_group(store, mode="a", zarr_format=3)
    root.attrs["past"] = {"kind": "prediction", "format": 1, "scale": Target("10k").name, "mpp": 0.25}
    result = run(case, "-o", tmp_path / "out", "--predicted", store, "--labels", "type")
    assert result.exit_code == 0, result.output + repr(result.exception)
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert scores["target"] == Target("10k").name, "the measured cells are brought to the prediction's scale"
    assert scores["adjusted_rand_index"]["measured clusters, predicted clusters"] > 0.3


def spoilt(case: Path, path: Path, **change: object) -> Path:
    table = ad.read_zarr(case / "predicted.zarr" / "tables" / "predicted")
    if "genes" in change:
        table.var_names = [f"other{i}" for i in range(table.n_vars)]
    if "cells" in change:
        table = table[: change["cells"]].copy()
    if "shift" in change:
        table.obsm["spatial"] = table.obsm["spatial"] + change["shift"]
    if "slide" in change:
        table.uns["past"]["slide"] = change["slide"]
    if "constant" in change:
        table.X = np.ones_like(table.X)
    table.write_h5ad(path)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"genes": True}, "share no gene"),
        ({"cells": 50}, "has predictions for 50 of the"),
        ({"shift": 40.0}, "lie elsewhere"),
        ({"slide": "another"}, "is a prediction of slide 'another'"),
        ({"constant": True}, "are the same in every cell"),
    ],
)
def test_bad_predictions(case: Path, tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = spoilt(case, tmp_path / "bad.h5ad", **change)
    result = run(case, "--predicted", path, "-o", tmp_path / "out")
    assert result.exit_code != 0
    assert message in " ".join((result.output + str(result.exception)).split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--labels", "nothing"), "obs has no column 'nothing'"),
        (("--genes", "reliable"), "known from a prediction only"),
        (("--predicted", "absent.zarr"), "no such prediction"),
        (("--retrieval", "demo"), "belong together"),
    ],
)
def test_bad_options(case: Path, tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    result = run(case, *options, "-o", tmp_path / "out")
    assert result.exit_code != 0
    assert message in " ".join((result.output + str(result.exception)).split())


def test_a_folder_of_other_things_is_kept(case: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    result = run(case, "-o", tmp_path)
    assert result.exit_code != 0
    assert (tmp_path / "mine.txt").exists()


def test_retrieval_through_the_joint_space(
    case: Path, tiny_slides: Sequence[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PAST_CACHE", str(tmp_path / "cache"))
    bank = tmp_path / "bank.zarr"
    shutil.copytree(tiny_slides[1], bank)
    slide = ExpressionSlide(bank)
    labels = np.full(slide.store.n_cells, "", dtype=object)
    labels[slide.rows] = np.where(np.arange(slide.n_cells) % 2, "type 0", "type 1")
    annotate(bank, labels)
    out = tmp_path / "out"
    options = ("--labels", "type", "--retrieval", "demo", "-o", out)
    result = run(case, *options, "--reference", bank)
    assert result.exit_code == 0, result.output + repr(result.exception)
    assert set(pd.read_csv(out / "clusters.csv")["retrieved_label"]) <= {"type 0", "type 1"}
    assert "retrieval" in json.loads((out / "scores.json").read_text())["labels"]
    same = run(case, *options, "--reference", case / "measured.zarr")
    assert "is of the same patient" in " ".join((same.output + str(same.exception)).split())
