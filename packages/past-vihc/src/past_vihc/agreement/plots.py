"""Two scores of the same cases: a scatter with the identity line (the paper's Fig. 3e), and Bland–Altman."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from past_vihc.agreement.statistics import Estimate
from past_vihc.figures.panels import COLOURS, FigureError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MINUS = "\N{MINUS SIGN}"


def agreement_scatter(
    x: np.ndarray,
    y: np.ndarray,
    *,
    r: Estimate,
    ccc: Estimate | None = None,
    x_label: str = "expert",
    y_label: str = "predicted",
    group: Sequence[str] | None = None,
    hscore: bool = False,
) -> "Figure":
    """Every pair as a dot, with the identity line, r and the concordance.

    Args:
        x: `(N,)` reference.
        y: `(N,)`.
        r: Pearson's, drawn with its interval.
        ccc: Lin's concordance; None leaves it out.
        x_label: of the axis.
        y_label: of the axis.
        group: `(N,)` names, one colour each.
        hscore: axes from 0 to 300, with lines at 50, 100 and 200.

    Raises:
        FigureError: no pair, other lengths, or values that are not finite.
    """
    from matplotlib.figure import Figure

    x, y = _values(x, y, group)
    figure = Figure(figsize=(4.4, 4.4), layout="constrained")
    axis = figure.subplots()
    if hscore:
        low, high = -6.0, 306.0
        for cut in (50, 100, 200):
            axis.axhline(cut, color="0.93", lw=0.8, zorder=0)
            axis.axvline(cut, color="0.93", lw=0.8, zorder=0)
        axis.set_xticks(range(0, 301, 50))
        axis.set_yticks(range(0, 301, 50))
    else:
        low, high = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
        margin = 0.05 * (high - low or max(abs(high), 1.0))
        low, high = low - margin, high + margin
    axis.plot([low, high], [low, high], color="0.45", lw=1, ls=(0, (4, 3)), zorder=1)
    _dots(axis, x, y, group)
    lines = [_text("r", r)] + ([] if ccc is None else [_text("CCC", ccc)]) + [f"n = {len(x)}"]
    # Beside the identity line, on the side that holds fewer of the dots.
    span = high - low
    left = np.sum((x < low + 0.5 * span) & (y > high - 0.25 * span))
    right = np.sum((x > high - 0.5 * span) & (y < low + 0.25 * span))
    place = (0.03, 0.97, "left", "top") if left <= right else (0.97, 0.03, "right", "bottom")
    axis.text(
        place[0], place[1], "\n".join(lines), transform=axis.transAxes, fontsize=8.5, ha=place[2],
        va=place[3], linespacing=1.4,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 2},
    )  # fmt: skip
    axis.set_xlim(low, high)
    axis.set_ylim(low, high)
    axis.set_aspect("equal")
    _finish(axis, x_label, y_label, "upper left" if place[1] < 0.5 else "lower right", group)
    return figure


def bland_altman_plot(
    x: np.ndarray,
    y: np.ndarray,
    *,
    bias: Estimate,
    lower: Estimate,
    upper: Estimate,
    x_label: str = "expert",
    y_label: str = "predicted",
    group: Sequence[str] | None = None,
) -> "Figure":
    """Differences over means, with bias and limits of agreement and their intervals (Bland & Altman 1986).

    Args:
        x: `(N,)` reference.
        y: `(N,)`.
        bias: mean of y − x.
        lower: limit of agreement.
        upper: limit of agreement.
        x_label: name of x.
        y_label: name of y.
        group: `(N,)` names, one colour each.

    Raises:
        FigureError: as `agreement_scatter`.
    """
    from matplotlib.figure import Figure

    x, y = _values(x, y, group)
    figure = Figure(figsize=(5.6, 4.0), layout="constrained")
    axis = figure.subplots()
    axis.axhline(0, color="0.85", lw=0.8, zorder=0)
    _dots(axis, (x + y) / 2, y - x, group)
    for estimate, name, style in (
        (upper, "+1.96 s", "--"),
        (bias, "bias", "-"),
        (lower, f"{MINUS}1.96 s", "--"),
    ):
        if estimate.value is None:  # too few pairs for one
            continue
        axis.axhline(estimate.value, color="0.25", lw=1, ls=style, zorder=1)
        if estimate.low is not None and estimate.high is not None:
            axis.axhspan(estimate.low, estimate.high, color="0.5", alpha=0.13, lw=0, zorder=0)
        axis.text(
            1.015, estimate.value, f"{name}\n{_number(estimate.value)}", fontsize=8, va="center",
            linespacing=1.2, transform=axis.get_yaxis_transform(),
        )  # fmt: skip
    low, high = axis.get_ylim()
    ends = [v for e in (lower, upper, bias) for v in (e.value, e.low, e.high) if v is not None]
    margin = 0.06 * max(high - low, 1e-9)
    axis.set_ylim(min(low, min(ends) - margin), max(high, max(ends) + margin))
    _finish(axis, f"mean of {x_label} and {y_label}", f"{y_label} {MINUS} {x_label}", "best", group)
    return figure


def _dots(axis: "Axes", x: np.ndarray, y: np.ndarray, group: Sequence[str] | None) -> None:
    alpha = 0.75 if len(x) < 300 else 0.4
    names = [None] if group is None else list(dict.fromkeys(group))
    for number, name in enumerate(names):
        rows = slice(None) if group is None else np.array([g == name for g in group])
        axis.scatter(
            x[rows], y[rows], s=22 if len(x) < 300 else 9, color=COLOURS[number % len(COLOURS)], alpha=alpha,
            linewidths=0, label=name, zorder=2,
        )  # fmt: skip


def _finish(axis: "Axes", x_label: str, y_label: str, place: str, group: Sequence[str] | None) -> None:
    axis.set_xlabel(x_label, fontsize=9)
    axis.set_ylabel(y_label, fontsize=9)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    if group is not None:
        options: dict[str, Any] = {"loc": place, "handletextpad": 0.2}
        axis.legend(fontsize=8, frameon=False, **options)


def _text(name: str, estimate: Estimate) -> str:
    if estimate.value is None:
        return f"{name} undefined"
    text = f"{name} = {_number(estimate.value, 2)}"
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} ({_number(estimate.low, 2)} to {_number(estimate.high, 2)})"


def _number(value: float, digits: int | None = None) -> str:
    text = (
        f"{value:.{digits}f}"
        if digits is not None
        else f"{value:.3g}"
        if abs(value) < 100
        else f"{value:.0f}"
    )
    return text.replace("-", MINUS)


def _values(x: np.ndarray, y: np.ndarray, group: Sequence[str] | None) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 1 or x.shape != y.shape or not len(x):
        raise FigureError(f"values of shapes {x.shape} and {y.shape}; expected both (N,), N at least 1")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise FigureError("values that are not finite; leave these pairs out")
    if group is not None and len(group) != len(x):
        raise FigureError(f"{len(group)} names of groups for {len(x)} pairs")
    return x, y
