"""Transparent tiles over the H&E: outlines, QC flags, and the expression of a gene."""

import io

import numpy as np
from PIL import Image, ImageDraw

from past_core.view.cache import Cache
from past_core.view.cells import Cells, Gene
from past_core.view.colours import CELLS, NUCLEI, REASONS, viridis
from past_core.view.outlines import Outlines
from past_core.view.tiles import Grid

LAYERS = ("cells", "nuclei", "qc", "expression")
SMALLEST_OUTLINE = 6.0
"""Median size in pixels of a tile below which cells are drawn as dots."""
LINES, AREAS = 4, 2
"""Lines and areas are drawn this much larger and averaged, which smooths their edges."""
CELL_UM = 8.0
"""Size of a dot where the store has no outlines."""
FINE_LINE = 10.0
"""Median size in pixels below which an outline is thinner."""


class Layers:
    """Draws the tiles of a slide's layers.

    Args:
        cells: the slide's cells.
        grid: how its image is cut; overlay tiles are cut the same way.
    """

    def __init__(self, cells: Cells, grid: Grid) -> None:
        self.cells, self.grid = cells, grid
        # Which cell is where is kept: another gene changes only the colours.
        self._places: Cache[tuple[np.ndarray, np.ndarray] | None] = Cache(
            2**26, lambda places: 64 if places is None else places[0].nbytes + places[1].nbytes
        )

    def render(self, layer: str, level: int, x: int, y: int, *, gene: int | None = None) -> bytes:
        """One tile of a layer as a PNG with transparency.

        Args:
            layer: one of `LAYERS`.
            level: of the grid.
            x: column of the tile.
            y: row of the tile.
            gene: column of the gene, for `expression`.

        Raises:
            TileError: no such level or tile.
            OutlineError: the store's outlines cannot be read.
        """
        _, _, width, height = self.grid.box(level, x, y)
        if layer in ("cells", "nuclei"):
            outlines = self.cells.outlines if layer == "cells" else self.cells.nuclei
            colour = CELLS if layer == "cells" else NUCLEI
            pixels = self._lines(outlines, colour, level, x, y)
        else:
            found = self.cells.gene(_chosen(gene)) if layer == "expression" else None
            pixels = self._areas(found, level, x, y)
        if pixels is None:
            pixels = np.zeros((height, width, 4), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()

    def _frame(self, level: int, x: int, y: int) -> tuple[float, float, float, int, int]:
        """Left and top of a tile and its scale, in level-0 pixels; its width and height in its own."""
        left, top, width, height = self.grid.box(level, x, y)
        scale = float(self.grid.downsample(level))
        return left * scale, top * scale, scale, width, height

    # --- outlines -------------------------------------------------------------------------------------------

    def _lines(
        self, outlines: Outlines | None, colour: tuple[int, int, int], level: int, x: int, y: int
    ) -> np.ndarray | None:
        left, top, scale, width, height = self._frame(level, x, y)
        if outlines is None:
            return None
        # Those on the neighbouring tile's edge reach over by half a line.
        near = outlines.touching(
            left - 2 * scale, top - 2 * scale, left + (width + 2) * scale, top + (height + 2) * scale
        )
        if not len(near):
            return None
        if self._dots(outlines.extent, scale):
            middle = (outlines.boxes[near, :2] + outlines.boxes[near, 2:]) / 2
            dots = _Dots(middle, (left, top), scale, (width, height), outlines.extent)
            alpha = np.where(dots.number > 0, 110 if dots.size == 1 else 170, 0)
        else:
            canvas = Image.new("L", (width * LINES, height * LINES))
            draw = ImageDraw.Draw(canvas)
            line = 6 if outlines.extent / scale >= FINE_LINE else 4
            every = 1 if outlines.extent / scale >= 2 * SMALLEST_OUTLINE else 2
            for points in _on_canvas(outlines, near, (left, top), LINES / scale, every=every):
                draw.line([*points, *points[:2]], fill=255, width=line)
            alpha = np.asarray(canvas.reduce(LINES))
        pixels = np.empty((height, width, 4), np.uint8)
        pixels[..., :3], pixels[..., 3] = colour, alpha
        pixels[alpha == 0] = 0
        return pixels

    @staticmethod
    def _dots(extent: float, scale: float) -> bool:
        return extent / scale < SMALLEST_OUTLINE

    # --- areas ----------------------------------------------------------------------------------------------

    def _areas(self, gene: Gene | None, level: int, x: int, y: int) -> np.ndarray | None:
        """Cells filled by a gene's expression or, without one, those that fail QC by their reason."""
        left, top, scale, width, height = self._frame(level, x, y)
        outlines = self.cells.outlines
        if outlines is None or self._dots(outlines.extent, scale):
            return self._coarse(gene, (left, top), scale, (width, height))
        places = self._places.get(
            (gene is None, level, x, y),
            lambda: self._raster(outlines, (left, top), scale, (width, height), only_failed=gene is None),
        )
        if places is None:
            return None
        rows, canvas = places
        colours = _qc_colours(self.cells.reason[rows]) if gene is None else _expression_colours(gene, rows)
        lookup = np.concatenate([np.zeros((1, 4), np.uint8), colours]).view(np.uint32)[:, 0]  # 0: no cell
        # Averaged with colours weighted by their opacity: what is transparent has no colour to give.
        drawn = Image.fromarray(lookup[canvas].view(np.uint8).reshape(*canvas.shape, 4), "RGBA")
        return np.asarray(drawn.convert("RGBa").reduce(AREAS).convert("RGBA"))

    def _raster(
        self,
        outlines: Outlines,
        corner: tuple[float, float],
        scale: float,
        size: tuple[int, int],
        *,
        only_failed: bool,
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Which cell lies where: (n,) rows, and (h, w) int32 of place in them + 1; None where none does."""
        width, height = size
        near = outlines.touching(*corner, corner[0] + width * scale, corner[1] + height * scale)
        if only_failed:
            near = near[self.cells.reason[outlines.owner[near]] >= 0]
        if not len(near):
            return None
        canvas = Image.new("I", (width * AREAS, height * AREAS))
        draw = ImageDraw.Draw(canvas)
        for label, points in enumerate(_on_canvas(outlines, near, corner, AREAS / scale), 1):
            draw.polygon(points, fill=label)
        return outlines.owner[near], np.asarray(canvas)

    def _coarse(
        self, gene: Gene | None, corner: tuple[float, float], scale: float, size: tuple[int, int]
    ) -> np.ndarray | None:
        """As `_areas`, with a dot a cell; where several share a pixel it shows their mean."""
        xy, failed = self.cells.centroids, self.cells.reason >= 0
        margin = 8 * scale
        low, high = np.array(corner) - margin, np.array(corner) + np.array(size) * scale + margin
        near = ((xy >= low) & (xy < high)).all(axis=1)
        rows = np.flatnonzero(near & failed if gene is None else near)
        if not len(rows):
            return None
        outlines = self.cells.outlines
        extent = outlines.extent if outlines is not None else CELL_UM / self.cells.store.mpp
        dots = _Dots(xy[rows], corner, scale, size, extent)
        covered = dots.number > 0
        pixels = np.zeros((size[1], size[0], 4), np.uint8)
        pixels[covered, 3] = 255
        number = dots.number[covered]
        if gene is not None:
            mean = dots.sums(gene.values[rows])[covered] / number
            pixels[covered, :3] = viridis(mean / gene.top)
            return pixels
        colours = _qc_colours(self.cells.reason[rows])
        for channel in range(3):
            pixels[covered, channel] = dots.sums(colours[:, channel])[covered] / number + 0.5
        return pixels


def _chosen(gene: int | None) -> int:
    if gene is None:
        raise ValueError("the layer `expression` needs a gene")
    return gene


def _qc_colours(reason: np.ndarray) -> np.ndarray:
    """(n, 4) uint8 RGBA of cells by the number of their reason; transparent where it is -1."""
    colours = np.zeros((len(reason), 4), np.uint8)
    failed = reason >= 0
    colours[failed, :3] = np.array(REASONS, np.uint8)[reason[failed] % len(REASONS)]
    colours[failed, 3] = 255
    return colours


def _expression_colours(gene: Gene, rows: np.ndarray) -> np.ndarray:
    """(n, 4) uint8 RGBA of the cells in some rows."""
    colours = np.full((len(rows), 4), 255, np.uint8)
    colours[:, :3] = viridis(gene.values[rows] / gene.top)
    return colours


class _Dots:
    """Squares around points: how many cover each pixel, and sums over them.

    Args:
        xy: (n, 2) middles in level-0 pixels.
        corner: left and top of the tile, likewise.
        scale: level-0 pixels per pixel.
        size: the tile's width and height.
        extent: median size of a cell in level-0 pixels.
    """

    def __init__(
        self,
        xy: np.ndarray,
        corner: tuple[float, float],
        scale: float,
        size: tuple[int, int],
        extent: float,
    ) -> None:
        self.size = int(np.clip(round(0.8 * extent / scale), 1, 8))
        self._width, self._height = size
        self._at = np.floor((xy - corner) / scale - (self.size - 1) / 2 + 1e-9).astype(np.int64)
        self.number = self.sums(None)

    def sums(self, values: np.ndarray | None) -> np.ndarray:
        """(h, w) sums of the dots' values over each pixel; without values, how many dots cover it."""
        total = np.zeros(self._width * self._height)
        for down in range(self.size):
            for right in range(self.size):
                x, y = self._at[:, 0] + right, self._at[:, 1] + down
                inside = (x >= 0) & (x < self._width) & (y >= 0) & (y < self._height)
                weights = None if values is None else values[inside].astype(np.float64)
                total += np.bincount((y * self._width + x)[inside], weights, len(total))
        return total.reshape(self._height, self._width)


def _on_canvas(
    outlines: Outlines, numbers: np.ndarray, corner: tuple[float, float], scale: float, *, every: int = 1
) -> list[list[int]]:
    """The pixels that the vertices of polygons lie in, as Pillow wants them: x, y, x, y, ...

    Pillow would cut fractions off towards zero.

    Args:
        outlines: the polygons.
        numbers: which of them.
        corner: the canvas's left and top in level-0 pixels.
        scale: the canvas's pixels per level-0 pixel.
        every: 2 leaves every other vertex out, which a small polygon does not show.
    """
    lengths = -(-(outlines.offsets[numbers + 1] - outlines.offsets[numbers]) // every)
    ends = np.cumsum(lengths)
    place = every * (np.arange(ends[-1]) - np.repeat(ends - lengths, lengths))
    place += np.repeat(outlines.offsets[numbers], lengths)
    points = np.floor((outlines.vertices[place] - np.array(corner)) * scale).astype(np.int64)
    flat = points.ravel().tolist()
    return [flat[2 * (end - n) : 2 * end] for end, n in zip(ends.tolist(), lengths.tolist(), strict=True)]
