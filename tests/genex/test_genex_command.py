"""`past genex` and `past probe` through the command."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from past_core.cli import build_app
from past_core.encoders import load_image_encoder
from past_genex.commands.inputs import InputError
from past_genex.data.slides import ExpressionSlide


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PAST_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def past(*arguments: object) -> str:
    result = CliRunner().invoke(build_app(), [str(a) for a in arguments])
    if result.exception is not None:
        raise result.exception
    return result.output


@pytest.fixture(scope="module")
def few_genes(tiny_slides: Sequence[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("genes") / "genes.txt"
    path.write_text("\n".join(ExpressionSlide(tiny_slides[0]).genes[:40]))
    return path


def test_genex_writes_its_results(tiny_slides: Sequence[Path], few_genes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    systems = "ridge:demo,ridge:uni,untrained:demo,mean,neighbours"
    text = past(
        "genex", *tiny_slides, "-o", out, "--systems", systems, "--settings", "patients,inter", "--maps", 3,
        "--genes", few_genes, "--ceiling", 4, "--resamples", 20,
    )  # fmt: skip
    content = json.loads((out / "results.json").read_text())
    assert set(content["settings"]) == {"patients"}
    notes = " ".join(content["notes"])
    assert "no cancer type has two patients" in notes
    assert "MahmoodLab/UNI" in notes
    assert "training cells on the test slide" in notes
    rows = {row["system"]: row for row in content["settings"]["patients"]["subsets"]["all"]["systems"]}
    assert rows["ridge:demo"]["r"] > rows["untrained:demo"]["r"]
    table = pd.read_csv(out / "genes-patients.csv", index_col="gene")
    assert len(table) == 40
    assert 1 <= table["noise_ceiling"].notna().sum() <= 4
    ceiling = content["settings"]["patients"]["subsets"]["all"]["noise_ceiling"]
    assert table["noise_ceiling"].mean() == pytest.approx(ceiling, abs=1e-4)
    assert "noise ceiling" in text
    assert np.nanmean(table["r ridge:demo"]) == pytest.approx(rows["ridge:demo"]["r"], abs=1e-3)
    assert {"r-patients.png", "maps-patients.png", "slides-patients.csv"} <= {p.name for p in out.iterdir()}
    assert "results.json" in text
    with pytest.raises(InputError, match="--overwrite"):
        past("genex", *tiny_slides, "-o", out)


def test_genex_repeats_hests_protocol(tiny_slides: Sequence[Path], tmp_path: Path) -> None:
    past("genex", *tiny_slides, "-o", tmp_path / "hest", "--protocol", "hest", "--encoders", "demo,uni")
    content = json.loads((tmp_path / "hest" / "results.json").read_text())
    (row,) = content["encoders"]
    assert row["encoder"] == "demo"
    assert len(content["genes"]) == 50
    assert row["r"] == pytest.approx(np.mean(list(row["per_fold"].values())))
    assert any("MahmoodLab/UNI" in note for note in content["notes"])


def test_probe_predicts_and_says_how_far_to_trust_it(tiny_slides: Sequence[Path], tmp_path: Path) -> None:
    from past_genex.data.features import slide_features
    from past_genex.probe.files import load_probe

    path = tmp_path / "probe.safetensors"
    text = past("probe", *tiny_slides, "-o", path)
    probe = load_probe(path)
    encoder = load_image_encoder("demo")
    probe.check(encoder)
    assert probe.demo
    assert probe.patients == ("P1", "P2", "P3")
    assert "each patient in turn" in probe.trust_table.setting
    assert "research use only" in text
    slide = ExpressionSlide(tiny_slides[0])
    predicted = probe.predict(slide_features(slide, encoder))
    truth = slide.expression(probe.target, probe.genes)
    assert predicted.shape == truth.shape
    trust = probe.trust_table
    known = ~np.isnan(trust.r) & ~np.isnan(trust.low)
    assert (trust.low[known] <= trust.r[known] + 0.05).all()
    assert np.nanmedian(trust.r) > 0.1


def test_what_cannot_be_used_is_refused_before_any_work(tiny_slides: Sequence[Path], tmp_path: Path) -> None:
    genes = tmp_path / "genes.txt"
    genes.write_text("NOT-A-GENE\n")
    with pytest.raises(InputError, match="NOT-A-GENE"):
        past("probe", *tiny_slides, "-o", tmp_path / "p.safetensors", "--genes", genes)
    with pytest.raises(InputError, match=r"\.safetensors"):
        past("probe", *tiny_slides, "-o", tmp_path / "p.pt")
    with pytest.raises(InputError, match="given twice"):
        past("genex", tiny_slides[0], tiny_slides[0], "-o", tmp_path / "o")
    with pytest.raises(InputError, match="protocol"):
        past("genex", *tiny_slides, "-o", tmp_path / "o", "--protocol", "other")
    with pytest.raises(InputError, match="number of genes, or all"):
        past("genex", *tiny_slides, "-o", tmp_path / "o", "--ceiling", "some")
    assert not (tmp_path / "o").exists()
