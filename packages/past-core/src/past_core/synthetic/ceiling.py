"""What an image can tell about a cell at most: an optimal reader of the true looks, in place of pixels.

Given type and state, the logs of a cell's looks are normal about means that are linear in the state (but
for a few clipped values). The reader is therefore Bayes' rule with one normal distribution for each type,
and within a type a linear regression of the states on the looks. It sees the looks themselves, free of
blur, noise and overlap, and for the smooth part of the state also the mean looks of the nearest cells.
Everything is fitted on other slides than those it is judged on.

Measured on the default cohort of five, at strengths 1, 0.5 and 0: of the variance of `state_1` 96, 88 and 0
% are explained, of `state_2` 97, 91 and 0 %, of the programme 91, 78 and 0 %; recall@10 is 106–111, 94–96
and about 1 times chance from image to genes, 63–65, 57 and about 1 times from genes to image, where the
true rates would reach 116–118 and 67–70, and the true types alone 7–10. `retrieval` scores a cell's own
counts: a cell encoder that also reads its neighbours' counts has more to go by.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree
from scipy.special import logsumexp

from past_core.synthetic.cohort import CELL_TYPES
from past_core.synthetic.divergence import diverge
from past_core.synthetic.expression import THETA, Expression
from past_core.synthetic.looks import LOOKS
from past_core.synthetic.panel import gene_model
from past_core.synthetic.tissue import Tissue

LATENTS = ("state_1", "state_2", "programme")
NEIGHBOURS = 12


class Knowable(NamedTuple):
    """What the looks tell, on slides that the reader was not fitted on.

    Args:
        state_1: Share of the variance of the first state that is explained, 1 − SSE/SST, pooled over slides.
        state_2: Of the second state.
        programme: Of the spatial programme.
        cell_type: Share of cells whose type is named rightly.
        majority: Share of the commonest type: what naming without looking reaches.
    """

    state_1: float
    state_2: float
    programme: float
    cell_type: float
    majority: float


class Recall(NamedTuple):
    """Recall@10 over chance (10 / number of cells), mean over all cells of a slide, in both directions."""

    image_to_gene: float
    gene_to_image: float


def look_features(tissue: Tissue) -> np.ndarray:
    """Logs of a cell's own looks, then their means over its nearest cells, (N, 24) float64."""
    own = np.log(np.maximum(tissue.cells[list(LOOKS)].to_numpy(), 0.02))
    points = tissue.cells[["x_um", "y_um"]].to_numpy()
    _, nearest = cKDTree(points).query(points, k=min(NEIGHBOURS + 1, len(points)))
    return np.concatenate([own, own[nearest[:, 1:]].mean(axis=1)], axis=1)


@dataclass(frozen=True)
class LookReader:
    """The fitted reader.

    Args:
        log_prior: (T,) log share of each type.
        mean: (T, D) mean looks of a type.
        whitening: (T, D, D) rows that whiten a type's deviations.
        weights: (T, D + 1, 3) regression of the latents on the looks within a type, intercept last.
    """

    log_prior: np.ndarray
    mean: np.ndarray
    whitening: np.ndarray
    weights: np.ndarray

    def read(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities of the types (N, T) and expectations of the latents (N, 3)."""
        log = np.empty((len(features), len(self.mean)))
        latents = np.empty((*log.shape, 3))
        for t, (mean, whitening, weights) in enumerate(
            zip(self.mean, self.whitening, self.weights, strict=True)
        ):
            deviation = (features - mean) @ whitening.T
            log_volume = np.linalg.slogdet(whitening)[1]
            log[:, t] = self.log_prior[t] + log_volume - 0.5 * (deviation**2).sum(axis=1)
            latents[:, t] = (features - mean) @ weights[:-1] + weights[-1]
        probability = np.exp(log - logsumexp(log, axis=1, keepdims=True))
        return probability, (probability[..., None] * latents).sum(axis=1)


class _Seen(NamedTuple):
    """Looks, types and latents of some cells."""

    features: np.ndarray
    code: np.ndarray
    latents: np.ndarray


def _see(tissue: Tissue) -> _Seen:
    code = tissue.cells["cell_type"].cat.codes.to_numpy()
    return _Seen(look_features(tissue), code, tissue.cells[list(LATENTS)].to_numpy())


def fit_reader(tissues: Sequence[Tissue], *, shrinkage: float = 30.0) -> LookReader:
    """Fits the reader to slides.

    Args:
        tissues: Slides to learn from.
        shrinkage: Number of pseudo-cells that pull each type's covariance, cross-covariance and means to the
            pooled ones, for types with few cells.
    """
    return _fit([_see(tissue) for tissue in tissues], shrinkage)


def _fit(slides: Sequence[_Seen], shrinkage: float) -> LookReader:
    features, code, latents = (np.concatenate(parts) for parts in zip(*slides, strict=True))
    kinds = [np.flatnonzero(code == t) for t in range(len(CELL_TYPES))]
    mean = _shrunk_means(features, kinds, shrinkage / 10)
    target = _shrunk_means(latents, kinds, shrinkage)
    residual, wanted = features - mean[code], latents - target[code]
    floor = 1e-4 * np.eye(features.shape[1])
    pooled, pooled_cross = residual.T @ residual / len(code) + floor, residual.T @ wanted / len(code)
    whitening, weights = [], []
    for t, rows in enumerate(kinds):
        total = len(rows) + shrinkage
        covariance = (residual[rows].T @ residual[rows] + shrinkage * pooled) / total + floor
        cross = (residual[rows].T @ wanted[rows] + shrinkage * pooled_cross) / total
        whitening.append(np.linalg.inv(np.linalg.cholesky(covariance)))
        weights.append(np.concatenate([np.linalg.solve(covariance, cross), target[t : t + 1]]))
    counts = np.array([len(rows) + 1 for rows in kinds])
    return LookReader(np.log(counts / counts.sum()), mean, np.array(whitening), np.array(weights))


def _shrunk_means(values: np.ndarray, kinds: list[np.ndarray], shrinkage: float) -> np.ndarray:
    """Mean of each kind's rows, pulled to the mean of all rows as by `shrinkage` more rows."""
    centre = values.mean(axis=0)
    return np.array(
        [(values[rows].sum(axis=0) + shrinkage * centre) / (len(rows) + shrinkage) for rows in kinds]
    )


def knowable(tissues: Sequence[Tissue], *, shrinkage: float = 30.0) -> Knowable:
    """Reads each slide with a reader fitted on the others, and pools; see `fit_reader`."""
    slides = [_see(tissue) for tissue in tissues]
    error, spread = np.zeros(3), np.zeros(3)
    right, shares = 0, np.zeros(len(CELL_TYPES))
    for i, slide in enumerate(slides):
        probability, latents = _fit(slides[:i] + slides[i + 1 :], shrinkage).read(slide.features)
        error += ((slide.latents - latents) ** 2).sum(axis=0)
        spread += ((slide.latents - slide.latents.mean(axis=0)) ** 2).sum(axis=0)
        right += int((probability.argmax(axis=1) == slide.code).sum())
        shares += np.bincount(slide.code, minlength=len(CELL_TYPES))
    explained = (float(v) for v in 1 - error / spread)
    return Knowable(*explained, float(right / shares.sum()), float(shares.max() / shares.sum()))


def read_log_rates(reader: LookReader, tissue: Tissue) -> np.ndarray:
    """Log shares of the slide's genes as the looks alone predict them, (N, G) float64."""
    model = diverge(gene_model(tissue.config.cancer_type), tissue.config)
    probability, latents = reader.read(look_features(tissue))
    log = model.base + probability @ model.type_effect + latents @ model.loadings
    return log - logsumexp(log, axis=1, keepdims=True)


def retrieval(log_rates: np.ndarray, expression: Expression, *, k: int = 10) -> Recall:
    """Matches predicted rates with measured counts over all cells of one slide.

    A pair scores by the likelihood ratio of the counts under the cell's predicted rates against all cells';
    counts are weighted down where the negative binomial spreads them.

    Args:
        log_rates: (N, G) predicted log shares, for the truth `expression.log_rates`.
        expression: The slide's counts; controls are left out.
        k: Number of retrieved cells.
    """
    genes = (expression.features["feature_type"] == "Gene Expression").to_numpy()
    counts = expression.counts[:, np.flatnonzero(genes)].toarray().astype(np.float64)
    typical = np.exp(log_rates).mean(axis=0)
    ratio = log_rates - np.log(typical)
    expected = counts.sum(axis=1, keepdims=True) * typical
    weighted = (counts - expected) / (1 + expected / THETA)
    information = expected / (1 + expected / THETA)
    # (image i, genes j): second order in the log ratio.
    score = ratio @ weighted.T - 0.5 * (ratio**2) @ information.T
    score -= logsumexp(score, axis=0, keepdims=True)
    own = np.diag(score)
    return Recall(_recall(score, own[:, None], axis=1, k=k), _recall(score, own[None], axis=0, k=k))


def _recall(score: np.ndarray, own: np.ndarray, *, axis: int, k: int) -> float:
    """Share of own scores among the k best over chance; ties count half, so that a constant earns nothing."""
    better = (score > own).sum(axis=axis) + 0.5 * ((score == own).sum(axis=axis) - 1)
    return float((better < k).mean() * len(score) / k)
