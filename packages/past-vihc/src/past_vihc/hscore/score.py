"""H-score, percentage of positive nuclei, and Allred score, from each nucleus's mean DAB."""

from typing import NamedTuple

import numpy as np

from past_core.errors import PastError
from past_vihc.hscore.presets import Thresholds

WEIGHTS = np.array([0.0, 1.0, 2.0, 3.0])
"""Points of a per cent of negative, 1+, 2+ and 3+ nuclei."""
PROPORTIONS = (1 / 100, 1 / 10, 1 / 3, 2 / 3)
"""Shares of positive nuclei from which Allred's proportion score is 2, 3, 4 and 5; 1 is any share above 0."""
INTENSITIES = (5 / 3, 7 / 3)
"""Mean classes of positive nuclei above which the intensity score is 2 and 3: thirds of the range 1 to 3."""


class ScoreError(PastError, ValueError):
    """Numbers that no score can be made of."""


class Allred(NamedTuple):
    """Allred score (Harvey et al. 1999), 0 or 2 to 8.

    Attributes:
        proportion: 0 to 5.
        intensity: 0 to 3.
        total: their sum.
    """

    proportion: int
    intensity: int
    total: int


class HScore(NamedTuple):
    """A score, or why there is none.

    Attributes:
        h: H-score, 0 to 300; None where undefined.
        percent: `(4,)` percentages of negative, 1+, 2+ and 3+ nuclei; None where undefined.
        percent_positive: of nuclei, 0 to 100, for Ki67 the proliferation index; None where undefined.
        allred: None where undefined.
        n: nuclei measured.
        clipped: more nuclei were measured than the denominator counts.
        denominator: nuclei that the percentages are of.
        why_undefined: the reason; None for a score.
    """

    h: float | None
    percent: np.ndarray | None
    percent_positive: float | None
    allred: Allred | None
    n: int
    clipped: bool
    denominator: int
    why_undefined: str | None = None


def classify(dab: np.ndarray, thresholds: Thresholds) -> np.ndarray:
    """Class of each nucleus, 0 (negative) to 3 (3+): `(N,)` int64; a value on a threshold is above it."""
    return np.digitize(dab, thresholds.levels)


def class_counts(dab: np.ndarray, thresholds: Thresholds) -> np.ndarray:
    """Nuclei of each class: `(4,)` int64."""
    return np.bincount(classify(dab, thresholds), minlength=4)


def h_score(dab: np.ndarray, thresholds: Thresholds, *, denominator: int | None = None) -> HScore:
    """H = 1 · % weak + 2 · % moderate + 3 · % strong.

    Args:
        dab: `(N,)` mean DAB optical density of each nucleus.
        thresholds: of the classes.
        denominator: nuclei that the percentages are of; the H&E's where IHC and H&E are different sections.
            Nuclei of the H&E that are missing in the IHC count as negative. By default the N measured.

    Raises:
        ScoreError: densities that are no numbers, or a denominator below 0.
    """
    dab = np.asarray(dab, np.float64)
    if dab.ndim != 1 or not np.isfinite(dab).all():
        raise ScoreError(
            f"mean DAB of shape {dab.shape} with {int((~np.isfinite(dab)).sum())} values that are no "
            "numbers; expected one number a nucleus"
        )
    return score_of_counts(class_counts(dab, thresholds), denominator=denominator)


def score_of_counts(counts: np.ndarray, *, denominator: int | None = None) -> HScore:
    """The same from the number of nuclei in each class, `(4,)`.

    Raises:
        ScoreError: a denominator below 0.
    """
    n = int(counts.sum())
    total = n if denominator is None else int(denominator)
    if total < 0:
        raise ScoreError(f"a denominator of {total} nuclei; expected at least 0")
    if total == 0:
        where = "in the image" if denominator is None else "on the H&E, which the percentages are of"
        return HScore(None, None, None, None, n, n > 0, 0, f"there are no nuclei {where}")
    percent = 100 * counts / total
    positive = percent[1:].sum()
    if positive > 100:  # different sections hold different nuclei
        percent = percent * (100 / positive)
        positive = 100.0
    percent[0] = 100 - positive
    return HScore(
        h=float(np.clip(percent @ WEIGHTS, 0, 300)),
        percent=percent,
        percent_positive=float(positive),
        allred=allred(percent),
        n=n,
        clipped=n > total,
        denominator=total,
    )


def allred(percent: np.ndarray) -> Allred:
    """Allred score of the percentages of the four classes.

    Proportion: 0 for none, 1 below 1/100, 2 from there, 3 from 1/10, 4 from 1/3, 5 from 2/3. Intensity: that
    of the average positive nucleus. The original is read by eye; cut-offs of whole classes are a convention.

    Args:
        percent: `(4,)` of negative, 1+, 2+, 3+.
    """
    positive = float(percent[1:].sum())
    if positive <= 0:
        return Allred(0, 0, 0)
    # 1e-9: a third of the nuclei is a third, however the division rounds.
    proportion = 1 + sum(positive / 100 >= share - 1e-9 for share in PROPORTIONS)
    mean = float(percent @ WEIGHTS) / positive
    intensity = 1 + sum(mean > cut + 1e-9 for cut in INTENSITIES)
    return Allred(proportion, intensity, proportion + intensity)
