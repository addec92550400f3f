"""Integrated gradients: exact where the answer is known, complete where it is not."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import typer
from made_survival_model import DIM, GROUPS, Made, cohort, exported, loaded, made
from typer.testing import CliRunner

from past_core.errors import PastError
from past_surv.commands.attribution import attribution
from past_surv.data.bags import BagFolder
from past_surv.evaluation.gene_attribution import AttributionError, attribute_cohort
from past_surv.figures.attribution import attribution_bars
from past_surv.figures.curves import FigureError
from past_surv.models.attribution import attribute_genes, integrated_gradients
from past_surv.models.inputs import ModelInputError, gene_inputs


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(tmp_path_factory.mktemp("made") / "all")


def run(*arguments: object) -> tuple[str, str]:
    app = typer.Typer()
    app.command()(attribution)
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout, result.stderr


def test_a_linear_risk_is_its_terms() -> None:
    weight = torch.tensor([1.0, -2.0, 0.5])
    x, x0 = torch.tensor([2.0, 1.0, -4.0]), torch.tensor([1.0, 0.0, 0.0])
    found = integrated_gradients(lambda g: g[0] @ weight, [x], [x0], steps=2)
    np.testing.assert_allclose(found.parts[0], weight * (x - x0), rtol=1e-6)
    assert (found.risk, found.baseline) == (-2.0, 1.0)
    assert found.steps == 2


def test_a_product_is_shared_and_a_polynomial_exact() -> None:
    # Of x·y each has half; three points of Gauss-Legendre are exact to the fifth power.
    inputs = [torch.tensor([3.0], dtype=torch.float64), torch.tensor([4.0], dtype=torch.float64)]
    found = integrated_gradients(lambda g: g[0][:, 0] * g[1][:, 0], inputs, steps=2)
    assert [float(v[0]) for v in found.parts] == pytest.approx([6, 6])
    found = integrated_gradients(lambda g: g[0][:, 0] ** 6 + g[1][:, 0], inputs, steps=3)
    assert [float(v[0]) for v in found.parts] == pytest.approx([729, 4])
    assert found.gap == pytest.approx(0, abs=1e-9)


def test_points_are_doubled_until_the_sum_fits() -> None:
    x = [torch.tensor([1.0], dtype=torch.float64)]

    def steep(g: list[torch.Tensor]) -> torch.Tensor:
        return torch.sigmoid(200 * (g[0][:, 0] - 0.37))

    coarse = integrated_gradients(steep, x, steps=2, most_steps=2)
    fine = integrated_gradients(steep, x, steps=2)
    assert abs(coarse.gap) > 0.1
    assert coarse.steps == 2
    assert abs(fine.gap) <= 1e-3
    assert fine.steps > 16
    split = integrated_gradients(steep, x, steps=fine.steps, chunk=5)
    assert float(split.parts[0]) == pytest.approx(float(fine.parts[0]), rel=1e-9)


@pytest.mark.parametrize("kind", ["mcat", "snn"])
@pytest.mark.parametrize("seed", range(3))
def test_values_sum_to_the_difference_of_risks(kind: str, seed: int, paths: Made, tmp_path: Path) -> None:
    own, model = cohort(paths), loaded(tmp_path, kind)
    genes = gene_inputs(model.manifest, own, own.rows(["C0", "C2"]))
    patches = np.random.default_rng(seed).normal(size=(5, DIM)).astype(np.float32) if kind == "mcat" else None
    for row in range(2):
        found = attribute_genes(model, genes, row, patches)
        difference = found.risk - found.baseline
        assert abs(difference) > 1e-3
        total = sum(float(v.sum()) for v in found.parts)
        assert total == pytest.approx(difference, rel=1e-3, abs=2e-6)
        assert total + found.gap == pytest.approx(difference, rel=1e-9)


def test_missing_groups_have_no_part_and_the_slide_is_held(paths: Made, tmp_path: Path) -> None:
    own, model = cohort(paths), loaded(tmp_path, "mcat")
    genes = gene_inputs(model.manifest, own, own.rows(["C1", "C3"]))
    patches = np.random.default_rng(0).normal(size=(5, DIM)).astype(np.float32)
    found = attribute_genes(model, genes, 0, patches)
    assert (found.parts[1] == 0).all()
    # A gene that is missing alone is that of the average patient, as is all of its group.
    assert (found.parts[0] != 0).tolist() == [True, False, True]
    other, without = attribute_genes(model, genes, 0, 3 * patches), attribute_genes(model, genes, 0)
    assert len({found.baseline, other.baseline, without.baseline}) == 3
    with pytest.raises(ModelInputError, match="no value of any group"):
        attribute_genes(model, genes, 1, patches)
    with pytest.raises(ModelInputError, match=r"the network reads \(M, 8\)"):
        attribute_genes(model, genes, 0, patches[:, :3])
    with pytest.raises(ModelInputError, match="not finite"):
        attribute_genes(model, genes, 0, patches * np.nan)


def test_the_snn_counts_a_gene_of_two_groups_once(paths: Made, tmp_path: Path) -> None:
    own, model = cohort(paths), loaded(tmp_path, "snn")
    genes = gene_inputs(model.manifest, own, own.rows(["C0"]))
    found = attribute_genes(model, genes, 0)
    assert float(found.parts[1][0]) == 0  # G1_rnaseq stands in the first group already
    assert float(found.parts[0][1]) != 0
    inputs = torch.cat([genes.omics[0][0], genes.omics[1][0, 1:]])[None]
    risk = -(1 - model.model(inputs)).cumprod(dim=1).sum()
    assert found.risk == pytest.approx(float(risk), rel=1e-6)


def test_tables_of_a_cohort(paths: Made, tmp_path: Path) -> None:
    own, model = cohort(paths), loaded(tmp_path, "mcat")
    found = attribute_cohort(model, own, np.arange(4), bags=BagFolder(paths.bags))
    assert (found.without, found.slideless, found.inexact) == (("C3",), ("C2",), ())
    assert found.patients["case_id"].tolist() == ["C0", "C1", "C2"]
    assert found.patients["slides"].tolist() == [2, 1, 0]
    values = found.attributions.set_index("case_id")
    assert list(values) == [f"{group}/{gene}" for group, genes in GROUPS.items() for gene in genes]
    assert values.isna().sum(axis=1).tolist() == [0, 2, 0]
    sums = values.sum(axis=1).to_numpy()
    np.testing.assert_allclose(
        sums, found.patients["risk"] - found.patients["baseline"], rtol=1e-3, atol=1e-6
    )
    np.testing.assert_allclose(found.patients[list(GROUPS)].sum(axis=1), sums, rtol=1e-9)
    genes = found.genes.set_index(["group", "gene"])
    assert found.genes["mean_abs"].is_monotonic_decreasing
    assert found.genes["share"].sum() == pytest.approx(1)
    assert found.groups["share"].sum() == pytest.approx(1)
    for (group, gene), row in genes.iterrows():
        column = values[f"{group}/{gene}"].dropna()
        assert row["mean_abs"] == pytest.approx(column.abs().mean())
        assert row["patients"] == len(column)
    kinases = found.groups.set_index("group").loc["Kinases"]
    assert kinases["mean_abs"] == pytest.approx(
        values.filter(like="Kinases").loc[["C0", "C2"]].sum(axis=1).abs().mean()
    )
    # Two patients are too few for a direction.
    assert genes.loc["Kinases", "direction"].isna().all()
    expected = np.corrcoef(
        own.omics.loc[["C0", "C1", "C2"], "G0_rnaseq"], values["Tumor suppressors/G0_rnaseq"]
    )[0, 1]
    assert genes.loc[("Tumor suppressors", "G0_rnaseq"), "direction"] == pytest.approx(expected, abs=1e-6)


def test_fewer_patches_are_spread_over_the_slides(paths: Made, tmp_path: Path) -> None:
    own, model = cohort(paths), loaded(tmp_path, "mcat")
    folder = BagFolder(paths.bags)
    few = attribute_cohort(model, own, own.rows(["C0"]), bags=folder, max_patches=4)
    patches = np.concatenate([folder.find(name).features() for name in ("S0", "S0b")])[[0, 4, 8, 12]]
    genes = gene_inputs(model.manifest, own, own.rows(["C0"]))
    expected = attribute_genes(model, genes, 0, patches)
    assert few.patients["risk"].item() == pytest.approx(expected.risk, rel=1e-9)


def test_what_cannot_be_attributed(paths: Made, tmp_path: Path) -> None:
    own, rows = cohort(paths), np.arange(4)
    with pytest.raises(AttributionError, match="kind mil reads no genes"):
        attribute_cohort(loaded(tmp_path, "mil"), own, rows)
    with pytest.raises(AttributionError, match="with --bags"):
        attribute_cohort(loaded(tmp_path, "mcat"), own, rows)
    bare = replace(own, omics=own.omics * np.nan)
    with pytest.raises(AttributionError, match="none of 4 patients has a value"):
        attribute_cohort(loaded(tmp_path, "snn"), bare, rows)
    with pytest.raises(FigureError, match="no attribution to draw"):
        attribution_bars(pd.DataFrame({"group": ["a"], "gene": ["b"], "mean_abs": [np.nan]}))


def test_the_verb(paths: Made, tmp_path: Path) -> None:
    out, model = tmp_path / "out", exported(tmp_path, "mcat")
    arguments = (paths.table, "-m", model, "--bags", paths.bags, "-o", out, "--device", "cpu")
    stdout, stderr = run(*arguments)
    assert "made: 3 patients, mcat of made, fold 0" in stdout
    assert "1 of 4 patients have no value of any group and are left out: C3" in stderr
    assert "1 of 4 patients have no bag" in stderr
    names = {"attribution.png", "genes.csv", "groups.csv", "patients.csv", "attributions.csv"}
    assert {path.name for path in out.iterdir()} == names
    patients = pd.read_csv(out / "patients.csv")
    values = pd.read_csv(out / "attributions.csv").drop(columns="case_id").sum(axis=1)
    np.testing.assert_allclose(values, patients["risk"] - patients["baseline"], rtol=2e-3, atol=1e-5)
    with pytest.raises(PastError, match="exists already"):
        run(*arguments)
    run(*arguments, "--overwrite", "--case", "C1", "--case", "C1")
    assert pd.read_csv(out / "patients.csv")["case_id"].tolist() == ["C1"]
    (out / "genes.csv").unlink()
    with pytest.raises(PastError, match="no folder of `past attribution`"):
        run(*arguments, "--overwrite")


def test_only_those_whom_the_fold_scores(paths: Made, tmp_path: Path) -> None:
    splits = tmp_path / "splits"
    splits.mkdir()
    pd.DataFrame({"train": ["C1", "C3"], "val": ["C0", "C2"]}).to_csv(splits / "splits_0.csv")
    model = exported(tmp_path, "snn")
    run(paths.table, "-m", model, "-o", tmp_path / "out", "--splits", splits)
    assert pd.read_csv(tmp_path / "out" / "patients.csv")["case_id"].tolist() == ["C0", "C2"]
    other = exported(tmp_path, "snn", fold="7")
    with pytest.raises(PastError, match="the network is of fold 7; there are 0"):
        run(paths.table, "-m", other, "-o", tmp_path / "other", "--splits", splits)
    with pytest.raises(PastError, match="either --case or --splits"):
        run(paths.table, "-m", model, "-o", tmp_path / "other", "--splits", splits, "--case", "C0")
    assert not (tmp_path / "other").exists()
