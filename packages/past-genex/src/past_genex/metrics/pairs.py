"""Moments of predictions and truths by gene: what Pearson's r and R² need, mergeable, of fixed size."""

from dataclasses import dataclass, fields
from typing import Self

import numpy as np

from past_core.errors import PastError

CONSTANT = 1e-12
"""A gene is constant where its sum of squared deviations is below this share of its sum of squares."""


class PairError(PastError, ValueError):
    """Values of which no moments can be taken."""


@dataclass(frozen=True)
class PairMoments:
    """Counts, means and centred co-moments of predicted and true values.

    All arrays are float64 of one shape, `(G,)` or with leading axes such as `(U, G)` for U units (slides or
    regions). A gene that a unit does not measure has n = 0 there.

    Attributes:
        n: number of cells.
        mean_p: mean of the predictions.
        mean_t: mean of the truths.
        pp: sum of squared deviations of the predictions.
        tt: of the truths.
        pt: sum of products of deviations.
    """

    n: np.ndarray
    mean_p: np.ndarray
    mean_t: np.ndarray
    pp: np.ndarray
    tt: np.ndarray
    pt: np.ndarray

    @classmethod
    def of(cls, predicted: np.ndarray, truth: np.ndarray) -> Self:
        """Moments of `(N, G)` predictions and truths; NaN truths (a gene not measured) must fill a column.

        Two passes: means first, then deviations.

        Raises:
            PairError: shapes that differ, or a measured gene with a value that is not finite.
        """
        predicted, truth = np.asarray(predicted, np.float64), np.asarray(truth, np.float64)
        if predicted.shape != truth.shape or truth.ndim != 2:
            raise PairError(
                f"predictions of shape {predicted.shape}, truths of {truth.shape}; expected (cells, genes)"
            )
        measured = ~np.isnan(truth).all(axis=0) if len(truth) else np.zeros(truth.shape[1], bool)
        n = np.where(measured, float(len(truth)), 0.0)
        mean_p = np.where(measured, predicted.mean(axis=0), 0.0) if len(truth) else np.zeros(len(n))
        mean_t = np.where(measured, truth.mean(axis=0), 0.0) if len(truth) else np.zeros(len(n))
        with np.errstate(invalid="ignore"):
            p = np.where(measured, predicted - mean_p, 0.0)
            t = np.where(measured, truth - mean_t, 0.0)
        pp, tt = np.einsum("ng,ng->g", p, p), np.einsum("ng,ng->g", t, t)
        bad = np.flatnonzero(~np.isfinite(pp + tt))
        if len(bad):
            raise PairError(
                f"{len(bad)} of {len(n)} genes, such as column {bad[0]}, have predictions or truths that are "
                "NaN or infinite; a gene that is not measured is NaN in every cell"
            )
        return cls(n, mean_p, mean_t, pp, tt, np.einsum("ng,ng->g", p, t))

    def __getitem__(self, key: object) -> Self:
        return type(self)(*(getattr(self, f.name)[key] for f in fields(self)))

    @classmethod
    def stack(cls, parts: "list[PairMoments]") -> Self:
        """Units one above another, `(U, G)`."""
        return cls(*(np.stack([getattr(part, f.name) for part in parts]) for f in fields(cls)))

    def merged(self, axis: int = 0, weights: np.ndarray | None = None) -> Self:
        """All units along an axis as one (Chan, Golub & LeVeque 1983, for many sets at once).

        Args:
            axis: which axis to merge.
            weights: `(U,)` how often each unit counts, for a bootstrap; once by default.
        """
        shape = [1] * self.n.ndim
        shape[axis] = -1
        w = np.ones(self.n.shape[axis]) if weights is None else np.asarray(weights, np.float64)
        w = w.reshape(shape)
        n = (w * self.n).sum(axis=axis, keepdims=True)
        safe = np.maximum(n, 1e-300)
        mean_p = (w * self.n * self.mean_p).sum(axis=axis, keepdims=True) / safe
        mean_t = (w * self.n * self.mean_t).sum(axis=axis, keepdims=True) / safe
        dp = np.where(self.n > 0, self.mean_p - mean_p, 0.0)
        dt = np.where(self.n > 0, self.mean_t - mean_t, 0.0)
        sums = [
            (w * (self.pp + self.n * dp * dp)).sum(axis=axis),
            (w * (self.tt + self.n * dt * dt)).sum(axis=axis),
            (w * (self.pt + self.n * dp * dt)).sum(axis=axis),
        ]
        return type(self)(n.squeeze(axis), mean_p.squeeze(axis), mean_t.squeeze(axis), *sums)

    @property
    def constant_truth(self) -> np.ndarray:
        """Genes without variation of the truth, or not measured at all: nothing can be scored."""
        return self.tt <= CONSTANT * (self.tt + self.n * self.mean_t**2)

    @property
    def constant_prediction(self) -> np.ndarray:
        """Genes that are predicted alike for every cell."""
        return self.pp <= CONSTANT * (self.pp + self.n * self.mean_p**2)

    @property
    def r(self) -> np.ndarray:
        """Pearson's r by gene.

        NaN where the truth is constant or not measured (left out of means, and counted); 0 where the truth
        varies and the prediction does not, for a constant prediction tells nothing.
        """
        with np.errstate(invalid="ignore", divide="ignore"):
            r = np.clip(self.pt / (np.sqrt(self.pp) * np.sqrt(self.tt)), -1.0, 1.0)
        r = np.where(self.constant_prediction, 0.0, r)
        return np.where(self.constant_truth, np.nan, r)

    @property
    def r2(self) -> np.ndarray:
        """R² by gene, 1 - sum of squared errors / sum of squares about the truth's mean; NaN as `r`."""
        error = self.tt + self.pp - 2 * self.pt + self.n * (self.mean_p - self.mean_t) ** 2
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.constant_truth, np.nan, 1 - error / self.tt)
