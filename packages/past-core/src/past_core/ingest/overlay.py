"""A picture of a slide's cells over its H&E: the first look that tells whether the two are registered."""

from io import BytesIO
from pathlib import Path

import numpy as np

from past_core.errors import PastError
from past_core.ingest.store import SlideStore

OVERVIEW_PX = 1200
"""Longer side of the overview."""
FIELD_UM = 160.0
"""Side of the close-up."""
CELL_COLOUR, NUCLEUS_COLOUR = "#ffe600", "#00e5ff"


class OverlayError(PastError, ValueError):
    """The picture cannot be written as wanted."""


def write_overlay(store: SlideStore, path: Path, *, field_um: float = FIELD_UM) -> Path:
    """Draws the whole slide, and beside it its most crowded field with the outlines of cells and nuclei.

    Args:
        store: the slide.
        path: a `.png` to write.
        field_um: side of the close-up in µm.

    Returns:
        `path`.

    Raises:
        OverlayError: another suffix than `.png`, or the folder is missing.
    """
    from matplotlib.collections import PolyCollection
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    if path.suffix.lower() != ".png" or not path.resolve().parent.is_dir():
        raise OverlayError(f"cannot write {path}; expected a .png in a folder that exists")
    level = next(
        (i for i, size in enumerate(store.levels) if max(size.height, size.width) <= OVERVIEW_PX),
        len(store.levels) - 1,
    )
    scale = store.mpp / store.levels[level].mpp
    side = round(field_um / store.mpp)
    left, top = crowded_field(store.centroids, side, (store.levels[0].height, store.levels[0].width))

    figure = Figure(figsize=(13, 6.7), layout="constrained")
    whole, close = figure.subplots(1, 2)
    size = store.levels[level]
    whole.imshow(store.read(level, 0, 0, size.height, size.width).transpose(1, 2, 0))
    points = store.centroids * scale - 0.5
    whole.scatter(*points[store.passed].T, s=1.5, c=CELL_COLOUR, linewidths=0)
    whole.scatter(*points[~store.passed].T, s=6, c="red", linewidths=0)
    whole.add_patch(Rectangle((left * scale, top * scale), side * scale, side * scale, fill=False, lw=2))
    whole.set_title(f"{store.name}: {store.n_cells:,} cells, {(~store.passed).sum():,} flagged (red)")

    close.imshow(store.read(0, top, left, side, side).transpose(1, 2, 0))
    for element, colour in (("cell_boundaries", CELL_COLOUR), ("nucleus_boundaries", NUCLEUS_COLOUR)):
        outlines = outlines_within(store, element, (left, top, left + side, top + side))
        # Pictures count from the first pixel's centre, slides from its corner.
        shifted = [outline - [left + 0.5, top + 0.5] for outline in outlines]
        close.add_collection(PolyCollection(shifted, facecolors="none", edgecolors=colour, lw=1))
    close.set(xlim=(-0.5, side - 0.5), ylim=(side - 0.5, -0.5))
    close.set_title(f"{field_um:g} µm: cells (yellow), nuclei (cyan)")
    for axis in (whole, close):
        axis.set_xticks([])
        axis.set_yticks([])
    figure.savefig(path, dpi=110)
    return path


def crowded_field(centroids: np.ndarray, side: int, size: tuple[int, int]) -> tuple[int, int]:
    """Left column and top row of the field of `side` pixels with the most cells, on a grid of half fields."""
    height, width = size
    step = max(1, side // 2)
    corners = [
        (x, y)
        for y in range(0, max(1, height - side + 1), step)
        for x in range(0, max(1, width - side + 1), step)
    ]
    x, y = centroids.T
    counts = [np.count_nonzero((x >= a) & (x < a + side) & (y >= b) & (y < b + side)) for a, b in corners]
    return corners[int(np.argmax(counts))]


def outlines_within(store: SlideStore, element: str, box: tuple[int, int, int, int]) -> list[np.ndarray]:
    """Exterior outlines in level-0 pixels of shapes that touch a box; none where the element is absent."""
    import geopandas
    from shapely import Point

    file = store.path / "shapes" / element / "shapes.parquet"
    try:
        frame = geopandas.read_parquet(BytesIO(file.read_bytes()))  # a URL's bytes are read as a file's are
    except FileNotFoundError:
        return []
    x0, y0, x1, y1 = box
    frame = frame.cx[x0:x1, y0:y1]
    shapes = list(frame.geometry)
    if "radius" in frame:
        radii = frame["radius"]
        shapes = [s.buffer(r) if isinstance(s, Point) else s for s, r in zip(shapes, radii, strict=True)]
    polygons = [part for shape in shapes for part in getattr(shape, "geoms", [shape])]
    return [np.asarray(polygon.exterior.coords) for polygon in polygons]
