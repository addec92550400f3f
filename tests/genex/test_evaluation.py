"""Evaluation: what is scored, what is refused, and what is reported."""

import dataclasses
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import pearsonr

from past_core.frozen import EncoderNotFoundError
from past_genex.data.slides import ExpressionSlide
from past_genex.data.splits import Split, SplitError, leave_patients_out, random_cells
from past_genex.data.targets import Target
from past_genex.evaluation.ceilings import mean_ceiling, slide_ceilings, spread_genes
from past_genex.evaluation.comparison import gene_intervals
from past_genex.evaluation.report import gene_table, report, write_json
from past_genex.evaluation.run import Evaluation, LeakageError, PredictionError, evaluate
from past_genex.evaluation.settings import UnknownSettingError, build_split
from past_genex.evaluation.study import map_genes
from past_genex.evaluation.subsets import default_subsets, marker_genes, variable_genes
from past_genex.evaluation.tables import tables
from past_genex.metrics.ceiling import noise_ceiling
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
    for hidden in ({"setting": "inter"}, {"setting": "intra", "field_um": 56.0}):
        with pytest.raises(LeakageError, match="leaks"):
            evaluate(dataclasses.replace(leaking, **hidden), [Noisy()], TARGET)


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


def test_the_two_variants_of_cross_cancer_are_settings(slides: list[ExpressionSlide]) -> None:
    """Three types of one patient each: too few for the methods' variant, not for the figure's."""
    assert build_split("cross-figure", slides, rim_um=56.0).name == "cross-figure"
    with pytest.raises(SplitError, match="variant 'figure'"):
        build_split("cross", slides, rim_um=56.0)


@pytest.fixture(scope="module")
def few(split: Split) -> pd.Index:
    """Genes of every subset, few enough for intervals in a moment."""
    genes = split.genes(split.folds[0])
    return genes[:30].union(marker_genes(split.slides)[:12]).union(variable_genes(split.slides)[:12])


@pytest.fixture(scope="module")
def small(split: Split, few: pd.Index) -> Evaluation:
    return evaluate(split, [Noisy(), Noisy("worse", spread=6.0)], TARGET, genes=few, maps=few[1:7])


@pytest.fixture(scope="module")
def content(small: Evaluation) -> dict:
    scores = small["noisy"]
    ceiling = np.full(len(scores.genes), np.nan)
    ceiling[:20] = 0.9
    return report(small, ceiling=ceiling, resamples=60)


def test_the_report_tells_everything_and_is_plain_json(content: dict, tmp_path: Path) -> None:
    write_json(content, tmp_path / "results.json")
    back = json.loads((tmp_path / "results.json").read_text())
    assert back["target"] == TARGET.name
    assert "Leakage check" in back["description"]
    assert {"all", "markers", "hvg"} == set(back["subsets"])
    assert "on the 3 slides that train in some fold, of which 3 are also" in back["subsets"]["hvg"]["chosen"]
    rows = {row["system"]: row for row in back["subsets"]["all"]["systems"]}
    assert rows["noisy"]["r"] > rows["worse"]["r"] > 0
    assert rows["noisy"]["low"] <= rows["noisy"]["r"] <= rows["noisy"]["high"]
    assert set(rows["noisy"]["by_patient"]) == {"P1", "P2", "P3"}
    pair = back["subsets"]["all"]["differences"][0]
    assert (pair["first"], pair["second"]) == ("noisy", "worse")
    assert pair["low"] > 0
    assert pair["p_genes_holm"] >= pair["p_genes"]


def test_a_share_of_the_ceiling_is_over_the_genes_that_have_one(content: dict, small: Evaluation) -> None:
    entry = content["subsets"]["all"]
    r = small["noisy"].per_slide()[:20]
    assert entry["noise_ceiling"] == pytest.approx(0.9)
    assert entry["noise_ceiling_genes"] == 20
    assert entry["systems"][0]["share_of_ceiling"] == pytest.approx(np.nanmean(r) / 0.9)


def test_tables_fit_a_terminal_and_lose_nothing(content: dict) -> None:
    from rich.console import Console

    console = Console(width=80, record=True, file=io.StringIO())
    for table in tables(content):
        console.print(table)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    row = content["subsets"]["all"]["systems"][0]
    assert f"{row['low']:.3f}..{row['high']:.3f}" in text
    assert f"{row['share_of_ceiling']:.0%}" in text
    assert "noise ceiling" in text


def test_the_gene_table_holds_every_figure(evaluation: Evaluation) -> None:
    ceiling = np.linspace(0, 1, len(evaluation.scores[0].genes))
    table = gene_table(evaluation, ceiling)
    np.testing.assert_array_equal(table["r noisy"], evaluation["noisy"].pooled())
    np.testing.assert_array_equal(table["noise_ceiling"], ceiling)


def test_subsets_of_slides_that_are_never_tested_say_so(split: Split, few: pd.Index) -> None:
    """Genes that are chosen on slides that always train have seen nothing of the tested cells."""
    one = dataclasses.replace(split, folds=split.folds[:1])
    (tested,) = one.folds[0].test
    found = default_subsets(one, few)["hvg"]
    training = [slide for number, slide in enumerate(split.slides) if number != tested]
    assert set(found.genes) == set(few) & set(variable_genes(training))
    assert "never tested" in found.chosen


def test_map_genes_are_markers_and_variable_ones_in_turn(slides: list[ExpressionSlide], few) -> None:
    chosen = map_genes(slides, 8, None)
    assert len(chosen) == 8
    assert len(set(chosen) & set(marker_genes(slides))) >= 4
    assert len(set(chosen) & set(variable_genes(slides))) >= 4
    assert set(map_genes(slides, 8, few)) <= set(few)


def test_ceilings_are_means_over_the_slides_that_have_one(slides: list[ExpressionSlide]) -> None:
    genes = spread_genes(slides, 5)
    table = slide_ceilings(slides, TARGET, genes)
    for slide in slides:
        here = genes[genes.isin(slide.genes)]
        counts = slide.counts[:, slide.genes.get_indexer(here)]
        wanted = noise_ceiling(counts, slide.totals, scale=slide.scale(TARGET)).r
        np.testing.assert_array_equal(table.loc[slide.name, here], wanted)
        assert table.loc[slide.name, genes[~genes.isin(slide.genes)]].isna().all()
    mean = mean_ceiling(table, slides[:2], genes.append(pd.Index(["other"])))
    expected = table.iloc[:2].mean(axis=0, skipna=True).to_numpy()
    np.testing.assert_allclose(mean, [*expected, np.nan], rtol=1e-12)
    assert np.isfinite(mean).any()


def test_spread_genes_run_from_rare_to_frequent(slides: list[ExpressionSlide]) -> None:
    first = slides[:1]
    share = pd.Series(np.asarray((slides[0].counts > 0).mean(axis=0)).ravel(), index=slides[0].genes)
    place = share.rank(method="first")
    steps = np.diff(np.sort(place[spread_genes(first, 10)]))
    assert steps.min() >= np.floor(len(share) / 10)
    assert steps.max() <= np.ceil(len(share) / 10)
    assert len(spread_genes(first, 0)) == 0
    assert list(spread_genes(first, None)) == list(slides[0].genes)


def test_intervals_of_genes_hold_their_r(small: Evaluation) -> None:
    low, high, over = gene_intervals(small["noisy"], resamples=100)
    r = small["noisy"].pooled()
    known = np.isfinite(r)
    assert over == "regions within patients"
    assert np.isfinite(low[known]).all()
    assert np.mean((low[known] <= r[known]) & (r[known] <= high[known])) > 0.9
    scores = small["noisy"]
    one = scores.units.groupby("slide").head(1).index
    single = dataclasses.replace(
        scores, units=scores.units.loc[one].reset_index(drop=True), moments=scores.moments[one.to_numpy()]
    )
    low, high, over = gene_intervals(single)
    assert over.startswith("nothing")
    assert np.isnan(low).all()
