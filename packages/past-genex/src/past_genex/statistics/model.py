"""A linear model of expression on embeddings, and its score from statistics alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from past_genex.metrics.pairs import PairMoments
from past_genex.statistics.moments import Moments
from past_genex.statistics.units import RidgeError, Unit, as_units, columns_of

ROUNDING = 1e-14
"""A predicted variance below this share of |w|² trace(xx) is rounding: the test cells are predicted alike."""


@dataclass(frozen=True)
class LinearModel:
    """Expression of every gene as a linear function of the embedding: `x @ weight + bias`.

    Attributes:
        weight: `(d, G)` float64.
        bias: `(G,)`.
        alpha: `(G,)` ridge strength in the objective, sum of squared errors + alpha |w|².
        relative_alpha: `(G,)` the same over the mean eigenvalue of the training co-moments, trace(xx) / d.
        genes: `(G,)` ids.
        constant: `(G,)` bool, genes that do not vary in training: weight 0, the bias their mean.
        n: `(G,)` cells that each gene was fitted on.
        encoder: fingerprint of the encoder; "" if not known.
    """

    weight: np.ndarray
    bias: np.ndarray
    alpha: np.ndarray
    relative_alpha: np.ndarray
    genes: pd.Index
    constant: np.ndarray
    n: np.ndarray
    encoder: str = ""

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Expression of cells, `(N, G)` float64, from `(N, d)` embeddings.

        Raises:
            RidgeError: embeddings of another length.
        """
        if x.ndim != 2 or x.shape[1] != len(self.weight):
            raise RidgeError(f"embeddings of shape {x.shape}; the model expects (N, {len(self.weight)})")
        return np.asarray(x, np.float64) @ self.weight + self.bias

    def select(self, genes: Sequence[str] | pd.Index) -> "LinearModel":
        """The model of some of its genes.

        Raises:
            RidgeError: a gene that it does not predict.
        """
        column = self.genes.get_indexer(pd.Index(genes))
        if (column < 0).any():
            missing = [gene for gene, place in zip(genes, column, strict=True) if place < 0]
            raise RidgeError(
                f"the model does not predict {len(missing)} of the genes: {', '.join(missing[:5])}"
            )
        return LinearModel(
            self.weight[:, column],
            self.bias[column],
            self.alpha[column],
            self.relative_alpha[column],
            self.genes[column],
            self.constant[column],
            self.n[column],
            self.encoder,
        )


def score(
    model: LinearModel,
    units: Unit | tuple[Moments, Sequence[str]] | Sequence[Unit | tuple[Moments, Sequence[str]]],
    genes: Sequence[str] | pd.Index | None = None,
) -> PairMoments:
    """Moments of predictions and truths of test cells, without making a prediction.

    The mean of the predictions is b + w·mean_x, their sum of squared deviations wᵀ xx w and their
    co-moment with the truth wᵀ xy; so Pearson's r of a slide costs the same for 100 cells as for a million.

    Args:
        model: the model.
        units: one unit, or a sequence of U.
        genes: order of the result; the model's by default.

    Returns:
        `(G,)` for one unit, `(U, G)` for a sequence. n is 0 where a unit does not measure a gene, or the
        model does not predict it.

    Raises:
        RidgeError: units of another encoder or length of the embedding; no gene of the model is measured by
            any unit.
    """
    single = isinstance(units, tuple) and bool(units) and isinstance(units[0], Moments)
    given: Any = [units] if single else units  # a unit is a tuple too, as a sequence of them may be
    tested = as_units(given)
    for unit in tested:
        if model.encoder and unit.encoder and model.encoder != unit.encoder:
            raise RidgeError(
                f"{unit.name} was embedded by encoder {unit.encoder[:16]}, the model was fitted on encoder "
                f"{model.encoder[:16]}; embed the slide with that one"
            )
        if unit.moments.d != len(model.weight):
            raise RidgeError(
                f"embeddings of {unit.name} have {unit.moments.d} dimensions, the model expects "
                f"{len(model.weight)}; embed the slide with the model's encoder"
            )
    wanted = model.genes if genes is None else pd.Index(genes)
    if not any(unit.genes.isin(model.genes).any() for unit in tested):
        raise RidgeError(
            f"{', '.join(unit.name for unit in tested[:5])}: no gene in common with the model "
            f"({', '.join(map(str, model.genes[:3]))}, ...)"
        )
    scored = PairMoments.stack([_score(model, unit, wanted) for unit in tested])
    return scored[0] if single else scored


def _score(model: LinearModel, unit: Unit, genes: pd.Index) -> PairMoments:
    ours, theirs = model.genes.get_indexer(genes), columns_of(unit, genes)
    both = np.flatnonzero((ours >= 0) & (theirs >= 0))
    weight, bias, moments = model.weight[:, ours[both]], model.bias[ours[both]], unit.moments
    xy = np.asarray(moments.xy)[:, theirs[both]]
    pp = np.einsum("dg,dg->g", weight, np.asarray(moments.xx) @ weight)
    pp[pp <= ROUNDING * np.einsum("dg,dg->g", weight, weight) * np.trace(moments.xx)] = 0.0

    def spread(values: np.ndarray | float) -> np.ndarray:
        out = np.zeros(len(genes))
        out[both] = values
        return out

    return PairMoments(
        n=spread(moments.n),
        mean_p=spread(bias + moments.mean_x @ weight),
        mean_t=spread(moments.mean_y[theirs[both]]),
        pp=spread(pp),
        tt=spread(moments.yy[theirs[both]]),
        pt=spread(np.einsum("dg,dg->g", weight, xy)),
    )
