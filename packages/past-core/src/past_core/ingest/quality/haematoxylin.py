"""Is there haematoxylin where the nuclei are said to be? Catches misregistration cell by cell."""

from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from past_core.ingest.quality.pixels import Tile, as_slide, over_tiles, tiles
from past_core.slides import View
from past_core.stains import optical_density, stain_set

NUCLEUS_MPP = 0.5
"""µm per pixel at which nuclei are looked at: 12 pixels across one of 6 µm."""
MAX_MPP = 1.2
"""Coarser images do not resolve nuclei."""
RING_UM = 2.0
"""Width of the ring around a nucleus that it is compared with."""
DISPLACED_UM = (8.0, 16.0)
"""Least and largest displacement of the nuclei that give the null; more than a nucleus' own size."""
DRAWS = 4
"""Displacements of each nucleus."""
RADIUS_UM = 3.0
"""Radius of the disc that stands for a nucleus of which neither outline nor area is known."""
REACH_UM = 12.0
"""A nucleus reaches no farther than this from its cell's centroid, or is cut there."""
MIN_PIXELS = 8
"""Fewer pixels in nucleus or ring say nothing."""
STAINS = "qupath-he"


class Outlines(NamedTuple):
    """Polygons of nuclei.

    Attributes:
        points: (P, 2) vertices, x and y in level-0 pixels; those of a polygon contiguous.
        start: (M + 1,) where each polygon's vertices start.
        cell: (M,) row of the cell that each belongs to; a cell may have several, or none.
    """

    points: np.ndarray
    start: np.ndarray
    cell: np.ndarray


@dataclass(frozen=True)
class NucleusHaematoxylin:
    """Haematoxylin of N nuclei, in optical density; nan where a nucleus could not be measured.

    Attributes:
        inside: (N,) mean inside the nucleus.
        contrast: (N,) that minus the mean of the ring around it, other nuclei left out.
        displaced: (N, DRAWS) the contrast of the same outline at random places nearby.
    """

    inside: np.ndarray
    contrast: np.ndarray
    displaced: np.ndarray

    def threshold(self, level: float) -> float:
        """The contrast that a share `level` of displaced nuclei stays below; nan where there are none."""
        known = self.displaced[np.isfinite(self.displaced)]
        return float(np.quantile(known, level)) if known.size else float("nan")

    def figures(self, level: float) -> dict[str, float | int | None]:
        """Slide-level figures: what share of nuclei, and of displaced ones, is above the threshold.

        `separation` is the chance that a nucleus has more contrast than a displaced one (ties half): about
        0.5 where cells and image have nothing to do with each other.
        """
        bound = self.threshold(level)
        own = self.contrast[np.isfinite(self.contrast)]
        null = np.sort(self.displaced[np.isfinite(self.displaced)])
        if not own.size or not null.size:
            return {"nuclei": int(own.size), "threshold_od": None, "share": None, "share_displaced": None,
                    "separation": None}  # fmt: skip
        below = np.searchsorted(null, own, "left") + np.searchsorted(null, own, "right")
        return {
            "nuclei": int(own.size),
            "threshold_od": bound,
            "share": float((own > bound).mean()),
            "share_displaced": float((null > bound).mean()),
            "separation": float(below.mean() / (2 * null.size)),
        }


def outlines_of(polygons: Any, rows: np.ndarray) -> Outlines:
    """Exteriors of shapely polygons (and of the parts of multipolygons) with the rows of their cells.

    Args:
        polygons: (M,) geometries in level-0 pixels.
        rows: (M,) row of each one's cell; negative ones are left out.
    """
    import shapely

    geometries, rows = np.asarray(polygons, dtype=object), np.asarray(rows)
    kept = np.flatnonzero(rows >= 0)
    parts, owner = geometries[kept], np.arange(len(kept))
    if (shapely.get_type_id(parts) != shapely.GeometryType.POLYGON.value).any():
        parts, owner = shapely.get_parts(parts, return_index=True)
        is_polygon = shapely.get_type_id(parts) == shapely.GeometryType.POLYGON.value
        parts, owner = parts[is_polygon], owner[is_polygon]
    # Parts and rings are copies, which a million polygons without holes can do without.
    holes = shapely.get_num_interior_rings(parts).any()
    rings = shapely.get_exterior_ring(parts) if holes else parts
    points, polygon = shapely.get_coordinates(rings, return_index=True)
    start = np.searchsorted(polygon, np.arange(len(parts) + 1))
    return Outlines(points, start, rows[kept][owner])


def discs(centroids: np.ndarray, radius_px: np.ndarray) -> Outlines:
    """Discs (of 24 corners) around centroids, one a cell; none where the radius is not positive."""
    rows = np.flatnonzero(radius_px > 0)
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    # A polygon of 24 corners on a circle is 1.1 % smaller than the circle.
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    points = centroids[rows, None] + radius_px[rows, None, None] * circle
    return Outlines(points.reshape(-1, 2), np.arange(len(rows) + 1) * 24, rows)


def nucleus_haematoxylin(
    image: Any, mpp: float, centroids: np.ndarray, outlines: Outlines | None = None, *, seed: int = 0
) -> NucleusHaematoxylin:
    """Measures haematoxylin inside each nucleus against the ring around it, and the same displaced.

    The image is read tile by tile at 0.5 µm per pixel (or its own resolution, where that is coarser).
    Displacements are drawn from the seed and the tile, so that neither threads nor the order of cells
    matter.

    Args:
        image: an open slide, or an array (3, H, W) uint8.
        mpp: µm per level-0 pixel.
        centroids: (N, 2) x, y of the cells in level-0 pixels.
        outlines: of their nuclei; discs of 3 µm radius around the centroids where not given.
        seed: of the displacements.
    """
    slide = as_slide(image, mpp=mpp)
    view = slide.at(max(NUCLEUS_MPP, mpp))
    pixel = view.downsample * mpp
    n = len(centroids)
    if outlines is None:
        outlines = discs(np.asarray(centroids, np.float64), np.full(n, RADIUS_UM / mpp))
    halo = int(np.ceil((REACH_UM + RING_UM + DISPLACED_UM[1]) / pixel)) + 2
    at = np.asarray(centroids, np.float64) / view.downsample
    work = _Work(view, at, outlines, pixel, seed)
    inside, contrast = np.full(n, np.nan), np.full(n, np.nan)
    displaced = np.full((n, DRAWS), np.nan)
    for tile, (own, values) in over_tiles(view, tiles(view, centroids, halo=halo), work):
        inside[tile.index], contrast[tile.index], displaced[tile.index] = own, values[:, 0], values[:, 1:]
    return NucleusHaematoxylin(inside, contrast, displaced)


class _Work:
    """What is done to a tile; holds what all tiles share."""

    def __init__(self, view: View, at: np.ndarray, outlines: Outlines, pixel: float, seed: int) -> None:
        self.view, self.at, self.outlines, self.pixel, self.seed = view, at, outlines, pixel, seed
        self.order = np.argsort(outlines.cell, kind="stable")  # polygons by cell
        self.first = np.searchsorted(outlines.cell[self.order], np.arange(len(at) + 1))

    def __call__(self, tile: Tile, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        from skimage.segmentation import expand_labels

        x, y = self.at[:, 0] - tile.left, self.at[:, 1] - tile.top
        shown = (x >= 0) & (y >= 0) & (x < tile.width) & (y < tile.height)
        shown[tile.index] = False
        others = np.flatnonzero(shown)
        cells = np.concatenate([tile.index, others[np.lexsort((x[others], y[others]))]])
        labels = self._draw(cells, tile)
        grown = expand_labels(labels, distance=RING_UM / self.pixel)
        n = len(tile.index)
        nucleus = np.flatnonzero((labels > 0) & (labels <= n))
        ring = np.flatnonzero((grown > 0) & (grown <= n) & (labels == 0))
        owners = labels.ravel()[nucleus] - 1, grown.ravel()[ring] - 1
        stain = haematoxylin(pixels)
        rows, columns = np.arange(tile.height) + tile.top, np.arange(tile.width) + tile.left
        stain[(rows < 0) | (rows >= self.view.height)] = np.nan
        stain[:, (columns < 0) | (columns >= self.view.width)] = np.nan
        values, inside = np.full((n, 1 + DRAWS), np.nan), np.full(n, np.nan)
        for draw, (dy, dx) in enumerate([(0, 0), *self._displacements(tile)]):
            there, around = (
                _means(stain, where, owner, n, dy, dx)
                for where, owner in zip((nucleus, ring), owners, strict=True)
            )
            values[:, draw] = there - around
            inside = there if draw == 0 else inside
        return inside, values

    def _displacements(self, tile: Tile) -> list[tuple[int, int]]:
        rng = np.random.default_rng([self.seed, *tile.number])
        length = rng.uniform(*DISPLACED_UM, DRAWS) / self.pixel
        # Spread over the circle: draws in one direction would see one neighbourhood.
        angle = rng.uniform(0, 2 * np.pi) + (np.arange(DRAWS) + rng.uniform(-0.3, 0.3, DRAWS)) * (
            2 * np.pi / DRAWS
        )
        return [(round(r * np.sin(a)), round(r * np.cos(a))) for r, a in zip(length, angle, strict=True)]

    def _draw(self, cells: np.ndarray, tile: Tile) -> np.ndarray:
        """(height, width) int32: place in `cells` + 1 inside its nuclei; the tile's own cells on top."""
        from PIL import Image, ImageDraw

        canvas = Image.new("I", (tile.width, tile.height), 0)
        pen = ImageDraw.Draw(canvas)
        origin = np.array([tile.left + 0.5, tile.top + 0.5])  # PIL counts from the first pixel's centre
        for place in range(len(cells) - 1, -1, -1):
            cell = cells[place]
            for polygon in self.order[self.first[cell] : self.first[cell + 1]]:
                first, last = self.outlines.start[polygon : polygon + 2]
                corners = self.outlines.points[first:last] / self.view.downsample - origin
                if len(corners) >= 3:
                    pen.polygon(corners.ravel().tolist(), fill=place + 1)
        return np.asarray(canvas, np.int32)


def _means(stain: np.ndarray, where: np.ndarray, owner: np.ndarray, n: int, dy: int, dx: int) -> np.ndarray:
    """(n,) mean over each owner's pixels, moved; nan where too few of them lie in the image."""
    height, width = stain.shape
    row, column = where // width + dy, where % width + dx
    valid = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    values = stain[row[valid], column[valid]]
    known = np.isfinite(values)
    owner = owner[valid]
    asked = np.bincount(owner, minlength=n)
    count = np.bincount(owner[known], minlength=n)
    total = np.bincount(owner[known], weights=values[known], minlength=n)
    enough = (count >= MIN_PIXELS) & (2 * count > asked)
    return np.where(enough, total / np.maximum(count, 1), np.nan)


@cache
def _table() -> np.ndarray:
    """(3, 256) float32: what each value of each channel adds to the haematoxylin."""
    values = np.tile(np.arange(256, dtype=np.float32), (3, 1))[:, None]
    weight = np.linalg.inv(stain_set(STAINS).matrix)[:, 0]
    return (optical_density(values)[:, 0] * weight[:, None]).astype(np.float32)


def haematoxylin(pixels: np.ndarray) -> np.ndarray:
    """(H, W) float32 haematoxylin of (3, H, W) uint8, as `stains.deconvolve` gives it; by table, faster."""
    red, green, blue = _table()
    return red[pixels[0]] + green[pixels[1]] + blue[pixels[2]]
