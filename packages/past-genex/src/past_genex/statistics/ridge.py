"""Ridge regression of expression on embeddings in closed form, from statistics alone."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from scipy import linalg

from past_genex.metrics.pairs import CONSTANT
from past_genex.statistics.model import LinearModel, score
from past_genex.statistics.moments import Moments
from past_genex.statistics.selection import FOLDS, GRID, choose_alpha, products
from past_genex.statistics.units import RidgeError, Unit, as_units, patterns

__all__ = ["LinearModel", "RidgeError", "Unit", "fit_ridge", "genes_of", "score", "solve"]


def fit_ridge(
    units: Iterable[Unit | tuple[Moments, Sequence[str]]],
    genes: Sequence[str] | pd.Index | None = None,
    *,
    alpha: float | None = None,
    relative_alpha: float | None = None,
    intercept: bool = True,
    grid: Sequence[float] = GRID,
    folds: int = FOLDS,
) -> LinearModel:
    """Minimises sum of squared errors + alpha |w|² for every gene over the units that measure it.

    The intercept is not penalised: the same as scikit-learn's `Ridge(alpha)` on these cells. Without
    `alpha` and `relative_alpha`, the strength is chosen for every gene inside the training data.

    Args:
        units: training slides or parts of slides, with their genes.
        genes: genes to predict; by default all that a unit measures, in order of first appearance.
        alpha: the strength itself, positive; one for all genes.
        relative_alpha: the strength over the mean eigenvalue, trace(xx) / d, of each gene's training cells.
        intercept: False fits through zero (HEST-Bench).
        grid: relative strengths to choose from.
        folds: most groups that the training data are dealt into for choosing.

    Raises:
        RidgeError: no unit, units that do not fit together, genes that none measures, fewer than two cells,
            embeddings that do not vary, a strength that is not positive.
        SelectionError: the strength is to be chosen and there is only one unit.
    """
    require_strength(alpha, relative_alpha)
    units = as_units(units)
    genes = genes_of(units) if genes is None else pd.Index(genes)
    kinds = patterns(units, genes)
    merged = [kind.merged() for kind in kinds]
    for kind, moments in zip(kinds, merged, strict=True):
        require_variation(moments, [units[u].name for u in kind.units])
    chosen = (
        choose_alpha(units, kinds, len(genes), grid=grid, folds=folds, intercept=intercept)
        if alpha is None and relative_alpha is None
        else None
    )
    parts = []
    for kind, moments in zip(kinds, merged, strict=True):
        relative = relative_alpha if chosen is None else chosen[kind.columns]
        parts.append(
            (kind.columns, *solve(moments, alpha=alpha, relative_alpha=relative, intercept=intercept))
        )
    return assemble(parts, genes, encoder=next((u.encoder for u in units if u.encoder), ""))


def genes_of(units: Iterable[Unit]) -> pd.Index:
    """Every gene that a unit measures, in order of first appearance."""
    return pd.Index(list(dict.fromkeys(gene for unit in units for gene in unit.genes)))


def solve(
    moments: Moments,
    *,
    alpha: float | None = None,
    relative_alpha: float | np.ndarray | None = None,
    intercept: bool = True,
) -> tuple[np.ndarray, ...]:
    """Ridge weights of every gene of a set of cells.

    One strength for all genes takes a Cholesky factorisation, several an eigendecomposition; either is done
    once for all genes.

    Args:
        moments: training statistics.
        alpha: the strength, or
        relative_alpha: the strength over trace(xx) / d, one or `(G,)`.
        intercept: whether the model has one.

    Returns:
        Weight `(d, G)`, bias, alpha, relative alpha, constant genes and number of cells, each `(G,)`.

    Raises:
        RidgeError: the strength is too small for embeddings that depend on each other.
    """
    xx, xy = products(moments, intercept=intercept)
    mean = np.trace(xx) / len(xx)
    strength = np.asarray(alpha if alpha is not None else np.asarray(relative_alpha) * mean, np.float64)
    # Rounding leaves a constant gene tiny co-moments; its weight is zero by definition.
    centred = moments.yy if intercept else moments.yy + moments.n * moments.mean_y**2
    constant = centred <= CONSTANT * (moments.yy + moments.n * moments.mean_y**2)
    xy = np.where(constant, 0.0, xy)
    if strength.ndim == 0 or np.ptp(strength) == 0:
        weight = _cholesky(xx, xy, float(strength.flat[0]), mean)
    else:
        values, basis = np.linalg.eigh(xx)
        weight = basis @ (basis.T @ xy / (np.maximum(values, 0.0)[:, None] + strength))
        weight[:, constant] = 0.0
    bias = moments.mean_y - moments.mean_x @ weight if intercept else np.zeros(moments.n_genes)
    spread = np.broadcast_to(strength, bias.shape).copy()
    return weight, bias, spread, spread / mean, constant, np.full(bias.shape, moments.n)


def _cholesky(xx: np.ndarray, xy: np.ndarray, alpha: float, mean: float) -> np.ndarray:
    system = np.array(xx, order="F")
    system[np.diag_indices_from(system)] += alpha
    try:
        factor = linalg.cho_factor(system, lower=True, overwrite_a=True, check_finite=False)
    except linalg.LinAlgError as error:
        raise RidgeError(
            f"alpha = {alpha:g} ({alpha / mean:.1e} of the mean eigenvalue) is below the rounding errors of "
            "embeddings that depend on each other; give a larger one"
        ) from error
    return linalg.cho_solve(factor, xy, check_finite=False)


def assemble(parts: Sequence[tuple[np.ndarray, ...]], genes: pd.Index, *, encoder: str = "") -> LinearModel:
    """One model of the solutions of several patterns: positions among the genes, then what `solve` gives."""
    d = parts[0][1].shape[0]
    weight, rest = np.empty((d, len(genes))), [np.empty(len(genes)) for _ in range(5)]
    for columns, solved, *others in parts:
        weight[:, columns] = solved
        for whole, part in zip(rest, others, strict=True):
            whole[columns] = part
    bias, alpha, relative, constant, n = rest
    return LinearModel(weight, bias, alpha, relative, genes, constant.astype(bool), n, encoder)


def require_strength(alpha: float | None, relative_alpha: float | None) -> None:
    """Refuses two strengths, or one that is not positive and finite.

    Raises:
        RidgeError: so it is.
    """
    if alpha is not None and relative_alpha is not None:
        raise RidgeError("alpha and relative_alpha are given; expected one of them, or none to choose it")
    for name, value in (("alpha", alpha), ("relative_alpha", relative_alpha)):
        if value is not None and not 0 < value < np.inf:
            raise RidgeError(f"{name} = {value!r}; expected a positive number")


def require_variation(moments: Moments, names: Sequence[str]) -> None:
    """Refuses training cells that nothing can be learned from.

    Raises:
        RidgeError: fewer than two cells, or all embeddings alike.
    """
    where = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    if moments.n < 2:
        raise RidgeError(f"{where}: {moments.n:g} training cells; expected at least two")
    trace = np.trace(moments.xx)
    size = trace + moments.n * (moments.mean_x @ moments.mean_x)
    if trace <= CONSTANT**2 * size:
        raise RidgeError(
            f"{where}: all {moments.n:g} embeddings are alike; nothing can be learned from them. Is this the "
            "right encoder, and are there pixels in the slide?"
        )
