"""Thresholds fitted to examples that an expert has scored.

With S(t) the percentage of a slide's nuclei whose DAB is at least t, the H-score is
S(weak) + S(moderate) + S(strong): a sum of one term a threshold. On a grid of thresholds the squared error of
all ordered triples therefore follows from one matrix of inner products, and the best triple is found by
looking at all of them: no local minimum, no start to choose. Where the expert gave percentages of the
classes, each term has its own target, and the three errors are squared one by one.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from past_core.errors import PastError
from past_vihc.hscore.presets import Thresholds

LEAST = 3
"""Fewest examples: there are three unknowns."""
FEW = 10
STEP, TOP = 0.01, 1.2
"""The grid, in optical density."""
NEAR = 1.0
"""Thresholds whose error is within this of the best, in points of H-score, are reported as a range."""


class CalibrationError(PastError, ValueError):
    """Examples that no thresholds can be fitted to."""


class Example(NamedTuple):
    """A slide or region that an expert has scored.

    Attributes:
        name: for messages.
        dab: `(N,)` mean DAB of its nuclei.
        h: the expert's H-score, 0 to 300.
        percent: `(4,)` the expert's percentages of the classes, or None.
    """

    name: str
    dab: np.ndarray
    h: float
    percent: np.ndarray | None = None


class Fit(NamedTuple):
    """Fitted thresholds and how well they do.

    Attributes:
        thresholds: the best.
        ranges: `(3, 2)` each threshold's range among triples nearly as good.
        predicted: `(n,)` H-score of each example under the thresholds.
        left_out: `(n,)` H-score of each example under thresholds fitted to all others.
        rmse: root mean square error of the H-score on the examples.
        loo_rmse: the same of `left_out`.
    """

    thresholds: Thresholds
    ranges: np.ndarray
    predicted: np.ndarray
    left_out: np.ndarray
    rmse: float
    loo_rmse: float


def fit_thresholds(examples: Sequence[Example]) -> Fit:
    """Finds the ordered thresholds with the least squared error, and its error on examples left out.

    Args:
        examples: at least three, with nuclei.

    Raises:
        CalibrationError: too few, one without nuclei, a score outside 0 to 300, or percentages that are none.
    """
    _check(examples)
    grid = np.round(np.arange(STEP, TOP + STEP / 2, STEP), 10)
    share = np.stack([_share(example.dab, grid) for example in examples])
    target = np.array([example.h for example in examples])
    cumulative = None
    known = [example.percent for example in examples if example.percent is not None]
    if len(known) == len(examples):
        percent = np.stack(known)
        cumulative = percent[:, :0:-1].cumsum(axis=1)[:, ::-1]
    triples = _triples(len(grid))
    cost = _costs(share, target, cumulative, triples)
    best = _best(cost, triples)
    rmse = float(np.sqrt(np.mean((share[:, best].sum(axis=1) - target) ** 2)))
    bound = len(examples) * (np.sqrt(cost.min() / len(examples)) + NEAR) ** 2
    close = triples[:, cost <= bound]
    ranges = np.stack([grid[close.min(axis=1)], grid[close.max(axis=1)]], axis=1)
    left_out = np.empty(len(examples))
    for i in range(len(examples)):
        rest = np.arange(len(examples)) != i
        other = None if cumulative is None else cumulative[rest]
        chosen = _best(_costs(share[rest], target[rest], other, triples), triples)
        left_out[i] = share[i, chosen].sum()
    weak, moderate, strong = (float(grid[k]) for k in best)
    return Fit(
        Thresholds(weak, moderate, strong, name="calibrated"),
        ranges,
        share[:, best].sum(axis=1),
        left_out,
        rmse,
        float(np.sqrt(np.mean((left_out - target) ** 2))),
    )


def _share(dab: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Percentage of nuclei at or above each threshold."""
    below = np.searchsorted(np.sort(dab), grid, side="left")
    return 100 * (1 - below / len(dab))


def _triples(count: int) -> np.ndarray:
    """Every ordered triple of the grid, `(3, T)`."""
    a, b = np.triu_indices(count, 1)
    first = np.repeat(np.arange(len(a)), count - 1 - b)
    c = np.concatenate([np.arange(k + 1, count) for k in b])
    return np.stack([a[first], b[first], c]).astype(np.int32)


def _costs(
    share: np.ndarray, target: np.ndarray, cumulative: np.ndarray | None, triples: np.ndarray
) -> np.ndarray:
    """Sum of squared errors of every triple, `(T,)`."""
    a, b, c = triples
    if cumulative is not None:
        single = ((share[:, :, None] - cumulative[:, None]) ** 2).sum(axis=0)
        return single[a, 0] + single[b, 1] + single[c, 2]
    inner, along = share.T @ share, share.T @ target
    own = inner.diagonal() - 2 * along
    # Of two thresholds at a time, in tables: three look-ups a triple.
    pair = 2 * inner + own[:, None]
    cost = pair[a, b] + pair[b, c] + pair[c, a] + target @ target
    return np.maximum(cost, 0)


def _best(cost: np.ndarray, triples: np.ndarray) -> np.ndarray:
    """The middle one of the best triples: scores are steps, so that many are equal."""
    best = triples[:, cost <= cost.min() * (1 + 1e-9) + 1e-6]
    middle = best.mean(axis=1, keepdims=True)
    return best[:, ((best - middle) ** 2).sum(axis=0).argmin()]


def _check(examples: Sequence[Example]) -> None:
    if len(examples) < LEAST:
        raise CalibrationError(
            f"{len(examples)} scored examples; expected at least {LEAST}, for there are three thresholds"
        )
    for example in examples:
        if not len(example.dab) or not np.isfinite(example.dab).all():
            raise CalibrationError(
                f"{example.name}: no nuclei, or DAB that is no number; leave the example out"
            )
        if not 0 <= example.h <= 300:
            raise CalibrationError(f"{example.name}: an H-score of {example.h:g}; expected 0 to 300")
        percent = example.percent
        if percent is not None and (percent.min() < 0 or abs(percent.sum() - 100) > 1):
            raise CalibrationError(
                f"{example.name}: percentages {percent.tolist()}; expected four of at least 0 "
                "that add up to 100"
            )
    if max(example.h for example in examples) - min(example.h for example in examples) < 10:
        raise CalibrationError(
            "the examples' H-scores all lie within 10 points; thresholds need slides from negative to strong"
        )
