"""`past predict`: stores read back, tables of cells, interruptions, refusals."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import shapely
from PIL import Image
from typer.testing import CliRunner

from past_core.cli import build_app
from past_core.embed.vectors import embed_patches
from past_core.encoders import FrozenEncoder, load_image_encoder
from past_core.slides import open_slide
from past_genex.data.slides import ExpressionSlide
from past_genex.data.targets import Target
from past_genex.predict import PredictionError, PredictionNotFoundError, read_prediction
from past_genex.predict.cells import listed_cells
from past_genex.predict.run import predict_slide
from past_genex.predict.writing import PredictionExistsError
from past_genex.probe.files import Probe, save_probe
from past_genex.probe.trust import Trust

R = np.array([0.8, 0.1, np.nan, 0.4, 0.25, -0.1, 0.3])
"""Held-out r of the genes of the tests' probe; at a threshold of 0.2 three are flagged."""


@pytest.fixture(scope="module")
def encoder() -> FrozenEncoder:
    return load_image_encoder("demo")


@pytest.fixture(scope="module")
def probe(encoder: FrozenEncoder) -> Probe:
    """Weights at random: what is tested is that exactly these are applied."""
    rng = np.random.default_rng(0)
    n = len(R)
    patients = np.where(np.isnan(R), 0, 3)
    return Probe(
        encoder="demo",
        fingerprint=encoder.fingerprint,
        space=encoder.space,
        genes=pd.Index([f"ENSG{i:011d}" for i in range(n)]),
        symbols=[f"G{i}" for i in range(n)],
        target=Target("median"),
        weight=rng.normal(size=(encoder.dim, n)),
        bias=rng.normal(size=n),
        trust_table=Trust(r=R, low=R - 0.05, high=R + 0.05, patients=patients, setting="patients"),
        demo=True,
    )


@pytest.fixture(scope="module")
def image(tiny_slides: Sequence[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corner of a synthetic slide as a plain picture of 0.25 µm per pixel."""
    path = tmp_path_factory.mktemp("image") / "he.png"
    with open_slide(tiny_slides[0]) as slide:
        Image.fromarray(slide.read(0, 0, 0, 320, 320).transpose(1, 2, 0)).save(path)
    return path


def expected(
    path: Path, xy: np.ndarray, probe: Probe, encoder: FrozenEncoder, **options: float
) -> np.ndarray:
    with open_slide(path, **options) as slide:
        names = [str(i) for i in range(len(xy))]
        features = embed_patches(slide, xy, names, encoder, 64, lambda done: None, None)
    return features.astype(np.float64) @ probe.weight.astype(np.float64) + probe.bias


def test_a_store_through_the_command(
    tiny_slides: Sequence[Path], probe: Probe, encoder: FrozenEncoder, tmp_path: Path
) -> None:
    import spatialdata

    file, output = save_probe(probe, tmp_path / "probe.safetensors"), tmp_path / "pred.zarr"
    command = ["predict", str(tiny_slides[0]), "--probe", str(file), "-o", str(output), "--device", "cpu"]
    command += ["--min-r", "0.2"]
    result = CliRunner().invoke(build_app(), command)
    assert result.exit_code == 0, result.output
    assert "synthetic" in result.output
    assert "3 genes flagged" in result.output
    assert "was fitted on" not in result.output
    slide = ExpressionSlide(tiny_slides[0])

    made = read_prediction(output)
    ids = made.cell_ids
    assert set(slide.cell_ids) <= set(ids)
    np.testing.assert_allclose(
        made.expression[:], expected(tiny_slides[0], made.centroids, probe, encoder), rtol=1e-4, atol=1e-4
    )
    assert list(made.genes["trusted"]) == [True, False, False, True, True, False, True]
    assert made.manifest["use"] == "research use only"
    assert made.manifest["synthetic"] is True
    assert made.manifest["scale"] == Target("median").name
    assert not {"n_counts", "n_genes"} & set(made.obs)
    assert np.array_equal(np.concatenate([part for _, part in made.batches(17)]), made.expression[:])

    data = spatialdata.read_zarr(output)
    table = data.tables["predicted"]
    assert table.X.dtype == np.float32
    assert np.array_equal(np.asarray(table.X), made.expression[:])
    assert list(data.shapes["cells"].index.astype(str)) == list(ids)
    assert set(data.shapes["cells"].geom_type) <= {"Polygon", "MultiPolygon"}
    assert set(data.coordinate_systems) == {"global", "microns"}

    again = CliRunner().invoke(build_app(), command)
    assert again.exit_code != 0
    assert "--overwrite" in again.output + str(again.exception)
    save_probe(replace(probe, slides=("P1",)), file)
    seen = CliRunner().invoke(build_app(), [*command, "--overwrite", "--genes", "G3,ENSG00000000000"])
    assert seen.exit_code == 0, seen.output
    assert list(read_prediction(output).genes["symbol"]) == ["G3", "G0"]
    assert "is one of the slides that the probe was fitted on" in seen.output
    assert read_prediction(output).manifest["training_slide"] is True


def test_nuclei_of_an_image(image: Path, probe: Probe, encoder: FrozenEncoder, tmp_path: Path) -> None:
    with open_slide(image, mpp=0.25) as slide:
        made = predict_slide(slide, probe, encoder, tmp_path / "p.zarr", genes=["G1"])
    assert made.n_cells > 10
    assert made.manifest["segmenter"] == "watershed"
    wanted = expected(image, made.centroids, probe, encoder, mpp=0.25)[:, [1]]
    np.testing.assert_allclose(made.expression[:], wanted, rtol=1e-4, atol=1e-4)


def test_a_run_goes_on_where_it_stopped(
    image: Path, probe: Probe, encoder: FrozenEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "cells.csv"
    xy = np.random.default_rng(1).uniform(10, 310, (24, 2))
    pd.DataFrame({"x": xy[:, 0], "y": xy[:, 1]}).to_csv(table, index=False)
    output = tmp_path / "p.zarr"
    kept = FrozenEncoder.__call__
    seen: list[int] = []

    def fails_at_third(self: FrozenEncoder, images: np.ndarray) -> object:
        seen.append(len(images))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return kept(self, images)

    with open_slide(image, mpp=0.25) as slide:
        monkeypatch.setattr(FrozenEncoder, "__call__", fails_at_third)
        with pytest.raises(KeyboardInterrupt):
            predict_slide(slide, probe, encoder, output, centroids=table, batch_size=8)
        assert not output.exists()
        made = predict_slide(slide, probe, encoder, output, centroids=table, batch_size=8)
    assert sum(seen[3:]) == 8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cells.csv", "p.zarr"]
    wanted = expected(image, made.centroids, probe, encoder, mpp=0.25)
    np.testing.assert_allclose(made.expression[:], wanted, rtol=1e-4, atol=1e-4)


def test_nothing_is_left_of_a_write_that_fails(
    image: Path, probe: Probe, encoder: FrozenEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "cells.csv"
    table.write_text("x,y\n100,100\n")
    monkeypatch.setattr(Probe, "predict", lambda self, features: np.full((len(features), len(R)), np.nan))
    with open_slide(image, mpp=0.25) as slide, pytest.raises(PredictionError, match="not finite"):
        predict_slide(slide, probe, encoder, tmp_path / "p.zarr", centroids=table)
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".zarr")]


def test_values_of_nothing_but_zeros_are_whole_and_lost_ones_refused(
    image: Path, probe: Probe, encoder: FrozenEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, output = tmp_path / "cells.csv", tmp_path / "p.zarr"
    table.write_text("x,y\n100,100\n120,90\n")
    monkeypatch.setattr(Probe, "predict", lambda self, features: np.zeros((len(features), len(R))))
    with open_slide(image, mpp=0.25) as slide:
        predict_slide(slide, probe, encoder, output, centroids=table)
    assert np.array_equal(read_prediction(output).expression[:], np.zeros((2, len(R))))
    chunk = next(path for path in (output / "tables/predicted/X/c").rglob("*") if path.is_file())
    chunk.unlink()
    with pytest.raises(PredictionError, match=r"1 chunks of .*X are gone"):
        read_prediction(output)


def test_tables_of_cells(image: Path, tmp_path: Path) -> None:
    with open_slide(image, mpp=0.25) as slide:
        pixels, microns = tmp_path / "a.csv", tmp_path / "b.parquet"
        pixels.write_text("cell_id,x,y\n007,8,12\nb,100,50\n")
        pd.DataFrame({"x_um": [2.0, 25.0], "y_um": [3.0, 12.5]}).to_parquet(microns)
        a, b = listed_cells(slide, pixels), listed_cells(slide, microns)
        assert list(a.obs.index) == ["007", "b"]
        assert np.array_equal(a.centroids, [[8, 12], [100, 50]])
        np.testing.assert_allclose(b.centroids, a.centroids)
        squares = tmp_path / "c.geojson"
        geometry = json.loads(shapely.to_geojson(shapely.box(10, 20, 30, 60)))
        feature = {"type": "Feature", "id": "q", "geometry": geometry}
        squares.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
        c = listed_cells(slide, squares)
        assert np.array_equal(c.centroids, [[20, 40]])
        assert c.obs["area_um2"].item() == pytest.approx(20 * 40 / 16)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("x,y\n1,2\nfour,5\n", "row 2"),
        ("x,y\n1,2\n,5\n", "row 2"),
        ("x,y\n5000,2\n", "outside the image"),
        ("cell_id,x,y\na,1,2\na,3,4\n", "twice"),
        ("cell_id,x,y\na,1,2\n,3,4\n", "row 2 has no cell_id"),
        ("column,row\n1,2\n", "expected x and y"),
        ("x,y\n", "no cell"),
        ("", "not a readable table"),
    ],
)
def test_bad_tables(image: Path, tmp_path: Path, text: str, match: str) -> None:
    path = tmp_path / "cells.csv"
    path.write_text(text)
    with open_slide(image, mpp=0.25) as slide, pytest.raises(PredictionError, match=match):
        listed_cells(slide, path)


def test_refusals(image: Path, probe: Probe, encoder: FrozenEncoder, tmp_path: Path) -> None:
    from past_genex.probe.files import ProbeMismatchError

    other = replace(probe, fingerprint="0" * 64)
    with open_slide(image, mpp=0.25) as slide:
        with pytest.raises(ProbeMismatchError):
            predict_slide(slide, other, encoder, tmp_path / "p.zarr")
        with pytest.raises(PredictionError, match="zarr"):
            predict_slide(slide, probe, encoder, tmp_path / "p.h5ad")
        foreign = tmp_path / "mine.zarr"
        foreign.mkdir()
        with pytest.raises(PredictionExistsError, match="no prediction"):
            predict_slide(slide, probe, encoder, foreign, overwrite=True)
    with pytest.raises(PredictionNotFoundError):
        read_prediction(tmp_path / "nothing.zarr")
    with pytest.raises(PredictionError, match="no prediction"):
        read_prediction(foreign)
