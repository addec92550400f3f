"""How sure an H-score is: resampled squares of tissue, and other thresholds and white points."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from past_vihc.hscore.presets import PRESETS, Thresholds
from past_vihc.hscore.score import WEIGHTS, class_counts, score_of_counts

BLOCK_UM = 200.0
"""Side of the squares that are resampled, in µm."""
RESAMPLES = 2000
FEW_BLOCKS = 8
"""With fewer squares the interval is not to be relied on."""
FACTORS = (0.8, 0.9, 1.1, 1.2)
WHITE_FACTORS = (0.98, 1.02)


class Interval(NamedTuple):
    """A bootstrap interval.

    Attributes:
        low: of the H-score.
        high: of the H-score.
        positive_low: of the percentage of positive nuclei.
        positive_high: likewise.
        blocks: squares with nuclei.
    """

    low: float
    high: float
    positive_low: float
    positive_high: float
    blocks: int


def blocks_of(x_um: np.ndarray, y_um: np.ndarray, *, block_um: float = BLOCK_UM) -> np.ndarray:
    """A number for the square, from the slide's corner, that each point lies in: `(N,)` int64."""
    column, row = (np.floor(np.asarray(v) / block_um).astype(np.int64) for v in (x_um, y_um))
    return row * 2**31 + column


def bootstrap_interval(
    classes: np.ndarray,
    blocks: np.ndarray,
    *,
    denominator_blocks: np.ndarray | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> Interval | None:
    """Percentile interval of the H-score over resampled squares of tissue.

    Neighbouring nuclei are alike, so that resampling nuclei would give intervals far too narrow; whole
    squares are drawn with replacement instead. What the interval does not hold: other sections, other
    laboratories, and other thresholds.

    Args:
        classes: `(N,)` 0 to 3.
        blocks: `(N,)` square of each nucleus, see `blocks_of`.
        denominator_blocks: squares of the nuclei that the percentages are of, where they are others.
        level: of the interval.
        seed: of the draws.

    Returns:
        None where fewer than two squares hold nuclei.
    """
    every = blocks if denominator_blocks is None else np.concatenate([blocks, denominator_blocks])
    names = np.unique(every)
    if len(names) < 2:
        return None
    counts = np.zeros((len(names), 4))
    np.add.at(counts, (np.searchsorted(names, blocks), classes), 1)
    total = counts.sum(axis=1)
    if denominator_blocks is not None:
        total = np.bincount(np.searchsorted(names, denominator_blocks), minlength=len(names)).astype(float)
    draws = np.random.default_rng(seed).multinomial(
        len(names), np.full(len(names), 1 / len(names)), RESAMPLES
    )
    drawn, of = draws @ counts, draws @ total
    drawn, of = drawn[of > 0], of[of > 0]
    share = 100 * drawn[:, 1:] / of[:, None]
    share *= np.minimum(1, 100 / np.maximum(share.sum(axis=1), 1e-12))[:, None]
    ends = [50 * (1 - level), 50 * (1 + level)]
    low, high = np.percentile(share @ WEIGHTS[1:], ends)
    positive_low, positive_high = np.percentile(share.sum(axis=1), ends)
    return Interval(float(low), float(high), float(positive_low), float(positive_high), len(names))


def sensitivity(
    dab: np.ndarray,
    thresholds: Thresholds,
    *,
    other_whites: dict[str, np.ndarray] | None = None,
    denominator: int | None = None,
) -> pd.DataFrame:
    """The score under every preset, under thresholds 20 % lower to 20 % higher, and under other white points.

    Args:
        dab: `(N,)` mean DAB of each nucleus.
        thresholds: those of the score.
        other_whites: the same measured with other white points, by name.
        denominator: as in `h_score`.

    Returns:
        One row a variant: `variant`, `weak`, `moderate`, `strong`, `h`, `percent_positive`, the first being
        the score itself; empty figures where there are no nuclei.
    """
    variants = [(thresholds.name, thresholds, dab)]
    variants += [(p.name, p, dab) for p in PRESETS.values() if p.name != thresholds.name]
    variants += [(f"thresholds x {f:g}", thresholds.scaled(f), dab) for f in FACTORS]
    variants += [(name, thresholds, values) for name, values in (other_whites or {}).items()]
    rows = []
    for name, t, values in variants:
        score = score_of_counts(class_counts(values, t), denominator=denominator)
        rows.append((name, *t.levels, score.h, score.percent_positive))
    return pd.DataFrame(rows, columns=["variant", "weak", "moderate", "strong", "h", "percent_positive"])
