"""The strength of the ridge, chosen for every gene inside the training data, without a prediction."""

import logging
from collections.abc import Sequence

import numpy as np

from past_core.errors import PastError
from past_genex.metrics.pairs import CONSTANT
from past_genex.statistics.moments import Moments, leave_one_out_merges, merge_moments
from past_genex.statistics.units import Pattern, Unit

logger = logging.getLogger(__name__)

GRID = tuple(10.0 ** (power / 2) for power in range(-10, 9))
"""Strengths over the mean eigenvalue: 10^-5 to 10^4 in half decades. Relative, so that a strength that is
chosen on four fifths of the cells means the same for all of them."""

NOTHING_LEFT = 1e3
"""From this strength on a gene is predicted by its mean, but for a thousandth: the features do not help."""

FOLDS = 5
"""Most groups that the training data are dealt into."""


class SelectionError(PastError, ValueError):
    """A strength cannot be chosen: the training data cannot be split."""


def choose_alpha(
    units: Sequence[Unit],
    kinds: Sequence[Pattern],
    n_genes: int,
    *,
    grid: Sequence[float] = GRID,
    folds: int = FOLDS,
    intercept: bool = True,
) -> np.ndarray:
    """The relative strength with the smallest squared error on groups held out in turn, for every gene.

    Groups (patients; a unit without one is its own group) are never torn apart. A gene that a single group
    measures is chosen over that group's units (regions of a slide, say); one that a single unit measures
    takes the median strength of the genes that could be chosen.

    Args:
        units: training units.
        kinds: their patterns over the genes asked for.
        n_genes: G.
        grid: strengths relative to the mean eigenvalue, ascending and positive.
        folds: most groups to hold out.
        intercept: whether the model has one.

    Returns:
        `(G,)` values of the grid.

    Raises:
        SelectionError: a grid that is not ascending and positive; all training cells are in one unit.
    """
    strengths = np.asarray(grid, np.float64)
    if strengths.ndim != 1 or not len(strengths) or (strengths <= 0).any() or (np.diff(strengths) <= 0).any():
        raise SelectionError(f"grid of strengths {list(grid)}; expected positive numbers in ascending order")
    chosen, varies = np.full(n_genes, np.nan), np.ones(n_genes, bool)
    for kind in kinds:
        dealt = _deal(units, kind, folds)
        if dealt is None:
            continue
        parts = [merge_moments([kind.parts[i] for i in members]) for members in dealt]
        error = _held_out_error(parts, strengths, intercept=intercept)
        chosen[kind.columns] = strengths[error.argmin(axis=0)]
        yy = merge_moments(parts)
        varies[kind.columns] = yy.yy > CONSTANT * (yy.yy + yy.n * yy.mean_y**2)
    known = ~np.isnan(chosen)
    if not known.any():
        raise SelectionError(
            f"the ridge strength is chosen on held-out training units, and {units[0].name} is the only one; "
            "give more slides, or its regions as units, or a fixed strength (alpha or relative_alpha)"
        )
    if not known.all():
        logger.info("%d genes of a single unit take the median strength", int((~known).sum()))
        chosen[~known] = strengths[np.searchsorted(strengths, np.median(chosen[known]))]
    _warn_of_border(chosen[known & varies], strengths)
    return chosen


def _deal(units: Sequence[Unit], kind: Pattern, folds: int) -> list[list[int]] | None:
    """Positions in `kind.units` by fold, whole groups, of about the same number of cells; None: no split."""
    names = [units[u].group if units[u].group is not None else f"unit {u}" for u in kind.units]
    if len(set(names)) < 2:
        names = [f"unit {u}" for u in kind.units]
    groups = [[i for i, name in enumerate(names) if name == group] for group in dict.fromkeys(names)]
    if len(groups) < 2:
        return None
    cells = [sum(kind.parts[i].n for i in group) for group in groups]
    dealt: list[list[int]] = [[] for _ in range(min(folds, len(groups)))]
    total = np.zeros(len(dealt))
    # The largest first, each to the fold that has fewest: no fold ends up empty.
    for g in np.argsort(cells, kind="stable")[::-1]:
        fold = int(total.argmin())
        dealt[fold] += groups[g]
        total[fold] += cells[g]
    return dealt


def _held_out_error(parts: Sequence[Moments], strengths: np.ndarray, *, intercept: bool) -> np.ndarray:
    """`(A, G)` squared error over all parts, each predicted by the others."""
    error = np.zeros((len(strengths), parts[0].n_genes))
    for train, test in zip(leave_one_out_merges(parts), parts, strict=True):
        xx, xy = products(train, intercept=intercept)
        values, basis = np.linalg.eigh(xx)
        values = np.maximum(values, 0.0)
        # About the training means (or zero), in the eigenbasis, the error is one quadratic form.
        shift_x = basis.T @ (test.mean_x - (train.mean_x if intercept else 0.0))
        shift_y = test.mean_y - (train.mean_y if intercept else 0.0)
        xx_test = basis.T @ np.asarray(test.xx) @ basis + test.n * np.outer(shift_x, shift_x)
        xy_test = basis.T @ np.asarray(test.xy) + test.n * np.outer(shift_x, shift_y)
        yy_test = test.yy + test.n * shift_y**2
        projected, mean = basis.T @ xy, values.mean()
        for a, strength in enumerate(strengths):
            if not mean:
                error[a] += yy_test
                continue
            w = projected / (values + strength * mean)[:, None]
            error[a] += yy_test + np.einsum("dg,dg->g", w, xx_test @ w - 2 * xy_test)
    return error


def products(moments: Moments, *, intercept: bool) -> tuple[np.ndarray, np.ndarray]:
    """`(d, d)` and `(d, G)` sums of products about the means or, without intercept, about zero."""
    xx, xy = np.asarray(moments.xx), np.asarray(moments.xy)
    if intercept:
        return xx, xy
    scaled = moments.n * moments.mean_x
    return xx + np.outer(scaled, moments.mean_x), xy + np.outer(scaled, moments.mean_y)


def _warn_of_border(chosen: np.ndarray, strengths: np.ndarray) -> None:
    for end, word, edge in ((strengths[0], "smallest", "lower"), (strengths[-1], "largest", "higher")):
        share = float((chosen == end).mean()) if len(chosen) and len(strengths) > 1 else 0.0
        if share > 0.5 and word == "largest" and end >= NOTHING_LEFT:
            logger.info("%.0f %% of %d genes are predicted best by their mean", 100 * share, len(chosen))
        elif share > 0.5:
            logger.warning(
                "%.0f %% of %d genes chose the %s ridge strength, %g times the mean eigenvalue; a grid that "
                "reaches %s may fit better",
                100 * share,
                len(chosen),
                word,
                end,
                edge,
            )
