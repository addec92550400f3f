"""What all maps of a slide share: size of points, scale bar, axes in µm."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from past_core.errors import PastError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POINT_AREA = (0.15, 120.0)
"""Smallest and largest area of a point in square points (1/72 inch)."""


class FigureError(PastError, ValueError):
    """Arrays that cannot be drawn together."""


def check_places(xy_um: np.ndarray, **arrays: np.ndarray) -> np.ndarray:
    """The places as `(N, 2)` float64, after a check that every array has N rows.

    Raises:
        FigureError: no cell, places that are not finite `(N, 2)`, or an array of another length.
    """
    places = np.asarray(xy_um, np.float64)
    if places.ndim != 2 or places.shape[1] != 2 or not len(places):
        raise FigureError(f"places of shape {places.shape}; expected (N, 2) with at least one cell, in µm")
    if not np.isfinite(places).all():
        bad = int(np.count_nonzero(~np.isfinite(places).all(axis=1)))
        raise FigureError(f"{bad} of {len(places)} places are not finite; leave these cells out")
    for name, array in arrays.items():
        if len(array) != len(places):
            raise FigureError(f"{name} has {len(array)} rows, the places {len(places)}; both must be cells")
    return places


def panel_size(xy_um: np.ndarray, *, longest: float) -> tuple[float, float]:
    """Width and height in inches of a map whose longer side has the given length."""
    extent = np.maximum(np.ptp(xy_um, axis=0), 1e-9)
    width, height = longest * np.maximum(extent / extent.max(), 0.35)
    return float(width), float(height)


def point_area(xy_um: np.ndarray, *, longest: float, cover: float = 1.25) -> float:
    """Area of a point, in square points, so that neighbours just touch: dense tissue gets small points.

    Args:
        xy_um: `(N, 2)` places.
        longest: length in inches of the panel's longer side.
        cover: a point's diameter over the median distance to the nearest neighbour.
    """
    from scipy.spatial import cKDTree

    places = np.unique(xy_um, axis=0)
    if len(places) < 2:
        return POINT_AREA[1]
    spacing = np.median(cKDTree(places).query(places, k=2)[0][:, 1])
    per_um = longest * 72 / max(float(np.ptp(xy_um, axis=0).max()), 1e-9)
    return float(np.clip((cover * spacing * per_um) ** 2, *POINT_AREA))


def bar_length(extent_um: float) -> float:
    """Length in µm of a scale bar: 1, 2 or 5 times a power of ten, at most a quarter of the extent."""
    target = max(extent_um, 1e-6) / 4
    power = 10.0 ** np.floor(np.log10(target))
    return float(max(step for step in (1, 2, 5) if step * power <= target * (1 + 1e-9)) * power)


def map_axes(axis: "Axes", xy_um: np.ndarray, *, bar: bool = False, background: str = "white") -> None:
    """Equal aspect, y down as in the image, no ticks, and on demand a scale bar below the map."""
    low, high = xy_um.min(axis=0), xy_um.max(axis=0)
    margin = 0.02 * max(float((high - low).max()), 1.0)
    axis.set_xlim(low[0] - margin, high[0] + margin)
    axis.set_ylim(high[1] + margin, low[1] - margin)
    axis.set_aspect("equal")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_facecolor(background)
    for spine in axis.spines.values():
        spine.set_linewidth(0.5)
        spine.set_color("0.6")
    if bar:
        _scale_bar(axis, bar_length(float((high - low)[0])))


def _scale_bar(axis: "Axes", length: float) -> None:
    from matplotlib.transforms import blended_transform_factory

    right = axis.get_xlim()[1]
    place = blended_transform_factory(axis.transData, axis.transAxes)
    axis.plot(
        [right - length, right], [-0.03, -0.03], transform=place, color="black", lw=1.8, clip_on=False,
        solid_capstyle="butt",
    )  # fmt: skip
    label = f"{length / 1000:g} mm" if length >= 1000 else f"{length:g} µm"
    axis.text(right - length / 2, -0.05, label, transform=place, ha="center", va="top", fontsize=7)


def scatter_values(
    axis: "Axes", xy_um: np.ndarray, values: np.ndarray, *, area: float, order: bool = True, **options: Any
) -> Any:
    """A map of values; NaN are drawn in grey beneath. High values lie on top unless `order` is False."""
    known = np.isfinite(values)
    x, y = xy_um.T
    if not known.all():
        axis.scatter(x[~known], y[~known], s=area, c="0.88", linewidths=0, rasterized=True)
    rows = np.flatnonzero(known)
    if order:
        rows = rows[np.argsort(values[rows], kind="stable")]
    return axis.scatter(x[rows], y[rows], s=area, c=values[rows], linewidths=0, rasterized=True, **options)


def grid_shape(n: int, columns: int) -> tuple[int, int]:
    """Rows and columns of a grid for n panels, at most `columns` wide."""
    width = min(n, columns)
    return -(-n // width), width


def hide(axes: Sequence["Axes"]) -> None:
    """Blanks the axes that a grid has too many."""
    for axis in axes:
        axis.set_axis_off()
