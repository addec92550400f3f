"""Evaluation: what is scored, what is refused, and what is reported."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import pearsonr

from past_core.frozen import EncoderNotFoundError
from past_genex.data.slides import ExpressionSlide
from past_genex.data.splits import Split, leave_patients_out, random_cells
from past_genex.data.targets import Target
from past_genex.evaluation.report import gene_table, report, write_json
from past_genex.evaluation.run import Evaluation, LeakageError, PredictionError, evaluate
from past_genex.evaluation.settings import UnknownSettingError, build_split
from past_genex.systems.base import Surroundings
from past_genex.systems.mean import MeanOfTraining

TARGET = Target()


class Noisy:
    """Truth with noise, in pieces; may break its word."""

    def __init__(self, name: str = "noisy", *, spread: float = 1.0, broken: str = "") -> None:
        self.name, self._spread, self._broken = name, spread, broken

    def predict(self, split: Split, fold: object, genes: pd.Index) -> Iterator[tuple]:
        stream = np.random.default_rng(0)
        for number, parts in fold.test.items():
            cells = np.flatnonzero(split.regions[number].cells(parts))
            truth = split.slides[number].expression(TARGET, genes, cells)
            values = np.nan_to_num(truth) + self._spread * stream.standard_normal(truth.shape)
            if self._broken == "nan":
                values[3, 2] = np.nan
            values[:, 0] = np.nan  # the first gene cannot be predicted
            if self._broken == "short":
                cells, values = cells[:-1], values[:-1]
            half = len(cells) // 2
            yield number, cells[:half], values[:half]
            yield number, cells[half:], values[half:]


@pytest.fixture(scope="module")
def slides(tiny_slides: Sequence[Path]) -> list[ExpressionSlide]:
    return [ExpressionSlide(path) for path in tiny_slides]


@pytest.fixture(scope="module")
def split(slides: list[ExpressionSlide]) -> Split:
    return leave_patients_out(slides)


@pytest.fixture(scope="module")
def evaluation(split: Split) -> Evaluation:
    systems = [Noisy(), Noisy("worse", spread=6.0), MeanOfTraining(Surroundings(TARGET))]
    return evaluate(split, systems, TARGET, maps=split.slides[0].genes[:6])


def test_r_is_scipys_over_a_folds_test_cells(evaluation: Evaluation, split: Split) -> None:
    scores = evaluation["noisy"]
    r = scores.grouped(["fold"])[1].r
    for row, fold in enumerate(split.folds):
        genes = split.genes(fold)
        (number,) = fold.test
        made = np.concatenate([v for _, _, v in Noisy().predict(split, fold, genes)])
        truth = split.slides[number].expression(TARGET, genes)
        for column in (1, 20, 77):
            if np.ptp(truth[:, column]) == 0 or np.isnan(truth[:, column]).any():
                continue
            wanted = pearsonr(made[:, column], truth[:, column]).statistic
            assert r[row, scores.genes.get_loc(genes[column])] == pytest.approx(wanted, abs=1e-10)


def test_a_gene_without_a_prediction_is_left_out_and_counted(evaluation: Evaluation, split: Split) -> None:
    scores = evaluation["noisy"]
    assert scores.unpredicted >= len(split.folds)
    first = split.genes(split.folds[0])[0]
    rows = (scores.units["fold"] == split.folds[0].name).to_numpy()
    assert (scores.moments.n[rows][:, scores.genes.get_loc(first)] == 0).all()


def test_the_mean_tells_nothing(evaluation: Evaluation) -> None:
    """Folds have different means: an offset between them is neither skill nor its opposite."""
    r = evaluation["mean"].pooled()
    assert np.nanmax(np.abs(r)) == 0


def test_slides_and_patients_are_means_of_their_own(evaluation: Evaluation) -> None:
    scores = evaluation["noisy"]
    slides, r = scores.slide_r()
    assert list(slides["patient"]) == ["P1", "P2", "P3"]
    np.testing.assert_allclose(scores.by("patient").to_numpy(), np.nanmean(r, axis=1), rtol=1e-12)
    known = ~np.isnan(r).all(axis=0)
    np.testing.assert_allclose(scores.per_slide()[known], np.nanmean(r[:, known], axis=0), rtol=1e-12)


def test_spearman_and_moran_stand_for_the_asked_genes_only(evaluation: Evaluation) -> None:
    scores = evaluation["noisy"]
    known = np.isfinite(scores.maps["spearman"]).any(axis=0)
    assert 1 <= known.sum() <= 6
    assert set(scores.genes[known]) <= set(evaluation.split.slides[0].genes[:6])


@pytest.mark.parametrize(("broken", "message"), [("nan", "NaN or infinite"), ("short", "expected")])
def test_broken_predictions_are_refused(split: Split, broken: str, message: str) -> None:
    with pytest.raises(PredictionError, match=message):
        evaluate(split, [Noisy(broken=broken)], TARGET)


def test_a_leaking_split_is_refused_unless_it_says_so(slides: list[ExpressionSlide]) -> None:
    leaking = random_cells(slides)
    assert evaluate(leaking, [Noisy()], TARGET).scores
    hidden = dataclasses.replace(leaking, setting="intra")
    with pytest.raises(LeakageError, match="leaks"):
        evaluate(hidden, [Noisy()], TARGET)


def test_a_system_without_its_weights_is_named_and_the_rest_goes_on(split: Split) -> None:
    def absent() -> Noisy:
        raise EncoderNotFoundError("get them there")

    outcome = evaluate(split, [("ridge:absent", absent), Noisy()], TARGET)
    assert outcome.skipped == {"ridge:absent": "get them there"}
    assert [scores.system for scores in outcome.scores] == ["noisy"]


def test_unknown_genes_and_settings_are_refused(split: Split, slides) -> None:
    with pytest.raises(PredictionError, match="none of the asked genes"):
        evaluate(split, [Noisy()], TARGET, genes=pd.Index(["NOT-A-GENE"]))
    with pytest.raises(UnknownSettingError, match="expected one of intra"):
        build_split("everything", slides, rim_um=56.0)


def test_the_report_tells_everything_and_is_plain_json(evaluation: Evaluation, tmp_path: Path) -> None:
    content = report(evaluation)
    write_json(content, tmp_path / "results.json")
    back = json.loads((tmp_path / "results.json").read_text())
    assert back["target"] == TARGET.name
    assert "Leakage check" in back["description"]
    assert {"all", "markers", "hvg"} <= set(back["subsets"])
    rows = {row["system"]: row for row in back["subsets"]["all"]["systems"]}
    assert rows["noisy"]["r"] > rows["worse"]["r"] > 0
    assert rows["noisy"]["low"] <= rows["noisy"]["r"] <= rows["noisy"]["high"]
    assert set(rows["noisy"]["by_patient"]) == {"P1", "P2", "P3"}
    pair = back["subsets"]["all"]["differences"][0]
    assert (pair["first"], pair["second"]) == ("noisy", "worse")
    assert pair["low"] > 0
    assert pair["p_genes_holm"] >= pair["p_genes"]
    table = gene_table(evaluation)
    np.testing.assert_array_equal(table["r noisy"], evaluation["noisy"].pooled())
