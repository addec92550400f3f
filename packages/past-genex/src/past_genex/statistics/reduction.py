"""Principal components of the embeddings from statistics, for protocols that reduce before they fit."""

from dataclasses import dataclass, replace

import numpy as np

from past_genex.metrics.pairs import CONSTANT
from past_genex.statistics.model import LinearModel
from past_genex.statistics.moments import Moments
from past_genex.statistics.units import RidgeError, Unit


@dataclass(frozen=True)
class Reduction:
    """An affine map of embeddings, `(x - origin) @ matrix`.

    Attributes:
        origin: `(d,)`.
        matrix: `(d, k)`.
    """

    origin: np.ndarray
    matrix: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """`(N, k)` from `(N, d)`."""
        return (np.asarray(x, np.float64) - self.origin) @ self.matrix

    def moments(self, moments: Moments) -> Moments:
        """Statistics of the reduced embeddings."""
        return replace(
            moments,
            mean_x=(moments.mean_x - self.origin) @ self.matrix,
            xx=self.matrix.T @ np.asarray(moments.xx) @ self.matrix,
            xy=self.matrix.T @ np.asarray(moments.xy),
        )

    def unit(self, unit: Unit) -> Unit:
        """The unit in reduced embeddings."""
        return unit._replace(moments=self.moments(unit.moments))

    def through(self, model: LinearModel) -> LinearModel:
        """A model of reduced embeddings as one of the embeddings themselves."""
        weight = self.matrix @ model.weight
        return replace(model, weight=weight, bias=model.bias - self.origin @ weight)


def principal_components(moments: Moments, components: int, *, standardise: bool = True) -> Reduction:
    """The leading principal components of training embeddings, as scikit-learn's StandardScaler and PCA.

    HEST-Bench reduces every encoder to 256 so before its ridge (arXiv 2406.16192).

    Args:
        moments: of the training cells.
        components: k; at most the length of the embedding and one less than the cells.
        standardise: divide every dimension by its standard deviation first; constant ones are only centred.

    Raises:
        RidgeError: more components than there can be.
    """
    most = int(min(moments.d, moments.n - 1))
    if not 1 <= components <= most:
        raise RidgeError(
            f"{components} components of {moments.d} dimensions and {moments.n:g} cells; expected 1 to {most}"
        )
    xx = np.asarray(moments.xx)
    scale = np.ones(moments.d)
    if standardise:
        diagonal = np.diag(xx)
        varies = diagonal > CONSTANT**2 * (diagonal + moments.n * moments.mean_x**2)
        scale[varies] = 1 / np.sqrt(diagonal[varies] / moments.n)
    _, basis = np.linalg.eigh(scale[:, None] * xx * scale)
    leading = basis[:, ::-1][:, :components]
    return Reduction(moments.mean_x, scale[:, None] * leading)
