"""The closed form against scikit-learn and scipy on the cells themselves."""

import logging

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import pearsonr
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from past_genex.metrics.pairs import PairMoments
from past_genex.statistics import selection
from past_genex.statistics.left_out import leave_one_out
from past_genex.statistics.model import LinearModel
from past_genex.statistics.moments import Moments
from past_genex.statistics.reduction import principal_components
from past_genex.statistics.ridge import RidgeError, Unit, fit_ridge, score
from past_genex.statistics.selection import GRID, SelectionError


class Cells:
    """Cells of several slides with correlated embeddings and expression that depends on them."""

    def __init__(self, seed=0, slides=4, n=60, d=8, genes=5, offset=0.0, noise=1.0, panels=None) -> None:
        rng = np.random.default_rng(seed)
        mix, effect = rng.normal(size=(d, d)) * np.geomspace(1, 0.03, d), rng.normal(size=(d, genes))
        self.all = [f"g{i}" for i in range(genes)]
        self.panels = panels or [self.all] * slides
        self.x = [rng.normal(size=(n, d)) @ mix + rng.normal(size=d) + offset for _ in range(slides)]
        full = [(x - offset) @ effect + noise * rng.normal(size=(n, genes)) for x in self.x]
        self.y = [
            y[:, [self.all.index(g) for g in panel]] for y, panel in zip(full, self.panels, strict=True)
        ]

    def units(self, groups=None) -> list[Unit]:
        groups = groups or [None] * len(self.x)
        return [
            Unit(Moments.of(x, y), pd.Index(panel), f"slide {i}", group)
            for i, (x, y, panel, group) in enumerate(zip(self.x, self.y, self.panels, groups, strict=True))
        ]

    def of(self, gene: str, slides) -> tuple[np.ndarray, np.ndarray]:
        """Cells and values of the slides that measure a gene."""
        chosen = [i for i in slides if gene in self.panels[i]]
        return np.concatenate([self.x[i] for i in chosen]), np.concatenate(
            [self.y[i][:, self.panels[i].index(gene)] for i in chosen]
        )


def assert_as_sklearn(model: LinearModel, cells: Cells, slides, alphas: np.ndarray, intercept=True) -> None:
    for g, gene in enumerate(model.genes):
        x, y = cells.of(gene, slides)
        theirs = Ridge(alpha=alphas[g], fit_intercept=intercept).fit(x, y)
        scale = max(1.0, np.abs(theirs.coef_).max())
        np.testing.assert_allclose(model.weight[:, g], theirs.coef_, rtol=0, atol=1e-8 * scale, err_msg=gene)
        np.testing.assert_allclose(
            model.predict(x)[:, g], theirs.predict(x), rtol=1e-8, atol=1e-8, err_msg=gene
        )
        assert model.n[g] == len(x)


@given(
    seed=st.integers(0, 1000),
    n=st.integers(2, 40),
    d=st.sampled_from([1, 6, 50]),
    genes=st.sampled_from([1, 4]),
    alpha=st.sampled_from([1e-2, 1.0, 300.0]),
    intercept=st.booleans(),
)
def test_equals_scikit_learn_also_with_more_dimensions_than_cells(seed, n, d, genes, alpha, intercept):
    cells = Cells(seed, slides=2, n=n, d=d, genes=genes)
    model = fit_ridge(cells.units(), alpha=alpha, intercept=intercept)
    assert_as_sklearn(model, cells, range(2), model.alpha, intercept)
    assert (model.alpha == alpha).all()


def test_equals_scikit_learn_with_features_at_mean_1000() -> None:
    cells = Cells(3, n=200, offset=1000.0)
    assert_as_sklearn(fit_ridge(cells.units(), alpha=1.0), cells, range(4), np.ones(5))


def test_a_relative_strength_is_in_units_of_the_mean_eigenvalue() -> None:
    cells = Cells(4)
    model = fit_ridge(cells.units(), relative_alpha=0.1)
    x = np.concatenate(cells.x)
    mean = np.linalg.eigvalsh((x - x.mean(axis=0)).T @ (x - x.mean(axis=0))).mean()
    np.testing.assert_allclose(model.alpha, 0.1 * mean)
    np.testing.assert_allclose(model.relative_alpha, 0.1)
    assert_as_sklearn(model, cells, range(4), model.alpha)


PANELS = [["g0", "g1", "g2"], ["g2", "g0", "g3"], ["g4", "g0"], ["g0", "g1", "g2", "g4"]]


def test_a_gene_is_fitted_on_the_slides_that_measure_it() -> None:
    cells = Cells(5, panels=PANELS)
    model = fit_ridge(cells.units(), alpha=2.0)
    assert sorted(model.genes) == cells.all
    assert_as_sklearn(model, cells, range(4), np.full(5, 2.0))
    asked = fit_ridge(cells.units(), ["g4", "g1"], alpha=2.0)
    assert list(asked.genes) == ["g4", "g1"]
    np.testing.assert_allclose(asked.weight, model.select(["g4", "g1"]).weight, rtol=1e-12)


def slow_choice(cells: Cells, gene: str, folds: list[list[int]]) -> float:
    """The strength of the grid by refitting scikit-learn and predicting every held-out cell."""
    errors = np.zeros(len(GRID))
    for test in folds:
        train = [i for fold in folds for i in fold if fold is not test]
        x, y = cells.of(gene, train)
        centred = x - x.mean(axis=0)
        mean = (centred**2).sum() / x.shape[1]
        for a, strength in enumerate(GRID):
            model = Ridge(alpha=strength * mean, solver="svd").fit(x, y)
            errors[a] += ((model.predict(cells.of(gene, test)[0]) - cells.of(gene, test)[1]) ** 2).sum()
    return GRID[int(errors.argmin())]


@pytest.mark.parametrize("groups", [None, ["a", "a", "b", "b"]])
def test_the_strength_chosen_is_that_of_refitting_and_predicting(groups) -> None:
    cells = Cells(6, n=25, d=20, noise=6.0, genes=8)
    model = fit_ridge(cells.units(groups))
    folds = [[0], [1], [2], [3]] if groups is None else [[0, 1], [2, 3]]
    expected = [slow_choice(cells, gene, folds) for gene in model.genes]
    np.testing.assert_allclose(model.relative_alpha, expected, rtol=1e-9)
    assert len(set(expected)) > 1
    assert_as_sklearn(model, cells, range(4), model.alpha)


def test_many_groups_become_five_folds_of_whole_groups(monkeypatch) -> None:
    cells, seen = Cells(7, slides=12, n=20, noise=5.0), []
    original = selection._held_out_error

    def watched(parts, strengths, *, intercept):
        seen.append([part.n for part in parts])
        return original(parts, strengths, intercept=intercept)

    monkeypatch.setattr(selection, "_held_out_error", watched)
    model = fit_ridge(cells.units([f"p{i // 2}" for i in range(12)]))
    assert sorted(seen[0]) == [40, 40, 40, 40, 80]  # six patients of two slides of 20 cells
    # Patients of equal size are dealt from the last to the first, each to the fold that has fewest cells.
    folds = [[10, 11, 0, 1], [8, 9], [6, 7], [4, 5], [2, 3]]
    np.testing.assert_allclose(model.relative_alpha, [slow_choice(cells, g, folds) for g in model.genes])


def test_a_gene_of_one_slide_takes_the_median_strength(caplog) -> None:
    cells = Cells(8, panels=PANELS)  # g3 is on slide 1 alone
    with caplog.at_level(logging.INFO):
        model = fit_ridge(cells.units())
    others = model.relative_alpha[model.genes != "g3"]
    assert model.relative_alpha[model.genes == "g3"][0] in others
    assert "1 genes of a single unit" in caplog.text
    assert_as_sklearn(model, cells, range(4), model.alpha)


def test_one_patient_is_split_by_its_units_and_one_unit_not_at_all() -> None:
    cells = Cells(9)
    same = fit_ridge(cells.units(["p"] * 4))
    np.testing.assert_array_equal(same.relative_alpha, fit_ridge(cells.units()).relative_alpha)
    with pytest.raises(SelectionError, match="slide 0 is the only one"):
        fit_ridge(cells.units()[:1])


def test_a_choice_at_the_border_of_the_grid_is_told(caplog) -> None:
    cells = Cells(10, noise=0.01, n=400)
    fit_ridge(cells.units(), grid=[1.0, 10.0])
    assert "smallest ridge strength" in caplog.text


def pearson(p: np.ndarray, t: np.ndarray) -> float:
    if np.ptp(t) == 0:
        return np.nan
    return 0.0 if np.ptp(p) == 0 else float(pearsonr(p, t).statistic)


@given(
    seed=st.integers(0, 1000),
    n=st.integers(3, 30),
    d=st.sampled_from([1, 5, 40]),
    offset=st.sampled_from([0.0, 1000.0]),
    constant=st.booleans(),
)
def test_scores_equal_pearson_of_materialised_predictions(seed, n, d, offset, constant) -> None:
    cells = Cells(seed, slides=4, n=n, d=d, offset=offset)
    if constant:
        cells.y[2][:, 1] = 3.7
        cells.y[3][:, 2] = 0.0
    model = fit_ridge(cells.units()[:2], alpha=1.0)
    scored = score(model, cells.units()[2:])
    assert scored.n.shape == (2, 5)
    for u, (x, y) in enumerate(zip(cells.x[2:], cells.y[2:], strict=True)):
        predicted = model.predict(x)
        expected = [pearson(predicted[:, g], y[:, g]) for g in range(5)]
        np.testing.assert_allclose(scored.r[u], expected, rtol=0, atol=1e-8)
        np.testing.assert_allclose(scored.r2[u], PairMoments.of(predicted, y).r2, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(score(model, cells.units()[2 + u]).r, scored.r[u], equal_nan=True)


def test_pooled_scores_are_those_of_all_cells() -> None:
    cells = Cells(11)
    model = fit_ridge(cells.units()[:2], alpha=1.0)
    pooled = score(model, cells.units()[2:]).merged()
    x, y = np.concatenate(cells.x[2:]), np.concatenate(cells.y[2:])
    expected = [pearsonr(model.predict(x)[:, g], y[:, g]).statistic for g in range(5)]
    np.testing.assert_allclose(pooled.r, expected, atol=1e-10)


def test_genes_that_a_unit_lacks_have_no_cells_there() -> None:
    cells = Cells(12, panels=PANELS)
    units = cells.units()
    scored = score(fit_ridge(units[:2], alpha=1.0), units[2:], ["g4", "g0", "g1"])
    assert scored.n.tolist() == [[0, 60, 0], [0, 60, 60]]  # nobody measured g4 in training
    assert np.isnan(scored.r[0]).tolist() == [True, False, True]


def test_a_constant_gene_has_weight_zero_and_is_flagged() -> None:
    cells = Cells(13)
    for y in cells.y:
        y[:, 3] = 0.1
    for options in ({"alpha": 1.0}, {}):
        model = fit_ridge(cells.units(), **options)
        assert model.constant.tolist() == [False, False, False, True, False]
        assert not model.weight[:, 3].any()
        assert model.bias[3] == pytest.approx(0.1)
        assert model.predict(cells.x[0])[:, 3] == pytest.approx(0.1)


def test_test_cells_with_one_embedding_score_zero() -> None:
    cells = Cells(14)
    model = fit_ridge(cells.units(), alpha=1.0)
    alike = np.repeat(cells.x[0][:1], 60, axis=0)
    scored = score(model, (Moments.of(alike, cells.y[0]), pd.Index(cells.all)))
    assert (scored.r == 0).all()


@pytest.mark.parametrize("panels", [None, PANELS])
@pytest.mark.parametrize("options", [{"alpha": 3.0}, {"relative_alpha": 0.01}, {}])
def test_a_leave_one_out_table_equals_refitting_each_split(panels, options) -> None:
    cells = Cells(15, panels=panels)
    units, groups = cells.units(), ["a", "b", "a", "c"]
    units = [unit._replace(group=group) for unit, group in zip(units, groups, strict=True)]
    table = leave_one_out(units, cells.all, **options)
    assert [line.group for line in table] == ["a", "b", "c"]
    for line in table:
        test = [i for i, group in enumerate(groups) if group == line.group]
        assert list(line.units) == test
        train = [i for i in range(4) if i not in test]
        assert_as_sklearn(line.model, cells, train, line.model.alpha)
        alone = fit_ridge([units[i] for i in train], line.model.genes, **options)
        np.testing.assert_allclose(line.model.alpha, alone.alpha, rtol=1e-9)
        assert line.scores.n.shape == (len(test), 5)
        expected = score(alone, [units[i] for i in test], cells.all).r
        np.testing.assert_allclose(line.scores.r, expected, atol=1e-9)


def test_components_equal_scikit_learns_and_the_model_folds_back() -> None:
    cells = Cells(16, d=12)
    units = cells.units()
    x, y = np.concatenate(cells.x[:3]), np.concatenate(cells.y[:3])
    pipe = make_pipeline(StandardScaler(), PCA(4)).fit(x)
    theirs = Ridge(alpha=0.5, fit_intercept=False).fit(pipe.transform(x), y)
    train = units[0].moments.merge(units[1].moments).merge(units[2].moments)
    reduction = principal_components(train, 4)
    np.testing.assert_allclose(np.abs(reduction(cells.x[3])), np.abs(pipe.transform(cells.x[3])), atol=1e-9)
    model = reduction.through(fit_ridge([reduction.unit(u) for u in units[:3]], alpha=0.5, intercept=False))
    expected = theirs.predict(pipe.transform(cells.x[3]))
    np.testing.assert_allclose(model.predict(cells.x[3]), expected, atol=1e-8)
    np.testing.assert_allclose(score(model, units[3]).r, PairMoments.of(expected, cells.y[3]).r, atol=1e-9)
    with pytest.raises(RidgeError, match="13 components"):
        principal_components(train, 13)


def test_bad_input_is_named() -> None:
    cells = Cells(17)
    units = cells.units()
    with pytest.raises(RidgeError, match="no unit"):
        fit_ridge([], alpha=1.0)
    with pytest.raises(RidgeError, match="share no gene"):
        fit_ridge(units, ["other"], alpha=1.0)
    with pytest.raises(RidgeError, match=r"1 of 2 genes .*other"):
        fit_ridge(units, ["g0", "other"], alpha=1.0)
    with pytest.raises(RidgeError, match="1 training cells"):
        fit_ridge([Unit(Moments.of(cells.x[0][:1], cells.y[0][:1]), units[0].genes)], alpha=1.0)
    alike = Moments.of(np.full((9, 8), 0.1), cells.y[0][:9])
    with pytest.raises(RidgeError, match="slide 9: all 9 embeddings are alike"):
        fit_ridge([Unit(alike, units[0].genes, "slide 9")], alpha=1.0)
    for wrong in (
        {"alpha": 0.0},
        {"alpha": -1.0},
        {"relative_alpha": np.nan},
        {"alpha": 1, "relative_alpha": 1},
    ):
        with pytest.raises(RidgeError, match="alpha"):
            fit_ridge(units, **wrong)
    with pytest.raises(RidgeError, match="slide 0 have 8 dimensions and those of slide 1 7"):
        fit_ridge([units[0], units[1]._replace(moments=Moments.of(cells.x[1][:, :7], cells.y[1]))], alpha=1.0)
    one, two = units[0]._replace(encoder="aaaa"), units[1]._replace(encoder="bbbb")
    with pytest.raises(RidgeError, match=r"slide 0 was embedded by encoder aaaa and slide 1 by bbbb"):
        fit_ridge([one, two], alpha=1.0)
    model = fit_ridge([one], alpha=1.0)
    with pytest.raises(RidgeError, match=r"slide 1 was embedded by encoder bbbb.*fitted on encoder aaaa"):
        score(model, two)
    with pytest.raises(RidgeError, match="no gene in common"):
        score(model, one._replace(genes=pd.Index([f"h{i}" for i in range(5)])))
    with pytest.raises(RidgeError, match="leaving one out needs two"):
        leave_one_out([u._replace(group="p") for u in units], alpha=1.0)
    with pytest.raises(SelectionError, match="ascending"):
        fit_ridge(units, grid=[1.0, 0.1])
    odd = units[3]._replace(genes=pd.Index([f"h{i}" for i in range(5)]))
    with pytest.raises(RidgeError, match="slide 3 shares none"):
        leave_one_out([*units[:3], odd], alpha=1.0)
