"""Agreement of two sets of numbers on the same cases: correlation, concordance, Bland–Altman, ICC.

x is the reference, y what is compared with it. An estimate that is not defined says why instead of being NaN.
"""

import math
from dataclasses import dataclass

import numpy as np

from past_core.errors import PastError

MIN_PAIRS = 3
LIMIT = 1.959963984540054
"""Standard deviations of the differences from the bias to a limit of agreement: 95 % of a normal one."""


class AgreementError(PastError, ValueError):
    """Numbers whose agreement cannot be computed."""


@dataclass(frozen=True)
class Estimate:
    """A number with its interval, or why there is none.

    Attributes:
        value: the estimate; None where undefined.
        low: lower limit of the interval; None where undefined.
        high: upper limit.
        interval: how the interval was made.
        why: why the value (or its interval) is undefined; None where both are.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    interval: str = ""
    why: str | None = None


def pearson(x: np.ndarray, y: np.ndarray, *, confidence: float = 0.95) -> Estimate:
    """Pearson's r, with Fisher's interval: tanh(atanh r ± z / √(n − 3)).

    Args:
        x: `(N,)` reference.
        y: `(N,)`.
        confidence: of the interval.

    Raises:
        AgreementError: fewer than three pairs, other lengths, or values that are not finite.
    """
    x, y = _pairs(x, y)
    r = r_value(x, y)
    if r is None:
        return Estimate(None, why=_constant(x, y))
    return _fisher(r, len(x), 1.0, confidence)


def spearman(x: np.ndarray, y: np.ndarray, *, confidence: float = 0.95) -> Estimate:
    """Spearman's ρ (mean ranks of ties), with Fisher's interval and the variance of Bonett & Wright 2000.

    Args:
        x: `(N,)` reference.
        y: `(N,)`.
        confidence: of the interval.

    Raises:
        AgreementError: as `pearson`.
    """
    from scipy.stats import rankdata

    x, y = _pairs(x, y)
    rho = r_value(rankdata(x), rankdata(y))
    if rho is None:
        return Estimate(None, why=_constant(x, y))
    return _fisher(rho, len(x), math.sqrt(1 + rho**2 / 2), confidence)


def concordance(x: np.ndarray, y: np.ndarray, *, confidence: float = 0.95) -> Estimate:
    """Lin's concordance correlation, 2 s_xy / (s_x² + s_y² + (x̄ − ȳ)²), with moments over N.

    The interval is Lin's, of the inverse hyperbolic tangent (Lin 1989, with the correction of 2000). At most
    |r|, and 1 only where x and y are equal.

    Args:
        x: `(N,)` reference.
        y: `(N,)`.
        confidence: of the interval.

    Raises:
        AgreementError: as `pearson`.
    """
    x, y = _pairs(x, y)
    c = ccc(x, y)
    if c is None:
        return Estimate(None, why="both columns are constant and equal")
    r, n = r_value(x, y), len(x)
    if r is None:
        return Estimate(c, why=f"no interval: {_constant(x, y)}")
    if c >= 1 - 1e-12:
        return Estimate(1.0, 1.0, 1.0, "Lin")
    if abs(r) < 1e-9:
        return Estimate(c, why="no interval: r is 0")
    u2 = (x.mean() - y.mean()) ** 2 / math.sqrt(x.var() * y.var())
    variance = (
        (1 - r**2) * c**2 / ((1 - c**2) * r**2)
        + 2 * c**3 * (1 - c) * u2 / (r * (1 - c**2) ** 2)
        - c**4 * u2**2 / (2 * r**2 * (1 - c**2) ** 2)
    ) / (n - 2)
    if variance < 0:
        return Estimate(c, why="no interval: Lin's variance is negative for so few pairs")
    half = _z(confidence) * math.sqrt(variance)
    low, high = (math.tanh(math.atanh(c) + sign * half) for sign in (-1, 1))
    return Estimate(c, low, high, "Lin")


def ccc(x: np.ndarray, y: np.ndarray) -> float | None:
    """The value of `concordance` alone; None where x and y are constant and equal."""
    bottom = x.var() + y.var() + (x.mean() - y.mean()) ** 2
    top = 2 * ((x - x.mean()) * (y - y.mean())).mean()
    return float(np.clip(top / bottom, -1, 1)) if bottom > 0 else None


def icc(x: np.ndarray, y: np.ndarray, *, confidence: float = 0.95) -> Estimate:
    """ICC(2,1): two-way random effects, absolute agreement, one rater.

    Shrout & Fleiss 1979; the interval is that of McGraw & Wong 1996.

    Args:
        x: `(N,)` reference.
        y: `(N,)`.
        confidence: of the interval.

    Raises:
        AgreementError: as `pearson`.
    """
    from scipy.stats import f as f_distribution

    x, y = _pairs(x, y)
    n, k = len(x), 2
    rows, columns, error = _mean_squares(x, y)
    value = icc_value(x, y)
    if value is None:
        return Estimate(None, why="there is no variance between the cases or between the columns")
    if error <= 1e-12 * rows:
        if columns <= 1e-12 * rows:
            return Estimate(float(value), float(value), float(value), "F")
        return Estimate(float(value), why="no interval: the columns differ by a constant alone")
    a = k * value / (n * (1 - value))
    b = 1 + k * value * (n - 1) / (n * (1 - value))
    freedom = (a * columns + b * error) ** 2 / (
        (a * columns) ** 2 / (k - 1) + (b * error) ** 2 / ((n - 1) * (k - 1))
    )
    tail = 1 - (1 - confidence) / 2
    upper, lower = f_distribution.ppf(tail, n - 1, freedom), f_distribution.ppf(tail, freedom, n - 1)
    rest = k * columns + (k * n - k - n) * error
    low = n * (rows - upper * error) / (upper * rest + n * rows)
    high = n * (lower * rows - error) / (rest + n * lower * rows)
    return Estimate(float(value), float(low), float(high), "F (McGraw and Wong)")


def icc_value(x: np.ndarray, y: np.ndarray) -> float | None:
    """The value of `icc` alone; None where nothing varies."""
    rows, columns, error = _mean_squares(x, y)
    bottom = rows + error + 2 * (columns - error) / len(x)
    return (rows - error) / bottom if bottom > 0 else None


@dataclass(frozen=True)
class BlandAltman:
    """Bias and limits of agreement of y − x.

    Attributes:
        bias: mean difference, with Student's interval.
        lower: bias − 1.96 s, with its approximate interval.
        upper: bias + 1.96 s.
        sd: s, the standard deviation of the differences (over n − 1).
        slope: of the difference on the mean of both: away from 0, the bias depends on the size.
    """

    bias: Estimate
    lower: Estimate
    upper: Estimate
    sd: float
    slope: Estimate


def bland_altman(x: np.ndarray, y: np.ndarray, *, confidence: float = 0.95) -> BlandAltman:
    """Bias and 95 % limits of agreement, with their intervals (Bland & Altman 1986, 1999).

    The limits are always bias ± 1.96 s; `confidence` is that of the intervals. The limits' standard error is
    s √(1/n + 1.96² / (2 (n − 1))).

    Args:
        x: `(N,)` reference.
        y: `(N,)`.
        confidence: of the intervals.

    Raises:
        AgreementError: as `pearson`.
    """
    from scipy.stats import linregress
    from scipy.stats import t as student

    x, y = _pairs(x, y)
    n, difference = len(x), y - x
    bias, s = float(difference.mean()), float(difference.std(ddof=1))
    t, z = float(student.ppf(0.5 + confidence / 2, n - 1)), LIMIT
    mean_error, limit_error = s / math.sqrt(n), s * math.sqrt(1 / n + z**2 / (2 * (n - 1)))

    def around(value: float, error: float) -> Estimate:
        return Estimate(value, value - t * error, value + t * error, "Student")

    middle = (x + y) / 2
    if np.ptp(middle) > 0:
        fitted = linregress(middle, difference)
        own = float(student.ppf(0.5 + confidence / 2, n - 2)) * fitted.stderr
        slope = Estimate(float(fitted.slope), float(fitted.slope - own), float(fitted.slope + own), "Student")
    else:
        slope = Estimate(None, why="the means of all pairs are equal")
    return BlandAltman(
        around(bias, mean_error),
        around(bias - z * s, limit_error),
        around(bias + z * s, limit_error),
        s,
        slope,
    )


def _mean_squares(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Mean squares between cases, between columns, and of the error, of a two-way table without repeats."""
    table = np.stack([x, y], axis=1)
    n, k = table.shape
    grand = table.mean()
    case, column = table.mean(axis=1), table.mean(axis=0)
    residual = table - case[:, None] - column + grand
    rows = k * ((case - grand) ** 2).sum() / (n - 1)
    columns = n * ((column - grand) ** 2).sum() / (k - 1)
    return float(rows), float(columns), float((residual**2).sum() / ((n - 1) * (k - 1)))


def _fisher(r: float, n: int, scale: float, confidence: float) -> Estimate:
    if n == 3:
        return Estimate(r, why="no interval: Fisher's needs more than three pairs")
    if abs(r) >= 1 - 1e-12:
        return Estimate(math.copysign(1.0, r), math.copysign(1.0, r), math.copysign(1.0, r), "Fisher")
    half = _z(confidence) * scale / math.sqrt(n - 3)
    return Estimate(r, math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half), "Fisher")


def _z(confidence: float) -> float:
    from scipy.stats import norm

    return float(norm.ppf(0.5 + confidence / 2))


def r_value(x: np.ndarray, y: np.ndarray) -> float | None:
    """Pearson's r alone; None where a side is constant."""
    if _is_constant(x) or _is_constant(y):
        return None
    a, b = (v - v.mean() for v in (x, y))
    a, b = a / np.abs(a).max(), b / np.abs(b).max()  # no square overflows or vanishes
    return float(np.clip(a @ b / math.sqrt((a @ a) * (b @ b)), -1, 1))


def _is_constant(values: np.ndarray) -> bool:
    return bool(np.ptp(values) <= 1e-12 * np.abs(values).max())


def _constant(x: np.ndarray, y: np.ndarray) -> str:
    names = [
        f"{name} is {values[0]:g} in all rows"
        for name, values in (("x", x), ("y", y))
        if _is_constant(values)
    ]
    return f"a correlation needs values that differ, but {' and '.join(names)}"


def _pairs(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 1 or x.shape != y.shape or len(x) < MIN_PAIRS:
        raise AgreementError(f"values of shapes {x.shape} and {y.shape}; expected both (N,), N at least 3")
    bad = ~(np.isfinite(x) & np.isfinite(y))
    if bad.any():
        raise AgreementError(f"{int(bad.sum())} of {len(x)} pairs are not finite; leave them out")
    return x, y
